"""Contrastive decoding: its limits are plain decoding, and rows stay independent of their batch."""

import pytest
import torch

from leakmech.core.errors import ConfigError, GenerationError
from leakmech.datasets.samples import Sample
from leakmech.generation.contrast import CONTRASTS, Contrast
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import plan
from leakmech.prompts.render import Renderer
from leakmech.studies.benchmark.settings import BenchConfig

SAMPLED = Decoding(max_new_tokens=16)
WITHOUT_PENALTY = Decoding(max_new_tokens=16, repetition_penalty=1.0)
PAIRS = [
    ("I lost my keys on the way here. The meeting ended with", "The meeting ended with"),
    ("We", "The soup tastes like no other soup"),
    ("Her passion is", "My roses won first prize at the show. Her passion is"),
    ("word " * 9 + "is", "is"),
]
METHODS = ("toward-reference", "away-from-reference", "subtract-context")


def tokens_of(tokenizer, text):
    return tuple(tokenizer(text)["input_ids"])


def rows_of(tokenizer, n_references, pairs=PAIRS, k=3):
    rows = []
    for i, (prompt, reference) in enumerate(pairs):
        references = [tokens_of(tokenizer, text) for text in (reference, "Complete:")[:n_references]]
        rows += [Row(f"p{i}", g, tokens_of(tokenizer, prompt), references=tuple(references)) for g in range(k)]
    return rows


def outputs(decoder, rows, batch_size):
    finished = [g for batch in decoder.stream(plan(rows), batch_size=batch_size) for g in batch]
    return {(g.prompt_id, g.generation): (g.tokens, g.finish_reason) for g in finished}


def contrasted(model, tokenizer, contrast, *, batch_size=12, decoding=SAMPLED, rows=None):
    decoder = Decoder(model, tokenizer, decoding=decoding, seed=3, combination=contrast)
    return outputs(decoder, rows or rows_of(tokenizer, contrast.n_references), batch_size)


def plain(model, tokenizer, decoding=SAMPLED, pairs=PAIRS):
    return outputs(Decoder(model, tokenizer, decoding=decoding, seed=3), rows_of(tokenizer, 0, pairs), 12)


@pytest.mark.parametrize("method", METHODS)
def test_strength_0_is_plain_decoding_token_for_token(make_tiny, chat_tokenizer, method):
    model = make_tiny("llama-gqa")
    assert contrasted(model, chat_tokenizer, Contrast(method, strength=0.0)) == plain(model, chat_tokenizer)


@pytest.mark.parametrize("method", ["toward-reference", "away-from-reference"])
def test_a_prompt_contrasted_with_itself_is_plain_decoding(make_tiny, chat_tokenizer, method):
    model = make_tiny("gpt2")
    pairs = [(prompt, prompt) for prompt, _ in PAIRS]
    contrast = Contrast(method, strength=2.0, plausibility=0.0)
    assert contrasted(model, chat_tokenizer, contrast, rows=rows_of(chat_tokenizer, 1, pairs)) == plain(
        model, chat_tokenizer
    )


def test_strength_1_toward_the_reference_decodes_the_reference(make_tiny, chat_tokenizer):
    model = make_tiny("llama-gqa")
    contrast = Contrast("toward-reference", strength=1.0, plausibility=0.0)
    found = contrasted(model, chat_tokenizer, contrast, decoding=WITHOUT_PENALTY)
    swapped = [(reference, prompt) for prompt, reference in PAIRS]
    assert found == plain(model, chat_tokenizer, WITHOUT_PENALTY, swapped)
    assert found != plain(model, chat_tokenizer, WITHOUT_PENALTY)


def test_a_row_of_a_batch_equals_the_same_prompt_alone(tiny_model, chat_tokenizer):
    contrast = CONTRASTS["subtract-context"]
    rows = rows_of(chat_tokenizer, 2, k=1)
    together = contrasted(tiny_model, chat_tokenizer, contrast, rows=rows)
    assert together == contrasted(tiny_model, chat_tokenizer, contrast, rows=rows, batch_size=1)
    assert together.items() - plain(tiny_model, chat_tokenizer).items()


