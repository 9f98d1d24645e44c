"""Which engines there are, and what each can do: names and limits only, so that settings can refuse a run with them.

Reading this needs neither torch nor an engine's package. The engine itself is made by :meth:`EngineKind.engine`, for a
model that is loaded where :meth:`EngineKind.placement` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from leakmech.core.errors import ConfigError
from leakmech.core.registry import Registry
from leakmech.generation.decoding import Decoding

DEFAULT_ENGINE = "hf"


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do, or what a run needs."""

    hooks: bool = False
    """The model runs under interventions that hook its forward pass."""
    contrast: bool = False
    """Rows are drawn from a combination of the logits after several prompts."""
    coupled_draws: bool = False
    """A draw depends on its address only (seed, prompt, generation, step, token): never on the batch, and two models
    draw with the same noise."""

    def lacking(self, needed: Capabilities) -> list[str]:
        """What of `needed` is not there, in words."""
        return [text for name, text in _NEEDS.items() if getattr(needed, name) > getattr(self, name)]


_NEEDS = {
    "hooks": "interventions as hooks (fold them into the weights: --fold)",
    "contrast": "contrastive decoding",
    "coupled_draws": "draws that depend on seed, prompt and generation only",
}


def incapable(engine: str, lacking: Collection[str]) -> ConfigError:
    """The error for what an engine cannot do."""
    return ConfigError(f"engine {engine!r}: cannot do what this run needs: {'; '.join(lacking)}")


@dataclass(frozen=True)
class EngineKind:
    """One kind of engine.

    `source` is where its class is, as ``module:class``. `reads_likelihoods` says whether the model runs in this
    process, so that likelihoods can be read beside what is drawn. `beyond` names what of decoding settings the engine
    cannot do as they are meant; None if it can do all.
    """

    name: str
    capabilities: Capabilities
    source: str
    reads_likelihoods: bool = True
    beyond: Callable[[Decoding], str | None] = lambda _: None

    def refuse(self, needed: Capabilities, decoding: Decoding, *, likelihoods_of: Collection[str] = ()) -> None:
        """Refuse what a run needs and these engines do not do; `likelihoods_of` names settings that read likelihoods.

        Raises
        ------
        ConfigError
            The message says what, and the way out.
        """
        lacking = self.capabilities.lacking(needed)
        if lacking:
            raise incapable(self.name, lacking)
        if likelihoods_of and not self.reads_likelihoods:
            raise ConfigError(
                f"engine {self.name!r}: {', '.join(likelihoods_of)} reads likelihoods of the model, which this engine "
                f"does not give; leave it out, or make the run with --engine {DEFAULT_ENGINE}"
            )
        beyond = self.beyond(decoding)
        if beyond is not None:
            raise ConfigError(f"engine {self.name!r}: {beyond}")

    def placement(self, *, device: str, dtype: str) -> tuple[str, str]:
        """Device and number format in which this process loads the model, for those that a user asked for.

        Raises
        ------
        ConfigError
            The engine's package is not installed, or the engine does not run there.
        """
        return self._class.placement(device=device, dtype=dtype)

    def engine(self, loaded: Any) -> Any:
        """The engine of a :class:`~leakmech.models.load.LoadedModel`."""
        return self._class.of(loaded)

    @property
    def _class(self) -> Any:
        module, _, name = self.source.partition(":")
        return getattr(import_module(module), name)


_COOLEST, _HOTTEST = 0.01, 2.0
"""vLLM raises lower temperatures than the first, other than 0, and refuses higher ones than the second."""


def _beyond_vllm(decoding: Decoding) -> str | None:
    temperature = decoding.temperature
    if decoding.no_repeat_ngrams:
        return "vLLM has no rule against repeated n-grams; set no_repeat_ngrams to 0"
    if temperature not in ("model", 0) and not _COOLEST <= float(temperature) <= _HOTTEST:
        return (
            f"vLLM samples at temperatures from {_COOLEST:g} to {_HOTTEST:g}, or greedily at 0; found {temperature:g}"
        )
    return None


ENGINES: Registry[EngineKind] = Registry.named(
    "engine",
    EngineKind(
        "hf",
        Capabilities(hooks=True, contrast=True, coupled_draws=True),
        "leakmech.generation.hf_engine:HFEngine",
    ),
    EngineKind(
        "vllm",
        Capabilities(),
        "leakmech.generation.vllm_engine:VLLMEngine",
        reads_likelihoods=False,
        beyond=_beyond_vllm,
    ),
)
"""All engines by name."""
