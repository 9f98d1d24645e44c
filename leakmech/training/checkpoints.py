"""Checkpoints of a training: one safetensors file each, whole or absent.

It holds the adapter's tensors, the two moments of AdamW for each, and (as metadata) the step, the evaluations so
far and a hash of the tensors. One that is damaged is named and removed, and the training goes on from the one before.
Order of data, learning rate and dropout depend on the step alone, so nothing else is needed to go on as if
nothing had happened.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leakmech.core.errors import LeakmechWarning, RunDirectoryError, TrainingError
from leakmech.core.store import hash_of_parts
from leakmech.core.tensor_files import write_tensors
from leakmech.models.hashes import hash_tensor

FOLDER = "checkpoints"
"""The folder of checkpoints in that of a training."""

_MOMENTS = ("exp_avg", "exp_avg_sq")
_CHECKSUM = "tensors_hash"
_FILE = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class Evaluation:
    """What the model scored after `step` steps; higher is better."""

    step: int
    score: float


@dataclass(frozen=True)
class TrainingState:
    """How far a training is: steps done, and evaluations so far."""

    step: int = 0
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def best(self) -> Evaluation | None:
        """Give the evaluation with the highest score; of equal ones the first."""
        return max(self.evaluations, key=lambda evaluation: evaluation.score, default=None)

    @property
    def since_best(self) -> int:
        """Count the evaluations since the best one."""
        return len(self.evaluations) - 1 - self.evaluations.index(self.best) if self.best else 0


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, of which the `keep` newest are kept and the best one."""

    folder: Path
    keep: int = 2

    def save(self, state: TrainingState, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Path:
        """Write the checkpoint of `state` and remove those that are no longer needed; weights must be finite."""
        tensors = dict(parameters)
        broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise TrainingError(
                f"step {state.step}: the adapter has NaN or infinite weights (in {broken[0]}); {self.good()}"
            )
        for moment in _MOMENTS:
            for name, parameter in parameters.items():
                values = optimizer.state[parameter].get(moment)
                tensors[f"{moment}/{name}"] = torch.zeros_like(parameter) if values is None else values
        path = self._path(state.step)
        self._write(path, tensors, {"state": json.dumps(asdict(state))})
        best = state.best.step if state.best else None
        for step in self.steps()[: -self.keep]:
            if step != best:
                self._path(step).unlink(missing_ok=True)
        return path

    def _write(self, path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
        copies = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
        write_tensors(path, copies, metadata=metadata | {_CHECKSUM: _hash(copies)})

    def steps(self) -> list[int]:
        """List the steps of which there are checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for file in self.folder.iterdir() if (match := _FILE.fullmatch(file.name)))

    def good(self) -> str:
        """Say where the last good checkpoint is, for messages."""
        steps = self.steps()
        return f"the last good checkpoint is {self._path(steps[-1])}" if steps else "there is no checkpoint yet"

    def latest(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, *, device: torch.device
    ) -> TrainingState:
        """Load the newest checkpoint into adapter and optimiser; without one, the state is that of the beginning."""
        found = self._newest(device)
        if found is None:
            return TrainingState()
        path, tensors, metadata = found
        saved = json.loads(metadata["state"])
        state = TrainingState(saved["step"], tuple(Evaluation(**evaluation) for evaluation in saved["evaluations"]))
        _copy(tensors, parameters, path)
        for name, parameter in parameters.items():
            moments = {moment: tensors[f"{moment}/{name}"].clone() for moment in _MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **moments}
        return state

    def _newest(self, device: torch.device) -> tuple[Path, dict[str, Tensor], dict[str, str]] | None:
        """The newest checkpoint that is not damaged; newer ones are removed."""
        for path in map(self._path, reversed(self.steps())):
            try:
                return path, *_read(path, device)
            except RunDirectoryError as damage:
                warnings.warn(f"{damage}; it is removed, the training goes on from the one before", LeakmechWarning, 2)
                path.unlink()
        return None

    def load_adapter(self, step: int, parameters: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Load the adapter of the checkpoint of `step`."""
        path = self._path(step)
        _copy(_read(path, device)[0], parameters, path)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.safetensors"


def _read(path: Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            opened: Any = file
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
    except (OSError, SafetensorError) as problem:
        raise RunDirectoryError(f"{path}: damaged ({problem})") from problem
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _hash(tensors):  # older ones have none
        raise RunDirectoryError(f"{path}: damaged (it was changed after it was written)")
    return tensors, metadata


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names and values."""
    return hash_of_parts(part for name in sorted(tensors) for part in (name, hash_tensor(tensors[name])))


def _copy(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor], path: Path) -> None:
    for name, parameter in parameters.items():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise RunDirectoryError(f"{path}: is a checkpoint of another adapter (no place for {name!r})")
        with torch.no_grad():
            parameter.copy_(tensors[name])
