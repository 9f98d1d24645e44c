"""Generations from elsewhere: what is read, and which line is blamed for what."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import DatasetError
from leakmech.core.rows import user_rows
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample
from leakmech.studies.benchmark.external import parse_columns, read_generations

SAMPLES = PromptSet("two", (Sample("a", "It is", "Yay!", "So.", "No!"), Sample("b", "He was", "Yes!", "Then.", "Bad!")))


def rows(k=2, control=None, samples=("a", "b")):
    numbers = {condition: control if condition == "control" and control else k for condition in CONDITIONS}
    return [
        {"sample": sample, "condition": condition, "generation": i, "text": f"{sample} {condition} {i}"}
        for sample in samples
        for condition in CONDITIONS
        for i in range(numbers[condition])
    ]


def read(given_rows, **options):
    return read_generations(enumerate(given_rows, start=1), SAMPLES, name="file", **options)


@given(st.permutations(rows()))
def test_the_order_of_the_rows_does_not_matter(shuffled):
    found = read(shuffled)
    assert list(found.texts) == [(r["sample"], r["condition"], r["generation"]) for r in rows()]
    assert found.texts["b", "neutral", 1] == "b neutral 1"
    assert (found.generations, found.n_missing, found.n_silent_samples) == (2, 0, 0)


def test_generations_may_be_counted_from_one():
    from_one = [row | {"generation": row["generation"] + 1} for row in rows()]
    assert read(from_one).texts == read(rows()).texts


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(
            float, marks=pytest.mark.fault("F33", "rows", "generations 0.0, 1.0 as pandas writes them", "0, 1")
        ),
        "{}.0".format,
        " {} ".format,
    ],
)
def test_whole_numbers_may_be_written_in_other_ways(written):
    assert read([row | {"generation": written(row["generation"])} for row in rows()]).texts == read(rows()).texts


@pytest.mark.fault(
    "X312", "scale", "one generation with the number 900,000,000", "refused before a table is made of it"
)
def test_a_number_far_beyond_the_others_is_refused():
    wrong = [*rows(), rows()[0] | {"generation": 900_000_000}]
    with pytest.raises(DatasetError, match="one of them has the number 900000000"):
        read([row | {"condition": "positive"} if row["generation"] == 900_000_000 else row for row in wrong])


def test_twice_as_many_control_generations_are_kept_as_noise_floor():
    found = read(rows(k=2, control=4))
    assert found.generations == 2
    assert ("a", "control", 3) in found.texts
    with pytest.raises(DatasetError, match="control has generations up to number 2 and the others up to 1"):
        read(rows(k=2, control=3))


def test_missing_generations_are_an_error_unless_allowed():
    short = [row for row in rows() if (row["sample"], row["condition"], row["generation"]) != ("b", "neutral", 1)]
    with pytest.raises(DatasetError, match="1 generations are missing, the first: sample 'b', neutral, generation 1"):
        read(short)
    found = read(short, allow_missing=True)
    assert found.texts["b", "neutral", 1] is None
    assert found.n_missing == 1
    null = [row | {"text": None} if row["generation"] == 0 else row for row in rows()]
    assert read(null, allow_missing=True).n_missing == 8


def test_samples_without_generations_are_an_error_unless_allowed():
    with pytest.raises(DatasetError, match="1 of 2 samples are missing, the first: sample 'b'"):
        read(rows(samples=("a",)))
    found = read(rows(samples=("a",)), allow_missing=True)
    assert [sample.id for sample in found.samples] == ["a"]
    assert found.n_silent_samples == 1


def test_samples_that_are_known_but_not_wanted_are_left_out():
    wanted = PromptSet("one", SAMPLES.samples[:1])
    found = read_generations(enumerate(rows()), wanted, name="file", known=["a", "b"])
    assert {sample for sample, _, _ in found.texts} == {"a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": "A"}, "file:3: the data set has no sample 'A'; is it the right --dataset"),
        ({"condition": "positiv"}, "file:3: unknown condition 'positiv'; did you mean 'positive'"),
        ({"generation": -1}, "file:3: field 'generation' must be a whole number from 0, found -1"),
        ({"generation": 1.5}, "found 1.5"),
        ({"generation": True}, "found True"),
        ({"sample": ["a"]}, "file:3: the data set has no sample \\['a'\\]"),
        ({"generation": "9" * 5000}, "must be a whole number from 0"),
        ({"text": 3}, "file:3: field 'text' must be a text, found 3"),
        ({"condition": "control", "generation": 0}, "file:3: generation 0 of sample 'a', condition control, is there"),
    ],
)
def test_a_bad_value_is_named_with_its_line(change, message):
    bad = rows()
    bad[2] = bad[2] | change
    with pytest.raises(DatasetError, match=message):
        read(bad)


def test_a_missing_column_is_named_with_those_found_and_can_be_mapped():
    renamed = [{("completion" if key == "text" else key): value for key, value in row.items()} for row in rows()]
    with pytest.raises(DatasetError, match=r"no column 'text' .* found sample, condition, generation, completion"):
        read(renamed)
    assert read(renamed, columns=parse_columns(["text=completion"])).texts == read(rows()).texts


@pytest.mark.parametrize("pair", ["completion", "text=", "txt=completion"])
def test_a_bad_column_option_is_refused(pair):
    with pytest.raises(DatasetError, match=f"column '{pair}'"):
        parse_columns([pair])


def test_csv_and_jsonl_say_the_same(tmp_path):
    texts = [row | {"text": 'He said "no",\nand left.'} for row in rows()]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    with (tmp_path / "g.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, texts[0])
        writer.writeheader()
        writer.writerows(texts)
    found = [read_generations(user_rows(tmp_path / name), SAMPLES, name=name).texts for name in ("g.jsonl", "g.csv")]
    assert found[0] == found[1]
