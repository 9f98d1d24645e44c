"""Knock-out of attention to the injection: equal to whole runs with the bias, and right where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakmech.core.errors import ActivationError, ConfigError, DatasetError, ModelError
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample, load_dataset
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.attention.injected import injected_prompts
from leakmech.mechanism.attention.knockout import AttentionKnockout, Knockout, attention_knockout
from leakmech.mechanism.attribution.targets import ContinuationTarget
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.attention_mask import attention_bias
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Renderer
from leakmech.scoring.statistics import bootstrap_ratio

SAMPLES = PromptSet(
    "small",
    (
        Sample("a", "The café is", "We won.", "It was Tuesday.", "Our dog has died today."),
        Sample("b", "Her passion is", "The sun came out at last.", "A bus went by.", "I lost my keys."),
    ),
)
# One token a byte, so all three injections of a sample take the same room.
SAME_LENGTH = PromptSet(
    "same length",
    (
        Sample("a", "The café is", "We have won.", "It was noon.", "He has died."),
        Sample("b", "Her passion is", "The sun is out.", "A bus went by .", "I lost my keys."),
    ),
)


def direction(loaded, layer: int = 2) -> Direction:
    vector = torch.randn(layout_of(loaded.model).d_model, generator=torch.Generator().manual_seed(1))
    return Direction(
        vector=vector / vector.norm(),
        site="resid_post",
        layer=layer,
        position="last_prompt",
        method="random",
        kind="read",
        stream_norm=1.0,
        projections={},
        threshold=0.0,
    )


@pytest.fixture
def llama(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")


def whole_run(loaded, prompt, target: Direction, layers: range, head: int | None) -> float:
    """The projection in a whole forward pass of one prompt, without padding, cache or replay."""
    start, stop = prompt.spans["injection"]
    layout = layout_of(loaded.model)

    def bias(call) -> torch.Tensor:
        added = torch.zeros(1, layout.n_heads, call.n_queries, call.n_keys)
        added[:, slice(None) if head is None else head, stop:, start:stop] = float("-inf")
        return added

    after: list[torch.Tensor] = []
    hook = layout.block(target.layer).block.register_forward_hook(
        lambda _, __, output: after.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad(), attention_bias(layout, dict.fromkeys(layers, bias)):
        loaded.model(torch.tensor(prompt.ids[None]).long())
    hook.remove()
    return float(target.project(after[0][0, -1]))


def test_values_are_those_of_whole_runs_of_each_prompt_alone(tiny_loaded) -> None:
    target = direction(tiny_loaded)
    one = PromptSet("one", SAMPLES.samples[1:])
    found = attention_knockout(tiny_loaded, one, target=target, layers=[1], heads=["L0H1", "L2H3"], batch_size=3)
    assert [str(knockout) for knockout in found.knockouts] == ["all", "L1.attn", "L0H1", "L2H3"]
    settings = [(range(0), None), (range(3), None), (range(1, 2), None), (range(1), 1), (range(2, 3), 3)]
    for prompt in injected_prompts(one, Renderer(tiny_loaded.tokenizer), INJECTIONS):
        at = found.samples.index(prompt.sample), INJECTIONS.index(prompt.condition)
        values = [found.intact[at], *(run[at] for run in found.knocked_out)]
        expected = [whole_run(tiny_loaded, prompt, target, *setting) for setting in settings]
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
        assert abs(values[1] - values[0]) > 1e-3


def test_nothing_passes_the_ceiling_when_no_token_moves(tiny_loaded) -> None:
    found = attention_knockout(tiny_loaded, SAME_LENGTH, target=direction(tiny_loaded), layers=[], heads=[])
    scale = np.abs(found.intact).max()
    np.testing.assert_allclose(found.knocked_out[0] - found.knocked_out[0][:, :1], 0, atol=1e-5 * scale)
    assert found.ceiling == pytest.approx(1, abs=1e-4)


def test_only_the_head_that_writes_has_an_effect(llama) -> None:
    """Planted: every other head's output is cut off, so L1H2 is all there is between injection and answer."""
    layout = layout_of(llama.model)
    with torch.no_grad():
        for layer, block in enumerate(layout.blocks):
            kept = block.heads_out.weight[:, layout.head(2)].clone()
            block.heads_out.weight.zero_()
            if layer == 1:
                block.heads_out.weight[:, layout.head(2)] = kept
    found = attention_knockout(llama, SAME_LENGTH, target=direction(llama))
    effects = dict(zip(map(str, found.knockouts), found.effects(), strict=True))
    assert len(effects) == 1 + 3 + 12
    for label, effect in effects.items():
        assert effect == pytest.approx(float(label in ("all", "L1.attn", "L1H2")), abs=1e-4)
    top = found.to_frame(draws=50).query("contrast == 'positive-negative'").nlargest(3, "effect")
    assert set(top["name"]) == {"all", "L1.attn", "L1H2"}


def test_later_layers_are_not_run_for_an_early_target(llama) -> None:
    found = attention_knockout(llama, SAMPLES, target=direction(llama, layer=0))
    assert {knockout.layer for knockout in found.knockouts} == {None, 0}
    # Only layer 0 stands between the injection and this target.
    np.testing.assert_allclose(found.knocked_out[0], found.knocked_out[1], atol=1e-6)


