"""Edits that are told nothing act from the last prompt token on, on nothing before, and where their gate fires."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import PromptSpans
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.models.components import Component
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.studies.mitigation.gate_table import gate_table, least_auc
from leakmech.studies.mitigation.late_outputs import LATE, LateOutputs, late_outputs
from leakmech.studies.mitigation.relation_probe import RelationProbe
from leakmech.studies.mitigation.untold import late_heads, late_heads_if_unrelated, resampled_heads_if_unrelated

HEADS = [Component(0, "head", 1), Component(2, "head", 3)]
LENGTH, GENERATED = 8, 2


def parts(*, threshold=0.0):
    """Parts whose heads write 1 at the last prompt token, and 2 or 4 in answers."""
    two_or_four = torch.tensor([2.0, 4.0])[:, None, None, None].expand(2, 3, 4, 8)
    gate = RelationProbe(
        layer=2,
        vector=torch.eye(32)[0],
        irrelevant=np.array([threshold]),
        relevant=np.zeros(1),
        auc_by_layer={2: 0.9},
        position="last_prompt",
    )
    return SimpleNamespace(
        top_heads=lambda number: HEADS[:number],
        late_outputs=LateOutputs({"last_prompt": torch.ones(1, 3, 4, 8), "generated": two_or_four}),
        relation_gate=gate,
        loaded=SimpleNamespace(base_hash=""),
    )


def head_outputs(model, edits, site="z"):
    """What a site holds at every token of three prompts with two generated tokens each, by layer."""
    ids = torch.randint(0, 250, (3, LENGTH + GENERATED), generator=torch.Generator().manual_seed(1))
    rows = [PromptSpans(LENGTH, key=row) for row in range(3)]  # nothing of where injection or stem stand
    with (
        torch.inference_mode(),
        apply(model, edits) as applied,
        applied.positions(rows, n_generated=GENERATED),
        recording(layout_of(model), sites=[site], layers=range(3), pick=lambda x: x) as found,
    ):
        model(input_ids=ids)
    return {layer: found[site, layer] for layer in range(3)}


def of_head(outputs, head):
    return outputs[head.layer].unflatten(-1, (4, 8))[..., head.index, :]


def test_heads_are_set_from_the_last_prompt_token_on_and_nowhere_before(make_tiny):
    model = make_tiny("llama-gqa")
    edits = late_heads(parts(), 2)
    assert [edit.positions for edit in edits] == list(LATE)
    assert not any(edit.spans for edit in edits)
    base, changed = head_outputs(model, []), head_outputs(model, edits)
    for head in HEADS:
        values = of_head(changed, head)
        assert (values[:, LENGTH - 1] == 1).all()
        assert (values[:, LENGTH:] == 3).all()  # the mean of 2 and 4
    torch.testing.assert_close(changed[0][:, : LENGTH - 1], base[0][:, : LENGTH - 1], rtol=0, atol=0)
    others = [head for head in range(4) if head != 1]
    untouched = changed[0].unflatten(-1, (4, 8))[..., others, :]
    torch.testing.assert_close(untouched, base[0].unflatten(-1, (4, 8))[..., others, :], rtol=0, atol=0)


def test_a_gate_sets_them_in_the_rows_that_it_calls_unrelated_also_below_its_layer(make_tiny):
    model = make_tiny("llama-gqa")
    read = head_outputs(model, [], site="resid_post")[2][:, LENGTH - 1, 0]
    between = float(read.sort().values[:2].mean())  # one of three rows lies below
    edits = late_heads_if_unrelated(parts(threshold=between), 0.9)
    assert {edit.condition.position for edit in edits} == {"last_prompt"}
    set_rows = (of_head(head_outputs(model, edits), HEADS[0])[:, LENGTH - 1] == 1).all(-1)
    assert set_rows.tolist() == (read <= between).tolist()
    assert int(set_rows.sum()) == 1


def test_resampled_heads_of_a_token_are_of_one_draw(make_tiny):
    edits = resampled_heads_if_unrelated(parts(threshold=1e9), 0.9)
    generated = head_outputs(make_tiny("llama-gqa"), edits)
    first, second = (of_head(generated, head)[:, LENGTH:] for head in HEADS)
    assert torch.equal(first, second)
    assert set(first.unique().tolist()) == {2.0, 4.0}


def test_means_and_draws_are_those_of_control_prompts_and_of_answers_to_them(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    samples = PromptSet("few", load_dataset("hexl").samples[:3])
    late = late_outputs(loaded, samples)
    control = cache_activations(loaded, samples, sites=["z"], conditions=["control"])["z"]
    torch.testing.assert_close(late.values["last_prompt"], control.values[:, 0, 0])
    means, draws = late.means(HEADS), late.draws(HEADS)
    torch.testing.assert_close(means["last_prompt"][1], control.values[:, 0, 0, 2, 3].mean(0))
    assert draws["last_prompt"].shape == (3, 2, 8)
    assert len(late.values["generated"]) > 3
    assert draws["generated"].isfinite().all()


def test_the_table_of_a_gate_says_where_it_is_at_chance():
    # Of one stem, an AUC is 0 or 1: standard deviation 1/2 = sqrt((2 + 1) / 12).
    assert least_auc(1) == pytest.approx(0.5 + 1.645 / 2)
    gate = replace(
        parts().relation_gate, auc_by_layer={1: 0.8, 2: 0.9}, same_sentences_by_layer={1: 0.53, 2: 0.8}, n_stems=50
    )
    table = gate_table(gate.to_dict() | {"layer": 2})
    assert [row[0] for row in table.rows] == ["1", "2 ✓"]
    assert [row[-1] for row in table.rows] == ["no: at chance", "yes"]
    assert table.rows[0][2] == "0.53 [0.43, 0.63]"  # 1.645 sqrt(101 / 30000) to either side
