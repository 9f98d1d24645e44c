"""From samples to the exact strings that the model reads.

A prompt is instruction + optional injection + stem (:mod:`leakmech.prompts.instructions` says where an instruction
stands). It is put to the model in one of three forms:

    chat      [system] [user: instruction: injection stem] [assistant:
    prefill   [system] [user: instruction: injection stem] [assistant: stem
    plain     instruction: injection stem

In ``chat`` the model answers, in the others it goes on from the stem. The system role is stated explicitly, because
some chat templates silently add one of their own. In ``prefill`` the assistant's turn is rendered as the template
renders one that is already there, and cut off after the stem: so the model reads what it read in training before such a
word, and whether a space stands before the stem is up to the template. A request that has no stem (a question, say) has
nothing to open the answer with, and is put in the form of :attr:`Renderer.asking`.

An injection in an earlier turn (place ``turn``) is a message of its own, which the assistant has answered:

    chat      [system] [user: injection] [assistant: I have noted that.] [user: instruction: stem] [assistant:
    plain     User: injection / Assistant: I have noted that. / User: instruction: stem

The body is the words of both turns; a body that is rewritten keeps an earlier turn as long as something stands before
the stem.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from leakmech.core.errors import ConfigError, ModelError, nearest
from leakmech.core.text import contains_words
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, Sample
from leakmech.prompts.arrangement import injection_place
from leakmech.prompts.bodies import REPLY, SPEAKERS, Place, Span, body_of, joined
from leakmech.prompts.dates import with_date
from leakmech.prompts.instructions import DEFAULT_TASK, Instruction, resolve_instruction
from leakmech.prompts.tokens import encoded

PromptForm = Literal["chat", "prefill", "plain", "auto"]
ResolvedForm = Literal["chat", "prefill", "plain"]

DEFAULT_SYSTEM = "You are a helpful assistant."
_NO_SPACE_BEFORE = (".", ",", ";", ":", "!", "?", ")", "…")


@dataclass(frozen=True)
class Prompt:
    """One condition of one sample, as the user wrote it (`text`) and as the model reads it (`rendered`).

    ``body`` is what holds injection and stem, at the characters that ``spans`` says, ``instruction`` all that is said
    besides it, and ``opening`` what `rendered` ends with beside the text: the stem in the assistant's turn, or nothing.
    ``earlier`` is the user's earlier turn, if there is one; ``text`` is the last one.
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
    spans: Mapping[str, Span] = field(default_factory=dict)
    opening: str = ""
    earlier: str = ""
    inserted: tuple[str, ...] = ()
    """What an arrangement says besides injection and stem (:class:`leakmech.prompts.bodies.Body`)."""
    without: str = ""
    """The body of the control prompt: without the injection."""

    def to_dict(self) -> dict[str, str | None]:
        """The line of ``prompts.jsonl``; where stem and injection do not follow from the text, it says them."""
        return {
            "id": self.id,
            "sample": self.sample,
            "condition": self.condition,
            "split": self.split,
            "text": transcript(self.text, self.earlier),
            "rendered": self.rendered,
            **({"stem": self.stem, "injection": self.injection} if self.inserted else {}),
        }


def transcript(text: str, earlier: str = "") -> str:
    """The turns of a conversation as a plain text; of a single one the text alone."""
    user, assistant = SPEAKERS
    return f"{user} {earlier}\n{assistant} {REPLY}\n{user} {text}" if earlier else text


