"""Files that users write: what is read, and which line is blamed for what."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import DatasetError
from leakmech.core.rows import read_items, user_rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.jsonl", '{"a": 1}\n{', "g.jsonl:2: is not valid JSON"),
        ("g.jsonl", "[1]\n", "g.jsonl:1: expected a JSON object, found list"),
        ("g.csv", "a,b\n1,2,3\n", "g.csv:2: has more cells than the header has columns"),
        ("g.csv", 'a,b\n1,"2" 3\n', "g.csv:2: is not valid CSV"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(user_rows(tmp_path / name))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.csv: cannot be read"):
        list(user_rows(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_divided_by_what_their_header_has_most_of(tmp_path, delimiter):
    text = 'id,text,note\n1,"a,b;c",x\n'
    if delimiter != ",":
        text = f'id{delimiter}text{delimiter}note\n1{delimiter}"a,b;c"{delimiter}x\n'
    (tmp_path / "g.csv").write_text(text)
    assert list(user_rows(tmp_path / "g.csv")) == [(2, {"id": "1", "text": "a,b;c", "note": "x"})]


def test_a_line_break_inside_quotes_belongs_to_the_cell(tmp_path):
    (tmp_path / "g.csv").write_text('id,text\n1,"a\nb"\n2,c\n')
    assert [row["text"] for _, row in user_rows(tmp_path / "g.csv")] == ["a\nb", "c"]


@dataclass(frozen=True)
class Note:
    id: str
    text: str
    note: str | None = None


@pytest.mark.parametrize("name", ["g.csv", "g.jsonl"])
def test_a_file_in_another_encoding_is_named_with_the_line(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"a": 1}\n' * 3000 + '{"a": "caf\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(DatasetError, match=r":3001: is not UTF-8; save the file as UTF-8"):
        list(user_rows(tmp_path / name))


def rows_of(path: Path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(user_rows(path))


TABLE = "id;text\n1;a\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param(
            "g.csv",
            'id;text;note\n1;a;"two\nlines"\n2;b;\n',
            [(2, "1", "a"), (4, "2", "b")],
            marks=pytest.mark.fault(
                "F09", "rows", "a line break in a cell of a semicolon CSV", "lines are counted right"
            ),
        ),
        pytest.param(
            "g.tsv",
            'id\ttext\tnote\n1\ta\t"two\r\nlines"\n2\tb\t\n',
            [(2, "1", "a"), (4, "2", "b")],
            marks=pytest.mark.fault("F09", "rows", "a line break in a cell of a TSV", "lines are counted right"),
        ),
        pytest.param(
            "g.csv",
            "\ufeffid;text\n1;a\n;\n \n;\n2;b\n;;;\n",
            [(2, "1", "a"), (6, "2", "b")],
            marks=pytest.mark.fault("F11", "rows", "empty rows in and after a table", "passed over"),
        ),
        pytest.param(
            "g.jsonl",
            '{"id": "1", "text": "a"}\n\n{"id": null, "text": ""}\n{"id": "2", "text": "b"}\n\n',
            [(1, "1", "a"), (4, "2", "b")],
            marks=pytest.mark.fault("F11", "rows", "empty lines and objects of gaps in JSON lines", "passed over"),
        ),
        pytest.param(
            "g.csv",
            "\ufeffsep=;\nid;text,or,answer;text\n1;x;a\n",
            [(3, "1", "a")],
            marks=pytest.mark.fault("F12", "rows", "a first line sep=;", "understood"),
        ),
        pytest.param(
            "g.jsonl",
            '{"id": "1", "text": "fine \\ud83d"}\n',
            [(1, "1", "fine \ufffd")],
            marks=pytest.mark.fault("F13", "text", "half of a surrogate pair in an answer", "read as U+FFFD"),
        ),
        pytest.param(
            "g.jsonl",
            '{"id": "1", "text": "fine \\ud83d\\ude00"}\n',
            [(1, "1", "fine \U0001f600")],
            id="a whole surrogate pair is the emoji",
        ),
        pytest.param(
            "g.csv",
            TABLE.encode("utf-16"),
            [(2, "1", "a")],
            marks=pytest.mark.fault("X300", "rows", "a spreadsheet's Unicode text: UTF-16 with its mark", "read"),
        ),
        pytest.param(
            "g.csv",
            TABLE.replace("\n", "\r"),
            [(2, "1", "a")],
            marks=pytest.mark.fault("X301", "rows", "lines that end in a carriage return alone", "read"),
        ),
        pytest.param(
            "g.csv",
            ",id,text\n0,1,a\n",
            [(2, "1", "a")],
            marks=pytest.mark.fault("X302", "rows", "the index without a name that pandas writes", "passed over"),
        ),
        pytest.param(
            "g.csv",
            "id;text;;\n1;a;;\n2;b\n",
            [(2, "1", "a"), (3, "2", "b")],
            marks=pytest.mark.fault("X303", "rows", "empty columns after the last", "passed over"),
        ),
        pytest.param(
            "g.csv",
            '"id","text; in, words, or, more",text\n1,x,a\n',
            [(2, "1", "a")],
            marks=pytest.mark.fault("X304", "rows", "other separators inside a quoted column name", "not counted"),
        ),
        pytest.param(
            "g.tsv",
            "id\ttext, or, an, answer\ttext\n1\tx\ta\n",
            [(2, "1", "a")],
            id="commas in a name of a TSV",
        ),
        pytest.param("g.csv", "\n\n id | text \n1|a\n", [(4, "1", "a")], id="bars after empty lines"),
    ],
)
def test_what_spreadsheets_and_programs_leave_in_files_is_understood(tmp_path, name, content, expected):
    found = rows_of(tmp_path / name, content)
    assert [(line, row["id"], row["text"]) for line, row in found] == expected


@pytest.mark.fault("X305", "rows", "a cell of 200,000 characters", "read")
def test_long_cells_are_read(tmp_path):
    [(line, row)] = rows_of(tmp_path / "g.csv", "id,text\n1," + "a " * 100_000 + "\n")
    assert (line, len(row["text"])) == (2, 200_000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "g.csv",
            "id,text,text\n1,a,b\n",
            "g.csv:1: has two columns 'text'",
            marks=pytest.mark.fault("X306", "rows", "two columns of one name", "refused; the last one was read"),
        ),
        pytest.param(
            "g.csv",
            "id,text,\n1,a,b\n",
            "g.csv:2: has a cell in column 3, which has no name",
            marks=pytest.mark.fault("X307", "rows", "a cell under no name", "refused with its line"),
        ),
        pytest.param(
            "g.csv",
            'id,text\n1,a\n2,"b\nc\n',
            "g.csv:3: is not valid CSV",
            marks=pytest.mark.fault("X308", "rows", "a quote that is never closed", "its own line is named"),
        ),
        pytest.param(
            "g.jsonl",
            '{"a": 1}\n' + "[" * 100_000 + "\n",
            "g.jsonl:2: is not valid JSON for a row .nested too deeply",
            marks=pytest.mark.fault("X309", "hostile", "a row nested 100,000 deep", "refused with its line"),
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DatasetError, match=message):
        rows_of(tmp_path / name, content)


def test_gaps_are_the_same_in_every_kind_of_file(tmp_path):
    frame = pd.DataFrame({"id": ["1", "2"], "text": ["a", "b"], "note": ["x", None]})
    frame.to_csv(tmp_path / "g.csv", index=False)
    frame.to_csv(tmp_path / "g.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "g.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "g.parquet")
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        assert read_items(tmp_path / f"g.{kind}", Note) == (Note("1", "a", "x"), Note("2", "b"))


@pytest.mark.fault("F33", "rows", "NaN for a gap in JSON lines and parquet", "missing, as null is")
def test_nan_is_a_gap(tmp_path):
    [(_, row)] = rows_of(tmp_path / "g.jsonl", '{"id": "1", "text": NaN, "up": Infinity}\n')
    assert row == {"id": "1", "text": None, "up": math.inf}
    pd.DataFrame({"id": ["1"], "text": [math.nan]}).to_parquet(tmp_path / "g.parquet")
    assert list(user_rows(tmp_path / "g.parquet")) == [(1, {"id": "1", "text": None})]


@pytest.mark.fault("X310", "rows", "ids that are numbers: 7, and 7.0 beside a gap", "the text 7, as in a table")
@pytest.mark.parametrize("written", ['"7"', "7", "7.0", '" 7 "'])
def test_an_id_that_a_program_took_for_a_number_is_a_text(tmp_path, written):
    (tmp_path / "g.jsonl").write_text(f'{{"id": {written}, "text": "a"}}\n')
    assert read_items(tmp_path / "g.jsonl", Note) == (Note("7", "a"),)


@pytest.mark.fault("X311", "hostile", "a parquet file that is cut off, or is none", "one line")
@pytest.mark.parametrize("keep", [0, 3, -1, -40])
def test_a_damaged_parquet_file_is_named(tmp_path, keep):
    pd.DataFrame({"id": ["1"], "text": ["a"]}).to_parquet(tmp_path / "whole.parquet")
    with pytest.raises(DatasetError, match=r"g\.parquet: "):
        rows_of(tmp_path / "g.parquet", (tmp_path / "whole.parquet").read_bytes()[:keep])


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_a_table_that_the_standard_library_writes_is_read_back(tmp_path_factory, cells, delimiter, end):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["id", "text"], *cells])
    found = rows_of(tmp_path_factory.getbasetemp() / "round.csv", out.getvalue())
    kept = [cell for cell in cells if any(map(str.strip, cell))]
    assert [tuple(row.values()) for _, row in found] == kept
    heights = [len(re.findall("\r\n|\r|\n", "".join(cell))) + 1 for cell in cells]
    begins = [2 + sum(heights[:i]) for i, cell in enumerate(cells) if any(map(str.strip, cell))]
    assert [line for line, _ in found] == begins


@given(st.binary(max_size=200), st.sampled_from(["g.csv", "g.tsv", "g.jsonl", "g.parquet"]))
def test_whatever_bytes_a_file_has_it_is_read_or_refused(tmp_path_factory, content, name):
    try:
        found = rows_of(tmp_path_factory.getbasetemp() / name, content)
    except DatasetError as error:
        found = [(0, {"message": str(error)})]
        lines = str(error).count("\n")
    else:
        lines = 0
    json.dumps(found, ensure_ascii=False).encode()
    assert lines == 0
