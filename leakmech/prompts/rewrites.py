"""Named ways to rewrite a prompt before it is completed; :mod:`leakmech.generation.rewriting` carries them out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from leakmech.core.errors import ConfigError
from leakmech.core.registry import Registry
from leakmech.core.store import content_hash
from leakmech.prompts.told import Told, is_oracle
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
    """A way to rewrite prompts.

    It is a rule (`view`), a `request` to the model in which ``{text}`` is the body, a `threshold` of similarity to the
    last sentence under which sentences are dropped (:mod:`leakmech.prompts.unrelated`), or one of what they do for its
    likelihood (`gain`, :mod:`leakmech.generation.leave_one_out`).
    """

    name: str
    view: str | None = None
    request: str | None = None
    threshold: float | None = None
    gain: float | None = None

    @property
    def told(self) -> Told:
        """What it is told beside the text: requests and thresholds are about the last sentence."""
        return VIEWS[self.view].told if self.view else "layout"

    @property
    def inserted(self) -> str:
        """What a rule puts into prompts."""
        return VIEWS[self.view].inserted if self.view else ""

    @property
    def hash(self) -> str:
        """Hash of all that decides its rewrites, except the model."""
        threshold = () if self.threshold is None else (repr(self.threshold),)
        gain = () if self.gain is None else (f"gain {self.gain!r}",)
        return content_hash(self.name, self.view or "", self.request or "", *threshold, *gain)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"told": self.told, "oracle": is_oracle(self.told)}


def _with_examples() -> str:
    shown = "\n\n".join(f"Text: {text}\nRewritten text: {rewrite or text}" for text, rewrite in _EXAMPLES)
    return f"{_ASK}\n\n{shown}\n\nText: {{text}}\nRewritten text:"


PROMPT_REWRITES: Registry[PromptRewrite] = Registry.named(
    "prompt_rewrite",
    PromptRewrite("self", request=f"{_ASK}\n\nText: {{text}}\nRewritten text:"),
    PromptRewrite("self-examples", request=_with_examples()),
    PromptRewrite("last-sentence", view="last-sentence"),
    PromptRewrite("neutral-context", view="neutral-context"),
    PromptRewrite("drop-unrelated-text", threshold=0.15),
    PromptRewrite("leave-one-out", gain=0.1),
    PromptRewrite("control", view="control"),
)
"""``self`` and ``self-examples``: by the model; ``last-sentence`` and ``neutral-context``: by rule;
``drop-unrelated-text``: by similarity; ``leave-one-out``: by what the last sentence's likelihood loses without them;
``control``: the oracle, which completes the stem alone and so shows what removing the injection altogether would do."""


def find_rewrite(name: str) -> PromptRewrite:
    """The rewrite of that name; ``drop-unrelated-text:0.3`` has a threshold of its own."""
    base, colon, threshold = name.partition(":")
    found = PROMPT_REWRITES.find(base)
    if not colon:
        return found
    if found.threshold is None and found.gain is None:
        raise ConfigError(f"prompt_rewrite {name!r}: {base} has no threshold")
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if found.gain is not None:
        if not math.isfinite(value):
            raise ConfigError(f"prompt_rewrite {name!r}: a threshold is a number of nats a token, such as 0.1")
        return replace(found, name=f"{base}:{value:g}", gain=value)
    if not -1 <= value <= 1:
        raise ConfigError(f"prompt_rewrite {name!r}: a threshold is a cosine, a number from -1 to 1")
    return replace(found, name=f"{base}:{value:g}", threshold=value)
