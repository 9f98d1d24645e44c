"""Maps of a model's attention outputs: fitted on one part of the samples, told on another."""

from __future__ import annotations

import pytest
import torch

from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.models.load import load_model
from leakmech.reports.tables import Table
from leakmech.studies.mitigation.gate_table import map_table
from leakmech.studies.mitigation.unrelated_map import Outputs, UnrelatedMaps, unrelated_maps


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_planted_affect_direction_is_taken_out_and_what_lacks_it_stays():
    affect, rest = torch.eye(12)[0], torch.eye(12)[1:]

    def outputs(seed):
        wanted = (drawn(seed, 80, 11) @ rest)[None]
        kept = {"control": (drawn(seed + 1, 40, 11) @ rest)[None]}
        return Outputs(wanted + drawn(seed + 2, 1, 80, 1) * affect, wanted, kept)

    maps = UnrelatedMaps((3,), outputs(0), outputs(10))
    found = maps.held_out_change(0.001)
    assert found["free"] == 1
    assert found["control"] < 1e-5
    assert found["left"] == pytest.approx(0.1 / 1.1, rel=0.01)  # what the ridge leaves: l / (1 + l)
    edit = maps.intervention(0.001)
    assert (edit.layers, edit.site, edit.needs_positions) == ((3,), "attn_out", False)
    table = map_table(maps.to_dict([0.001]))
    assert isinstance(table, Table)
    assert table.rows[0][0] == "0.001"


def test_a_model_is_read_at_stem_tokens_that_both_prompts_have(make_tiny, chat_tokenizer):
    samples = load_dataset("relevant-fit")
    some = PromptSet("some", (*samples.split("fit").samples[::20], *samples.split("tune").samples[::10]))
    hexl = load_dataset("hexl").samples
    maps = unrelated_maps(
        load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer),
        some,
        irrelevant_fit=PromptSet("fit", hexl[:3]),
        irrelevant_tune=PromptSet("tune", hexl[3:5]),
        layers=(1, 2),
    )
    for own in (maps.fit, maps.held_out):
        assert own.found.shape == own.wanted.shape
        assert all(vectors.isfinite().all() for vectors in (own.found, own.wanted, *own.kept.values()))
        assert set(own.kept) == {"control", "relevant", "facts"}
    n_tokens = sum(len(sample.stem) for sample in hexl[:3])  # a token is a byte; the first one has a space before it
    assert maps.fit.found.shape[1] > 2 * n_tokens
    found = maps.held_out_change(0.05)
    assert 0 < found["free"] < 32
    assert all(value >= 0 for value in found.values())
