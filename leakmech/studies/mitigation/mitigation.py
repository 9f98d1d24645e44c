"""A mitigation as a value: its name, and how it changes a run of the ordinary benchmark.

Every mitigation is measured in the same way: the benchmark runs under it, and the two runs are compared. What a
mitigation changes lies in one of two places:

* the configuration (an instruction, a rewriting of the prompt, a decoding rule, a file with an adapter or an
  intervention): `settings`, which :meth:`Mitigation.configure` puts into a configuration;
* the model in memory: `interventions`, or any `hook`, which :meth:`Mitigation.around` enters while the benchmark
  generates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import content_hash
from leakmech.core.validation import CLOSED, checked
from leakmech.interventions.base import Intervention, interventions_key
from leakmech.interventions.files import load_interventions
from leakmech.models.configured import load_configured
from leakmech.models.load import LoadedModel
from leakmech.prompts.told import TOLD, Told, is_oracle, most_told
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.run import run_benchmark
from leakmech.studies.benchmark.settings import BenchConfig

FORMAT_VERSION = 1
MitigationKind = Literal["base", "baseline", "instruction", "rewrite", "decoding", "intervention", "adapter", "oracle"]
HELD_AGAINST: tuple[MitigationKind, ...] = ("base", "baseline", "oracle")
"""Kinds that mitigations are held against, and that are none themselves."""
_DEFAULTS = BenchConfig.parse({})
_TOLD_IN = {"prompt_rewrite", "contrast", "instruction"}


@dataclass(frozen=True)
class Mitigation:
    """Something meant to lower leakage, as a value.

    Parameters
    ----------
    name
        Unique among the mitigations of a comparison.
    kind
        What it is. ``base`` is the model as it is, ``baseline`` something arbitrary of equal size (a random direction)
        that a mitigation must beat. ``oracle`` marks what uses knowledge that a user does not have (which sentence was
        injected): a bound for mitigations, and not one itself.
    settings
        Fields of :class:`leakmech.studies.benchmark.settings.BenchConfig` that it sets. Settings of ``decoding`` are
        merged into those of the run.
    interventions
        What the model runs under, in their order.
    note
        What it does, in a line, for tables.
    hook
        Given the Hugging Face model, a context manager under which the model is changed.
    hook_version
        Names what `hook` does. Runs are resumed by this name: change it whenever the function changes.
    told
        What it is told beside the text of the prompt (:mod:`leakmech.prompts.told`). What only a `hook` reads cannot be
        checked.

    Raises
    ------
    ConfigError
        The kind or a setting is unknown, a value is out of range, a hook has no version, a part is told more than
        `told` says, or something that uses an oracle's knowledge is not marked as an oracle.
    """

    name: str
    kind: MitigationKind
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    interventions: tuple[Intervention, ...] = ()
    note: str = field(default="", compare=False)
    hook: Callable[[Any], AbstractContextManager[Any]] | None = field(default=None, repr=False, hash=False)
    hook_version: str = ""
    told: Told = "nothing"

    def __post_init__(self) -> None:
        if self.kind not in get_args(MitigationKind):
            raise ConfigError(f"{self._where}: kind {self.kind!r}{nearest(self.kind, get_args(MitigationKind))}")
        if (self.hook is not None) != bool(self.hook_version):
            raise ConfigError(f"{self._where}: a hook and a hook_version (which names what it does) go together")
        # A copy: a value does not change with the dictionary that it was made from.
        object.__setattr__(self, "settings", dict(self.settings))
        if self.told not in TOLD:
            raise ConfigError(f"{self._where}: told {self.told!r}{nearest(self.told, TOLD)}")
        if self.configure(_DEFAULTS).oracle and self.kind != "oracle":
            raise ConfigError(f"{self._where}: uses what a user does not have; its kind must be 'oracle'")
        least = told_by_parts(self.settings, self.interventions)
        if most_told([self.told, least]) != self.told:
            raise ConfigError(
                f"{self._where}: says that it is told {self.told}, but a part is told the {least}; say so"
            )
        if self.kind == "oracle" and not self.oracle:
            raise ConfigError(f"{self._where}: an oracle is told the boundary or the condition; say which")

    @property
    def _where(self) -> str:
        return f"mitigation {self.name!r}"

    @property
    def oracle(self) -> bool:
        """Is it told what a user does not have, so that it is a bound for mitigations?"""
        return is_oracle(self.told)

    @property
    def claimed(self) -> bool:
        """Is it meant to lower leakage, told nothing: is it what a comparison is about?"""
        return self.told == "nothing" and self.kind not in HELD_AGAINST

    def configure(self, config: BenchConfig) -> BenchConfig:
        """`config` under this mitigation.

        Raises
        ------
        ConfigError
            A setting is unknown or out of range, or `config` has a mitigation of its own in its place.
        """
        values = config.model_dump()
        for key, value in self.settings.items():
            if key not in values:
                raise ConfigError(f"{self._where}: unknown setting {key!r}{nearest(key, values)}")
            if key == "decoding":
                values[key] = values[key] | dict(value)
                continue
            if values[key] != getattr(_DEFAULTS, key) and values[key] != value:
                raise ConfigError(f"{self._where}: sets {key}, which the run sets to {values[key]!r} already")
            values[key] = value
        return BenchConfig.parse(values, where=self._where)

    def around(self, model: Any) -> AbstractContextManager[Any]:
        """While this is entered, the Hugging Face model `model` is changed; nothing happens without a hook."""
        return nullcontext() if self.hook is None else self.hook(model)

    @property
    def identity(self) -> str:
        """Text that decides what it does, whatever its name and note; of local files that it names, the contents."""
        parts = [self.settings, interventions_key(self.interventions), self.hook_version]
        named = (Path(self.settings[key]) for key in ("adapter", "intervention") if self.settings.get(key))
        files = [file for path in named for file in _tensor_files(path)]
        parts += [content_hash(*(file.read_bytes() for file in files))] if files else []
        return json.dumps(parts, sort_keys=True, default=str)

    @property
    def hash(self) -> str:
        """Hash of a hook's name and version."""
        return content_hash(self.name, self.hook_version)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready.

        Raises
        ------
        ConfigError
            It holds a Python function, or interventions as values.
        """
        if self.interventions:
            raise ConfigError(f"{self._where}: has tensors; save its interventions and name their file in settings")
        if self.hook is not None:
            raise ConfigError(f"{self._where}: is a Python function, which a file cannot hold; save an intervention")
        return {"format_version": FORMAT_VERSION, **{name: getattr(self, name) for name in _Stored.model_fields}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Mitigation:
        """Read what :meth:`to_dict` made.

        Raises
        ------
        ConfigError
            It is not a mitigation, or of another version.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ConfigError(f"mitigation: format version {version!r}; this leakmech reads {FORMAT_VERSION}")
        given = {key: value for key, value in values.items() if key != "format_version"}
        stored = checked(_Stored, given, where="mitigation", error=ConfigError, noun="key").model_dump()
        if stored["told"] is None:  # an older file
            stored["told"] = told_by_parts(stored["settings"])
        return cls(**stored)


