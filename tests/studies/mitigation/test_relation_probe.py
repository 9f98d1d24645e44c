"""The probe of relevance: a planted relation is found, and thresholds are quantiles of held-out irrelevant prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import leakmech
from leakmech.datasets.relation import SELF_REPORT
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.scoring.statistics import auc
from leakmech.studies.mitigation.relation_probe import RelationProbe, fit_relation_probe, relevance_vector


def test_a_planted_direction_is_found_whatever_the_scale_of_the_features():
    generator = np.random.default_rng(0)
    planted = np.zeros(16)
    planted[3] = 1.0
    points = generator.standard_normal((600, 16))
    relevant, irrelevant = points[:300] + 3 * planted, points[300:]
    scale = np.linspace(0.5, 20, 16)
    vector = relevance_vector(relevant * scale, irrelevant * scale)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    projections = [side * scale @ vector for side in (relevant, irrelevant)]
    assert (projections[0][:, None] > projections[1][None]).mean() > 0.95


def test_the_threshold_catches_the_share_that_is_asked_for():
    irrelevant, relevant = np.arange(100.0), np.arange(60.0, 160.0)
    found = RelationProbe(4, torch.nn.functional.normalize(torch.ones(8), dim=0), irrelevant, relevant, {4: 0.9})
    probe = found.probe(0.9)
    assert (probe.layer, probe.position, probe.fires) == (4, "stem", "below")
    assert (irrelevant <= probe.threshold).mean() == pytest.approx(0.9)
    assert found.kept(0.9) == pytest.approx((relevant > probe.threshold).mean())
    assert found.kept(0.8) > found.kept(0.95)


def test_the_narrow_auc_compares_the_same_sentences_and_a_gate_reads_the_last_token(make_tiny, chat_tokenizer):
    samples = load_dataset("relevant-fit")
    some = PromptSet("some", (*samples.split("fit").samples[::12], *samples.split("tune").samples[::6]))
    hexl = load_dataset("hexl").samples
    options = {"irrelevant_fit": PromptSet("fit", hexl[:4]), "irrelevant_tune": PromptSet("tune", hexl[4:7])}
    model = leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    found = fit_relation_probe(model, some, position="last_prompt", **options)
    assert found.probe(0.9).position == "last_prompt"
    told = found.to_dict()
    assert len(found.controls) == told["n_controls"] == 3
    kept = float((found.controls > found.probe(0.9).threshold).mean())
    assert told["by_caught"]["0.9"] == {"relevant_kept": found.kept(0.9), "controls_kept": kept}
    ordinary = [sample for sample in some.split("tune") if sample.note != SELF_REPORT]
    assert 0 < found.n_stems == len(ordinary) < len(some.split("tune"))
    related = found.relevant[[i for i in range(len(found.relevant)) if i % len(some.split("tune")) in _places(some)]]
    exchanged = found.irrelevant[: 2 * len(ordinary)]  # after either polarity
    assert found.same_sentences_by_layer[found.layer] == pytest.approx(auc(related, exchanged))


def _places(samples):
    return [i for i, sample in enumerate(samples.split("tune")) if sample.note != SELF_REPORT]


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_knows_what_its_stems_are_about():
    samples = load_dataset("relevant-fit")
    some = PromptSet("some", samples.split("fit").samples[:60] + samples.split("tune").samples[:20])
    hexl = load_dataset("hexl").samples
    found = fit_relation_probe(
        leakmech.load_model("embedded:smollm2-135m-instruct"),
        some,
        irrelevant_fit=PromptSet("fit", hexl[:13]),
        irrelevant_tune=PromptSet("tune", hexl[13:20]),
        pairings=1,
    )
    assert found.auc > 0.8
    assert found.auc > found.auc_by_layer[1] + 0.05  # it takes layers to know
