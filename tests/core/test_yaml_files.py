"""A configuration file cannot ask for much work: everything wrong with one is a line, at once."""

from __future__ import annotations

import time

import pytest

from leakmech.core.errors import ConfigError
from leakmech.core.validation import shown
from leakmech.core.yaml_files import MAX_BYTES, MAX_VALUES, read_yaml
from leakmech.studies.benchmark.settings import BenchConfig

BOMB = "generations: [&a [lol,lol,lol,lol,lol,lol,lol,lol,lol], " + ", ".join(
    f"&{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def tried(name: str, tried: str, content: str | bytes, message: str):
    verdict = "one line, at once"
    return pytest.param(content, message, marks=pytest.mark.fault(name, "hostile", tried, verdict), id=tried)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        tried("R09", "nine lists of nine aliases each", f"{BOMB}]\n", ":1: stands for more than 100,000"),
        tried("R09", "20,000 nested lists", "model: " + "[" * 20_000 + "]" * 20_000, ":1: nests deeper than 50 levels"),
        tried("R09", "a key that is a number", "1: 2", ": line 1: the key '1' is not a text; put a name in quotes"),
        tried("R09", "a number of 5,000 digits", "seed: " + "9" * 5_000, ": is not valid YAML (Exceeds the limit"),
        tried("X505", "a hexadecimal number of 9,000 digits", "seed: 0x" + "f" * 9_000, ": line 1: a number of more"),
        tried("X506", "a list that holds itself", "a: 1\nb: &a [*a]", ":2: *a stands for nothing, or for what it is"),
        tried("X507", "a key that stands there twice", "seed: 1\nseed: 2", ": line 2: the key 'seed' stands"),
        tried("X508", "20,000 nested mappings, none closed", "{a: " * 20_000, ":1: nests deeper than 50 levels"),
        tried("X509", "!!int of no number", "seed: !!int x", ": is not valid YAML (invalid lit"),
        tried("X509", "a date that is none", "seed: 2001-13-45", ": is not valid YAML (month must be in 1..12)"),
        tried("X510", "a tag of a Python object", "a: !!python/object/apply:os.getcwd []", ": is not valid YAML"),
        tried("X511", "a file of a megabyte", "#" * (MAX_BYTES + 1), ": is larger than 1,000,000 bytes"),
        tried("X511", "UTF-16", "seed: 1".encode("utf-16"), ": is not valid YAML ('utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_a_file_that_asks_for_too_much_is_refused_at_once(tmp_path, content, message):
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    with pytest.raises(ConfigError) as refused:
        read_yaml(file)
    assert time.perf_counter() - start < 2
    assert str(refused.value).startswith(f"{file}{message}")
    assert len(str(refused.value)) < len(str(file)) + 260
    assert "\n" not in str(refused.value)


def test_aliases_merges_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("\ufeffa: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n", encoding="utf-8")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}
    file.write_text(f"a: &a [{','.join(['x'] * 99)}]\nb: [{','.join(['*a'] * 900)}]")
    assert len(read_yaml(file)["b"]) == 900
    assert MAX_VALUES > 900 * 100


@pytest.mark.fault(
    "X512", "hostile", "a value of 90,000 parts, or of 200,000 letters, in an error", "cut to 300 letters"
)
def test_an_error_shows_a_bounded_part_of_a_value(tmp_path):
    nested: list = ["lol"]
    for _ in range(40):
        nested = [nested] * 9
    for value in (nested, "y" * 200_000, {str(n): n for n in range(10_000)}):
        assert len(shown(value)) < 320
        with pytest.raises(ConfigError, match="generations must be") as refused:
            BenchConfig.parse({"generations": value})
        assert len(str(refused.value)) < 500
    with pytest.raises(ConfigError, match="unknown key") as refused:
        BenchConfig.parse({"x" * 200_000: 1})
    assert len(str(refused.value)) < 1_000
    assert shown(1 << 40_000) == "a value of type int"
    assert shown("a path/of a usual length.jsonl") == "'a path/of a usual length.jsonl'"