class _Stored(BaseModel):
    """What a file holds of a mitigation."""

    model_config = CLOSED

    name: str
    kind: MitigationKind
    settings: dict[str, Any] = {}
    note: str = ""
    told: Told | None = None


def told_by_parts(settings: Mapping[str, Any], interventions: Sequence[Intervention] = ()) -> Told:
    """The most that the parts of a mitigation are told: its settings, interventions, and a file of them if there."""
    configured = BenchConfig.parse({key: settings[key] for key in _TOLD_IN & settings.keys()}).told
    return most_told([configured, *(item.told for item in (*interventions, *stored_interventions(settings)))])


def stored_interventions(settings: Mapping[str, Any]) -> tuple[Intervention, ...]:
    """The interventions in the file that settings name; none if they name none, or it is not there."""
    file = settings.get("intervention")
    return load_interventions(file) if file and Path(file).is_file() else ()


def _tensor_files(path: Path) -> list[Path]:
    """What decides an adapter (a folder) or interventions (a file, and its tensors beside it); none of a hub id."""
    if path.is_dir():
        return sorted(
            file for pattern in ("adapter_config.json", "*.safetensors", "*.bin") for file in path.glob(pattern)
        )
    return [file for file in (path, path.with_suffix(".safetensors")) if file.is_file()]


def bench_under(
    mitigation: Mitigation,
    config: BenchConfig,
    *,
    model: LoadedModel | None = None,
    out: str | Path | None = None,
    topic: bool = True,
    progress: Progress = no_progress,
) -> BenchResult:
    """Run the benchmark `config` under a mitigation, or continue that run.

    `model` is the model that `config` names, if it is loaded already; `topic` is False for samples whose injections the
    answers should take up.
    """
    changed = mitigation.configure(config)
    if mitigation.hook is not None and model is None:
        model = load_configured(config)
    if model is None:
        return run_benchmark(changed, interventions=mitigation.interventions, out=out, topic=topic, progress=progress)
    outside = {} if mitigation.hook is None else {"mitigation": mitigation.hash}
    with mitigation.around(model.model):
        return run_benchmark(
            changed,
            model=model.model,
            tokenizer=model.tokenizer,
            interventions=mitigation.interventions,
            out=out,
            topic=topic,
            progress=progress,
            outside=outside,
        )
