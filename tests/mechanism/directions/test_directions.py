"""Directions: planted ones are found, bad input is refused, what is saved comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanism_samples import SAMPLES
from mechanism_samples import direction as random_direction
from torch import Tensor

import leakmech
from leakmech.core.errors import DirectionError
from leakmech.mechanism.directions.data import SiteActivations
from leakmech.mechanism.directions.direction import Direction, FittedDirections, cosine_matrix, fit_directions
from leakmech.mechanism.directions.fits import DEFAULT_METHODS, METHODS, FitOptions, fit_method
from leakmech.mechanism.directions.quality import auc_influence, paired_auc_interval
from leakmech.mechanism.directions.tokens import token_projections
from leakmech.scoring.statistics import auc, cohens_dz, dz_by_column

D_MODEL = 16
LAYERS = (3, 5)


def planted_vectors(d_model: int = D_MODEL) -> np.ndarray:
    """One unit vector per layer."""
    vectors = np.random.default_rng(7).standard_normal((len(LAYERS), d_model))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def activations(
    n: int = 60, *, seed: int = 0, effect: float = 3.0, prefix: str = "s", stem: float = 2.0
) -> SiteActivations:
    """Affect along :func:`planted_vectors`, the stem's part shared by the conditions, and noise of size 1."""
    rng = np.random.default_rng(seed)
    shared = stem * rng.standard_normal((n, len(LAYERS), D_MODEL)) + 5.0

    def condition(level: float) -> np.ndarray:
        noise = rng.standard_normal(shared.shape)
        return (shared + level * effect * planted_vectors() + noise).astype(np.float32)

    return SiteActivations(
        sample_ids=tuple(f"{prefix}-{i}" for i in range(n)),
        layers=LAYERS,
        positive=condition(1.0),
        negative=condition(-1.0),
        neutral=condition(0.0),
        control=condition(0.0),
        model_hash="model-a",
        data_hash="data-a",
    )


def splits(effect: float = 3.0) -> tuple[SiteActivations, SiteActivations, SiteActivations]:
    return (
        activations(60, seed=1, effect=effect, prefix="fit"),
        activations(30, seed=2, effect=effect, prefix="tune"),
        activations(50, seed=3, effect=effect, prefix="test"),
    )


@pytest.fixture(scope="module")
def fitted() -> FittedDirections:
    return fit_directions(*splits(), draws=500)


@pytest.mark.parametrize("method", DEFAULT_METHODS)
def test_planted_direction_is_found_in_every_layer_with_its_sign(method: str) -> None:
    found = fit_method(method, activations(300, effect=4.0)).vectors
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0)
    assert (np.einsum("ld,ld->l", found, planted_vectors()) > 0.95).all()


@pytest.mark.parametrize("method", DEFAULT_METHODS)
def test_exchanging_the_polarities_turns_the_direction_around(method: str) -> None:
    given_ = activations(80)
    swapped = given_.swapped(np.ones(80, bool))
    np.testing.assert_allclose(fit_method(method, swapped).vectors, -fit_method(method, given_).vectors, atol=1e-3)


@pytest.mark.parametrize("method", DEFAULT_METHODS)
def test_rotating_the_stream_rotates_the_direction(method: str) -> None:
    given_ = activations(40)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((D_MODEL, D_MODEL))).Q
    rotated = replace(given_, **{name: values.astype(np.float64) @ rotation.T for name, values in given_.conditions()})
    expected = fit_method(method, given_).vectors @ rotation.T
    np.testing.assert_allclose(fit_method(method, rotated).vectors, expected, atol=2e-3)


def test_logistic_ignores_a_feature_that_difference_of_means_follows() -> None:
    """A large, noisy feature moves with affect too; only logistic regression weighs it by its noise."""
    given_ = activations(300, effect=2.0, stem=0.0)
    noisy = np.random.default_rng(0).standard_normal((2, 300, len(LAYERS))) * 30
    positive, negative = given_.positive.copy(), given_.negative.copy()
    positive[..., 0] += noisy[0] + 6
    negative[..., 0] += noisy[1] - 6
    given_ = replace(given_, positive=positive, negative=negative)
    share = {m: np.abs(fit_method(m, given_).vectors[:, 0]).max() for m in ("logistic", "difference_of_means")}
    assert share["logistic"] < 0.6 < 0.8 < share["difference_of_means"]


