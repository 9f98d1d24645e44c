"""Files that users write: what is read, and which line is blamed for what."""

import pytest

from leakmech.core.errors import DatasetError
from leakmech.core.rows import user_rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.jsonl", '{"a": 1}\n\n', "g.jsonl:2: empty line"),
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


@pytest.mark.parametrize("name", ["g.csv", "g.jsonl"])
def test_a_file_in_another_encoding_is_named_with_the_line(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"a": 1}\n' * 3000 + '{"a": "caf\u00e9"}\n'.encode("latin-1"))
    with pytest.raises(DatasetError, match=r":3001: is not UTF-8; save the file as UTF-8"):
        list(user_rows(tmp_path / name))
