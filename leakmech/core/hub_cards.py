"""The head of a card that the hub reads: metadata in YAML between two lines of dashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def front_matter(values: Mapping[str, Any]) -> str:
    """The head with all values that are there, in their order."""
    kept = {name: value for name, value in values.items() if value not in (None, "", [])}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---\n"


def hub_id(name: str | None) -> str | None:
    """`name` where it can be a model of the hub, else None: the hub refuses other names of a base model."""
    return name if name and _HUB_ID.fullmatch(name) else None
