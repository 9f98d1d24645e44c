"""The mitigations that come with leakmech and need nothing fitted, by name."""

from __future__ import annotations

from leakmech.core.errors import ConfigError, nearest
from leakmech.mitigation.decoding import decoding_mitigations
from leakmech.mitigation.instructions import instruction_mitigations
from leakmech.mitigation.types import Mitigation


def builtin_mitigations(*, system_role: bool = True) -> dict[str, Mitigation]:
    """By name, the oracle first.

    `system_role` says whether prompts have one; without it instructions that stand there are left out.
    """
    found = (*decoding_mitigations(), *instruction_mitigations(system_role=system_role))
    return {mitigation.name: mitigation for mitigation in found}


def find_mitigation(name: str) -> Mitigation:
    """A mitigation of :func:`builtin_mitigations` by name.

    Raises
    ------
    ConfigError
        There is none.
    """
    known = builtin_mitigations()
    if name not in known:
        raise ConfigError(f"mitigation {name!r}: no such name{nearest(name, known)}")
    return known[name]
