"""The bridge to TransformerLens computes what the Hugging Face model computes, and leaves it as it is."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from mechanism_samples import assert_same_tables
from peft import LoraConfig, get_peft_model

import leakmech
from leakmech.core.errors import ModelError
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.mechanism.attribution.direct import direct_attribution, magnitudes
from leakmech.mechanism.bridge import BridgedModel, bridge, read_sites
from leakmech.mechanism.sentiment import sentiment_directions
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import SITES
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Renderer


@pytest.fixture
def batch():
    """Two rows of token ids, the first with five padding tokens on the left."""
    ids = torch.randint(1, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 256, 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"attention_mask": mask, "position_ids": positions}, ids


def test_logits_are_those_of_the_hugging_face_model(tiny_model, chat_tokenizer, batch):
    options, ids = batch
    loaded = load_model(tiny_model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with torch.inference_mode():
        expected = tiny_model(ids, **options).logits
        found = bridge(loaded)(ids, **options)
        again = tiny_model(ids, **options).logits
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-4)
    assert torch.equal(again, expected)  # wrapping has left the model alone


def test_heads_are_those_of_the_layout(tiny_model, chat_tokenizer, batch):
    options, ids = batch
    wrapped = bridge(load_model(tiny_model, tokenizer=chat_tokenizer, dtype="float32", device="cpu"))
    layout, seen = layout_of(tiny_model), {}
    handle = layout.block(1).heads_out.register_forward_hook(lambda _, inputs, __: seen.update(z=inputs[0]))
    with torch.inference_mode():
        tiny_model(ids, **options)
        _, cache = wrapped.run_with_cache(ids, names_filter="blocks.1.attn.hook_z", **options)
    handle.remove()
    z = cache["blocks.1.attn.hook_z"].flatten(start_dim=2)
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(z[kept], seen["z"][kept], rtol=0, atol=1e-4)


def test_adapters_are_merged_into_the_copy(make_tiny, chat_tokenizer, batch):
    options, ids = batch
    adapted = get_peft_model(
        make_tiny("llama-gqa"), LoraConfig(target_modules=["o_proj"], r=2, init_lora_weights=False)
    )
    loaded = load_model(adapted, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with torch.inference_mode():
        expected = loaded.model(ids, **options).logits
        plain = loaded.model.get_base_model()
        found = bridge(loaded)(ids, **options)
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-4)
    assert hasattr(layout_of(plain).block(0).heads_out, "lora_A")  # the adapter itself is still there


def test_an_architecture_that_transformer_lens_does_not_know_is_named(make_tiny, chat_tokenizer):
    model = make_tiny("llama-gqa")
    loaded = load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    model.__class__ = type("AcmeForCausalLM", (type(model),), {})
    with pytest.raises(
        ModelError, match=r"does not know AcmeForCausalLM; it knows .*Gemma\w*ForCausalLM|it knows .*FalconForCausalLM"
    ):
        bridge(loaded)


# -- reading activations -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bridged(tiny_model, chat_tokenizer):
    """Each tiny model in float32, and the same with its sites read in TransformerLens."""
    loaded = load_model(tiny_model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    return loaded, BridgedModel.of(loaded)


def test_every_site_is_read_alike(bridged, batch):
    options, ids = batch
    layout = layout_of(bridged[0].model)
    sites = [site for site in SITES if site != "resid_mid" or not layout.parallel]
    with torch.inference_mode():
        ours, theirs = (
            read_sites(model, {"input_ids": ids, **options}, sites=sites, layers=[0, 2], pick=lambda x: x[:, -3:])
            for model in bridged
        )
    assert set(ours) == set(theirs) == {(site, layer) for site in sites for layer in (0, 2)}
    for place, values in ours.items():
        torch.testing.assert_close(theirs[place], values, rtol=0, atol=1e-4)


def test_tables_of_directions_and_direct_attribution_are_the_same(bridged):
    hexl = load_dataset("hexl").samples
    fit, tune, test = (PromptSet(name, hexl[at : at + n]) for name, at, n in (("a", 0, 8), ("b", 8, 4), ("c", 12, 4)))
    renderer = Renderer(bridged[0].tokenizer)
    prompts = locate([renderer.prompt(sample, "positive") for sample in test], renderer)
    tables = []
    for model in bridged:
        # The last layer: windows of the others may not reach the injection, and what differs there is rounding.
        methods = ["difference_of_means", "pca"]
        fitted = sentiment_directions(model, fit=fit, tune=tune, test=test, methods=methods, layers=[2])
        direct = direct_attribution(model, test, target=fitted.direction("pca", 2))
        quality = fitted.table.to_frame().drop(columns="chosen")  # rounding decides between two that are equally good
        values = [direct.head_scores(), direct.neuron_scores(), *(x.numpy() for x in magnitudes(model, prompts))]
        tables.append([quality, *map(pd.DataFrame, values)])
    for ours, theirs in zip(*tables, strict=True):
        assert_same_tables(theirs, ours)


def test_a_bridged_model_is_read_in_transformer_lens_and_nowhere_else(bridged, batch, monkeypatch):
    options, ids = batch
    loaded, model = bridged
    monkeypatch.setattr(type(loaded.model), "forward", lambda *_, **__: pytest.fail("the plain model has run"))
    monkeypatch.setattr(model.lens, "run_with_hooks", lambda *_, **__: None)
    assert read_sites(model, {"input_ids": ids, **options}, sites=["z"], layers=[0], pick=lambda x: x) == {}


def test_the_code_of_the_user_guide_goes_to_transformer_lens_and_back(make_tiny, chat_tokenizer, monkeypatch):
    page = (Path(leakmech.__file__).parent / "README.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import bridge" in code]
    for real, small in (("L21H1", "L1H1"), ("blocks.20.", "blocks.1."), ("layers=[20]", "layers=[1]")):
        block = block.replace(real, small)
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    monkeypatch.setattr(leakmech, "load_model", lambda *given, **_: loaded if isinstance(given[0], str) else
                        load_model(given[0], tokenizer=chat_tokenizer), raising=False)  # fmt: skip
    found: dict = {}
    exec(block, found)
    silenced = leakmech.AblateHeads(["L1H1"])
    with leakmech.apply(loaded.model, silenced), torch.inference_mode():
        expected = loaded.model(found["ids"]).logits
    torch.testing.assert_close(found["logits"], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["again"].model(found["ids"]).logits, expected, rtol=0, atol=1e-4)
    added = [("blocks.1.hook_resid_post", lambda value, hook: value + 0.5 * found["vector"])]
    steered = bridge(loaded).run_with_hooks(found["ids"], fwd_hooks=added)
    torch.testing.assert_close(found["steered"], steered, rtol=0, atol=1e-4)