def interchange_through(readers: dict[int, Tensor], *, n: int = 64) -> Callable[[Tensor, int], Tensor]:
    """A tiny model that reads layer l by `readers[l]` alone, with a loss of interchange along a direction."""
    generator = torch.Generator().manual_seed(0)
    base, source = torch.randn(2, n, D_MODEL, generator=generator)

    def loss(direction: Tensor, layer: int) -> Tensor:
        moved = base + ((source - base) @ direction)[:, None] * direction
        return (torch.tanh(moved @ readers[layer]) - torch.tanh(source @ readers[layer])).square().mean()

    return loss


def test_das_finds_what_the_model_reads_and_not_what_differs_most() -> None:
    given_ = activations(60)
    causal = planted_vectors() + 1.5 * np.roll(planted_vectors(), 1, axis=1)
    causal /= np.linalg.norm(causal, axis=1, keepdims=True)
    readers = {layer: torch.from_numpy(causal[i]).float() for i, layer in enumerate(LAYERS)}
    options = FitOptions(interchange=interchange_through(readers), das_steps=150, das_rate=0.3)
    fit = fit_method("das", given_, options=options)
    start = fit_method("difference_of_means", given_).vectors
    assert (np.abs(np.einsum("ld,ld->l", start, causal)) < 0.8).all()
    assert (np.abs(np.einsum("ld,ld->l", fit.vectors, causal)) > 0.98).all()
    assert max(fit.details["loss"]) < 0.02


def test_das_stands_in_the_table_beside_the_others() -> None:
    readers = {layer: torch.from_numpy(planted_vectors()[i]).float() for i, layer in enumerate(LAYERS)}
    found = fit_directions(
        *splits(),
        methods=("difference_of_means", "das"),
        interchange=interchange_through(readers),
        random_draws=0,
        shuffles=0,
        draws=100,
    )
    assert found.table.row("das", 3).test.auc > 0.85
    assert found.direction("das", 5).vector.numpy() @ planted_vectors()[1] > 0.9


def test_das_without_a_model_or_with_a_loss_of_nan_is_refused() -> None:
    with pytest.raises(DirectionError, match="interchange="):
        fit_method("das", activations(10))
    options = FitOptions(interchange=lambda v, layer: v.sum() * float("nan"))
    with pytest.raises(DirectionError, match=r"layer 3 .*not a finite number"):
        fit_method("das", activations(10), options=options)


def test_chosen_direction_separates_the_test_samples(fitted: FittedDirections) -> None:
    table = fitted.table
    frame = table.to_frame()
    assert len(frame) == len(DEFAULT_METHODS) * len(LAYERS)
    assert frame["chosen"].sum() == 1
    best = frame[frame["chosen"]].iloc[0]
    assert best.tune_auc == frame["tune_auc"].max()
    assert best.test_auc_low < best.test_auc < best.test_auc_high
    assert best.test_auc > best.random_auc_p95 + 0.1
    assert best.test_d_z_low > best.random_d_z_p95
    assert frame.loc[~frame["chosen"], "test_auc_low"].isna().all()
    assert (frame.n_fit.iloc[0], frame.n_tune.iloc[0], frame.n_test.iloc[0]) == (60, 30, 50)


def test_test_samples_have_no_say_in_the_choice() -> None:
    """The test split says that the other layer is better; the choice stays."""
    fit, tune, test = splits()
    spoiled = tune.positive.copy()
    spoiled[:, 0] = tune.negative[:, 0] + np.random.default_rng(0).standard_normal(spoiled[:, 0].shape)
    worse_test = test.positive.copy()
    worse_test[:, 1] = test.negative[:, 1] + np.random.default_rng(0).standard_normal(spoiled[:1, 0].shape)
    found = fit_directions(
        fit, replace(tune, positive=spoiled), replace(test, positive=worse_test), random_draws=0, shuffles=0, draws=100
    )
    assert found.table.chosen.layer == LAYERS[1]
    assert found.table.row("logistic", LAYERS[0]).test.auc > found.table.chosen.test.auc + 0.2


def test_without_affect_everything_is_at_chance() -> None:
    found = fit_directions(*splits(effect=0.0), draws=100)
    frame = found.table.to_frame()
    assert frame["random_auc_mean"].to_numpy() == pytest.approx(0.5, abs=0.02)
    assert frame["test_auc"].to_numpy() == pytest.approx(0.5, abs=0.15)
    assert (frame["random_d_z_p95"] < 0.45).all()


