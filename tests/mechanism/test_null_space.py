"""The null-space projector: what must stay stays, what shall change changes, in the free directions only."""

import pytest
import torch

from leakmech.core.errors import ActivationError
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import MapSublayer
from leakmech.mechanism.null_space import fit_null_space_map, free_directions, relative_change
from leakmech.models.layout import layout_of
from leakmech.models.sites import recording


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_rank_deficient_kept_set_is_unchanged_and_what_shall_change_does():
    kept = drawn(0, 50, 6) @ drawn(1, 6, 32)
    found = drawn(2, 200, 32)
    wanted = found - found @ torch.outer(drawn(3, 32), drawn(4, 32)) / 32
    made = fit_null_space_map(kept, found, wanted, share=0.0, ridge=1e-9, rank=16)
    assert made.free == 26
    assert relative_change(made, kept) < 1e-5
    before, after = ((wanted - x).norm() for x in (found, made(found)))
    assert after < 0.6 * before
    # A change of rank one in directions that are all free is found exactly.
    everything = fit_null_space_map(torch.zeros(1, 32) + torch.eye(32)[0], found, wanted, share=0.0, ridge=1e-9)
    assert everything.free == 31


def test_the_solution_is_that_of_ridge_regression_in_the_free_directions():
    kept, found, wanted = drawn(0, 50, 3) @ drawn(1, 3, 8), drawn(2, 40, 8), drawn(3, 40, 8)
    made = fit_null_space_map(kept, found, wanted, share=0.0, ridge=0.2, rank=8)
    projector = made.reads.T @ torch.linalg.pinv(made.reads.T)  # onto what is read
    free = free_directions(kept, 0.0).float()
    torch.testing.assert_close(projector, free @ free.T, atol=1e-4, rtol=0)
    # The gradient of |D P X - (Y - X)|^2 + l |D P|^2 in D P, within the free directions, is zero.
    x, change = found.T @ torch.eye(40), (wanted - found).T
    penalty = 0.2 * (free.T @ x).square().sum() / free.shape[1]
    gradient = (made.writes @ made.reads @ x - change) @ x.T + penalty * made.writes @ made.reads
    assert (gradient @ free).abs().max() < 1e-3


def test_free_directions_hold_no_more_of_the_energy_than_allowed():
    kept = torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.1]))
    assert free_directions(kept, 0.02).shape[1] == 2  # 1.01 of 110.01; with 9 more it would be 9 %
    assert free_directions(kept, 0.0001).shape[1] == 1
    assert free_directions(kept, 0.1).shape[1] == 3
    with pytest.raises(ActivationError, match="allow a larger share"):
        fit_null_space_map(torch.eye(4), kept, kept, share=0.1)


def test_folded_and_hooked_maps_leave_the_kept_outputs_of_a_model_alone(make_tiny):
    model = make_tiny("llama-gqa")
    ids = torch.randint(0, 250, (1, 12), generator=torch.Generator().manual_seed(0))

    def outputs(of):
        with (
            torch.inference_mode(),
            recording(layout_of(of), sites=["attn_out"], layers=[2], pick=lambda x: x[0]) as seen,
        ):
            logits = of(input_ids=ids).logits
        return seen["attn_out", 2].clone(), logits

    kept, logits = outputs(model)
    made = fit_null_space_map(kept, drawn(1, 60, 32), drawn(2, 60, 32), share=0.0)
    edit = MapSublayer(made.writes[None], made.reads[None], layers=[2])
    folded = fold(model, edit)
    with apply(model, edit):
        hooked = outputs(model)
    for found in (hooked, outputs(folded)):
        torch.testing.assert_close(found[0], kept, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], logits, rtol=1e-4, atol=1e-4)
