"""Maps of queries: what they are fitted on is what the model computes, and they do what they are fitted for."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from leakmech.core.errors import InterventionError, ModelError
from leakmech.datasets.samples import INJECTIONS, PromptSet, load_dataset
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import MapQueries
from leakmech.mechanism.attention.focus import HeadScores, fit_focus_map, read_scores
from leakmech.mechanism.attention.injected import injected_prompts
from leakmech.models.attention_patterns import eager_attention
from leakmech.models.components import parse_components
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer
from leakmech.reports.tables import Table
from leakmech.studies.mitigation.catalogue import FOCUS_NATS
from leakmech.studies.mitigation.focus import fit_focus
from leakmech.studies.mitigation.gate_table import focus_table

HEADS = parse_components(["L0H1", "L2H3"])


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_alone(loaded, prompts, head):
    """Attention to the injection from each query at the stem and after it, prompt by prompt."""
    found = []
    for prompt in prompts:
        with eager_attention(loaded.model), torch.no_grad():
            output = loaded.model(torch.tensor(prompt.ids[None]).long(), output_attentions=True)
        weights = output.attentions[head.layer][0, head.index, prompt.spans["stem"][0] :]
        found.append(weights[:, slice(*prompt.spans["injection"])].sum(-1))
    return torch.cat(found)


@pytest.mark.parametrize("name", ["llama-gqa", "qwen2"])
def test_scores_that_are_read_give_the_attention_of_the_model(make_tiny, chat_tokenizer, name):
    """With padding, groups of query heads, and under a map as well."""
    loaded = load_model(make_tiny(name), tokenizer=chat_tokenizer)
    samples = PromptSet("some", load_dataset("hexl").samples[:2])
    prompts = injected_prompts(samples, Renderer(chat_tokenizer), INJECTIONS)
    order = sorted(prompts, key=len, reverse=True)
    edit = MapQueries(HEADS, drawn(1, 2, 8, 2), drawn(2, 2, 2, 8), strength=0.5)
    for place, (head, own) in enumerate(zip(HEADS, read_scores(loaded, prompts, HEADS), strict=True)):
        torch.testing.assert_close(own.attention(), attention_alone(loaded, order, head), atol=1e-5, rtol=1e-4)
        if place:  # a later head reads another stream under the map of an earlier one
            continue
        mapped = own.queries + 0.5 * own.queries @ edit.reads[place].T @ edit.writes[place].T
        with apply(loaded.model, edit):
            expected = attention_alone(loaded, order, head)
        torch.testing.assert_close(own.attention(mapped), expected, atol=1e-5, rtol=1e-4)
        assert (own.attention(mapped) - own.attention()).abs().max() > 0.01


SHAPE = {
    "vocab_size": 264, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
PARTLY_TURNED = {
    "phi": lambda: PhiForCausalLM(PhiConfig(**SHAPE)),
    "stablelm": lambda: StableLmForCausalLM(StableLmConfig(**SHAPE)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**SHAPE)),  # the last layer has no positions
}


def loaded_with(tokenizer, build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_model(build().eval(), tokenizer=tokenizer, dtype="float32", device="cpu")


@pytest.mark.parametrize("name", PARTLY_TURNED)
def test_entries_and_layers_that_are_not_turned_are_read_as_they_are(chat_tokenizer, name):
    loaded = loaded_with(chat_tokenizer, PARTLY_TURNED[name])
    heads = parse_components(["L0H1", "L3H2"])
    prompts = injected_prompts(PromptSet("one", load_dataset("hexl").samples[:1]), Renderer(chat_tokenizer), INJECTIONS)
    order = sorted(prompts, key=len, reverse=True)
    for head, own in zip(heads, read_scores(loaded, prompts, heads), strict=True):
        torch.testing.assert_close(own.attention(), attention_alone(loaded, order, head), atol=1e-5, rtol=1e-4)


def test_scores_that_are_capped_are_refused(chat_tokenizer):
    config = Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=4096)
    loaded = loaded_with(chat_tokenizer, lambda: Gemma2ForCausalLM(config))
    prompts = injected_prompts(
        PromptSet("one", load_dataset("hexl").samples[:1]), Renderer(chat_tokenizer), ["neutral"]
    )
    with pytest.raises(ModelError, match="Gemma2Attention: caps its scores"):
        read_scores(loaded, prompts, HEADS)


def planted(seed, *, unrelated):
    """Queries that know in their first entry whether the injection is unrelated; injected keys know what they are."""
    queries = drawn(seed, 40, 6)
    queries[:, 0] = 2.0 if unrelated else 0.0
    query = torch.arange(40).repeat_interleave(5)
    injected = torch.arange(5).repeat(40) < 2
    keys = drawn(seed + 1, 200, 6)
    keys[:, 1] = torch.where(injected, 3.0, 0.0)
    return HeadScores(queries, keys, query, injected, scaling=0.5)


def test_a_planted_relation_is_used_and_the_rest_stays():
    found = fit_focus_map(planted(0, unrelated=True), planted(10, unrelated=False), ridge=1e-4, rank=1)
    assert found.writes.shape == (6, 1)
    change = {}
    for name, own in (("un", planted(20, unrelated=True)), ("re", planted(30, unrelated=False))):
        change[name] = own.scores(found(own.queries)) - own.scores()
        change[f"{name}, elsewhere"] = change[name][~own.injected].abs()
        change[name] = change[name][own.injected]
        assert own.attention(found(own.queries, 2.0)).mean() < own.attention().mean() + 0.02
    assert change["un"].mean() == pytest.approx(-1, abs=0.1)
    assert all(values.mean().abs() < 0.1 for name, values in change.items() if name != "un")


def test_a_model_gets_maps_that_its_hooks_take(make_tiny, chat_tokenizer):
    samples = load_dataset("relevant-fit")
    some = PromptSet("some", (*samples.split("fit").samples[::20], *samples.split("tune").samples[::10]))
    hexl = load_dataset("hexl").samples
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    splits = {"irrelevant_fit": PromptSet("fit", hexl[:2]), "irrelevant_tune": PromptSet("tune", hexl[2:4])}
    found = fit_focus(loaded, some, HEADS, **splits)
    by_strength = found.to_dict()["by_strength"]
    assert by_strength["2"]["unrelated"] == pytest.approx(2 * by_strength["1"]["unrelated"])
    assert by_strength["4"]["unrelated"] < by_strength["4"]["related"]  # bytes of a random model tell something
    table = focus_table(found.to_dict())
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [f"{strength:g}" for strength in FOCUS_NATS]
    found.intervention(1.0).refuse_other_model(layout_of(loaded.model))


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "gemma3"])
def test_queries_that_no_module_makes_alone_are_refused(make_tiny, chat_tokenizer, name):
    model = make_tiny(name)
    width = 16 if name == "gemma3" else 8
    edit = MapQueries(["L0H1"], drawn(1, 1, width, 2), drawn(2, 1, 2, width))
    with pytest.raises(InterventionError, match="makes queries alone"), apply(model, edit):
        pass
    loaded = load_model(model, tokenizer=chat_tokenizer)
    prompts = injected_prompts(
        PromptSet("one", load_dataset("hexl").samples[:1]), Renderer(chat_tokenizer), ["neutral"]
    )
    with pytest.raises(ModelError, match="makes queries alone"):
        read_scores(loaded, prompts, HEADS)


def test_maps_of_another_width_are_refused(make_tiny):
    edit = MapQueries(["L0H1"], drawn(1, 1, 6, 2), drawn(2, 1, 2, 6))
    with (
        pytest.raises(InterventionError, match="maps of width 6, the model's heads have 8"),
        apply(make_tiny("llama-gqa"), edit),
    ):
        pass
