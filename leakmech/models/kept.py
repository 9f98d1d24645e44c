"""A model that stays loaded between the runs of one process, so that a sweep reads its weights once for many cells.

Only a process that asks for it (:func:`keeping_models`) keeps one: the last that a configuration named. Before it is
given out again, adapters are taken off, and weights, settings, tokenizer, template and hooks must be what they were
when it was read; if they are not, or a file of its folder changed, it is read anew.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from leakmech.core.errors import LeakmechWarning
from leakmech.core.store import files_stamp
from leakmech.models.adapters import is_peft

if TYPE_CHECKING:
    from leakmech.models.loaded import LoadedModel

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


@dataclass(frozen=True)
class _Held:
    """A model, what it was asked for by, and what identified it then."""

    asked: tuple[Any, ...]
    loaded: LoadedModel
    identity: tuple[Any, ...]
    trained: tuple[bool, ...]
    """Which weights ask for gradients."""


@dataclass
class Keeper:
    """Holds the last model that was read."""

    _held: _Held | None = None
    _adapted: list[Any] = field(default_factory=list)

    def take(self, asked: tuple[Any, ...], folder: Path, read: Callable[[], LoadedModel]) -> LoadedModel:
        """The model that `asked` names: the one that is held, if it still is what it was, or one that is read."""
        asked = (*asked, files_stamp(sorted(file for file in folder.rglob("*") if file.is_file())))
        self._take_adapters_off()
        if self._held is not None and self._held.asked == asked:
            again = replace(self._held.loaded)  # without the hashes that were kept with it
            if _identity(again) == self._held.identity:
                again.model.eval()
                return again
            warnings.warn(f"{again.name}: was changed by an earlier run; it is read again", LeakmechWarning, 2)
        self.drop()
        loaded = read()
        self._held = _Held(asked, loaded, _identity(loaded), _trained(loaded.model))
        return replace(loaded)

    def adapted(self, model: Any) -> None:
        """An adapter was put on the model that is held."""
        self._adapted.append(model)

    def drop(self) -> None:
        """Free the memory of the model that is held."""
        self._held = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _take_adapters_off(self) -> None:
        while self._adapted and self._held is not None:
            self._adapted.pop().unload()
            for parameter, trained in zip(self._held.loaded.model.parameters(), self._held.trained, strict=True):
                parameter.requires_grad_(trained)  # adapters freeze what they are put on


_keepers: list[Keeper] = []


@contextmanager
def keeping_models() -> Iterator[Keeper]:
    """Keep the model that configurations name, in this process, for the time of the block."""
    keeper = Keeper()
    _keepers.append(keeper)
    try:
        yield keeper
    finally:
        _keepers.remove(keeper)
        keeper.drop()


def keeper() -> Keeper | None:
    """What keeps models in this process, if anything does."""
    return _keepers[-1] if _keepers else None


def _identity(loaded: LoadedModel) -> tuple[Any, ...]:
    """Everything of a model that decides what it computes, and what a run might leave on it."""
    modules = list(loaded.model.modules())
    hooks = sum(len(getattr(module, name)) for module in modules for name in _HOOKS)
    hashes = (loaded.weights_hash, loaded.tokenizer_hash, loaded.template_hash, loaded.generation_hash)
    return (*hashes, hooks, _trained(loaded.model), is_peft(loaded.model))


def _trained(model: Any) -> tuple[bool, ...]:
    return tuple(parameter.requires_grad for parameter in model.parameters())