def test_shuffled_labels_are_at_chance_and_only_for_methods_that_learn_from_labels(fitted: FittedDirections) -> None:
    frame = fitted.table.to_frame().set_index("method")
    assert frame.loc[["difference_of_means", "logistic"], "shuffled_auc_mean"].to_numpy() == pytest.approx(0.5, abs=0.2)
    assert frame.loc[["pca", "two_means"], "shuffled_auc_mean"].isna().all()
    assert not METHODS["pca"].supervised


def test_cosines_agree_with_the_directions(fitted: FittedDirections) -> None:
    a, b = fitted.direction("difference_of_means", 5), fitted.direction("logistic", 5)
    frame = fitted.table.cosines_frame().set_index(["between", "within", "a", "b"])["cosine"]
    assert frame["methods", 5, "difference_of_means", "logistic"] == pytest.approx(a.cosine(b), abs=1e-6)
    layers = fitted.direction("pca", 3).cosine(fitted.direction("pca", 5))
    assert frame["layers", "pca", 3, 5] == pytest.approx(layers, abs=1e-6)
    assert cosine_matrix({"a": a, "b": b}).loc["a", "a"] == pytest.approx(1.0)


def test_overlapping_splits_are_refused() -> None:
    fit, tune, test = splits()
    leaked = replace(test, sample_ids=(*test.sample_ids[:-1], fit.sample_ids[4]))
    with pytest.raises(DirectionError, match=r"'fit' and 'test' share 1 samples \(for example 'fit-4'\)"):
        fit_directions(fit, tune, leaked)


@pytest.mark.parametrize(("split", "size"), [(0, 4), (1, 2), (2, 2)])
def test_too_few_samples_are_refused(split: int, size: int) -> None:
    parts = list(splits())
    parts[split] = parts[split].rows(parts[split].sample_ids[:size])
    with pytest.raises(DirectionError, match=rf"{size} samples; at least {size + 1}"):
        fit_directions(*parts)


def test_splits_of_another_site_or_model_are_refused() -> None:
    fit, tune, test = splits()
    with pytest.raises(DirectionError, match="split 'tune': site is 'mlp_out'"):
        fit_directions(fit, replace(tune, site="mlp_out"), test)
    with pytest.raises(DirectionError, match="split 'test': model_hash is 'model-b'"):
        fit_directions(fit, tune, replace(test, model_hash="model-b"))


def test_nan_activations_are_refused_with_condition_and_layer() -> None:
    broken = activations(10).negative.copy()
    broken[2, 1, 3] = np.nan
    with pytest.raises(
        DirectionError, match=r"resid_post layer 5 at last_prompt: 1 of 10 negative activations are NaN"
    ):
        replace(activations(10), negative=broken)


def test_layer_that_has_not_seen_the_injection_is_refused() -> None:
    given_ = activations(10)
    same = given_.positive.copy()
    same[:, 1] = given_.negative[:, 1]
    with pytest.raises(DirectionError, match=r"layer 5 .*are equal.*leave the layer out"):
        fit_method("difference_of_means", replace(given_, positive=same))


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(DirectionError, match="did you mean 'logistic'"):
        fit_directions(*splits(), methods=("logistics",))


def test_rows_of_an_unknown_sample_are_refused() -> None:
    with pytest.raises(DirectionError, match="no activations of sample 's-99'"):
        activations(10).rows(["s-1", "s-99"])


def test_scale_and_set_points_are_those_of_the_fit_samples(fitted: FittedDirections) -> None:
    fit = splits()[0]
    direction = fitted.direction("difference_of_means", 5)
    vector = direction.vector.numpy()
    for condition, values in fit.conditions():
        assert direction.projections[condition] == pytest.approx((values[:, 1] @ vector).mean(), abs=1e-4)
    rms = np.sqrt(np.mean([(values[:, 1].astype(float) ** 2).sum(1).mean() for _, values in fit.conditions()]))
    assert direction.stream_norm == pytest.approx(rms, rel=1e-6)
    middle = (direction.projections["positive"] + direction.projections["negative"]) / 2
    assert direction.threshold == pytest.approx(middle, abs=1e-4)
    projected = direction.project(torch.from_numpy(fit.positive[:, 1]))
    assert projected.mean().item() == pytest.approx(direction.projections["positive"], abs=1e-4)