@dataclass(frozen=True)
class Prompting:
    """How samples become prompts.

    Parameters
    ----------
    form
        ``chat``, ``prefill`` (chat, and the answer opens with the stem), ``plain``, or ``auto`` (chat exactly if the
        tokenizer has a chat template).
    system
        Text of the system role in chat and prefill form; None leaves the role out (the template may then add its own).
    instruction
        A name from :data:`~leakmech.prompts.instructions.INSTRUCTIONS`, or any text to be said before every prompt.
    place
        Whether injections stand before the stem, in an earlier ``turn`` or, with a chat template, in a line of their
        own after it.
    task
        How the completion is asked for: a name from :data:`~leakmech.prompts.instructions.TASKS`, or any text.

    Raises
    ------
    ConfigError
        There is no such prompt form, place, instruction or task.
    """

    form: PromptForm = "auto"
    system: str | None = DEFAULT_SYSTEM
    instruction: str = "none"
    place: Place = "before"
    task: str = DEFAULT_TASK

    def __post_init__(self) -> None:
        if self.form not in get_args(PromptForm):
            raise ConfigError(f"prompt form {self.form!r}{nearest(self.form, get_args(PromptForm))}")
        if self.place not in get_args(Place):
            raise ConfigError(f"place of the injection {self.place!r}{nearest(self.place, get_args(Place))}")
        resolve_instruction(self.instruction, task=self.task)

    @classmethod
    def of(cls, settings: Any) -> Prompting:
        """Read it from settings with ``prompt_form``, ``system``, ``instruction``, ``task`` (and ``arrangement``)."""
        place = injection_place(getattr(settings, "arrangement", "before"))
        return cls(settings.prompt_form, settings.system, settings.instruction, place, settings.task)


