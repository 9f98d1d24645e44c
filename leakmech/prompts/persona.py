"""A question under a persona, as the model reads it.

    system  [system: persona] [user: question] [assistant:
    user    [user: persona / empty line / question] [assistant:         where the template has no system role
    none    [user: question] [assistant:                                the template may add a system text of its own

The system role is explicit wherever there is a persona, because some templates add a text of their own if there is
none. That text is the model's default persona. Let R(s) be what the template makes of a conversation with the system
text s, and R() without one. The default is the text d that stands in R() at the place of s in R(s), and with which

    R(d) = R().

A template has no system role if it raises an error on one, or writes a prompt without its text.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from leakmech.core.errors import LeakmechWarning, ModelError
from leakmech.core.text import contains_words
from leakmech.datasets.personas import Persona
from leakmech.prompts.render import Prompting, Renderer

PersonaPlace = Literal["system", "user", "none"]

_MARK = "⟦the system text⟧"
"""Begins and ends with characters that no default does, so that nothing of a default counts as common to both."""
_QUESTION = "⟨the question⟩"


@dataclass(frozen=True)
class PersonaPrompt:
    """A question under a persona: `text` is what the user says, `rendered` what the model reads.

    ``system`` is the text of the system role: the persona's, the template's own where there is no persona, or None.
    """

    persona: str | None
    question: str
    system: str | None
    text: str
    rendered: str
    place: PersonaPlace


@dataclass(frozen=True)
class PersonaRenderer:
    """Renders questions under personas for one tokenizer.

    Raises
    ------
    ModelError
        The tokenizer has no chat template, so that there is no place for a persona.
    """

    tokenizer: Any

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise ModelError("personas: this tokenizer has no chat template, so there is no role for a system prompt")

    @cached_property
    def place(self) -> PersonaPlace:
        """Where personas stand: in the system role, or in the user's turn where the template has none."""
        return "system" if self._marked is not None else "user"

    @cached_property
    def default(self) -> str | None:
        """The system text that the template writes where there is no system role, or None (see the module's head)."""
        bare = self._read(_QUESTION)
        if self._marked is None:
            return None
        start = _n_common(bare, self._marked)
        end = _n_common(bare[start:][::-1], self._marked[start:][::-1])
        own = bare[start : len(bare) - end]
        if not own.strip():
            return None
        for text in (own, own.strip()):
            if self._read(_QUESTION, system=text) == bare:
                return text
        warnings.warn(
            f"the chat template writes {own.strip()[:80]!r} where there is no system role, which no system text gives "
            "back; it does not count as the model's default persona",
            LeakmechWarning,
            stacklevel=2,
        )
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a run says of its prompts: where personas stand, if not in the system role."""
        if self.place == "system":
            return ()
        return ("the chat template has no system role: personas stand before the question, in the user's turn",)

    def render(self, question: str, persona: Persona | None = None, *, opening: str = "") -> PersonaPrompt:
        """The prompt of a question under a persona, or under none; the answer begins with `opening`.

        Raises
        ------
        ModelError
            The template fails, or cannot open the assistant's turn.
        """
        if persona is None:
            rendered = self._read(question, opening=opening)
            return PersonaPrompt(None, question, self.default, question, rendered, "none")
        if self.place == "system":
            rendered = self._read(question, system=persona.prompt, opening=opening)
            return PersonaPrompt(persona.id, question, persona.prompt, question, rendered, "system")
        text = f"{persona.prompt}\n\n{question}"
        return PersonaPrompt(persona.id, question, None, text, self._read(text, opening=opening), "user")

    def ids(self, question: str, persona: Persona | None = None) -> tuple[int, ...]:
        """Token ids of the prompt of a question."""
        return tuple(self._reader.token_ids(self.render(question, persona).rendered))

    @cached_property
    def _reader(self) -> Renderer:
        return Renderer(self.tokenizer, Prompting("chat"))

    @cached_property
    def _marked(self) -> str | None:
        """A conversation with a system text; None where the template has no place for one."""
        try:
            rendered = self._read(_QUESTION, system=_MARK)
        except ModelError:
            self._read(_QUESTION)  # a template that fails in any case is an error
            return None
        return rendered if contains_words(rendered, _MARK) else None

    def _read(self, text: str, *, system: str | None = None, opening: str = "") -> str:
        prompting = Prompting("prefill" if opening else "chat", system)
        return Renderer(self.tokenizer, prompting).render(text, opening=opening)


def _n_common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def model_default(tokenizer: Any) -> str | None:
    """The system text that a chat template writes where there is no system role, or None if it writes none.

    Raises
    ------
    ModelError
        The tokenizer has no chat template, or it fails.
    """
    return PersonaRenderer(tokenizer).default
