"""Tables of results: what is written is read back."""

from __future__ import annotations

import pandas as pd
import pytest

from leakmech.core.store import content_hash, read_jsonl_shard, write_jsonl, write_text
from leakmech.core.tables import read_table, write_table


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(
            {"name": ["a\rb", "c\r\nd", "e"], "value": [1.5, float("nan"), 2.0]},
            marks=pytest.mark.fault("X314", "rows", "a carriage return in a cell of a table of results", "read back"),
        ),
        pytest.param(
            {"sample": ["NA", "null", "007"], "name": ["None", "nan", "N/A"], "value": [1, 2, 3]},
            marks=pytest.mark.fault("X315", "rows", "samples called NA, null and 007", "keep their names"),
        ),
        {"token": ["", " ", "nan", "\n"], "value": [0.1, 0.2, 0.3, 1e-300]},
        {"name": ["x", "y"], "value": [None, 1.5]},
    ],
)
def test_a_table_is_read_as_it_was_written(tmp_path, frame):
    write_table(tmp_path / "t.csv", pd.DataFrame(frame))
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), pd.DataFrame(frame), check_dtype=False)


@pytest.mark.fault("X316", "text", "half of a surrogate pair in a text that is written", "written as U+FFFD")
def test_files_are_written_whatever_a_text_holds(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a\ud83d"}, {"text": "\U0001f600"}])
    assert list(read_jsonl_shard(tmp_path / "a.jsonl")) == [{"text": "a\ufffd"}, {"text": "\U0001f600"}]
    write_text(tmp_path / "a.txt", "a\udfff")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "a\ufffd"
    assert content_hash("a\ud83d") == content_hash("a\ufffd")
