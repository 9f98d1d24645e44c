"""Coupled sampling: same address, same draw; the right distribution; the same candidates as Hugging Face."""

import math

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper
from transformers.generation import TopKLogitsWarper, TopPLogitsWarper

from leakmech.core.errors import ConfigError
from leakmech.core.noise import gumbel_noise, mix, row_keys
from leakmech.core.seeds import stable_hash
from leakmech.generation.decoding import Decoding
from leakmech.generation.sampler import penalise_repetition, sample_tokens


def draw(logits, *, keys, step=0, seen=None, decoding=None):
    seen = torch.zeros(len(keys), 0, dtype=torch.long) if seen is None else seen
    steps = torch.full((len(keys),), step)
    return sample_tokens(logits.clone(), seen, keys=keys, steps=steps, decoding=decoding or Decoding())[0]


def test_stable_hash_is_a_fixed_function():
    assert stable_hash(0, "hexl-001/control", 3) == stable_hash(0, "hexl-001/control", 3)
    assert stable_hash("a", "b") != stable_hash("ab")
    assert stable_hash(0, "hexl-001/control", 3) == 198891059196649243


def test_a_draw_depends_on_its_own_address_only():
    torch.manual_seed(0)
    logits = torch.randn(6, 100)
    keys = row_keys(0, ["p"] * 3 + ["q"] * 3, [0, 1, 2, 0, 1, 2])
    together = draw(logits, keys=keys)
    alone = torch.cat([draw(logits[i : i + 1], keys=keys[i : i + 1]) for i in range(6)])
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    assert together.tolist() == alone.tolist()
    assert draw(logits[shuffled], keys=keys[shuffled]).tolist() == together[shuffled].tolist()


def test_every_part_of_the_address_changes_the_noise():
    tokens = torch.arange(50)[None]
    base = gumbel_noise(row_keys(0, ["p"], [0]), torch.tensor([0]), tokens)
    for keys, step in (
        (row_keys(1, ["p"], [0]), 0),
        (row_keys(0, ["q"], [0]), 0),
        (row_keys(0, ["p"], [1]), 0),
        (row_keys(0, ["p"], [0]), 1),
    ):
        other = gumbel_noise(keys, torch.tensor([step]), tokens)
        assert abs(torch.corrcoef(torch.cat([base, other]))[0, 1]) < 0.5
        assert (base != other).all()


def test_mix_is_injective_and_changes_half_the_bits():
    x = torch.arange(20_000)
    assert len(mix(x).unique()) == len(x)
    flipped = (mix(x) ^ mix(x ^ 1)).numpy().view("uint64")
    bits = [bin(value).count("1") for value in flipped[:2000]]
    assert abs(sum(bits) / len(bits) - 32) < 0.5


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    keys = row_keys(0, ["p"] * n, list(range(n)))
    tokens = draw(probabilities.log().expand(n, 4), keys=keys, decoding=Decoding(top_p=1.0, top_k=0))
    counts = torch.bincount(tokens, minlength=4)
    chi_square = (((counts - n * probabilities) ** 2) / (n * probabilities)).sum().item()
    assert chi_square < 16.3  # 0.999 quantile at 3 degrees of freedom


def test_successive_steps_are_independent():
    n = 20_000
    keys = row_keys(0, ["p"] * n, list(range(n)))
    logits = torch.zeros(n, 2)
    decoding = Decoding(top_p=1.0)
    first, second = draw(logits, keys=keys, decoding=decoding), draw(logits, keys=keys, step=1, decoding=decoding)
    agreement = (first == second).float().mean().item()
    assert abs(agreement - 0.5) < 4 * math.sqrt(0.25 / n)


def test_two_models_with_common_noise_agree_more_often_than_with_other_noise():
    torch.manual_seed(0)
    n = 2000
    logits = torch.randn(n, 50)
    nudged = logits + 0.05 * torch.randn(n, 50)
    keys, other = row_keys(0, ["p"] * n, list(range(n))), row_keys(1, ["p"] * n, list(range(n)))
    coupled = (draw(logits, keys=keys) == draw(nudged, keys=keys)).float().mean()
    uncoupled = (draw(logits, keys=keys) == draw(nudged, keys=other)).float().mean()
    assert coupled > 0.95 > 0.3 > uncoupled


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(temperature=0.7, top_k=5, top_p=0.5), Decoding(top_k=0)])
def test_only_tokens_that_hugging_face_would_keep_are_drawn(decoding):
    torch.manual_seed(1)
    seen = torch.randint(0, 200, (1, 30))
    logits = 3 * torch.randn(1, 200)
    warpers = [
        RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty),
        TemperatureLogitsWarper(decoding.temperature),
    ]
    if decoding.top_k:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    warpers.append(TopPLogitsWarper(decoding.top_p))
    warped = LogitsProcessorList(warpers)(seen, logits.clone())[0]
    kept = set(torch.isfinite(warped).nonzero().flatten().tolist())
    n = 5000
    keys = row_keys(0, ["p"] * n, list(range(n)))
    drawn = draw(logits.expand(n, -1).clone(), keys=keys, seen=seen.expand(n, -1), decoding=decoding)
    assert set(drawn.tolist()) <= kept
    likely = {i for i in kept if warped.softmax(0)[i] > 0.01}
    assert likely <= set(drawn.tolist())


def test_the_repetition_penalty_equals_hugging_faces():
    torch.manual_seed(2)
    seen = torch.randint(0, 50, (4, 20))
    logits = torch.randn(4, 50)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(seen, logits.clone())
    penalise_repetition(logits, seen, 1.3)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_reported_for_their_row(value, temperature):
    logits = torch.zeros(3, 10)
    logits[1, 4] = value
    keys, steps = row_keys(0, ["p"] * 3, [0, 1, 2]), torch.zeros(3, dtype=torch.long)
    seen = torch.zeros(3, 1, dtype=torch.long)
    _, broken = sample_tokens(logits, seen, keys=keys, steps=steps, decoding=Decoding(temperature=temperature))
    assert broken.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "setting", [{"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"temperature": -1}, {"max_new_tokens": 0}]
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Decoding(**setting)
