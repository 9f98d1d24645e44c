"""What a model is told to do, and where in the prompt it is told: one registry of named instructions.

Every prompt asks for the completion of a sentence, in the words of its *task*. An instruction adds something to that
request, in up to four places:

    [system role] … {system}.
    [user role]   {first}. {task}. {before}: {injection} {stem}

                  {after}.

Köprü et al. (2025, arXiv 2508.01708, section 4.4) put a sentence that asks to ignore irrelevant information before the
prompt and found that it does not help: that one, to the letter, is ``paper``. Every other text here is ours.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from leakmech.core.errors import ConfigError
from leakmech.core.registry import Registry
from leakmech.core.validation import has_words
from leakmech.prompts.told import Told

TASKS: Registry[str] = Registry(
    "task",
    {
        "complete": "Complete the sentence",
        "finish": "Finish the sentence",
        "continue": "Continue the sentence",
        "write-end": "Write the end of this sentence",
        "fill-in": "Fill in the rest of the sentence",
        "how-it-goes-on": "Say how this sentence goes on",
    },
)
"""Ways to ask for the completion, by name: the paper's wording (``complete``), and five paraphrases of it."""

DEFAULT_TASK = "complete"


@dataclass(frozen=True)
class Instruction:
    """An instruction: its name, and what it says in each of the four places (empty: nothing), without final stops.

    `task` is the request that it is added to. It is told the layout if it says that the last sentence is the request.
    """

    name: str
    before: str = ""
    after: str = ""
    system: str = ""
    first: str = ""
    task: str = TASKS[DEFAULT_TASK]
    told: Told = "nothing"

    @property
    def request(self) -> str:
        """What stands before injection and stem in the user's text."""
        return ". ".join(part for part in (self.first, self.task, self.before) if part)

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
        return {name: part for name, part in asdict(self).items() if name != "told"} | {"text": self.text}


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
    Instruction("last-sentence-only", before="Continue only the last sentence, as if it stood alone", told="layout"),
    # Asks for the distinction itself: affect that is about the same matter may stay.
    Instruction(
        "same-topic",
        before="Let an earlier sentence influence the completion only if it is about the same thing",
    ),
)


def resolve_instruction(name_or_text: str, *, task: str = DEFAULT_TASK) -> Instruction:
    """An instruction by name, or any text to be said before every prompt; `task` is a name or a text, too.

    A single word is always a name, so that a misspelt name never becomes a text. ConfigError for a text that has no
    words.
    """
    asked = resolve_task(task)
    if name_or_text in INSTRUCTIONS:
        return replace(INSTRUCTIONS[name_or_text], task=asked)
    if name_or_text and not has_words(name_or_text):
        raise ConfigError(f"instruction {name_or_text!r} has no words; give a sentence, or none")
    text = _own_words(name_or_text, INSTRUCTIONS)
    return Instruction("custom", before=text, task=asked) if text else replace(INSTRUCTIONS["none"], task=asked)


def resolve_task(name_or_text: str) -> str:
    """The words of a task, by name or as they are."""
    if name_or_text in TASKS:
        return TASKS[name_or_text]
    if not has_words(name_or_text):
        raise ConfigError(f"task {name_or_text!r} has no words; give a name or a sentence")
    return _own_words(name_or_text, TASKS)


def _own_words(text: str, names: Registry[Any]) -> str:
    """A text without its final stop; a single word is a name that there is not."""
    words = text.strip().rstrip(".:")
    if words and len(words.split()) == 1:
        raise names.missing(text, hint=" (or give a sentence)")
    return words
