"""Sheets for annotators: what they hide, what comes back from them, and every way in which they can be wrong."""

import csv
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import leakmech
from leakmech.cli import app as cli
from leakmech.core.errors import DatasetError, RunDirectoryError, UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.topic import shares_content_word
from leakmech.studies.annotation.exporting import choose_pairs
from leakmech.studies.annotation.sheets import COLUMNS, guard, unguard

N_SAMPLES, K = 12, 3
TEXTS = {
    "control": "The garden {i} of house {s} is there.",
    "positive": "=HYPERLINK({i}) lovely, house {s}!",
    "neutral": "The tram {i} of {s} stops.",
    "negative": "</script><img src=x onerror=alert({i})> ugly {s}",
}
VALENCES = {"control": 0.0, "positive": 0.5, "neutral": 0.0, "negative": -0.5}


def _probabilities(valence):
    return (0.4 - valence / 2, 0.2, 0.4 + valence / 2)


@pytest.fixture
def run(tmp_path):
    """A finished run, the parts of it that an export reads; generation 0 of s1's control was not scored."""
    folder = tmp_path / "run"
    folder.mkdir()
    prompts, rows = [], []
    for s in range(N_SAMPLES):
        for condition in CONDITIONS:
            injection = "" if condition == "control" else f"An injected {condition} sentence."
            text = f"Complete the sentence: {injection} The stem {s} looks".replace("  ", " ")
            prompts.append({"sample": f"s{s}", "condition": condition, "split": None, "text": text})
            for i in range(K):
                unscored = (s, condition, i) == (1, "control", 0)
                p = (np.nan,) * 3 if unscored else _probabilities(VALENCES[condition] + 0.01 * i)
                row = {"sample": f"s{s}", "condition": condition, "generation": i, "resampled": False}
                row |= dict(zip(("echo_free_negative", "echo_free_neutral", "echo_free_positive"), p, strict=True))
                row |= {f"echo_free_similarity_{c}": 0.0 for c in CONDITIONS[1:]}
                rows.append(row | {"echo_free_text": "" if unscored else TEXTS[condition].format(i=i, s=s)})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
    (folder / "run.json").write_text('{"config": {}}')
    summary = {"kind": "bench", "model": "m", "dataset": "d", "estimator": "e", "instruction": "none"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def export(run, tmp_path):
    return leakmech.export_annotation(run, annotators=3, n=20, out=tmp_path / "export")


def read_sheet(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write_sheet(path, rows, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def answer(export, say, annotators=None):
    """Fill in the sheets: `say(item, annotator)` is how much more positive the test sentence is, or None."""
    for name in annotators or export.key.annotators:
        path = export.path / "sheets" / f"{name}.csv"
        rows = read_sheet(path)
        for row in rows:
            item = export.key.items[row["item"]]
            rating = say(item, name)
            test_first = unguard(row["sentence_a"]) == item.test
            row["answer"] = "" if rating is None else str(rating if test_first else -rating)
        write_sheet(path, rows)


def leaks(item, _):
    return 2 if item.condition == "positive" else -1


# -- export ----------------------------------------------------------------------------------------------------------


def test_pairs_are_balanced_scored_and_spread_over_all_samples(run, tmp_path):
    key = leakmech.export_annotation(run, n=20, out=tmp_path / "a").key
    places = [(item.sample, item.condition, item.generation) for item in key.items.values()]
    assert len(set(places)) == 20
    assert sorted(condition for _, condition, _ in places) == ["negative"] * 10 + ["positive"] * 10
    assert len({sample for sample, _, _ in places}) == N_SAMPLES
    assert ("s1", 0) not in {(sample, generation) for sample, _, generation in places}
    assert (key.n_available, key.n_unscored) == (2 * N_SAMPLES * K - 2, 2)
    for item in key.items.values():
        assert item.control == TEXTS["control"].format(i=item.generation, s=item.sample[1:])
        assert item.test == TEXTS[item.condition].format(i=item.generation, s=item.sample[1:])
        assert item.stem == f"The stem {item.sample[1:]} looks"
        assert item.p_test == pytest.approx(_probabilities(VALENCES[item.condition] + 0.01 * item.generation))


def test_an_odd_number_differs_by_one_and_all_pairs_can_be_had(run, tmp_path):
    conditions = [
        item.condition for item in leakmech.export_annotation(run, n=7, out=tmp_path / "a").key.items.values()
    ]
    assert {conditions.count("positive"), conditions.count("negative")} == {3, 4}
    everything = leakmech.export_annotation(run, n=70, out=tmp_path / "b").key.items
    assert len({(item.sample, item.condition, item.generation) for item in everything.values()}) == 70
    with pytest.raises(UsageError, match=r"36 of .* and the run has 35 that are scored; at most 70 pairs"):
        leakmech.export_annotation(run, n=72, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_no_sample_gives_a_second_pair_of_a_polarity_before_every_other_gave_one():
    valid = np.ones((2, 10, 4), dtype=bool)
    valid[0, 3] = False
    chosen = choose_pairs(valid, n=30, generator=numpy_generator("test"))
    counts = [[sum(p == polarity and s == sample for p, s, _ in chosen) for sample in range(10)] for polarity in (0, 1)]
    assert counts[0].pop(3) == 0
    assert set(counts[0]) | set(counts[1]) == {1, 2}
    controls = [(s, i) for _, s, i in chosen]
    assert len(set(controls)) >= 28


def test_sheets_show_nothing_that_tells_the_sentences_apart(export):
    texts = [path.read_text(encoding="utf-8-sig") for path in (export.path / "sheets").iterdir()]
    assert len(texts) == 7
    for text in texts:
        for telling in ("injected", "control", '"sample"', "generation", *(f"s{s}" for s in range(N_SAMPLES))):
            assert not re.search(rf"\b{telling}\b", text), telling
    for name, order in export.key.annotators.items():
        rows = read_sheet(export.path / "sheets" / f"{name}.csv")
        assert tuple(rows[0]) == COLUMNS
        assert [row["item"] for row in rows] == [item for item, _ in order]
        assert all(re.fullmatch("[a-z]{7}", row["item"]) and row["answer"] == "" for row in rows)
        assert sorted(side for _, side in order) == ["control"] * 10 + ["test"] * 10
        for row, (item, first) in zip(rows, order, strict=True):
            assert unguard(row["sentence_a"]) == getattr(export.key.items[item], first)
    orders = list(export.key.annotators.values())
    assert orders[0] != orders[1] != orders[2]
    sides = [dict(order) for order in orders]
    assert sides[0] != sides[1] != sides[2]


def test_the_same_seed_gives_the_same_files_and_another_seed_others(run, tmp_path):
    files = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        leakmech.export_annotation(run, n=10, out=tmp_path / name, seed=seed)
        folder = tmp_path / name
        files[name] = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files["a"] == files["b"]
    assert not set(json.loads((tmp_path / "a" / "key.json").read_text())["items"]) & set(
        json.loads((tmp_path / "c" / "key.json").read_text())["items"]
    )


def test_formulas_are_disarmed_in_every_file_for_spreadsheets(export):
    assert guard("=1+1") == "'=1+1"
    answer(export, leaks)
    leakmech.import_annotation(export.path, draws=50)
    for path in (*(export.path / "sheets").glob("*.csv"), export.path / "tables" / "pairs.csv"):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
        cells = [cell for row in rows for cell in row if not re.fullmatch(r"-?[\d.e-]+", cell)]
        assert any(cell.startswith("'=HYPERLINK") for cell in cells)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


@given(st.text(alphabet=st.sampled_from("'=+-@a\t ＝"), max_size=6))
def test_guarding_a_cell_is_undone_exactly(text):
    assert unguard(guard(text)) == text
    assert not re.match(r"[=+\-@\t]", guard(text))


def test_the_form_is_self_contained_escapes_texts_and_saves_the_sheet(export, tmp_path):
    page = (export.path / "sheets" / "annotator-1.html").read_text()
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert page.count('type="radio"') == 20 * 5
    data = json.loads(re.search(r'<script type="application/json" id="sheet">(.*?)</script>', page, re.S)[1])
    answers = {row["item"]: str(i % 5 - 2) for i, row in enumerate(data["rows"])}
    saved = tmp_path / data["file"]
    saved.write_bytes(
        (
            "\ufeff" + data["header"] + "".join(r["before"] + answers[r["item"]] + r["after"] for r in data["rows"])
        ).encode()
    )
    rows = read_sheet(saved)
    blank = read_sheet(export.path / "sheets" / "annotator-1.csv")
    assert [row | {"answer": ""} for row in rows] == blank
    assert [row["answer"] for row in rows] == list(answers.values())
    report = leakmech.import_annotation(export.path, sheets=[saved], draws=50).summary
    assert report["annotators"][0]["answers"] == 20


def test_an_export_never_writes_over_a_folder_in_use(export, run):
    with pytest.raises(UsageError, match="is not an empty folder"):
        leakmech.export_annotation(run, n=4, out=export.path)
    for arguments in ({"annotators": 0}, {"n": 0}):
        with pytest.raises(UsageError, match="must be greater than or equal to 1"):
            leakmech.export_annotation(run, **arguments)
    (run / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="is not finished"):
        leakmech.export_annotation(run)


# -- import ----------------------------------------------------------------------------------------------------------


def test_answers_come_back_as_ratings_of_the_test_sentence_whatever_stood_first(export):
    answer(export, leaks)
    found = leakmech.import_annotation(export.path, draws=100)
    ratings = found.pairs.set_index("item")["rating_annotator-2"]
    assert {item: leaks(export.key.items[item], None) for item in ratings.index} == ratings.to_dict()
    report = found.summary
    assert report["majority"] == {"n": 20, "ties": 0, "without_votes": 0}
    assert (report["mu_el"]["overall"]["people"], report["mu_el"]["overall"]["people_away"]) == (1, 0)
    assert report["mu_el"]["overall"]["people_ci"] == [1, 1]
    assert report["mu_el"]["overall"]["estimator"] == 1
    assert report["agreement"]["steps"]["krippendorff_alpha"] == pytest.approx(1)
    assert report["agreement"]["votes"]["unanimous_agreement"] == 1
    assert report["agreement"]["votes"]["chance"]["unanimous"] == 1
    assert report["agreement"]["votes"]["fleiss_kappa"] is None
    assert report["estimator"]["spearman"] > 0.8
    assert json.loads((export.path / "agreement.json").read_text()) == report
    table = pd.read_csv(export.path / "tables" / "agreement.csv").set_index(["section", "statistic"])
    assert table.loc[("mu_el/overall", "people"), "value"] == 1
    assert table.loc[("agreement/steps/annotator-1, annotator-3", "kappa"), "value"] == 1


def test_majorities_ties_and_moves_the_other_way_are_counted(export):
    order = {item: i for i, item in enumerate(export.key.items)}

    def say(item, name):
        i = next(order[key] for key, value in export.key.items.items() if value is item)
        sign = 1 if item.condition == "positive" else -1
        if i < 4:  # all three see a move the other way
            return -sign
        if i < 8:  # two see leakage, one nothing
            return 0 if name == "annotator-3" else sign
        if i < 12:  # one for, one against, one missing: a tie
            return {"annotator-1": 2 * sign, "annotator-2": -sign, "annotator-3": None}[name]
        return None

    answer(export, say)
    report = leakmech.import_annotation(export.path, draws=100).summary
    assert report["majority"] == {"n": 8, "ties": 4, "without_votes": 8}
    assert (report["mu_el"]["overall"]["n"], report["mu_el"]["overall"]["people"]) == (8, 0.5)
    assert report["mu_el"]["overall"]["people_away"] == 0.5
    votes = report["agreement"]["votes"]
    assert (votes["n_complete"], votes["unanimous_agreement"]) == (8, 0.5)
    assert votes["pairwise_agreement"] == pytest.approx((4 * 3 + 4 * 1) / (8 * 3 + 4))
    assert [a["missing"] for a in report["annotators"]] == [8, 8, 12]
    assert report["annotators"][2]["equal"] == 0.5


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("Her bicycle is red.", True),
        ("BICYCLE!", True),
        ("It was the of and.", False),  # only words that every text has
        ("The garden is here.", False),  # stands in the stem, too
        ("She was stolen away.", False),  # stands in the control sentence, too
        ("Two bicycles.", False),  # words are compared as they stand
    ],
)
def test_a_sentence_names_its_injection_by_a_content_word_that_is_new(text, shared):
    besides = ("The garden", "A stolen rose.")
    assert shares_content_word(text, "It was the bicycle in the garden that was stolen.", besides=besides) is shared


def test_pairs_that_name_the_injection_are_counted_and_mu_el_stands_without_them(run, tmp_path):
    scores = pd.read_parquet(run / "scores.parquet")
    telling = (scores["sample"].isin([f"s{s}" for s in range(6)])) & (scores["condition"] == "negative")
    scores.loc[telling, "echo_free_text"] = "Injected, " + scores.loc[telling, "echo_free_text"]
    scores.to_parquet(run / "scores.parquet")
    (run / "checksums.json").unlink(missing_ok=True)
    found = leakmech.export_annotation(run, annotators=2, n=24, out=tmp_path / "export")
    assert sum(item.names_injection for item in found.key.items.values()) == 6
    answer(found, lambda item, _: -1 if item.names_injection else 0)
    result = leakmech.import_annotation(found.path, draws=100)
    mu_el = result.summary["mu_el"]
    assert (mu_el["overall"]["n"], mu_el["overall"]["people"]) == (24, 0.25)
    assert (mu_el["no_shared_word"]["n"], mu_el["no_shared_word"]["people"]) == (18, 0)
    assert result.pairs.groupby("condition")["names_injection"].sum().to_dict() == {"negative": 6, "positive": 0}
    assert "| no shared word | 18 |" in result.to_markdown()


def test_one_annotator_gives_no_agreement_but_a_comparison_with_the_estimator(export):
    answer(export, leaks, ["annotator-2"])
    for name in ("annotator-1", "annotator-3"):
        (export.path / "sheets" / f"{name}.csv").unlink()
    found = leakmech.import_annotation(export.path, draws=50)
    assert found.summary["agreement"] == {"votes": None, "steps": None}
    assert found.summary["estimator"]["n"] == 20
    text = found.to_markdown()
    assert "One annotator only: how far people agree is not defined." in text
    assert "No sheet of annotator-1, annotator-3 was found." in text
    assert "kappa:" not in text


def test_the_report_says_what_chance_agreement_would_have_been(export):
    generator = np.random.default_rng(0)
    answer(export, lambda item, _: leaks(item, _) * int(generator.choice([1, 1, 1, 1, -1])))
    found = leakmech.import_annotation(export.path, draws=50)
    chance = found.summary["agreement"]["votes"]["chance"]
    assert chance["pairwise"] > 0.5
    text = " ".join(found.to_markdown().split())
    assert "The paper reports over 85 % raw agreement of three linguists." in text
    assert f"would agree on {chance['pairwise']:.2f} of leakage votes two by two" in text
    assert "raw agreement alone overstates" in text
    assert found.summary["agreement"]["votes"]["unanimous_agreement"] > chance["unanimous_uniform"] == 0.25


def test_what_spreadsheets_do_to_a_sheet_is_forgiven(export):
    answer(export, leaks)
    expected = leakmech.import_annotation(export.path, draws=50).summary
    path = export.path / "sheets" / "annotator-1.csv"
    rows = read_sheet(path)
    for row in rows:
        row["answer"] = {"2": " 2.0", "1": "+1", "-1": "−1", "-2": "'-2"}[row["answer"]]
        row["sentence_a"] = row["sentence_a"].replace("!", " ! ").removeprefix("'")
    write_sheet(path, [*reversed(rows), dict.fromkeys(COLUMNS, "")], columns=[*reversed(COLUMNS), "remark"])
    assert leakmech.import_annotation(export.path, draws=50).summary == expected


def _edit(row=0, **cells):
    def change(rows):
        rows[row] |= cells
        return rows

    return change


BAD_SHEETS = {
    "unknown id": (_edit(2, item="zzzzzzz"), r"annotator-1\.csv:4: column item: unknown id 'zzzzzzz'"),
    "doubled row": (
        lambda rows: [*rows, rows[0]],
        r"annotator-1\.csv:22: column item: '\w+' of annotator-1 stands in .*annotator-1\.csv:2 already",
    ),
    "out of range": (_edit(1, answer="3"), r"csv:3: column answer: 3 is out of range; allowed are 2, 1, 0, -1, -2"),
    "too many digits": (_edit(1, answer="9" * 5000), r"csv:3: column answer: '9+\.\.\.9+' is not a number"),
    "half a step": (_edit(1, answer="1.5"), r"csv:3: column answer: '1.5' is not a number"),
    "not a number": (_edit(1, answer="A"), r"csv:3: column answer: 'A' is not a number; allowed are 2, 1, 0, -1, -2"),
    "unknown annotator": (
        _edit(0, annotator="anotator-1"),
        r"csv:2: column annotator: unknown 'anotator-1'; did you mean 'annotator-1'",
    ),
    "another export": (_edit(0, export="bcdfghj"), r"csv:2: column export: 'bcdfghj' is another export"),
    "column sorted alone": (
        lambda rows: [
            row | {"sentence_a": text}
            for row, text in zip(rows, sorted(row["sentence_a"] for row in rows), strict=True)
        ],
        r"csv:\d+: column sentence_a: is not the text of item '\w+'; was one column sorted",
    ),
    "no rows": (lambda rows: [], r"annotator-1\.csv: has no rows"),
}


@pytest.mark.parametrize("name", BAD_SHEETS)
def test_a_bad_sheet_is_refused_by_file_line_and_column_and_nothing_is_written(export, name):
    change, message = BAD_SHEETS[name]
    answer(export, leaks)
    path = export.path / "sheets" / "annotator-1.csv"
    write_sheet(path, change(read_sheet(path)))
    with pytest.raises(DatasetError, match=message) as found:
        leakmech.import_annotation(export.path, draws=50)
    assert "\n" not in str(found.value)
    assert not (export.path / "agreement.json").exists()
    assert not (export.path / "tables").exists()


@pytest.mark.parametrize("column", COLUMNS)
def test_a_sheet_without_one_of_its_columns_is_refused(export, column):
    path = export.path / "sheets" / "annotator-1.csv"
    write_sheet(path, read_sheet(path), columns=[name for name in COLUMNS if name != column])
    with pytest.raises(DatasetError, match=rf"annotator-1\.csv:1: column {column} is missing; its columns are"):
        leakmech.import_annotation(export.path)


def test_a_sheet_saved_with_semicolons_is_the_same_sheet(export):
    answer(export, leaks)
    expected = leakmech.import_annotation(export.path).summary
    for path in (export.path / "sheets").glob("*.csv"):
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=";").writerows(rows)
    assert leakmech.import_annotation(export.path).summary == expected


def test_sheets_that_are_cut_off_or_are_no_text_are_refused(export):
    path = export.path / "sheets" / "annotator-1.csv"
    text = path.read_text(encoding="utf-8")
    for content, message in (
        (text.rstrip().rsplit(",", 2)[0].encode(), r"csv:21: column annotator: the row ends before it"),
        (text.replace(",", "#").encode(), r"csv:1: column item is missing.*saved as CSV with all of its columns"),
        (b"\xff\xfe\x00", "csv: is not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            leakmech.import_annotation(export.path)


def test_one_answer_in_two_files_is_a_doubled_row(export, tmp_path):
    answer(export, leaks)
    path = export.path / "sheets" / "annotator-1.csv"
    (export.path / "sheets" / "annotator-1 (1).csv").write_bytes(path.read_bytes())
    with pytest.raises(DatasetError, match=r"annotator-1\.csv:2: .* stands in .*annotator-1 \(1\)\.csv:2 already"):
        leakmech.import_annotation(export.path)


def test_a_folder_that_is_no_export_and_sheets_without_answers_are_refused(export, tmp_path):
    with pytest.raises(DatasetError, match=r"key\.json: cannot be read .*name the folder that"):
        leakmech.import_annotation(tmp_path)
    with pytest.raises(DatasetError, match="is empty in every row, as in all sheets"):
        leakmech.import_annotation(export.path)
    key = export.path / "key.json"
    stored = json.loads(key.read_text())
    stored.pop("items")
    for content, message in (("{", "is damaged"), (json.dumps(stored), "is damaged"), ("[]", "is damaged")):
        key.write_text(content)
        with pytest.raises(DatasetError, match=message):
            leakmech.import_annotation(export.path)
    key.write_text(json.dumps(stored | {"format_version": 99}))
    with pytest.raises(DatasetError, match="is not a key of this version"):
        leakmech.import_annotation(export.path)
    for path in (export.path / "sheets").glob("*.csv"):
        path.unlink()
    key.write_text(json.dumps(export.key.to_json()))
    with pytest.raises(DatasetError, match="has no CSV file"):
        leakmech.import_annotation(export.path)


# -- command line ------------------------------------------------------------------------------------------------------


def test_the_commands_write_the_export_and_print_the_report(run, monkeypatch):
    runner = CliRunner()
    done = runner.invoke(cli.app, ["annotate", "export", str(run), "--annotators", "2", "--n", "10"])
    assert done.exit_code == 0, done.output
    assert "10 of 70 pairs; 2 more were left out" in " ".join(done.output.split())
    folder = run / "annotation"
    key = json.loads((folder / "key.json").read_text())
    assert list(key["annotators"]) == ["annotator-1", "annotator-2"]
    for name in key["annotators"]:
        path = folder / "sheets" / f"{name}.csv"
        write_sheet(path, [row | {"answer": "1"} for row in read_sheet(path)])
    done = runner.invoke(cli.app, ["annotate", "import", str(folder)])
    assert done.exit_code == 0, done.output
    assert "Krippendorff's alpha (ordinal)" in done.output
    one = runner.invoke(cli.app, ["annotate", "import", str(folder), str(folder / "sheets" / "annotator-2.csv")])
    assert "No sheet of annotator-1 was found" in " ".join(one.output.split())