@dataclass(frozen=True)
class Renderer:
    """Turns samples into prompts for one tokenizer.

    What the tokenizer cannot do is refused: chat or prefill form without a chat template, a system role or an open
    assistant's turn that the template does not have, or an injection or instruction after the stem in plain form,
    where that would be continued and not the stem.
    """

    tokenizer: Any
    prompting: Prompting = Prompting()

    def __post_init__(self) -> None:
        form = self.prompting.form
        if form in ("chat", "prefill") and not self.tokenizer.chat_template:
            raise ModelError(
                f"prompt form {form!r}: this tokenizer has no chat template; use --prompt-form plain or auto"
            )
        if self.prompting.place == "after" and self.tokenizer is not None and self.resolved_form == "plain":
            raise ConfigError(
                "injections after the stem: need a chat template; a plain text would end with its injection, which "
                "the model would continue instead of the stem"
            )
        if self.resolved_instruction.after and self.tokenizer is not None and self.resolved_form == "plain":
            raise ConfigError(
                f"instruction {self.prompting.instruction!r} stands after the stem: a plain text would end with it, "
                "and the model would continue it instead of the stem; choose another, or --prompt-form chat or prefill"
            )

    @property
    def resolved_form(self) -> ResolvedForm:
        """The form of the prompts, ``auto`` decided by the tokenizer."""
        if self.prompting.form == "auto":
            return "chat" if self.tokenizer.chat_template else "plain"
        return self.prompting.form

    @property
    def asking(self) -> Renderer:
        """What renders requests that have no stem: in chat form wherever the tokenizer has a template."""
        form = "chat" if self.tokenizer.chat_template else "plain"
        return replace(self, prompting=replace(self.prompting, form=form, place="before"))

    @cached_property
    def resolved_instruction(self) -> Instruction:
        """The instruction that is named."""
        return resolve_instruction(self.prompting.instruction, task=self.prompting.task)

    @property
    def instruction_text(self) -> str:
        """All that the model is told besides injection and stem."""
        return self.resolved_instruction.text

    def unrendered(self, sample: Sample, condition: Condition) -> Prompt:
        """One condition of one sample as the user writes it; what a model would read is left empty."""
        place = self.prompting.place
        body, control = body_of(sample, condition, place), body_of(sample, "control", place)
        earlier, last = self._turns(body.text, sample.stem)
        return Prompt(
            id=f"{sample.id}/{condition}",
            sample=sample.id,
            condition=condition,
            split=sample.split,
            text=self.resolved_instruction.wrap(last),
            rendered="",
            stem=sample.stem,
            injection=sample.injection(condition),
            instruction=self.instruction_text,
            body=body.text,
            spans=body.spans,
            earlier=earlier,
            inserted=body.inserted,
            without=control.text,
        )

    def read(self, stem: str, injection: str | None = None) -> str:
        """What the model reads of a stem and an injection that belong to no sample."""
        earlier, last = self._turns(joined(stem, injection, self.prompting.place).text, stem)
        return self.render(self.resolved_instruction.wrap(last), opening=self._opening(stem), earlier=earlier)

    def _opening(self, stem: str) -> str:
        return stem if self.resolved_form == "prefill" else ""

    def _turns(self, body: str, stem: str) -> tuple[str, str]:
        """What of a body the user says in an earlier turn, and in the last one."""
        if self.prompting.place != "turn" or not body.endswith(stem):
            return "", body
        return body.removesuffix(stem).strip(), stem

    def prompt(self, sample: Sample, condition: Condition) -> Prompt:
        """Render one condition of one sample."""
        prompt = self.unrendered(sample, condition)
        return self._rendered(replace(prompt, opening=self._opening(sample.stem)))

    def with_body(self, prompt: Prompt, body: str) -> Prompt:
        """`prompt` with another body in place of injection and stem; it keeps its id, and so its noise.

        In prefill form the answer opens with the stem as long as the body asks for it; what is said after a context
        alone begins in an empty turn.
        """
        opening = self._opening(prompt.stem) if contains_words(body, prompt.stem) else ""
        earlier, last = self._turns(body, prompt.stem)
        text = self.resolved_instruction.wrap(last)
        return self._rendered(replace(prompt, text=text, body=body, spans={}, opening=opening, earlier=earlier))

    def _rendered(self, prompt: Prompt) -> Prompt:
        return replace(prompt, rendered=self.render(prompt.text, opening=prompt.opening, earlier=prompt.earlier))

    def prompts(self, samples: PromptSet, conditions: Collection[Condition] = CONDITIONS) -> Iterator[Prompt]:
        """Prompts of all samples, sample by sample in the order of :data:`CONDITIONS`."""
        for sample in samples:
            for condition in CONDITIONS:
                if condition in conditions:
                    yield self.prompt(sample, condition)

    def render(self, text: str, *, opening: str = "", earlier: str = "") -> str:
        """The string that is tokenised for the user text `text`, after an `earlier` turn that the assistant answered.

        In prefill form the answer opens with `opening`.
        """
        system = self._system()
        if self.resolved_form == "plain":
            alone = self.prompting.place == "turn" and not earlier
            return f"{SPEAKERS[0]} {text}" if alone else transcript(text, earlier)
        messages = [{"role": "user", "content": text}]
        if earlier:
            messages = [{"role": "user", "content": earlier}, {"role": "assistant", "content": REPLY}, *messages]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        if opening:
            return self._opened(messages, opening)
        try:
            return self._applied(messages, add_generation_prompt=True)
        except Exception as error:  # jinja2 raises whatever the template's author chose
            hint = "; if it refuses the system role, use --system none" if system is not None else ""
            raise ModelError(f"the tokenizer's chat template failed: {error}{hint}") from error

    def _opened(self, messages: list[dict[str, str]], opening: str) -> str:
        """The conversation up to `opening` in the assistant's turn, which the template must leave as it is."""
        messages = [*messages, {"role": "assistant", "content": opening}]
        try:
            rendered = self._applied(messages, continue_final_message=True)
            problem = "" if rendered.endswith(opening) else f"it changes {opening!r}"
        except Exception as error:  # as above, and ValueError where the text is lost
            rendered, problem = "", str(error).partition("\n")[0]
        if problem:
            raise ModelError(
                f"prompt form 'prefill': the chat template cannot open the assistant's turn with the stem ({problem}); "
                "use --prompt-form chat or plain"
            )
        return rendered

    def _applied(self, messages: list[dict[str, str]], **options: Any) -> str:
        template = self.tokenizer.chat_template
        if isinstance(template, str) and (own := with_date(template)) != template:
            options |= {"chat_template": own}
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

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
        """Token ids of a rendered prompt; a chat template has already written the special tokens."""
        return encoded(self.tokenizer, [rendered], special=self.resolved_form == "plain")["input_ids"][0]

    def answer_ids(self, stem: str, answer: str) -> tuple[int, ...]:
        """Token ids of a text without white space around it as the answer to a prompt that ends with `stem`.

        Where the model goes on from the stem, they are those that the text has after the stem and a space (none before
        a comma or the like).
        """
        tokenizer = self.tokenizer

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

        if self.resolved_form == "chat" or not answer:
            return ids(answer)
        space = "" if answer.startswith(_NO_SPACE_BEFORE) else " "
        before, whole = ids(stem), ids(f"{stem}{space}{answer}")
        return whole[len(before) :] if whole[: len(before)] == before else ids(space + answer)