def test_saved_direction_comes_back(fitted: FittedDirections, tmp_path: Path) -> None:
    direction = fitted.chosen
    path = direction.save(tmp_path / "directions", "read-v1.2")
    assert sorted(p.name for p in path.parent.iterdir()) == ["read-v1.2.json", "read-v1.2.safetensors"]
    for name in (path, path.with_suffix(".safetensors"), path.with_suffix("")):
        back = leakmech.load_direction(name, model_hash="model-a")
        assert torch.equal(back.vector, direction.vector)
        assert back.description() == direction.description()
    assert (back.kind, back.fit_hash) == ("read", splits()[0].samples_hash)


def test_direction_of_another_model_is_refused(fitted: FittedDirections, tmp_path: Path) -> None:
    path = fitted.chosen.save(tmp_path, "read")
    with pytest.raises(DirectionError, match=r"fitted on the model with hash model-a, not on this one \(model-b\)"):
        leakmech.load_direction(path, model_hash="model-b")
    other = replace(fitted.chosen, model_hash="model-b")
    with pytest.raises(DirectionError, match="two models"):
        fitted.chosen.cosine(other)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 99, "format version 99"),
        ("kind", "felt", "unknown kind 'felt'"),
        ("layer", "five", "field 'layer'"),
        ("vector_hash", "0", "does not belong"),
        ("projections", {"angry": 1.0}, "unknown condition 'angry'"),
        ("projections", {"positive": "x"}, "damaged"),
    ],
)
def test_damaged_description_is_refused(
    fitted: FittedDirections, tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = fitted.chosen.save(tmp_path, "read")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DirectionError, match=message):
        leakmech.load_direction(path)


def test_missing_and_torn_files_are_refused(fitted: FittedDirections, tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match=r"nothing\.json: no such file; expected a direction"):
        leakmech.load_direction(tmp_path / "nothing")
    path = fitted.chosen.save(tmp_path, "read")
    path.with_suffix(".safetensors").write_bytes(b"torn")
    with pytest.raises(DirectionError, match=r"read\.safetensors: is missing or damaged"):
        leakmech.load_direction(path)


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden"])
def test_names_cannot_leave_the_folder(fitted: FittedDirections, tmp_path: Path, name: str) -> None:
    with pytest.raises(DirectionError, match="direction name"):
        fitted.chosen.save(tmp_path, name)


def test_vector_that_is_no_unit_vector_is_refused(fitted: FittedDirections) -> None:
    with pytest.raises(DirectionError, match="length 1, found 2"):
        replace(fitted.chosen, vector=fitted.chosen.vector * 2)
    assert isinstance(fitted.chosen, Direction)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=12))
def test_auc_counts_pairs_and_is_the_mean_of_its_influences(pairs: list[tuple[int, int]]) -> None:
    positive, negative = np.array(pairs, float).T
    counted = ((np.sign(positive[:, None] - negative[None]) + 1) / 2).mean()
    assert auc(positive, negative) == pytest.approx(counted)
    assert auc_influence(positive, negative).mean() == pytest.approx(counted)
    columns = np.stack([positive - negative, np.ones(len(pairs)), positive], axis=1)
    np.testing.assert_allclose(dz_by_column(columns), [cohens_dz(column) for column in columns.T])


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out"])
def test_tokens_are_projected_at_the_site_of_the_direction(make_tiny, chat_tokenizer, site: str) -> None:
    loaded = leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    own = replace(random_direction(loaded, layer=1), site=site)
    found = token_projections(loaded, SAMPLES.samples[0], own).groupby("condition")["projection"].last()
    cache = leakmech.cache_activations(loaded, SAMPLES, sites=[site], layers=[1], positions=["last_prompt"])[site]
    for condition in ("positive", "control"):
        last = torch.as_tensor(cache.matrix(condition=condition, position="last_prompt"))[0, 0].float()
        assert found[condition] == pytest.approx(float(last @ own.vector), abs=1e-4)


@pytest.mark.parametrize("limit", [0, 500])
def test_interval_of_the_auc_covers_as_often_as_it_says(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stem, affect and noise of size 1: the true AUC is Phi(2 * 0.6 / 2); exact and first-order bootstrap."""
    monkeypatch.setattr("leakmech.mechanism.directions.quality.EXACT_SAMPLES", limit)
    rng = np.random.default_rng(0)
    true, covered, runs = 0.72575, 0, 200
    for _ in range(runs):
        stem = rng.standard_normal(40)
        positive, negative = (stem + level + rng.standard_normal(40) for level in (0.6, -0.6))
        interval = paired_auc_interval(positive, negative, seed=0, draws=400)
        covered += interval.low <= true <= interval.high
    assert 0.90 <= covered / runs <= 0.98
