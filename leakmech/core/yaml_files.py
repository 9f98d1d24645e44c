"""Configuration files in YAML: mappings of settings, read so that a small file cannot ask for much work.

A file is bounded in its size, in how deep it nests, and in the values that it stands for once every alias is written
out; a value of ten lines that refer to each other nine times is as large as it is long, and whoever prints it waits.
Names are texts, and each stands in its mapping once: of two, YAML would take the last without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import events, nodes

from leakmech.core.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000
MAX_BITS = 64
_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file; ConfigError if it is missing, not a mapping in YAML, or asks for too much."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES:,} bytes, too large for settings")
    try:
        text = data.decode("utf-8-sig")
        _refuse_too_much(yaml.parse(text, Loader=yaml.SafeLoader), path)
        values = yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(f"{path}") else f"{path}: {error}") from error
    except Exception as error:  # values such as !!int x end in whatever their constructor raises
        told = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: is not valid YAML ({told[0][:200]})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def _refuse_too_much(found: Iterator[events.Event], path: Path) -> None:
    """Count values and levels before anything is built; an alias counts as all that its anchor holds."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in found:
        here = f"{path}:{event.start_mark.line + 1}"
        if isinstance(event, events.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(f"{here}: *{event.anchor} stands for nothing, or for what it is part of")
            total += sizes[event.anchor]
        elif isinstance(event, events.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, events.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes |= {anchor: total - before} if anchor else {}
        elif isinstance(event, events.ScalarEvent):
            total += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        if len(open_nodes) > MAX_DEPTH:
            raise ConfigError(f"{here}: nests deeper than {MAX_DEPTH} levels")
        if total > MAX_VALUES:
            raise ConfigError(f"{here}: stands for more than {MAX_VALUES:,} values, aliases written out")


class _Loader(yaml.SafeLoader):
    """Plain values only, whose names are texts that stand once."""

    def compose_mapping_node(self, anchor: Any) -> nodes.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT:
                name = f" {str(key.value)[:40]!r}" if isinstance(key, nodes.ScalarNode) else ""
                raise ConfigError(f"line {line}: the key{name} is not a text; put a name in quotes")
            if key.value in seen:
                raise ConfigError(f"line {line}: the key {key.value[:80]!r} stands there twice")
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node: nodes.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > MAX_BITS:  # in hexadecimal it may be longer than Python can write
            raise ConfigError(f"line {node.start_mark.line + 1}: a number of more than {MAX_BITS} bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
