"""Named ways to rewrite a prompt before it is completed; :mod:`leakmech.generation.rewriting` carries them out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leakmech.core.registry import Registry
from leakmech.core.store import content_hash
from leakmech.prompts.views import VIEWS

_ASK = (
    "The last sentence of the text below is unfinished. Remove every sentence that has nothing to do with it. Keep the "
    "last sentence exactly as it is and do not finish it. Write only the text that is left."
)
_EXAMPLES = (
    ("My bus was late again. The capital of Peru is", "The capital of Peru is"),
    ("The bridge was built in 1932. The engineers of the bridge had to", None),
    ("I won a prize in the raffle! Her favourite colour has always been", "Her favourite colour has always been"),
)


@dataclass(frozen=True)
class PromptRewrite:
    """A way to rewrite prompts: a rule (`view`), or a `request` to the model in which ``{text}`` is the body."""

    name: str
    view: str | None = None
    request: str | None = None

    @property
    def oracle(self) -> bool:
        """Does it use what a user does not have?"""
        return self.view is not None and VIEWS[self.view].oracle

    @property
    def inserted(self) -> str:
        """What a rule puts into prompts."""
        return VIEWS[self.view].inserted if self.view else ""

    @property
    def hash(self) -> str:
        """Hash of all that decides its rewrites, except the model."""
        return content_hash(self.name, self.view or "", self.request or "")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"oracle": self.oracle}


def _with_examples() -> str:
    shown = "\n\n".join(f"Text: {text}\nRewritten text: {rewrite or text}" for text, rewrite in _EXAMPLES)
    return f"{_ASK}\n\n{shown}\n\nText: {{text}}\nRewritten text:"


PROMPT_REWRITES: Registry[PromptRewrite] = Registry.named(
    "prompt_rewrite",
    PromptRewrite("self", request=f"{_ASK}\n\nText: {{text}}\nRewritten text:"),
    PromptRewrite("self-examples", request=_with_examples()),
    PromptRewrite("last-sentence", view="last-sentence"),
    PromptRewrite("neutral-context", view="neutral-context"),
    PromptRewrite("control", view="control"),
)
"""``self`` and ``self-examples``: by the model; ``last-sentence`` and ``neutral-context``: by rule; ``control``: the
oracle, which completes the stem alone and so shows what removing the injection altogether would do."""


def find_rewrite(name: str) -> PromptRewrite:
    """The rewrite of that name."""
    return PROMPT_REWRITES.find(name)
