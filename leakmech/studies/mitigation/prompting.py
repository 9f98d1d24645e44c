"""Mitigations that change how an answer is decoded, or the prompt that it is decoded from; and the oracle.

Formulas of the contrastive rules stand in :mod:`leakmech.generation.contrast`, the policy for failed rewrites in
:mod:`leakmech.generation.rewriting`; the versions of a prompt that both use in :mod:`leakmech.prompts.views`. They lie
below the benchmark, because a run can have any of them (``bench --contrast NAME``, ``bench --prompt-rewrite NAME``).

The oracle completes the control prompt in place of the injected one, under the injected prompt's id: its answers are
independent draws from the distribution of the control's, so its leakage is the null by construction and no method can
have less. It needs to know which sentence was injected. It keeps nothing of relevant affect either, which is why it
bounds leakage reduction and not selectivity.

The mitigations that come with leakmech and need nothing fitted, by name.

Instructions as mitigations: the model is told to let nothing irrelevant show.

The texts and their places stand in one registry, :data:`leakmech.prompts.instructions.INSTRUCTIONS`, because a
benchmark run can have any of them (``bench --instruction NAME``). Köprü et al. (2025) report that leakage cannot be
mitigated by prompting; the variants ask whether place or wording changes that.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakmech.core.registry import Registry
from leakmech.generation.contrast import CONTRASTS
from leakmech.prompts.instructions import INSTRUCTIONS, resolve_instruction
from leakmech.prompts.rewrites import find_rewrite
from leakmech.studies.mitigation.mitigation import Mitigation

_CONTRAST_NOTES = {
    "toward-last-sentence": "logits moved toward, and beyond, those of the last sentence alone",
    "toward-neutral": "logits moved toward, and beyond, those of the prompt with a neutral sentence as context",
    "away-from-context": "logits moved away from those of the context alone",
    "subtract-context": "what the context alone adds to no text at all is subtracted",
    "placebo": "nothing is contrasted; only the plausibility constraint acts",
    "toward-control": "logits moved toward, and beyond, those of the control prompt",
}
_REWRITE_NOTES = {
    "self": "the model removes what is irrelevant, then completes what is left",
    "self-examples": "the same, shown three worked examples",
    "last-sentence": "everything before the last sentence is dropped",
    "neutral-context": "everything before the last sentence is replaced by a neutral sentence",
    "control": "the control prompt is completed in place of the injected one",
}

ORACLE = Mitigation("oracle-control-prompt", "oracle", {"prompt_rewrite": "control"}, note=_REWRITE_NOTES["control"])
"""The bound that no method can beat in leakage reduction."""


def contrast_mitigation(preset: str, *, strength: float | None = None, plausibility: float | None = None) -> Mitigation:
    """A contrastive decoding rule as a mitigation, of kind ``oracle`` where its reference is the control prompt.

    Parameters
    ----------
    preset
        A name from :data:`leakmech.generation.contrast.CONTRASTS`.
    strength, plausibility
        In place of the preset's.

    Raises
    ------
    ConfigError
        There is no such preset, or a value is out of range.
    """
    contrast = CONTRASTS.find(preset)
    settings = contrast.to_dict()
    given = {"strength": strength, "plausibility": plausibility}
    changes = {key: value for key, value in given.items() if value is not None}
    suffix = "".join(f"-{key}-{value:g}" for key, value in changes.items())
    kind = "oracle" if contrast.oracle else "decoding"
    return Mitigation(
        f"contrast-{preset}{suffix}", kind, {"contrast": settings | changes}, note=_CONTRAST_NOTES.get(preset, "")
    )


def rewrite_mitigation(name: str) -> Mitigation:
    """A rewriting of the prompt as a mitigation; ``control`` is the :data:`ORACLE`.

    Raises
    ------
    ConfigError
        There is no such rewriting.
    """
    rewrite = find_rewrite(name)
    if rewrite.name == "control":
        return ORACLE
    return Mitigation(f"rewrite-{name}", "rewrite", {"prompt_rewrite": name}, note=_REWRITE_NOTES.get(name, ""))


def decoding_mitigations(*, strengths: Sequence[float] | None = None) -> tuple[Mitigation, ...]:
    """Every named rule and rewriting, the oracle first.

    Parameters
    ----------
    strengths
        Contrastive rules at each of these; default: each at its own strength only.
    """
    rewrites = ("self", "self-examples", "last-sentence", "neutral-context")
    rules = [name for name in CONTRASTS if name != "placebo"]
    return (
        ORACLE,
        *map(rewrite_mitigation, rewrites),
        *(contrast_mitigation(name, strength=strength) for name in rules for strength in strengths or (None,)),
        contrast_mitigation("placebo"),
    )


# -- catalogue ---------------------------------------------------------------------------------------------------------


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
    return Registry("mitigation", builtin_mitigations()).find(name)


# -- instructions ------------------------------------------------------------------------------------------------------


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
