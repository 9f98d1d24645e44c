"""From samples to the exact strings that the model reads.

A prompt is instruction + optional injection + stem (:mod:`leakmech.prompts.instructions` says where an instruction
stands). Chat models get it as a user message with the system role stated explicitly (some chat templates silently add
one of their own); base models get plain text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from leakmech.core.errors import ConfigError, ModelError, nearest
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, Sample
from leakmech.prompts.arrangement import Place, injection_place
from leakmech.prompts.instructions import Instruction, resolve_instruction

PromptForm = Literal["chat", "plain", "auto"]

DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Prompt:
    """One condition of one sample, as the user wrote it (`text`) and as the model reads it (`rendered`).

    ``body`` is the part of the text that holds injection and stem, ``instruction`` all that is said besides it.
    """

    id: str
    sample: str
    condition: Condition
    split: str | None
    text: str
    rendered: str
    stem: str
    injection: str | None
    instruction: str
    body: str
    place: Place = "before"

    def to_dict(self) -> dict[str, str | None]:
        """The line of ``prompts.jsonl``."""
        return {
            "id": self.id,
            "sample": self.sample,
            "condition": self.condition,
            "split": self.split,
            "text": self.text,
            "rendered": self.rendered,
        }


@dataclass(frozen=True)
class Prompting:
    """How samples become prompts.

    Parameters
    ----------
    form
        ``chat``, ``plain``, or ``auto`` (chat exactly if the tokenizer has a chat template).
    system
        Text of the system role in chat form; None leaves the role out (the template may then add its own).
    instruction
        A name from :data:`~leakmech.prompts.instructions.INSTRUCTIONS`, or any text to be said before every prompt.
    place
        Whether injections stand before the stem or, in chat form, in a line of their own after it.

    Raises
    ------
    ConfigError
        There is no such prompt form, place or instruction.
    """

    form: PromptForm = "auto"
    system: str | None = DEFAULT_SYSTEM
    instruction: str = "none"
    place: Place = "before"

    def __post_init__(self) -> None:
        if self.form not in get_args(PromptForm):
            raise ConfigError(f"prompt form {self.form!r}{nearest(self.form, get_args(PromptForm))}")
        if self.place not in get_args(Place):
            raise ConfigError(f"place of the injection {self.place!r}{nearest(self.place, get_args(Place))}")
        resolve_instruction(self.instruction)

    @classmethod
    def of(cls, settings: Any) -> Prompting:
        """Read it from settings with ``prompt_form``, ``system``, ``instruction`` and perhaps ``arrangement``."""
        place = injection_place(getattr(settings, "arrangement", "before"))
        return cls(settings.prompt_form, settings.system, settings.instruction, place)


@dataclass(frozen=True)
class Renderer:
    """Turns samples into prompts for one tokenizer.

    What the tokenizer cannot do is refused: chat form without a chat template, a system role that is not there, or
    injections after the stem in plain form, where the injection would be continued and not the stem.
    """

    tokenizer: Any
    prompting: Prompting = Prompting()

    def __post_init__(self) -> None:
        if self.prompting.form == "chat" and not self.tokenizer.chat_template:
            raise ModelError("prompt form 'chat': this tokenizer has no chat template; use --prompt-form plain or auto")
        if self.prompting.place == "after" and self.tokenizer is not None and self.resolved_form == "plain":
            raise ConfigError(
                "injections after the stem: need a chat template; a plain text would end with its injection, which "
                "the model would continue instead of the stem"
            )

    @property
    def resolved_form(self) -> Literal["chat", "plain"]:
        """The form of the prompts, ``auto`` decided by the tokenizer."""
        if self.prompting.form == "auto":
            return "chat" if self.tokenizer.chat_template else "plain"
        return self.prompting.form

    @cached_property
    def resolved_instruction(self) -> Instruction:
        """The instruction that is named."""
        return resolve_instruction(self.prompting.instruction)

    @property
    def instruction_text(self) -> str:
        """All that the model is told besides injection and stem."""
        return self.resolved_instruction.text

    def unrendered(self, sample: Sample, condition: Condition) -> Prompt:
        """One condition of one sample as the user writes it; what a model would read is left empty."""
        injection = sample.injection(condition)
        body = self._body(sample.stem, injection)
        return Prompt(
            id=f"{sample.id}/{condition}",
            sample=sample.id,
            condition=condition,
            split=sample.split,
            text=self.resolved_instruction.wrap(body),
            rendered="",
            stem=sample.stem,
            injection=injection,
            instruction=self.instruction_text,
            body=body,
            place=self.prompting.place,
        )

    def text(self, stem: str, injection: str | None = None) -> str:
        """Instruction, injection and stem as the user would write them."""
        return self.resolved_instruction.wrap(self._body(stem, injection))

    def _body(self, stem: str, injection: str | None) -> str:
        if not injection:
            return stem
        return f"{injection} {stem}" if self.prompting.place == "before" else f"{stem}\n{injection}"

    def prompt(self, sample: Sample, condition: Condition) -> Prompt:
        """Render one condition of one sample."""
        prompt = self.unrendered(sample, condition)
        return replace(prompt, rendered=self.render(prompt.text))

    def with_body(self, prompt: Prompt, body: str) -> Prompt:
        """`prompt` with another body in place of injection and stem; it keeps its id, and so its noise."""
        text = self.resolved_instruction.wrap(body)
        return replace(prompt, text=text, rendered=self.render(text), body=body)

    def prompts(self, samples: PromptSet, conditions: Collection[Condition] = CONDITIONS) -> Iterator[Prompt]:
        """Prompts of all samples, sample by sample in the order of :data:`CONDITIONS`."""
        for sample in samples:
            for condition in CONDITIONS:
                if condition in conditions:
                    yield self.prompt(sample, condition)

    def render(self, text: str) -> str:
        """The string that is tokenised for the user text `text`."""
        system = self._system()
        if self.resolved_form == "plain":
            return text
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja2 raises whatever the template's author chose
            hint = "; if it refuses the system role, use --system none" if system is not None else ""
            raise ModelError(f"the tokenizer's chat template failed: {error}{hint}") from error

    def _system(self) -> str | None:
        """Text of the system role, with what the instruction adds to it."""
        system, addition = self.prompting.system, self.resolved_instruction.system
        if not addition:
            return system
        if self.resolved_form == "plain" or system is None:
            why = "plain prompts have none" if self.resolved_form == "plain" else "--system none leaves it out"
            raise ConfigError(
                f"instruction {self.prompting.instruction!r} stands in the system role, and {why}; choose another"
            )
        return f"{system} {addition}."

    def token_ids(self, rendered: str) -> list[int]:
        """Token ids of a rendered prompt; in chat form the template has already written the special tokens."""
        return self.tokenizer(rendered, add_special_tokens=self.resolved_form == "plain")["input_ids"]
