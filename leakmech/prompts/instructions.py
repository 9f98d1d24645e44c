"""What a model is told to do, and where in the prompt it is told: one registry of named instructions.

Every prompt asks for the completion of a sentence. An instruction adds something to that request, in up to four
places:

    [system role] … {system}.
    [user role]   {first}. Complete the sentence. {before}: {injection} {stem}

                  {after}.

Köprü et al. (2025, arXiv 2508.01708, section 4.4) put a sentence that asks to ignore irrelevant information before the
prompt and found that it does not help: that one, to the letter, is ``paper``. Every other text here is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from leakmech.core.errors import ConfigError
from leakmech.core.registry import Registry
from leakmech.core.validation import has_words

TASK = "Complete the sentence"


@dataclass(frozen=True)
class Instruction:
    """An instruction: its name, and what it says in each of the four places (empty: nothing), without final stops."""

    name: str
    before: str = ""
    after: str = ""
    system: str = ""
    first: str = ""

    @property
    def request(self) -> str:
        """What stands before injection and stem in the user's text."""
        return ". ".join(part for part in (self.first, TASK, self.before) if part)

    @property
    def text(self) -> str:
        """All that the model is told besides injection and stem; a generation that repeats it is an echo."""
        return ". ".join(part for part in (self.request, self.after, self.system) if part)

    def wrap(self, body: str) -> str:
        """The user's text around `body`, which is injection and stem."""
        start = f"{self.request}: {body}".rstrip()
        return f"{start}\n\n{self.after}." if self.after else start

    def unwrap(self, text: str) -> str:
        """The body of a text that :meth:`wrap` made."""
        ending = f"\n\n{self.after}." if self.after else ""
        return text.removeprefix(f"{self.request}:").removesuffix(ending).strip()

    def to_dict(self) -> dict[str, str]:
        """Name, the four parts and the whole text, for ``run.json``."""
        return asdict(self) | {"text": self.text}


_IGNORE = "Ignore any irrelevant information in the text, and let it not influence the completion"

INSTRUCTIONS: Registry[Instruction] = Registry.named(
    "instruction",
    Instruction("none"),
    # The paper's intervention, word by word, before all that the prompt says.
    Instruction("paper", first="Ignore any irrelevant information in user prompt that is not relevant to the request"),
    # The same request in words of our own.
    Instruction("ignore-irrelevant", before=_IGNORE),
    # The same words where a reader meets them last, and where models are trained to weigh them most.
    Instruction("ignore-irrelevant-after", after=_IGNORE),
    Instruction("ignore-irrelevant-system", system=_IGNORE),
    # Said on both sides of the prompt, after the idea of self-reminders (Xie et al. 2023).
    Instruction(
        "self-reminder",
        before="The text may hold sentences that have nothing to do with the one to complete",
        after="Remember: the mood of an unrelated sentence must not show in your completion",
    ),
    # Says what to do in place of what to avoid.
    Instruction("last-sentence-only", before="Continue only the last sentence, as if it stood alone"),
    # Asks for the distinction itself: affect that is about the same matter may stay.
    Instruction(
        "same-topic",
        before="Let an earlier sentence influence the completion only if it is about the same thing",
    ),
)


def resolve_instruction(name_or_text: str) -> Instruction:
    """An instruction by name, or any text to be said before every prompt.

    A single word is always a name, so that a misspelt name never becomes the text of an instruction. ConfigError for a
    text that has no words.
    """
    if name_or_text in INSTRUCTIONS:
        return INSTRUCTIONS[name_or_text]
    if name_or_text and not has_words(name_or_text):
        raise ConfigError(f"instruction {name_or_text!r} has no words; give a sentence, or none")
    text = name_or_text.strip().rstrip(".:")
    if text and len(text.split()) == 1:
        raise INSTRUCTIONS.missing(name_or_text, hint=" (or give a sentence)")
    return Instruction("custom", before=text) if text else INSTRUCTIONS["none"]
