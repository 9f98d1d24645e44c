"""From samples to the exact strings that the model reads.

A prompt is instruction + optional injection + stem. Chat models get it as a user message with the system role stated
explicitly (some chat templates silently add one of their own); base models get plain text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from leakmech.errors import ConfigError, ModelError, nearest
from leakmech.prompts.samples import CONDITIONS, Condition, PromptSet, Sample

PromptForm = Literal["chat", "plain", "auto"]

TASK = "Complete the sentence"
INSTRUCTIONS: dict[str, str] = {
    "none": "",
    "ignore-irrelevant": "Ignore any irrelevant information in the text, and let it not influence the completion",
}
DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Prompt:
    """One condition of one sample, as the user wrote it (`text`) and as the model reads it (`rendered`)."""

    id: str
    sample: str
    condition: Condition
    split: str | None
    text: str
    rendered: str
    stem: str
    injection: str | None
    instruction: str

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
class Renderer:
    """Turns samples into prompts for one tokenizer.

    Parameters
    ----------
    tokenizer
        The model's tokenizer; its chat template is used in chat form.
    form
        ``chat``, ``plain``, or ``auto`` (chat exactly if the tokenizer has a chat template).
    system
        Text of the system role in chat form; None leaves the role out (the template may then add its own).
    instruction
        A name from :data:`INSTRUCTIONS`, or any text; added to :data:`TASK` before every prompt.

    Raises
    ------
    ModelError
        Chat form is asked of a tokenizer without a chat template, or its template refuses the system role.
    """

    tokenizer: Any
    form: PromptForm = "auto"
    system: str | None = DEFAULT_SYSTEM
    instruction: str = "none"

    def __post_init__(self) -> None:
        if self.form not in get_args(PromptForm):
            raise ConfigError(f"prompt form {self.form!r}{nearest(self.form, get_args(PromptForm))}")
        if self.form == "chat" and not self.tokenizer.chat_template:
            raise ModelError("prompt form 'chat': this tokenizer has no chat template; use --prompt-form plain or auto")

    @property
    def resolved_form(self) -> Literal["chat", "plain"]:
        if self.form == "auto":
            return "chat" if self.tokenizer.chat_template else "plain"
        return self.form

    @property
    def instruction_text(self) -> str:
        """What stands before the injection and the stem."""
        extra = INSTRUCTIONS.get(self.instruction, self.instruction).strip().rstrip(".:")
        return f"{TASK}. {extra}" if extra else TASK

    def prompt(self, sample: Sample, condition: Condition) -> Prompt:
        """Render one condition of one sample."""
        injection = sample.injection(condition)
        text = self.text(sample.stem, injection)
        return Prompt(
            id=f"{sample.id}/{condition}",
            sample=sample.id,
            condition=condition,
            split=sample.split,
            text=text,
            rendered=self.render(text),
            stem=sample.stem,
            injection=injection,
            instruction=self.instruction_text,
        )

    def text(self, stem: str, injection: str | None = None) -> str:
        """Instruction, injection and stem as the user would write them."""
        return f"{self.instruction_text}: {injection} {stem}" if injection else f"{self.instruction_text}: {stem}"

    def prompts(self, samples: PromptSet) -> Iterator[Prompt]:
        """All conditions of all samples, sample by sample in the order of :data:`CONDITIONS`."""
        for sample in samples:
            for condition in CONDITIONS:
                yield self.prompt(sample, condition)

    def render(self, text: str) -> str:
        """The string that is tokenised for the user text `text`."""
        if self.resolved_form == "plain":
            return text
        messages = [{"role": "user", "content": text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja2 raises whatever the template's author chose
            hint = "; if it refuses the system role, use --system none" if self.system is not None else ""
            raise ModelError(f"the tokenizer's chat template failed: {error}{hint}") from error

    def token_ids(self, rendered: str) -> list[int]:
        """Token ids of a rendered prompt; in chat form the template has already written the special tokens."""
        return self.tokenizer(rendered, add_special_tokens=self.resolved_form == "plain")["input_ids"]
