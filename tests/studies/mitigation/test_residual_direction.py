"""Leak directions lose relevant affect, on held-out samples; edits along them act from the last prompt token on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leakmech.datasets.samples import POLARITIES, PromptSet, load_dataset
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import PromptSpans
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.studies.mitigation.gate_table import residual_table
from leakmech.studies.mitigation.late_streams import late_streams
from leakmech.studies.mitigation.relation_probe import RelationProbe
from leakmech.studies.mitigation.residual_direction import ResidualDirections, Shifts, residual_directions
from leakmech.studies.mitigation.untold import residual_direction, residual_direction_if_unrelated


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted():
    """Relevant affect moves along axes 0 and 1, irrelevant affect along 0, 1 and 2; two layers."""
    axes = torch.eye(12)

    def shifts(seed):
        relevant = 4 * axes[0] + 6 * drawn(seed, 40, 2, 1) * axes[1]
        irrelevant = (4 * axes[0] + 3 * axes[1] + 2 * axes[2]).expand(30, 2, 12)
        return Shifts(irrelevant, relevant + 0.01 * drawn(seed + 1, 40, 2, 12) + 0.3 * axes[1])

    return ResidualDirections((1, 2), shifts(0), shifts(10))


def test_as_few_directions_are_projected_out_as_are_enough():
    found = planted()
    assert found.chosen == 2  # the mean shift, and what varies beside it
    torch.testing.assert_close(found.vectors(2).abs(), torch.eye(12)[2].expand(2, 12), atol=0.02, rtol=0)
    along = found.along(2)
    assert along["left"] == pytest.approx(2 / 29**0.5, abs=0.01)
    assert along["irrelevant"] == pytest.approx(2 / 29**0.5, abs=0.01)
    assert along["ratio"] < 0.02
    assert found.along(0)["ratio"] > 0.5
    table = residual_table(found.to_dict())
    assert [row[0] for row in table.rows] == ["0", "1", "2 ✓", "4", "8"]


def test_a_model_is_read_at_the_last_token_of_both_kinds_of_prompts(make_tiny, chat_tokenizer):
    samples = load_dataset("relevant-fit")
    some = PromptSet("some", (*samples.split("fit").samples[::20], *samples.split("tune").samples[::10]))
    hexl = load_dataset("hexl").samples
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    found = residual_directions(
        loaded,
        some,
        irrelevant_fit=PromptSet("fit", hexl[:3]),
        irrelevant_tune=PromptSet("tune", hexl[3:5]),
        layers=(1, 2),
    )
    fit = some.split("fit")
    own = cache_activations(loaded, fit, layers=[1, 2], conditions=POLARITIES)["resid_post"]
    positive, negative = (own.matrix(condition=c, position="last_prompt") for c in POLARITIES)
    np.testing.assert_allclose(found.fit.relevant.numpy(), positive - negative, rtol=1e-4, atol=1e-4)
    assert len(found.fit.irrelevant) > 3  # AEXL samples, and stems with exchanged sentences
    assert found.vectors(found.chosen).norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])


def test_edits_take_the_projection_to_that_of_neutral_prompts_and_of_answers_to_them(make_tiny, chat_tokenizer):
    model = make_tiny("llama-gqa")
    loaded = load_model(model, tokenizer=chat_tokenizer)
    gate = RelationProbe(2, torch.eye(32)[0], np.array([-1e9]), np.zeros(1), {2: 0.9}, position="last_prompt")
    vectors = torch.nn.functional.normalize(drawn(3, 2, 32), dim=-1)
    parts = SimpleNamespace(
        residual_directions=SimpleNamespace(chosen=1, layers=(1, 2), vectors=lambda _: vectors),
        late_streams=late_streams(loaded, PromptSet("few", load_dataset("hexl").samples[:3]), layers=(1, 2)),
        relation_gate=gate,
        loaded=loaded,
    )
    ids = torch.randint(0, 250, (2, 10), generator=torch.Generator().manual_seed(1))

    def projections(edits):
        with (
            torch.inference_mode(),
            apply(model, edits) as applied,
            applied.positions([PromptSpans(8, key=row) for row in range(2)], n_generated=2),
            recording(layout_of(model), sites=["resid_post"], layers=[1, 2], pick=lambda x: x) as found,
        ):
            model(input_ids=ids)
        return torch.stack([found["resid_post", layer] @ vectors[layer - 1] for layer in (1, 2)])

    edits = residual_direction(parts, 1.0)
    assert not any(edit.spans for edit in edits)
    base, changed = projections([]), projections(edits)
    torch.testing.assert_close(changed[:, :, :7], base[:, :, :7], rtol=0, atol=0)
    means = parts.late_streams.means
    for place, name in ((7, "last_prompt"), (8, "generated"), (9, "generated")):
        expected = (means[name] * vectors).sum(-1)[:, None].expand(2, 2)
        torch.testing.assert_close(changed[:, :, place], expected, atol=1e-4, rtol=1e-4)
    unfired = projections(residual_direction_if_unrelated(parts, 0.9))  # no row lies below such a threshold
    torch.testing.assert_close(unfired, base, rtol=0, atol=0)
