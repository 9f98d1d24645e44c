"""Data sets: the one that ships, and errors that name file, line and field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import DatasetError
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample, load_dataset

GOOD = {"id": "a", "stem": "She is", "positive": "Joy.", "neutral": "Fact.", "negative": "Woe."}
LINE = st.text(min_size=1).map(str.strip).filter(lambda text: any(map(str.isalnum, text)))


def write(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n", encoding="utf-8"
    )
    return path


def test_hexl_has_sixty_samples_and_uses_nothing_twice():
    hexl = load_dataset("hexl")
    assert len(hexl) == 60
    texts = [text.lower() for s in hexl for text in (s.stem, s.positive, s.neutral, s.negative)]
    assert len(set(texts)) == 240
    assert all(not s.stem.endswith((".", "!", "?")) for s in hexl)
    assert all(s.injection(c).endswith(".") for s in hexl for c in INJECTIONS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        (GOOD | {"stem": ""}, "field 'stem' must be a non-empty text"),
        (GOOD | {"stem": " ... "}, r"field 'stem' must have words, found '\.\.\.'"),
        (GOOD | {"negative": "🙂 !"}, "field 'negative' must have words, found '🙂 !'"),
        (GOOD | {"stem": 3}, "field 'stem' must be a non-empty text"),
        ({k: v for k, v in GOOD.items() if k != "neutral"}, "field 'neutral' is missing"),
        (GOOD | {"netural": "x"}, "unknown field 'netural'; did you mean 'neutral'"),
        (GOOD, "field 'id': 'a' is already used in line 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    file = write(tmp_path / "d.jsonl", GOOD, line)
    with pytest.raises(DatasetError, match=r"d\.jsonl:2: .*" + message.replace("(", r"\(")):
        load_dataset(file)


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"empty\.jsonl: is empty"):
        load_dataset(tmp_path / "empty.jsonl")


def test_a_csv_file_gives_the_same_samples(tmp_path):
    sample = Sample(
        id="a", stem='He said "well"', positive="Joy, and\nmore.", neutral="Fact.", negative="Woe.", theme="x"
    )
    frame_line = (
        'id,stem,positive,neutral,negative,theme,note\r\na,"He said ""well""","Joy, and\nmore.",Fact.,Woe.,x,\r\n'
    )
    (tmp_path / "d.csv").write_bytes(frame_line.encode())
    assert load_dataset(tmp_path / "d.csv").samples == (sample,)
    (tmp_path / "bad.csv").write_text("id,stem,positive,neutral,negative\na,She is,Joy.,,Woe.\n")
    with pytest.raises(DatasetError, match=r"bad\.csv:2: field 'neutral' is missing"):
        load_dataset(tmp_path / "bad.csv")


@given(st.lists(st.tuples(LINE, LINE, LINE, LINE), min_size=1, max_size=5))
def test_saving_and_loading_gives_the_same_samples_and_hash(tmp_path_factory, rows):
    samples = PromptSet("d", tuple(Sample(str(i), *row) for i, row in enumerate(rows)))
    file = tmp_path_factory.mktemp("d") / "d.jsonl"
    samples.save(file)
    assert load_dataset(file).samples == samples.samples
    assert load_dataset(file).content_hash == samples.content_hash


def test_splits_are_chosen_by_name(tmp_path):
    file = write(tmp_path / "d.jsonl", GOOD | {"split": "fit"}, GOOD | {"id": "b", "split": "test"})
    assert [s.id for s in load_dataset(file).split("test")] == ["b"]
    with pytest.raises(DatasetError, match="no samples with split 'tune'"):
        load_dataset(file).split("tune")


def test_samples_with_injections_that_are_judged_are_refused_and_neutral_ones_may_be_shared():
    judged = PromptSet("judged", (Sample(**GOOD),))
    other = {"id": "b", "stem": "He is", "positive": "Pride.", "neutral": "Fact.", "negative": "Gloom."}
    PromptSet("fit", (Sample(**other),)).refuse_shared_injections(judged)
    with pytest.raises(DatasetError, match=r"fit: 1 samples have injections of judged \(for example 'c'\)"):
        PromptSet("fit", (Sample(**other), Sample(**other | {"id": "c", "negative": "Joy."}))).refuse_shared_injections(
            judged
        )


def test_a_set_indexes_slices_and_is_shown_in_a_line():
    samples = load_dataset("hexl")
    assert samples[0].id == "hexl-001"
    assert samples["hexl-002"] == samples[1]
    assert [sample.id for sample in samples[:2]] == ["hexl-001", "hexl-002"]
    assert samples[:60].content_hash == samples.content_hash
    assert repr(samples) == "PromptSet('hexl', 60 samples)"
    with pytest.raises(DatasetError, match=r"has no sample 'hexl-01'; did you mean 'hexl-"):
        samples["hexl-01"]
    with pytest.raises(DatasetError, match="holds no samples"):
        samples[60:]
