"""What a comparison costs: counts that can be checked by hand."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ConfigError
from leakmech.models.load import load_model
from leakmech.prompts.told import is_oracle
from leakmech.studies.mitigation.catalogue import OFFERS
from leakmech.studies.mitigation.cost import cost_table, planned
from leakmech.studies.mitigation.families import FAMILIES, chosen_families, families_of
from leakmech.studies.mitigation.sample_sets import relevant_to_fit
from leakmech.studies.mitigation.settings import MitigateConfig


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(folder)


def test_counts_are_those_of_the_samples(loaded):
    config = MitigateConfig.parse(
        {"diagnosis": "d", "limit": 10, "generations": 3, "random_draws": 2, "tune_samples": 5, "tune_generations": 1,
         "claimed": ["heads-mean"], "seeds": 3, "arrangements": ["middle"]}
    )  # fmt: skip
    families = chosen_families(["heads-mean", "drop-unrelated-text"])
    parts = {part.name: part for part in planned(config, families, given=1, loaded=loaded)}
    assert list(parts) == ["tune", "test", "random draws", "claimed, other seeds", "other arrangements"]
    each = 3 * (10 * 4 + 2 * (60 + 40))
    assert (parts["test"].cells, parts["test"].answers) == (6, 6 * each)  # base, oracle, two families, a file, shuffled
    assert (parts["tune"].cells, parts["tune"].answers) == (6, 6 * (10 * 4 + 2 * 5))
    assert (parts["random draws"].cells, parts["random draws"].answers) == (2, 2 * 3 * (10 * 4 + 2 * 60))
    tilt = round(10 * 4 * config.tilt_completions * 26 * 2.5)
    assert parts["random draws"].read == 2 * tilt  # the band of each kind has its removal of tilt, too
    assert parts["claimed, other seeds"].answers == 3 * 2 * each
    assert parts["claimed, other seeds"].read == 0  # tilt draws nothing after injections: one seed tells all
    assert parts["other arrangements"].answers == 5 * 3 * 10 * 3  # no neutral injections there


def test_families_at_one_strength_need_no_tune_samples(loaded):
    config = MitigateConfig.parse({"diagnosis": "d", "limit": 10, "baselines": False})
    families = chosen_families(["heads-mean=20", "drop-unrelated-text=0.15"])
    assert [one.strengths for one in families] == [(20,), (0.15,)]
    assert [(part.name, part.cells) for part in planned(config, families, given=0, loaded=loaded)] == [("test", 4)]


@pytest.mark.parametrize(
    ("name", "says"),
    [("heads-mean=7", "heads-mean has no strength '7'; strengths: 5, 20"),
     ("instruction-ignore-irrelevant=1", "strengths: none"), ("heads-men=5", "heads-mean")],
)  # fmt: skip
def test_a_strength_that_a_family_does_not_have_is_refused(name, says):
    with pytest.raises(ConfigError, match=says):
        chosen_families([name])


def test_what_the_catalogue_says_holds_for_what_is_built():
    assert list(FAMILIES) == list(OFFERS)
    said = {name: (offer.strengths or (None,), offer.told) for name, offer in OFFERS.items()}
    assert {name: (family.strengths, family.told) for name, family in FAMILIES.items()} == said


def test_a_quick_run_tries_one_family_of_each_kind_unless_some_are_named():
    families, left_out = families_of(MitigateConfig.parse({"quick": True}))
    kinds = [one.kind for one in families]
    assert sorted(kinds) == sorted({one.kind for one in FAMILIES.values() if not is_oracle(one.told)})
    assert {one.name for one in families} | set(left_out) == set(FAMILIES)
    assert all(len(one.strengths) == 1 for one in families)
    named, left_out = families_of(MitigateConfig.parse({"quick": True, "families": ["heads-scaled"]}))
    assert ([one.name for one in named], left_out) == (["heads-scaled"], {})
    assert len(families_of(MitigateConfig.parse({}))[0]) == len(FAMILIES)


def test_a_quick_run_fits_on_as_little_relevant_affect_as_of_irrelevant():
    quick, full = (relevant_to_fit(MitigateConfig.parse({"quick": quick})) for quick in (True, False))
    assert {split: len(quick.split(split)) for split in ("fit", "tune")} == {"fit": 8, "tune": 4}
    assert set(quick.samples) < set(full.samples)
    assert len({sample.theme for sample in quick.split("fit")}) > 1


def test_files_alone_need_neither_diagnosis_nor_choice(loaded):
    config = MitigateConfig.parse({"adapters": ["a"], "limit": 10})
    parts = planned(config, [], given=1, loaded=loaded)
    assert [(part.name, part.cells) for part in parts] == [("test", 3)]


def test_adapters_that_are_trained_count(loaded):
    full, quick = (
        next(part for part in planned(config, families, given=0, loaded=loaded) if part.name == "adapters")
        for config, families in (
            (MitigateConfig.parse({}), chosen_families(["adapter-gated", "adapter-teacher"])),
            (MitigateConfig.parse({"quick": True}), [one.mildest() for one in chosen_families(["adapter-gated"])]),
        )
    )
    assert (full.cells, full.read) == (2, 500 * 2 * (1280 + 1280))
    assert (quick.cells, quick.read) == (1, 500 * 10 * 2)


def test_the_table_adds_up_and_names_models_on_one_gpu(loaded):
    config = MitigateConfig.parse({"limit": 10})
    parts = planned(config, chosen_families(None), given=0, loaded=loaded)
    table = cost_table(parts, loaded)
    assert table.rows[-1][2] == f"{sum(part.answers for part in parts):,}"
    assert all(any(name in note for note in table.notes) for name in ("Llama-3.2-1B-Instruct", "Qwen2.5-1.5B-Instruct"))


def test_a_dry_run_writes_nothing(folder, tmp_path):
    done = CliRunner().invoke(
        app, ["mitigate", "--model", str(folder), "--dry-run", "--limit", "5", "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    assert "What this comparison costs" in done.output
    assert not (tmp_path / "run").exists()
