"""Instructions as mitigations: the model is told to let nothing irrelevant show.

The texts and their places stand in one registry, :data:`leakmech.prompts.instructions.INSTRUCTIONS`, because a
benchmark run can have any of them (``bench --instruction NAME``). Köprü et al. (2025) report that leakage cannot be
mitigated by prompting; the variants ask whether place or wording changes that.
"""

from __future__ import annotations

from leakmech.mitigation.types import Mitigation
from leakmech.prompts.instructions import INSTRUCTIONS, resolve_instruction


def instruction_mitigation(name_or_text: str, *, name: str | None = None) -> Mitigation:
    """An instruction as a mitigation.

    Parameters
    ----------
    name_or_text
        A name from the registry, or any text to be said before every prompt.
    name
        Name of the mitigation; default: that of the instruction.

    Raises
    ------
    ConfigError
        There is no such instruction.
    """
    instruction = resolve_instruction(name_or_text)
    return Mitigation(
        name or f"instruction-{instruction.name}", "instruction", {"instruction": name_or_text}, note=instruction.text
    )


def instruction_mitigations(*, system_role: bool = True) -> tuple[Mitigation, ...]:
    """Every named instruction; without those that stand in the system role where prompts have none."""
    return tuple(
        instruction_mitigation(instruction.name)
        for instruction in INSTRUCTIONS.values()
        if instruction.name != "none" and (system_role or not instruction.system)
    )
