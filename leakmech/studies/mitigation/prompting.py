"""Mitigations that need nothing fitted: rules of decoding, rewritten prompts, instructions, and the oracle.

A benchmark run can have any of them (``bench --contrast NAME``, ``--prompt-rewrite NAME``, ``--instruction NAME``), so
what they do is told in the rooms below: formulas of the contrastive rules in :mod:`leakmech.generation.contrast`, the
policy for failed rewrites in :mod:`leakmech.generation.rewriting`, the versions of a prompt that both use in
:mod:`leakmech.prompts.views`, and texts and places of the instructions in :mod:`leakmech.prompts.instructions`.
Köprü et al. (2025) report that leakage cannot be mitigated by prompting; the instructions ask whether place or wording
changes that.

The oracle completes the control prompt in place of the injected one, under the injected prompt's id. Its generations
are independent draws from the distribution of the control's, so its leakage is the null by construction and no method
can have less. It needs to know which sentence was injected. It keeps nothing of relevant affect either, which is why it
bounds leakage reduction and not selectivity.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakmech.core.registry import Registry
from leakmech.generation.contrast import CONTRASTS
from leakmech.prompts.instructions import INSTRUCTIONS, resolve_instruction
from leakmech.prompts.rewrites import find_rewrite
from leakmech.prompts.told import is_oracle
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
    "drop-unrelated-text": "sentences before the last one are dropped if they are not similar to it",
    "leave-one-out": "sentences before the last one are dropped if it is about as likely without them",
    "control": "the control prompt is completed in place of the injected one",
}

ORACLE = Mitigation(
    "oracle-control-prompt",
    "oracle",
    {"prompt_rewrite": "control"},
    note=_REWRITE_NOTES["control"],
    told=find_rewrite("control").told,
)
"""The bound that no method can beat in leakage reduction."""


def contrast_mitigation(preset: str, *, strength: float | None = None, plausibility: float | None = None) -> Mitigation:
    """A rule of :data:`~leakmech.generation.contrast.CONTRASTS` as a mitigation, with the preset's values by default.

    Its kind is ``oracle`` if its reference is the control prompt.
    """
    contrast = CONTRASTS.find(preset)
    settings = contrast.to_dict()
    given = {"strength": strength, "plausibility": plausibility}
    changes = {key: value for key, value in given.items() if value is not None}
    suffix = "".join(f"-{key}-{value:g}" for key, value in changes.items())
    return Mitigation(
        f"contrast-{preset}{suffix}",
        "oracle" if is_oracle(contrast.told) else "decoding",
        {"contrast": settings | changes},
        note=_CONTRAST_NOTES.get(preset, ""),
        told=contrast.told,
    )


def rewrite_mitigation(name: str) -> Mitigation:
    """Turn a rewriting of the prompt into a mitigation; ``control`` is the :data:`ORACLE`."""
    rewrite = find_rewrite(name)
    if rewrite.name == "control":
        return ORACLE
    note = _REWRITE_NOTES.get(name, "")
    return Mitigation(f"rewrite-{name}", "rewrite", {"prompt_rewrite": name}, note=note, told=rewrite.told)


def drop_unrelated_text(threshold: float) -> Mitigation:
    """The baseline that reads text only: sentences less similar to the last one than `threshold` (cosine) go."""
    return _with_threshold("drop-unrelated-text", threshold)


def leave_one_out(threshold: float) -> Mitigation:
    """The teacher: sentences go from which the last one gains less than `threshold`, in nats a token."""
    return _with_threshold("leave-one-out", threshold)


def _with_threshold(name: str, threshold: float) -> Mitigation:
    rewrite = find_rewrite(f"{name}:{threshold:g}")
    return Mitigation(
        f"{name}-{threshold:g}",
        "rewrite",
        {"prompt_rewrite": rewrite.name},
        note=_REWRITE_NOTES[name],
        told=rewrite.told,
    )


def decoding_mitigations(*, strengths: Sequence[float] | None = None) -> tuple[Mitigation, ...]:
    """Every named rule and rewriting, the oracle first; rules are made at each of `strengths`, or at their own."""
    rewrites = ("self", "self-examples", "last-sentence", "neutral-context", "drop-unrelated-text")
    rules = [name for name in CONTRASTS if name != "placebo"]
    return (
        ORACLE,
        *map(rewrite_mitigation, rewrites),
        *(contrast_mitigation(name, strength=strength) for name in rules for strength in strengths or (None,)),
        contrast_mitigation("placebo"),
    )


# -- catalogue ---------------------------------------------------------------------------------------------------------


def builtin_mitigations(*, system_role: bool = True) -> dict[str, Mitigation]:
    """All of this module's mitigations by name, the oracle first.

    `system_role` says whether prompts have one; without it, instructions that stand there are left out.
    """
    found = (*decoding_mitigations(), *instruction_mitigations(system_role=system_role))
    return {mitigation.name: mitigation for mitigation in found}


def find_mitigation(name: str) -> Mitigation:
    """The mitigation of that name among :func:`builtin_mitigations`."""
    return Registry("mitigation", builtin_mitigations()).find(name)


# -- instructions ------------------------------------------------------------------------------------------------------


def instruction_mitigation(name_or_text: str, *, name: str | None = None) -> Mitigation:
    """A named instruction, or any text to be said before every prompt, as a mitigation."""
    instruction = resolve_instruction(name_or_text)
    return Mitigation(
        name or f"instruction-{instruction.name}",
        "instruction",
        {"instruction": name_or_text},
        note=instruction.text,
        told=instruction.told,
    )


def instruction_mitigations(*, system_role: bool = True) -> tuple[Mitigation, ...]:
    """Every named instruction, without those that stand in the system role if prompts have none."""
    return tuple(
        instruction_mitigation(instruction.name)
        for instruction in INSTRUCTIONS.values()
        if instruction.name != "none" and (system_role or not instruction.system)
    )