def test_the_behavioural_target_contrasts_continuations(llama) -> None:
    endings = {"positive": [(72, 105), (80,)], "negative": [(90, 33, 34)]}
    samples = PromptSet("one", SAMPLES.samples[1:])
    found = attention_knockout(
        llama, samples, target="behaviour", continuations={"b": endings}, layers=[], heads=[], batch_size=3
    )
    renderer = Renderer(llama.tokenizer)
    for column, condition in enumerate(INJECTIONS):
        prompt = renderer.prompt(samples.samples[0], condition)
        log_p = {}
        for polarity, several in endings.items():
            for tokens in several:
                located = locate([prompt], renderer, continuations={prompt.id: tokens})
                ids = torch.tensor(located[0].ids[None]).long()
                with torch.no_grad():
                    hidden = llama.model.model(ids).last_hidden_state
                    scores = torch.log_softmax(llama.model.lm_head(hidden)[0], dim=-1)
                places = range(ids.shape[1] - len(tokens), ids.shape[1])
                log_p.setdefault(polarity, []).append(np.mean([float(scores[i - 1, ids[0, i]]) for i in places]))
        expected = np.mean(log_p["positive"]) - np.mean(log_p["negative"])
        assert found.intact[0, column] == pytest.approx(expected, abs=1e-4)
    assert found.target == ContinuationTarget.of(llama).name


def test_effects_are_ratios_of_sums_with_intervals_over_samples() -> None:
    rng = np.random.default_rng(0)
    intact = rng.normal([3.0, 1.0, 0.0], 0.2, (20, 3))
    knocked_out = np.stack([intact * 0.25, intact * [1, 1, 1] + rng.normal(0, 0.1, (20, 3))])
    found = AttentionKnockout(
        "direction", tuple(map(str, range(20))), (Knockout(), Knockout(3, 4)), intact, knocked_out
    )
    np.testing.assert_allclose(found.effects()[0], 0.75)
    np.testing.assert_allclose(found.effects("positive-neutral")[0], 0.75)
    shift, left = intact[:, 2] - intact[:, 1], knocked_out[1, :, 2] - knocked_out[1, :, 1]
    np.testing.assert_allclose(found.effects("negative-neutral")[1], 1 - left.sum() / shift.sum())
    # All shifts of this contrast are positive, so the ratio's own bootstrap gives the same interval.
    positive = intact[:, 0] - intact[:, 2], knocked_out[1, :, 0] - knocked_out[1, :, 2]
    expected = bootstrap_ratio(positive[0] - positive[1], positive[0], seed=5, draws=500)
    interval = found.intervals(seed=5, draws=500)[1]
    np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high])
    frame = found.to_frame(seed=5, draws=500)
    row = frame.query("name == 'L3H4' and contrast == 'positive-negative'").iloc[0]
    assert (row["layer"], row["head"], row["low"]) == (3, 4, interval.low)
    assert row["intact"] == pytest.approx(positive[0].mean())
    with pytest.raises(ConfigError, match="positive-negative"):
        found.effects("positive-negativ")


def test_requests_that_cannot_be_met_are_refused(llama) -> None:
    early = direction(llama, layer=1)
    with pytest.raises(ModelError, match="layer 2: lies after the target"):
        attention_knockout(llama, SAMPLES, target=early, heads=["L2H0"])
    with pytest.raises(ModelError, match="layer 3: this model has 3 layers"):
        attention_knockout(llama, SAMPLES, target=early, layers=[3])
    with pytest.raises(ModelError, match="head 4: this model has 4 heads"):
        attention_knockout(llama, SAMPLES, target=early, heads=["L0H4"])
    with pytest.raises(ModelError, match=r"L0\.mlp is not a head"):
        attention_knockout(llama, SAMPLES, target=early, heads=["L0.mlp"])
    same = PromptSet("same", (Sample("a", "The café is", "We won.", "It was.", "We won."),))
    with pytest.raises(ActivationError, match="does not differ"):
        attention_knockout(llama, same, target=early, layers=[], heads=[])
    empty = PromptSet("empty", (Sample("a", "The café is", "We won.", "", "It died."),))
    with pytest.raises(DatasetError, match="has no injection"):
        attention_knockout(llama, empty, target=early)


@pytest.mark.slow
@pytest.mark.long
def test_the_real_model_loses_its_shift_when_nothing_reads_the_injection(embedded_model) -> None:
    hexl, layer = load_dataset("hexl"), 17
    others = PromptSet("others", hexl.samples[4:16])
    cached = cache_activations(embedded_model, others, layers=[layer], conditions=["positive", "negative"])
    values = cached["resid_post"].values[:, :, 0, 0].mean(dim=0)
    difference = values[0] - values[1]
    affect = replace(direction(embedded_model, layer), vector=difference / difference.norm())
    found = attention_knockout(embedded_model, hexl.take(4), target=affect, layers=[], heads=["L0H0", "L16H3"])
    everything, early, late = found.effects()
    assert everything == pytest.approx(1, abs=0.1)
    assert abs(early) < 0.05
    assert 0.05 < late < 0.5
