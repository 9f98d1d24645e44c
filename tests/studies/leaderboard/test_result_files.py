"""Result files: the same numbers as the runs they come from, and nothing that a stranger may not send."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import write_run
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import LeakmechError, RunDirectoryError, UsageError
from leakmech.studies.leaderboard import files
from leakmech.studies.leaderboard.files import read_results

FEW = {"draws": 100}


@pytest.fixture
def exported(tmp_path):
    """A file of two results, and the folders of their runs."""
    model = {"architecture": "LlamaForCausalLM", "n_parameters": 134_515_008, "revision": "main", "weights_hash": "w1"}
    runs = [write_run(tmp_path / "runs" / name, seed=n, leakage=0.2 + 0.3 * n, model=model, summary_model="/home/me/m")
            for n, name in enumerate("ab")]  # fmt: skip
    file = tmp_path / "results.jsonl"
    leakmech.compare(runs, export=file, **FEW)
    return file, runs


@pytest.mark.long
def test_a_file_gives_the_numbers_of_its_runs(exported):
    file, runs = exported
    from_file = leakmech.compare(file, **FEW)
    from_runs = leakmech.compare(runs, **FEW)
    for name in "ab":
        values = {e["statistic"]: e["value"] for e in from_file.row(name)["estimates"]}
        assert values == {s: from_runs.estimate(name, s).value for s in values}
    [difference] = from_runs.of()
    own = from_file.row("b")["differences"][0]
    assert (own["difference"], own["low"], own["p_holm"]) == (difference.difference, difference.low, difference.p_holm)
    facts = from_file.row("a")
    assert (facts["family"], facts["n_parameters"], facts["revision"], facts["weights"]) == (
        "Llama", 134_515_008, "main", "w1",
    )  # fmt: skip
    for statistic in ("contrast", "topic_free", "topic_free_valence_shift"):
        [expected] = leakmech.compare(runs, statistic=statistic, **FEW).of()
        found = leakmech.compare(file, statistic=statistic, **FEW).row("b")["differences"]
        assert next(d for d in found if d["statistic"] == statistic)["difference"] == expected.difference


def test_a_file_holds_no_text_of_samples_and_no_path_and_is_small(exported):
    file, _ = exported
    text = file.read_text()
    assert "/home" not in text
    assert str(file.parent) not in text
    assert len(text) < 2 * 20_000
    row = json.loads(text.splitlines()[0])
    assert (row["format"], row["format_version"], row["model"]) == ("leakmech-result", 1, "m")
    assert row["numbers"]["auc_el"].keys() == {"value", "low", "high"}


def test_a_file_is_compared_with_a_run_and_one_run_can_be_exported(exported, tmp_path):
    file, runs = exported
    mine = write_run(tmp_path / "mine", seed=5, leakage=0.9)
    found = leakmech.compare([mine, file], **FEW)
    assert found.blocks[0]["baseline"] == "mine"
    assert len(found.blocks[0]["rows"]) == 3
    shown = CliRunner().invoke(app, ["compare", str(mine), "--export", str(tmp_path / "one.jsonl"), "--draws", "100"])
    assert shown.exit_code == 0, shown.output
    assert [own.facts.name for own in read_results(tmp_path / "one.jsonl")] == ["mine"]
    shown = CliRunner().invoke(app, ["compare", str(file), str(tmp_path / "one.jsonl"), "--draws", "100"])
    assert shown.exit_code == 0, shown.output
    both = leakmech.compare([file, runs[0]], **FEW)  # the same result by file and by run
    assert [row["name"] for row in both.blocks[0]["rows"]] == ["a (results.jsonl)", "b", "a (a)"]


def test_other_cleaning_than_the_file_has_is_another_block(exported):
    file, runs = exported
    raw = leakmech.compare([runs[0], file], cleaning="raw", **FEW)
    assert [block["cleaning"] for block in raw.blocks] == ["raw", "echo-free"]


def _changed(**changes):
    def change(row):
        return {**row, **changes}

    return change


def _sums(change):
    def changed(row):
        row["sums"]["auc_el"]["numerator"] = change(row["sums"]["auc_el"]["numerator"])
        return row

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed(format="other"), "is not a result that"),
        (_changed(format_version=2), "has format 2, this leakmech reads 1; update it"),
        (_changed(surprise=1), "unknown field 'surprise'"),
        (_changed(model=7), "field 'model' must be a"),
        (_changed(model="x" * 301), "field 'model': String should have at most 300"),
        (_changed(n_samples=10**9), "n_samples.*whole number from 1 to 100000"),
        (_changed(n_samples=True), "n_samples.*whole number"),
        (_changed(n_parameters=-1), "n_parameters.*whole number"),
        (_changed(cleaning="clean"), "cleaning.*unknown 'clean'"),
        (_changed(decoding={str(n): n for n in range(31)}), "decoding"),
        (_changed(echo_similarity=float("nan")), "echo_similarity"),
        (_changed(sums={}), "sums"),
        (_changed(sums={"tilt": {"numerator": [], "denominator": []}}), "sums of 'tilt', which is no statistic"),
        (_changed(sums={"auc_el": [1]}), "sums have numerator and denominator"),
        (_changed(sums={"auc_el": {"numerator": "1", "denominator": "1"}}), "expected a list of 40 numbers"),
        (_sums(lambda own: own[:-1]), "expected a list of 40 numbers, one a sample"),
        (_sums(lambda own: [*own[:-1], None]), "not a number, or far too large"),
        (_sums(lambda own: [*own[:-1], True]), "not a number, or far too large"),
        (_sums(lambda own: [*own[:-1], float("nan")]), "not a number, or far too large"),
        (_sums(lambda own: [*own[:-1], 10**400]), "not a number, or far too large"),
        (_sums(lambda own: [*own[:-1], 2.5]), "sample 40 has a value that cannot be"),
        (_sums(lambda own: [0.0] * 40), "its samples give 0"),
        (_changed(numbers={"auc_el": {"value": 0.99}}), "says 0.99 of 'auc_el'; its samples give"),
        (_changed(numbers={"auc_el": {"value": 10**400}}), "its samples give"),
        (_changed(numbers={"valence": {"value": 0.5}}), "says 0.5 of 'valence'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line_that_names_the_line(exported, change, message):
    file, _ = exported
    rows = list(map(json.loads, file.read_text().splitlines()))
    for row in rows:
        row.pop("crc32")
    file.write_text("".join(json.dumps(own) + "\n" for own in (rows[0], change(rows[1]))))
    with pytest.raises(RunDirectoryError, match=message) as error:
        read_results(file)
    assert f"{file}:2: " in str(error.value)
    assert len(str(error.value)) < 1200


def test_a_file_that_was_changed_cut_or_is_none_is_refused(exported, tmp_path, monkeypatch):
    file, _ = exported
    text = file.read_text()
    for wrong, message in (
        (text.replace('"name": "b"', '"name": "c"'), r":2: is damaged, or no file of results \(it was changed after"),
        (text[:-5], "is cut off, or no file of results"),
        ("", "is empty"),
        ("[1]\n", "expected an object, found list"),
        ("[" * 100_000 + "\n", "nests too deep"),
        ("name,value\na,1\n", "is damaged, or no file of results"),
        ("{}\n", "is not a result that"),
    ):
        file.write_text(wrong)
        with pytest.raises(RunDirectoryError, match=message):
            leakmech.compare(file)
    file.write_text(text)
    with pytest.raises(UsageError, match="is a folder; name a file"):
        leakmech.compare(file, export=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something other than results"):
        leakmech.compare(file, export=tmp_path / "notes.txt")
    leakmech.compare(file, export=file, **FEW)  # over itself: read before it is written
    assert len(read_results(file)) == 2
    monkeypatch.setattr(files, "MOST_BYTES", 100)
    with pytest.raises(RunDirectoryError, match="is larger than"):
        read_results(file)


def test_texts_of_a_file_neither_steer_a_terminal_nor_open_a_page(exported):
    file, _ = exported
    row = json.loads(file.read_text().splitlines()[0])
    row.pop("crc32")
    hostile = "\x1b[2J<script>alert(1)</script>\u202e|"
    file.write_text(json.dumps({**row, "name": hostile, "model": "../../etc/passwd", "family": "<img src=x>"}) + "\n")
    found = leakmech.compare(file, **FEW)
    [own] = found.blocks[0]["rows"]
    assert own["name"].startswith("\\x1b[2J<script>")
    html = found.save(file.parent / "out").joinpath("report.html").read_text()
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "href=" not in html.replace('href="#', "")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(data)
    with pytest.raises(LeakmechError):
        read_results(file)
