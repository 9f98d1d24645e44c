"""Three expression estimators on the same generations: through a benchmark, its page, and a comparison of runs."""

from __future__ import annotations

import pytest

import leakmech
from leakmech.core.errors import UsageError
from leakmech.reports.tables import summary_tables
from leakmech.studies.benchmark.report import write_report

THREE = ("vader", "ngrams", "embedded")
SETTINGS = {
    "limit": 3, "generations": 3, "estimator": ",".join(THREE), "bootstrap_draws": 100, "noise_floor": False,
    "decoding": {"max_new_tokens": 12}, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_tiny, chat_tokenizer):
    """Two runs of one tiny model, under two seeds."""
    folder, model = tmp_path_factory.mktemp("runs"), make_tiny("llama-gqa")
    return [
        leakmech.bench(model, tokenizer=chat_tokenizer, out=folder / f"seed-{seed}", seed=seed, **SETTINGS)
        for seed in (0, 1)
    ]


def test_each_has_its_own_statistics_and_agrees_with_each_other_one(runs):
    summary = runs[0].summary
    assert summary["estimators"] == list(THREE) == list(summary["by_estimator"])
    assert [(row["first"], row["second"]) for row in summary["estimator_agreement"]] == [
        ("vader", "ngrams"), ("vader", "embedded"), ("ngrams", "embedded"),
    ]  # fmt: skip
    assert len({own["overall"]["auc_el"] for own in summary["by_estimator"].values()}) > 1
    assert summary["overall"] == summary["by_estimator"]["vader"]["overall"]
    assert {f"{name}/echo_free_positive" for name in THREE[1:]} < set(runs[0].scores)


def test_terminal_and_page_have_a_row_for_each(runs):
    (table,) = [table for table in summary_tables(runs[0].summary) if "each expression estimator" in table.title]
    assert [row[0] for row in table.rows] == ["vader (headline)", "ngrams", "embedded"]
    page = write_report(runs[0].path).read_text()
    assert "under each expression estimator" in page
    assert all(f"<td>{name}</td>" in page for name in THREE[1:])


@pytest.mark.long
def test_a_comparison_says_what_each_estimator_that_the_runs_share_sees(runs, make_tiny, chat_tokenizer, tmp_path):
    found = leakmech.compare(runs, draws=100)
    assert list(found.summary["by_estimator"]) == list(THREE)
    assert found.summary["by_estimator"]["vader"] == found.summary["differences"]
    main, views = found.tables()
    assert [row[1] for row in views.rows] == list(THREE)
    assert "By every expression estimator" in (found.save(tmp_path / "compared") / "report.html").read_text()
    one = leakmech.score(runs[1].path, out=tmp_path / "one", estimator="vader", bootstrap_draws=100)
    alone = leakmech.compare([runs[0], one], draws=100)
    assert "by_estimator" not in alone.summary
    assert len(alone.tables()) == 1
    assert main.header == alone.to_table().header


def test_a_name_that_is_nearly_right_is_refused_with_it(make_tiny, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'ngrams'"):
        leakmech.bench(make_tiny("llama-gqa"), out=tmp_path / "run", estimator="vader,ngram")
