"""The names of expression estimators; what loads them is imported when one is loaded.

:mod:`leakmech.scoring.expression` says what each of them is, and how an installed package registers one.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from leakmech.core.errors import EstimatorError
from leakmech.core.registry import Registry

PLUGIN_GROUP = "leakmech.estimators"
_HOME = "leakmech.scoring.expression"


class _Later:
    """A loader of :mod:`leakmech.scoring.expression`, which takes seconds to import."""

    def __init__(self, function: str) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return getattr(import_module(_HOME), self._function)(*arguments)


_BUILT_IN = {name: _Later(f"_load_{name}") for name in ("embedded", "vader", "ngrams")} | {
    "hub": _Later("_load_classifier")
}
ESTIMATORS: Registry[Any] = Registry(
    "estimator", _BUILT_IN, error=EstimatorError, unknown="unknown expression estimator {name}", group=PLUGIN_GROUP
)
"""By the part of their name before the colon."""


def refuse_unknown_estimator(name: str) -> None:
    """Refuse a name that none has; EstimatorError says the nearest one."""
    kind, _, rest = name.partition(":")
    if kind not in ESTIMATORS or (kind in _BUILT_IN and (kind == "hub") != bool(rest)):
        raise ESTIMATORS.missing(name, valid=["hub:<owner/name>" if known == "hub" else known for known in ESTIMATORS])


def estimator_names(names: str) -> tuple[str, ...]:
    """The names in a comma-separated list such as ``"embedded,vader"``, each there once."""
    found = tuple(name.strip() for name in names.split(","))
    if not all(found):
        raise EstimatorError(f"estimators {names!r}: a name is empty; write them as a,b")
    for name in found:
        if found.count(name) > 1:
            raise EstimatorError(f"estimators {names!r}: {name!r} is given twice")
    return found
