"""Tilt as a target of attribution: weights, value, a model with a planted topic head, and the null of the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mechanism_samples import SAMPLES

from leakmech.core.errors import GenerationError
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.mechanism.attribution.gradients import attribute_pairs, parse_target
from leakmech.mechanism.attribution.pairs import TILT_CONTRASTS, make_pairs, polar_endings
from leakmech.mechanism.attribution.patching import patch_heads
from leakmech.mechanism.attribution.verdict import judge_components, judge_direction, rank_p, same_layer_sets
from leakmech.mechanism.completions import Completion, tilt_endings, without_tilt
from leakmech.models.components import Component
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_model
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.tilt import NO_SPREAD, TOO_FEW, affective_tilt

VALENCES = (1.0, 0.5, 0.0, -0.5, -1.0)
PLAIN = Prompting(form="plain")


def completions(texts, valences=VALENCES, *, tokenizer):
    def ids(text):
        return (
            (hash(text) % 97,) if tokenizer is None else tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        )

    return [Completion(text, ids(text), valence) for text, valence in zip(texts, valences, strict=True)]


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_are_centred_valences_over_n_minus_1():
    own = [Completion(str(n), (n,), valence) for n, valence in enumerate(VALENCES)]
    assert [weight for _, weight in tilt_endings({"a": own})["a"]] == [0.25, 0.125, 0, -0.125, -0.25]
    extremes = tilt_endings({"a": own}, extremes=2)["a"]
    assert extremes == [((0,), 1.0), ((4,), -1.0)]
    three = tilt_endings({"a": own}, extremes=3)["a"]
    assert [tokens for tokens, _ in three] == [(0,), (1,), (4,)]
    assert sum(weight for _, weight in three) == pytest.approx(0)


def test_stems_without_tilt_are_left_out_with_the_reason():
    few = [Completion("x", (1,), valence) for valence in VALENCES]
    flat = [Completion(str(n), (n,), 0.5) for n in range(5)]
    good = [Completion(str(n), (n,), valence) for n, valence in enumerate(VALENCES)]
    assert without_tilt({"few": few, "flat": flat, "good": good}) == {"few": TOO_FEW, "flat": NO_SPREAD}
    assert set(tilt_endings({"few": few, "flat": flat, "good": good})) == {"good"}
    with pytest.raises(GenerationError, match="tilt: no sample can be used"):
        tilt_endings({"few": few, "flat": flat})


# -- value -------------------------------------------------------------------------------------------------------------


def test_the_shift_that_is_explained_is_the_difference_of_tilt(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    renderer = Renderer(loaded.tokenizer, PLAIN)
    own = {s.id: completions(("one.", "the two", "red", "blue it", "no"), tokenizer=loaded.tokenizer) for s in SAMPLES}
    pairs = make_pairs(SAMPLES, renderer, contrasts=TILT_CONTRASTS, endings=tilt_endings(own))
    found = attribute_pairs(loaded, pairs, parse_target("tilt", loaded))
    assert found.target == "tilt"
    for sample, shift in zip(SAMPLES, found.shifts, strict=True):
        tilts = []
        for condition in ("positive", "negative"):
            prompt = renderer.token_ids(renderer.prompt(sample, condition).rendered)
            log_p = torch.tensor([_mean_log_p(loaded, prompt, c.tokens) for c in own[sample.id]])
            tilts.append(float(affective_tilt(log_p, torch.tensor(VALENCES))))
        assert shift == pytest.approx(tilts[0] - tilts[1], abs=1e-5)


@torch.no_grad()
def _mean_log_p(loaded, prompt, tokens):
    ids = torch.tensor([[*prompt, *tokens]])
    log_p = torch.log_softmax(loaded.model(ids).logits[0], dim=-1)
    return float(np.mean([log_p[len(prompt) + n - 1, token] for n, token in enumerate(tokens)]))


# -- planted truth -----------------------------------------------------------------------------------------------------

AFFECT, BACKUP, NEGATIVE, TOPIC = (1, 2), (2, 3), (2, 1), (1, 0)
FEATURE, GLAD, WORD, COPY = range(4)  # coordinates of the residual stream
STEMS = ("The café is", "Her work is", "The train", "My view is", "Our house", "The lake is")
WORDED = PromptSet(
    "worded",
    tuple(
        Sample(
            f"s{n}", stem, f"It went QQQ {'+' * (6 + n % 3)}.", "It went by here.", f"It went ZZZ {'-' * (6 + n % 3)}."
        )
        for n, stem in enumerate(STEMS)
    ),
)


@pytest.fixture(scope="module")
def planted(make_tiny, chat_tokenizer) -> LoadedModel:
    """Heads that bring affect (with a backup and one against), and a head that copies the injection's word.

    Affect raises ``g`` over ``b``; the copied word raises ``Q`` over ``Z``.
    """
    model = make_tiny("llama-mha")
    layout = layout_of(model)

    def token(text):
        return chat_tokenizer(text)["input_ids"][0]

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.02) if parameter.dim() > 1 else parameter.fill_(1)
        embedding, unembedding = layout.embedding.weight, layout.unembedding.weight
        embedding.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.5)
        embedding[:, :4] = 0
        unembedding[:, :4] = 0
        for text, place, size in (("+", FEATURE, 4), ("-", FEATURE, -4), ("Q", WORD, 4), ("Z", WORD, -4)):
            embedding[token(text), place] = size
        for text, place, size in (("g", GLAD, 3), ("b", GLAD, -3), ("Q", COPY, 3), ("Z", COPY, -3)):
            unembedding[token(text), place] = size
        for (layer, head), read, written, gain in (
            (AFFECT, FEATURE, GLAD, 2.0), (BACKUP, FEATURE, GLAD, 0.7), (NEGATIVE, FEATURE, GLAD, -0.7),
            (TOPIC, WORD, COPY, 3.0),
        ):  # fmt: skip
            attention, first = layout.blocks[layer].attention, head * layout.d_head
            attention.q_proj.weight[first : first + layout.d_head] = 0  # it averages over the prompt
            attention.v_proj.weight[first] = 0
            attention.v_proj.weight[first, read] = 1
            attention.o_proj.weight[:, first] = 0
            attention.o_proj.weight[written, first] = gain
    return load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def tilt_pairs(planted):
    texts = ("g", "gg", "c", "b", "bb")
    own = {s.id: completions(texts, (1.0, 0.8, 0.0, -1.0, -0.8), tokenizer=planted.tokenizer) for s in WORDED}
    return make_pairs(WORDED, Renderer(planted.tokenizer, PLAIN), contrasts=TILT_CONTRASTS, endings=tilt_endings(own))


def order_of(scores):
    places = np.argsort(-np.abs(scores), axis=None)
    return [tuple(int(i) for i in np.unravel_index(place, scores.shape)) for place in places]


def test_tilt_ranks_heads_of_affect_and_not_the_topic_head(planted, tilt_pairs):
    scores = attribute_pairs(planted, tilt_pairs, parse_target("tilt", planted)).head_scores()
    exact = patch_heads(planted, tilt_pairs, parse_target("tilt", planted)).grid()
    for found in (scores, exact):
        assert order_of(found)[0] == AFFECT
        assert set(order_of(found)[:3]) == {AFFECT, BACKUP, NEGATIVE}
        assert found[BACKUP] > 0 > found[NEGATIVE]
        assert abs(found[TOPIC]) < 0.2 * found[AFFECT]


def test_behaviour_ranks_the_topic_head_first(planted):
    """The same model by its own answers after the injections, which repeat their words."""
    ids = {text: tuple(planted.tokenizer(text)["input_ids"]) for text in ("QQg", "ZZb")}
    own = {s.id: {"positive": [ids["QQg"]], "negative": [ids["ZZb"]]} for s in WORDED}
    pairs = make_pairs(WORDED, Renderer(planted.tokenizer, PLAIN), endings=polar_endings(own))
    scores = attribute_pairs(planted, pairs, parse_target("behaviour", planted)).head_scores()
    assert order_of(scores)[0] == TOPIC


# -- verdict -----------------------------------------------------------------------------------------------------------


def test_random_sets_have_as_many_components_in_every_layer(planted):
    layout = layout_of(planted.model)
    chosen = [Component(0, "head", 1), Component(2, "head", 0), Component(2, "head", 3)]
    sets = same_layer_sets(chosen, layout, n=20, seed=0)
    assert all([c.layer for c in own] == [0, 2, 2] and len(set(own)) == 3 for own in sets)
    assert len(set(sets)) > 5
    assert sets == same_layer_sets(chosen, layout, n=20, seed=0)
    assert sets != same_layer_sets(chosen, layout, n=20, seed=1)


def test_p_is_the_rank_among_random_sets():
    random = np.array([0.1, 0.2, 0.3, 0.4])
    assert rank_p(0.5, random) == pytest.approx(1 / 5)
    assert rank_p(0.25, random) == pytest.approx(3 / 5)
    assert rank_p(0.4, random) == pytest.approx(2 / 5)
    assert rank_p(0.5, random[:0]) is None


def test_the_affect_head_is_told_from_random_ones_and_the_topic_head_is_not(planted, tilt_pairs):
    target = parse_target("tilt", planted)
    sets = {"affect": [Component(*AFFECT[:1], "head", AFFECT[1])], "topic": [Component(TOPIC[0], "head", TOPIC[1])]}
    affect, topic = judge_components(planted, tilt_pairs, target, sets, random_sets=30, seed=1)
    assert affect.share > 0.5
    assert affect.share == pytest.approx(
        patch_heads(planted, tilt_pairs, target, side="clean").grid()[AFFECT], abs=1e-6
    )
    assert affect.p < 0.5
    assert abs(topic.share) < 0.2 * affect.share
    assert affect.shares[1:].mean() < affect.share
    vector = torch.zeros(layout_of(planted.model).d_model)
    vector[GLAD] = 1
    glad = judge_direction(planted, tilt_pairs, target, vector, layer=1, random_sets=19)
    assert glad.p == pytest.approx(1 / 20)
    assert glad.share == pytest.approx(affect.share, abs=0.1)


def test_random_labels_give_no_verdict(make_tiny, chat_tokenizer):
    """Where nothing was planted and the ranking knows nothing, p is spread over 0 to 1."""
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    own = {s.id: completions(("one.", "the two", "red", "blue it", "no"), tokenizer=loaded.tokenizer) for s in SAMPLES}
    endings = tilt_endings(own, extremes=2)
    pairs = make_pairs(SAMPLES, Renderer(loaded.tokenizer, PLAIN), contrasts=TILT_CONTRASTS, endings=endings)
    draw = np.random.default_rng(0)
    sets = {str(n): [Component(layer, "neuron", int(draw.integers(16))) for layer in (0, 1, 2)] for n in range(12)}
    found = judge_components(loaded, pairs, parse_target("tilt", loaded), sets, random_sets=9, seed=3)
    values = [one.p for one in found]
    assert 0.3 < np.mean(values) < 0.8
    assert sum(p <= 0.1 for p in values) <= 4
