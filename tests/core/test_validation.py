"""What pydantic finds wrong becomes one line that says where, which field, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel

from leakmech.core.errors import ConfigError, DatasetError, ModelError
from leakmech.core.validation import CLOSED, Text, checked, whole, whole_number
from leakmech.models.batching import parse_batch_size
from leakmech.models.components import Component
from leakmech.studies.benchmark.settings import BenchConfig


@dataclass(frozen=True)
class Inner:
    strength: float = 1.0


class Outer(BaseModel):
    model_config = CLOSED

    name: Text
    kind: Literal["one", "two"] = "one"
    count: Annotated[int, whole(1, 9)] = 1
    inner: Inner | None = None
    several: list[Inner] = []
    sizes: dict[str, float] = {}
    batch: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Row:
    __pydantic_config__ = CLOSED

    name: Text
    note: Text | None = None
    tags: tuple[str, ...] = field(default=())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "x"}, "unknown field 'nam'; did you mean 'name'?"),
        ({}, "field 'name' is missing"),
        ({"name": " "}, "field 'name' must be a non-empty text, found ' '"),
        ({"name": "x", "kind": "on"}, "field 'kind': unknown 'on'; did you mean 'one'?"),
        ({"name": "x", "count": True}, "field 'count' must be a whole number from 1 to 9, found True"),
        ({"name": "x", "inner": {"strenth": 2}}, "unknown field 'inner.strenth'; did you mean 'strength'?"),
        ({"name": "x", "several": [{}, {"strenth": 2}]}, "unknown field 'several.strenth'; did you mean 'strength'?"),
        ({"name": "x", "sizes": {"kl": "much"}}, "field 'sizes.kl' must be a valid number, unable to parse"),
        ({"name": "x", "batch": [1]}, "field 'batch' must be a valid integer, found [1]"),
    ],
)
def test_the_first_thing_wrong_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError) as found:
        checked(Outer, values, where="file:3")
    assert str(found.value).startswith(f"file:3: {message}")
    assert "\n" not in str(found.value)


def test_a_frozen_dataclass_is_made_of_a_row_without_white_space() -> None:
    row = checked(Row, {"name": " a ", "note": None, "tags": ["b"]}, where="file:1")
    assert row == Row("a", None, ("b",))


def test_settings_have_keys_and_an_error_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"^recipe: count must be a whole number from 1 to 9, found 0$"):
        checked(Outer, {"name": "x", "count": 0}, where="recipe", error=ConfigError, noun="key")
    with pytest.raises(ConfigError, match=r"^recipe: unknown key 'cuont'; did you mean 'count'\?$"):
        checked(Outer, {"name": "x", "cuont": 0}, where="recipe", error=ConfigError, noun="key")


def test_a_key_that_belongs_into_a_group_names_the_group() -> None:
    with pytest.raises(ConfigError) as caught:
        BenchConfig.parse({"temperature": 0.7}, where="bench")
    assert str(caught.value) == "bench: unknown key 'temperature'; it is a key of 'decoding' (decoding.temperature)"
    with pytest.raises(ConfigError, match="unknown key 'genrations'; did you mean 'generations'"):
        BenchConfig.parse({"genrations": 1}, where="bench")


@pytest.mark.fault("X326", "hostile", "a number of 5,000 digits where one is counted", "one line; Python reads 4,300")
def test_a_number_of_thousands_of_digits_is_none() -> None:
    assert [whole_number(text) for text in ("0", "017", "", "-1", "1.0", "9" * 19, "9" * 5000)] == [0, 17, *[None] * 5]
    with pytest.raises(ConfigError, match="batch_size must be 'auto' or at least 1"):
        parse_batch_size("9" * 5000)
    with pytest.raises(ModelError, match="write L12H3"):
        Component.parse(f"L1H{'9' * 5000}")
