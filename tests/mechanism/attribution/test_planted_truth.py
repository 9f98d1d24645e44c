"""A model with one planted circuit: every method must rank its head and its neuron first.

Block 1's head 2 looks at the whole prompt and copies an affect feature from the words of the injection to the last
token; neuron 5 of block 2 reads what that head wrote and writes it along the target direction. All else is small noise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakmech.core.errors import DirectionError
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.mechanism import sentiment
from leakmech.mechanism.attention.knockout import attention_knockout
from leakmech.mechanism.attention.transport import transport_and_expression
from leakmech.mechanism.attribution.direct import direct_attribution
from leakmech.mechanism.attribution.faithfulness import circuit_curves, random_rankings
from leakmech.mechanism.attribution.gradients import METHODS, attribute, parse_target
from leakmech.mechanism.attribution.interchange import PromptInterchange
from leakmech.mechanism.attribution.pairs import make_pairs
from leakmech.mechanism.attribution.patching import patch_components, patch_heads
from leakmech.mechanism.directions.direction import Direction
from leakmech.mechanism.directions.fits import FitOptions, fit_method
from leakmech.mechanism.sentiment import ActivationReader, sentiment_directions
from leakmech.models.components import Component
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_model
from leakmech.prompts.render import Renderer

HEAD, NEURON = (1, 2), (2, 5)
FEATURE, CARRIED, READ_OUT = 0, 1, 2  # coordinates of the residual stream
STEMS = ("The café is", "Her work is", "The train", "My view is", "Our house", "The lake is", "A book is", "His car")
SAMPLES = PromptSet(
    "planted",
    tuple(
        Sample(f"s{n}", stem, f"It went {'+' * (6 + n % 3)}.", "It went by here.", f"It went {'-' * (6 + n % 3)}.")
        for n, stem in enumerate(STEMS)
    ),
)


def plant(model, chat_tokenizer) -> None:
    """``+`` and ``-`` carry the feature."""
    layout = layout_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.02) if parameter.dim() > 1 else parameter.fill_(1)
        embedding = layout.embedding.weight
        embedding.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.5)
        embedding[:, :3] = 0
        for text, sign in (("+", 1.0), ("-", -1.0)):
            embedding[chat_tokenizer(text)["input_ids"][0], FEATURE] = 4 * sign
        attention, d_head = layout.blocks[HEAD[0]].attention, layout.d_head
        first = HEAD[1] * d_head
        # No preference for any key: the head averages over the prompt.
        attention.q_proj.weight[first : first + d_head] = 0
        attention.v_proj.weight[first] = 0
        attention.v_proj.weight[first, FEATURE] = 3
        attention.o_proj.weight[:, first] = 0
        attention.o_proj.weight[CARRIED, first] = 3
        mlp = layout.blocks[NEURON[0]].mlp
        mlp.gate_proj.weight[NEURON[1]] = 0
        mlp.up_proj.weight[NEURON[1]] = 0
        mlp.gate_proj.weight[NEURON[1], CARRIED] = 1
        mlp.gate_proj.weight[NEURON[1], 3:] = 0.3  # keeps the gate open
        mlp.up_proj.weight[NEURON[1], CARRIED] = 4
        mlp.down_proj.weight[:, NEURON[1]] = 0
        mlp.down_proj.weight[READ_OUT, NEURON[1]] = 4


@pytest.fixture(scope="module")
def planted(make_tiny, chat_tokenizer) -> LoadedModel:
    """The model."""
    model = make_tiny("llama-mha")
    plant(model, chat_tokenizer)
    return load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def direction(planted) -> Direction:
    vector = torch.zeros(layout_of(planted.model).d_model)
    vector[READ_OUT] = 1
    return Direction(
        vector=vector, site="resid_post", layer=2, position="last_prompt", method="planted", kind="read",
        stream_norm=1.0, projections={}, threshold=0.0, model_hash=planted.weights_hash,
    )  # fmt: skip


def first(scores: np.ndarray) -> tuple[int, ...]:
    """Where the largest score stands."""
    return tuple(int(i) for i in np.unravel_index(np.abs(scores).argmax(), scores.shape))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["corrupt", "clean"])
def test_attribution_ranks_head_and_neuron_first(planted, direction, method, side):
    found = attribute(planted, SAMPLES, target=direction, method=method, side=side)
    assert first(found.head_scores()) == HEAD
    assert first(found.neuron_scores()) == NEURON


@pytest.mark.parametrize("side", ["corrupt", "clean"])
def test_patching_ranks_head_and_neuron_first(planted, direction, side):
    target = parse_target(direction, planted)
    pairs = make_pairs(SAMPLES, Renderer(planted.tokenizer))
    heads = patch_heads(planted, pairs, target, side=side)
    assert first(heads.grid()) == HEAD
    assert heads.scores().max() == pytest.approx(1, abs=0.1)
    layout = layout_of(planted.model)
    groups = [((x, n), [Component(x, "neuron", n)]) for x in (1, 2) for n in range(layout.d_mlp)]
    neurons = patch_components(planted, pairs, target, groups, side=side)
    assert neurons.labels[int(np.abs(neurons.scores()).argmax())] == NEURON


def test_direct_attribution_finds_the_neuron_and_transport_the_head(planted, direction):
    direct = direct_attribution(planted, SAMPLES, target=direction)
    assert first(direct.neuron_scores()) == NEURON
    carried = torch.zeros_like(direction.vector)
    carried[CARRIED] = 1
    what_the_head_writes = Direction(**{**vars(direction), "vector": carried, "layer": 1})
    moved = transport_and_expression(planted, SAMPLES, what_the_head_writes).to_frame()
    best = moved.iloc[moved["transport"].abs().argmax()]
    assert (best["layer"], best["component"]) == HEAD
    assert abs(best["transport"]) > 10 * abs(best["expression"])


def test_knocking_the_head_out_takes_the_shift_away(planted, direction):
    heads = [f"L{x}H{h}" for x in range(2) for h in range(4)]
    found = attention_knockout(planted, SAMPLES, target=parse_target(direction, planted), layers=[], heads=heads)
    frame = found.to_frame(draws=200)
    singles = frame[(frame["contrast"] == "positive-negative") & frame["head"].notna()]
    best = singles.loc[singles["effect"].idxmax()]
    assert (int(best["layer"]), int(best["head"])) == HEAD
    assert best["effect"] > 0.9


def test_circuit_of_one_head_is_faithful_and_others_are_not(planted, direction):
    pairs = make_pairs(SAMPLES, Renderer(planted.tokenizer))
    ranking = attribute(planted, SAMPLES, target=direction).head_scores()
    others = {name: scores * (ranking < ranking.max()) for name, scores in random_rankings((3, 4), n=2, seed=0).items()}
    curves = circuit_curves(
        planted, pairs, parse_target(direction, planted), {"attribution": ranking, **others}, sizes=[1, 6, 12]
    )
    assert curves.faithfulness("attribution")[0] == pytest.approx(1, abs=0.1)
    assert curves.faithfulness("attribution", "remove")[0] == pytest.approx(0, abs=0.1)
    assert abs(curves.faithfulness("random-0")[:2]).max() < 0.1
    assert curves.cpr("attribution") > 0.9
    assert curves.cmd("attribution") < 0.1 < curves.cmd("random-0")


@pytest.fixture(scope="module")
def speaking(make_tiny, chat_tokenizer) -> LoadedModel:
    """The model with next tokens that depend on the read-out, and on nothing else that the injection changes."""
    model = make_tiny("llama-mha")
    plant(model, chat_tokenizer)
    layout = layout_of(model)
    unembedding = layout.unembedding.weight
    with torch.no_grad():
        # A read-out that dominated the stream would be the same number after the last norm, however large.
        layout.block(NEURON[0]).neurons_out.weight[READ_OUT, NEURON[1]] *= 0.02
        unembedding[:, FEATURE] = unembedding[:, CARRIED] = 0
        unembedding[chat_tokenizer("g")["input_ids"][0], READ_OUT] = 3
        unembedding[chat_tokenizer("b")["input_ids"][0], READ_OUT] = -3
    return load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")


def test_alignment_search_finds_the_feature_and_interchange_along_it_moves_the_output(speaking):
    renderer = Renderer(speaking.tokenizer)
    interchange = PromptInterchange(speaking, SAMPLES, renderer=renderer)
    activations = ActivationReader(speaking, renderer, site="resid_post", layers=[1, 2]).read(SAMPLES)
    carried, read_out = fit_method("das", activations, options=FitOptions(interchange=interchange)).vectors
    assert abs(carried[CARRIED]) > 0.9
    # Behind the last block what the head wrote is of no use to the output, but tells what is: any mixture serves.
    assert np.hypot(read_out[CARRIED], read_out[READ_OUT]) > 0.9
    for vector, layer in ((carried, 1), (read_out, 2)):
        nothing = float(interchange(torch.zeros(len(vector)), layer))
        other = torch.zeros(len(vector))
        other[FEATURE] = 1
        assert nothing > 1  # nats
        assert float(interchange(other, layer)) > 0.9 * nothing
        assert float(interchange(torch.from_numpy(vector).float(), layer)) < 0.05 * nothing


def test_samples_whose_continuations_are_equally_glad_are_not_read_as_expressed(planted, monkeypatch):
    made = {"b": ["lovely ones", "a chair"], "c": ["a chair", "a table"], "d": ["a chair"]}
    samples = PromptSet("own", tuple(replace(SAMPLES.samples[0], id=name) for name in made))
    ids = {name: [tuple(planted.tokenizer(text)["input_ids"]) for text in texts] for name, texts in made.items()}
    own = {name: {"positive": both[:1], "negative": both[1:]} for name, both in ids.items()}
    monkeypatch.setattr(sentiment, "sample_behaviour", lambda *_, **__: own)
    reader = ActivationReader(planted, Renderer(planted.tokenizer), site="resid_post", layers=[2])

    def judge(texts):  # lovely is glad, all else neutral
        return np.array([[0, 0.1, 0.9] if "lovely" in text else [0, 1, 0] for text in texts])

    found = reader.expressed(samples, judge)
    assert found.sample_ids == ("b",)
    assert np.abs(found.positive - found.negative).max() > 1e-3
    with pytest.raises(DirectionError, match="finds no sample with continuations of different valence"):
        reader.expressed(samples, lambda texts: np.full((len(texts), 3), 1 / 3))


def test_fitted_directions_separate_unseen_prompts(planted):
    half = PromptSet("fit", SAMPLES.samples)
    renamed = [
        PromptSet(
            name, tuple(Sample(f"{name}-{s.id}", s.stem + word, s.positive, s.neutral, s.negative) for s in SAMPLES)
        )
        for name, word in (("tune", " now"), ("test", " then"))
    ]
    found = sentiment_directions(planted, fit=half, tune=renamed[0], test=renamed[1], seed=0)
    assert found.table.chosen.test.auc == pytest.approx(1, abs=0.02)
    assert found.table.chosen.layer >= 1