def test_rows_with_references_move_into_free_places_while_others_go_on(make_tiny, chat_tokenizer):
    model = make_tiny("gemma3")
    pairs = [("word " * n + "is", "other " * (n * 5 % 7) + "is") for n in range(1, 7)]
    rows = rows_of(chat_tokenizer, 1, pairs, k=2)
    decoder = Decoder(
        model,
        chat_tokenizer,
        decoding=SAMPLED,
        combination=Contrast(strength=0.7),
        stop=lambda name, text: len(text) > 2 * int(name[1:]),
    )
    decoder.__dict__["_may_end_sentence"] = [True] * 300
    assert outputs(decoder, rows, 4) == outputs(decoder, rows, 1)


def test_each_rule_equals_its_formula():
    t, r, empty = (torch.randn(2, 11, generator=torch.Generator().manual_seed(i)) for i in range(3))
    log_t, log_r, log_empty = (x.log_softmax(1) for x in (t, r, empty))
    expected = {
        "toward-reference": 1.5 * log_r - 0.5 * log_t,  # context-aware decoding with b = 0.5
        "away-from-reference": 2.5 * log_t - 1.5 * log_r,
        "subtract-context": log_t - 1.5 * (log_r - log_empty),
    }
    for method, logits in expected.items():
        rule = Contrast(method, strength=1.5, plausibility=0.0)
        found = rule(t, (r, empty)[: rule.n_references])
        torch.testing.assert_close(found.log_softmax(1), logits.log_softmax(1))


def test_the_plausibility_constraint_follows_the_expert():
    t, r = torch.tensor([[0.0, -1.0, -9.0]]), torch.tensor([[-9.0, 0.0, -1.0]])
    toward = Contrast("toward-reference", strength=1.0, plausibility=0.2)(t, [r])
    away = Contrast("away-from-reference", strength=1.0, plausibility=0.2)(t, [r])
    assert torch.isfinite(toward).tolist() == [[False, True, True]]
    assert torch.isfinite(away).tolist() == [[True, True, False]]


def test_tokens_that_the_model_excludes_stay_excluded():
    t = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert Contrast(strength=2.0, plausibility=0.0)(t, [t])[0].tolist() == [0.0, 1.0, -torch.inf]


def test_rows_must_have_the_references_that_the_rule_takes(make_tiny, chat_tokenizer):
    rows = rows_of(chat_tokenizer, 1)
    decoder = Decoder(make_tiny("gpt2"), chat_tokenizer, decoding=SAMPLED, combination=CONTRASTS["subtract-context"])
    with pytest.raises(GenerationError, match="'p0': has 1 reference prompts; decoding takes 2"):
        decoder.decode(rows)


def test_references_of_a_prompt_and_of_its_control(plain_tokenizer):
    renderer = Renderer(plain_tokenizer)
    sample = Sample(id="s", stem="Her passion is", positive="Joy came. And stayed.", neutral="Fact.", negative="Woe.")
    injected, control = renderer.prompt(sample, "positive"), renderer.prompt(sample, "control")
    assert CONTRASTS["subtract-context"].bodies(injected) == ("Joy came. And stayed.", "")
    assert CONTRASTS["subtract-context"].bodies(control) == ("", "")  # nothing to subtract: control is left alone
    assert CONTRASTS["toward-last-sentence"].bodies(injected) == ("Her passion is",)
    assert CONTRASTS["toward-neutral"].bodies(control) == ("Her passion is",)
    assert [name for name, contrast in CONTRASTS.items() if contrast.told == "boundary"] == ["toward-control"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("subtract-contxt", "did you mean 'subtract-context'"),
        ({"preset": "placebo", "strenght": 1}, "did you mean 'strength'"),
        ({"method": "toward"}, "did you mean 'toward-reference'"),
        ({"reference": "controll"}, "did you mean 'control'"),
        ({"strength": -1.0}, "strength must be 0"),
        ({"plausibility": 1.0}, "plausibility must be in"),
    ],
)
def test_bad_rules_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig.parse({"contrast": value})
