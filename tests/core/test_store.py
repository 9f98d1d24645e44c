"""Files are whole or absent."""

import json
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import RunDirectoryError, StorageError
from leakmech.core.store import (
    append_jsonl,
    atomic_path,
    content_hash,
    file_hash,
    read_json,
    read_jsonl_shard,
    write_json,
    write_parquet,
)

ROWS = st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), max_size=3), max_size=6)


@given(first=ROWS, second=ROWS, data=st.data())
def test_a_shard_torn_at_any_byte_gives_a_prefix_and_goes_on(tmp_path_factory, first, second, data):
    shard = tmp_path_factory.mktemp("shard") / "s.jsonl"
    append_jsonl(shard, first)
    assert list(read_jsonl_shard(shard)) == first
    raw = shard.read_bytes()
    shard.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    kept = list(read_jsonl_shard(shard))
    assert kept == first[: len(kept)]
    append_jsonl(shard, second)
    assert list(read_jsonl_shard(shard)) == kept + second


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})

    def write_half():
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert read_json(file) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"a\.parquet.*No space left on device"):
        write_parquet(tmp_path / "a.parquet", pd.DataFrame({"x": [1]}))
    with pytest.raises(StorageError, match=r"s\.jsonl.*No space left on device"):
        append_jsonl(tmp_path / "s.jsonl", [{"a": 1}])
    assert not (tmp_path / "a.parquet").exists()


def test_a_missing_number_is_never_written_as_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_damage_is_named_with_its_line(tmp_path):
    shard = tmp_path / "s.jsonl"
    shard.write_text(json.dumps({"a": 1}) + "\n{broken}\n")
    with pytest.raises(RunDirectoryError, match=r"s\.jsonl:2: damaged"):
        list(read_jsonl_shard(shard))
    with pytest.raises(RunDirectoryError, match="not found"):
        read_json(tmp_path / "none.json")


def test_the_hash_separates_its_parts():
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("ab") == content_hash(b"ab")


@pytest.mark.parametrize("size", [0, 1, 2**20, 5 * 2**19 + 1])
def test_a_file_that_is_read_in_blocks_has_the_hash_of_its_bytes(tmp_path, size):
    (tmp_path / "f").write_bytes(bytes(range(251)) * (size // 251) + b"x" * (size % 251))
    assert file_hash(tmp_path / "f") == content_hash((tmp_path / "f").read_bytes())
