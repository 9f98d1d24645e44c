"""Settings of `quick`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from leakmech.core.validation import Words
from leakmech.generation.decoding import Decoding
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm, Prompting
from leakmech.runs.settings import (
    AdaptedModelSettings,
    DecodingSettings,
    EstimatorSettings,
    FormSettings,
    Spelling,
    refuse_missing_intervention,
)

INJECTIONS = ("Our holiday was wonderful.", "Our flight was awful.")
"""Put before the stem where a user gives none: one positive sentence and one negative one."""
_EMBEDDED = "embedded:"
_NEW_TOKENS = 48


class QuickConfig(EstimatorSettings, DecodingSettings, FormSettings, AdaptedModelSettings):
    """What decides the answers to one stem, and how they are scored."""

    command: ClassVar[str] = "quick"
    title: ClassVar[str] = "Quick look"

    inject: Annotated[tuple[Words, ...], Spelling(repeated=True)] = Field(
        INJECTIONS, min_length=1, description="sentence put before the stem"
    )
    generations: int = Field(8, ge=1, description="answers to each prompt (K)")
    seed: int = Field(0, description="seed of everything that is drawn")
    intervention: str | None = Field(None, description="file of interventions (.json) that the model runs under")
    prompt_form: PromptForm = Field(
        "auto",
        description="chat, prefill, plain, or auto: chat if the tokenizer has a template; unless it is given, plain "
        "for embedded models, whose chat form repeats the injection",
    )
    system: str | None = Field(
        DEFAULT_SYSTEM, description="text of the system role in chat and prefill form; none leaves it out"
    )
    decoding: Annotated[Decoding, Spelling(prefix="")] = Field(
        default_factory=lambda: Decoding(max_new_tokens=_NEW_TOKENS), description="sampling settings"
    )

    def refuse_missing(self) -> None:
        super().refuse_missing()
        refuse_missing_intervention(self.intervention)

    @property
    def prompting(self) -> Prompting:
        """How prompts are put to the model."""
        embedded = self.model.startswith(_EMBEDDED) and "prompt_form" not in self.model_fields_set
        return Prompting("plain" if embedded else self.prompt_form, self.system)
