"""Activations with labels, in memory or in a folder.

A site's values are one array ``[sample condition position layer width]``. In a folder they lie in safetensors shards
of some prompts each, in the order in which they were computed:

    index.json               what was cached, of which model and data, and the labels; written last
    shard-00000.safetensors  per site [row position layer width]; `sample`, `condition` [row]; `present` [row position]

A prompt need not have every position (the control has no injection; injections differ in length). ``present`` says
which are there; the others hold NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leakmech.core.errors import ActivationError, ConfigError, nearest
from leakmech.core.shown import cut, table_html
from leakmech.core.store import write_json
from leakmech.core.tensor_files import TensorFormat, write_tensors
from leakmech.mechanism.activations.arrays import Activations, Choice
from leakmech.models.device import DTYPES
from leakmech.models.sites import Site

_FORMAT = TensorFormat(what="activations", version=1, error=ActivationError, kind="activations")
INDEX = "index.json"
_SHARD = "shard-{:05d}.safetensors"
_SHARD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ActivationIndex:
    """What a cache holds: the labels of its axes, the shape of a vector of each site, and where it comes from.

    ``model["weights_hash"]`` and ``dataset["content_hash"]`` identify what was run. The hash of a model does not see
    interventions that were active. `shards` holds file names and is empty in memory.
    """

    sites: dict[Site, tuple[int, ...]]
    samples: tuple[str, ...]
    conditions: tuple[str, ...]
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    dtype: str
    model: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    shards: tuple[str, ...] = ()

    @property
    def n_prompts(self) -> int:
        return len(self.samples) * len(self.conditions)

    def n_bytes(self, *, sites: Sequence[Site] | None = None) -> int:
        """Compute the size of the values of some sites; None takes all."""
        width = sum(math.prod(self.sites[site]) for site in (self.sites if sites is None else sites))
        return self.n_prompts * len(self.positions) * len(self.layers) * width * DTYPES[self.dtype].itemsize

    def empty(self, site: Site) -> Tensor:
        """Make an array of NaN for all values of a site."""
        shape = (len(self.samples), len(self.conditions), len(self.positions), len(self.layers), *self.sites[site])
        return torch.full(shape, torch.nan, dtype=DTYPES[self.dtype])

    def shaped(self, site: Site, flat: Tensor) -> Tensor:
        """Give the last axis of `flat` the shape of a vector of the site."""
        return flat.reshape(*flat.shape[:-1], *self.sites[site])

    def nothing_present(self) -> Tensor:
        """Make the array `present` before anything is."""
        return torch.zeros(len(self.samples), len(self.conditions), len(self.positions), dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class Rows:
    """Activations of some prompts, on the CPU, as they come from the model.

    `samples` and `conditions` index the labels of each row; values that are not present are NaN.
    """

    samples: Int[Tensor, " row"]
    conditions: Int[Tensor, " row"]
    values: dict[Site, Float[Tensor, "row position layer width"]]
    present: Bool[Tensor, "row position"]

    @property
    def n_bytes(self) -> int:
        return sum(values.nbytes for values in self.values.values())


class ActivationCache:
    """Activations of several sites, in memory or in a folder from which a site is read when it is asked for.

    Attributes
    ----------
    index
        Labels of the axes, shapes, and what was run on what.
    folder
        Folder of the shards; None where the activations are in memory.
    """

    def __init__(
        self,
        index: ActivationIndex,
        *,
        folder: Path | None = None,
        values: dict[Site, Tensor] | None = None,
        present: Tensor | None = None,
    ) -> None:
        self.index = index
        self.folder = folder
        self._values = values or {}
        self._present = present

    def __repr__(self) -> str:
        own, place = self.index, self.folder or "memory"
        what = f"{', '.join(own.sites)} at {', '.join(own.positions)} of {len(own.layers)} layers"
        return (
            f"ActivationCache({what}; {own.n_prompts} prompts, {own.dtype}, {own.n_bytes() / 1e6:,.1f} MB in {place})"
        )

    def _repr_html_(self) -> str:
        own = self.index
        labels = {name: getattr(own, name) for name in ("samples", "conditions", "positions", "layers")}
        axes = [(name, f"{len(values)}: {cut(', '.join(map(str, values)))}") for name, values in labels.items()]
        sites = [("site", f"{site}, vectors of {' x '.join(map(str, shape))}") for site, shape in own.sites.items()]
        return table_html(repr(self), ("axis", ""), [*sites, *axes])

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.index.sites)

    def __getitem__(self, site: str) -> Activations:
        """Load all activations of a site."""
        return self.load(site)

    def load(
        self,
        site: str,
        *,
        samples: Sequence[str] | None = None,
        conditions: Sequence[str] | str | None = None,
        positions: Sequence[str] | str | None = None,
        layers: Sequence[int] | int | None = None,
    ) -> Activations:
        """Load the activations of a site, whole or in part; from a folder, only that part takes memory.

        Raises
        ------
        ConfigError
            A site or label is not there.
        ActivationError
            Memory does not suffice, or the folder is damaged.
        """
        if site not in self.index.sites:
            raise ConfigError(f"sites: {site!r} is not there{nearest(site, self.index.sites)}")
        if self.folder is None and self._present is not None:
            whole = self._labelled(site, self._values[site], self._present, self.index)
            return whole.select(samples=samples, conditions=conditions, positions=positions, layers=layers)
        chosen = Choice.of(self.index, samples=samples, conditions=conditions, positions=positions, layers=layers)
        return self._read(site, chosen)

    def _read(self, site: Site, chosen: Choice) -> Activations:
        index = replace(self.index, **chosen.labels(self.index))
        refuse_too_large(index.n_bytes(sites=[site]), hint="load fewer layers, positions or conditions at a time")
        values, present = index.empty(site), index.nothing_present()
        place = [
            _places(chosen.samples, len(self.index.samples)),
            _places(chosen.conditions, len(self.index.conditions)),
        ]
        for rows in self._shards(site):
            sample, condition = place[0][rows.samples], place[1][rows.conditions]
            kept = (sample >= 0) & (condition >= 0)
            part, there = rows.values[site][kept], rows.present[kept]
            if chosen.positions is not None:
                part, there = part[:, chosen.positions], there[:, chosen.positions]
            if chosen.layers is not None:
                part = part[:, :, chosen.layers]
            values[sample[kept], condition[kept]] = index.shaped(site, part)
            present[sample[kept], condition[kept]] = there
        return self._labelled(site, values, present, index)

    def _shards(self, site: Site) -> Iterator[Rows]:
        for name in self.index.shards:
            path = (self.folder or Path()) / name
            try:
                with safe_open(path, framework="pt") as shard:
                    yield Rows(
                        samples=shard.get_tensor("sample"),
                        conditions=shard.get_tensor("condition"),
                        values={site: shard.get_tensor(site)},
                        present=shard.get_tensor("present"),
                    )
            except (OSError, SafetensorError) as error:
                raise ActivationError(f"{path}: missing or damaged ({error}); cache the activations again") from error

    def _labelled(self, site: Site, values: Tensor, present: Tensor, index: ActivationIndex) -> Activations:
        return Activations(
            site,
            values,
            index.samples,
            index.conditions,
            index.positions,
            index.layers,
            present,
            model_hash=index.model.get("weights_hash", ""),
            dataset_hash=index.dataset.get("content_hash", ""),
        )


def _places(chosen: list[int] | None, n: int) -> Tensor:
    """Give each of `n` labels its place among the chosen ones, or -1."""
    places = torch.full((n,), -1)
    wanted = list(range(n)) if chosen is None else chosen
    places[wanted] = torch.arange(len(wanted))
    return places


class ShardWriter:
    """Collects rows and writes a shard whenever there are enough; :meth:`close` writes the index."""

    def __init__(self, folder: Path, index: ActivationIndex) -> None:
        self.folder = folder
        self.index = index
        self._waiting: list[Rows] = []
        self._names: list[str] = []
        if (folder / INDEX).exists():
            raise ActivationError(f"{folder}: holds activations already; delete it, load it, or give another folder")
        for torn in folder.glob(_SHARD.replace("{:05d}", "*")):  # of a run that was killed
            torn.unlink()

    def add(self, rows: Rows) -> None:
        """Keep rows; once there are enough of them they go to the disk."""
        self._waiting.append(rows)
        if sum(part.n_bytes for part in self._waiting) >= _SHARD_BYTES:
            self._write()

    def close(self) -> ActivationCache:
        """Write what is left, and the index."""
        self._write()
        index = replace(self.index, shards=tuple(self._names))
        write_json(self.folder / INDEX, _FORMAT.head | asdict(index))
        return ActivationCache(index, folder=self.folder)

    def _write(self) -> None:
        if not self._waiting:
            return
        tensors = {
            "sample": torch.cat([part.samples for part in self._waiting]),
            "condition": torch.cat([part.conditions for part in self._waiting]),
            "present": torch.cat([part.present for part in self._waiting]),
        }
        for site in self.index.sites:
            tensors[site] = torch.cat([part.values[site] for part in self._waiting])
        name = _SHARD.format(len(self._names))
        write_tensors(self.folder / name, tensors)
        self._names.append(name)
        self._waiting.clear()


def load_activations(path: str | Path) -> ActivationCache:
    """Open a folder of activations; ``cache["resid_post"]`` then reads a site, ``cache.load(...)`` a part of it.

    Parameters
    ----------
    path
        The folder that :func:`leakmech.cache_activations` wrote with ``out=``.

    Returns
    -------
    ActivationCache
        The activations; values are read when they are asked for.

    Raises
    ------
    ActivationError
        The folder holds no activations, or they are not complete, damaged or of another format version.
    """
    folder = Path(path)
    if not (folder / INDEX).exists():
        state = "is not finished" if any(folder.glob("shard-*.safetensors")) else "holds no activations"
        raise ActivationError(f"{folder}: {state} (it has no {INDEX}); cache them with cache_activations(out=...)")
    stored = _FORMAT.read_description(folder / INDEX)
    stored = {key: value for key, value in stored.items() if key not in ("format_version", "kind")}
    try:
        sites = {site: tuple(shape) for site, shape in stored.pop("sites").items()}
        labels = {key: tuple(stored.pop(key)) for key in ("samples", "conditions", "positions", "layers", "shards")}
        return ActivationCache(ActivationIndex(sites=sites, **labels, **stored), folder=folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise ActivationError(f"{folder / INDEX}: damaged ({error}); cache the activations again") from error


def available_memory() -> int:
    """Give the bytes of memory that can be used without swapping."""
    return psutil.virtual_memory().available


def refuse_too_large(n_bytes: int, *, hint: str) -> None:
    """Raise an :class:`ActivationError` that ends in `hint` where `n_bytes` do not fit into free memory."""
    free = available_memory()
    if n_bytes > free:
        raise ActivationError(f"activations need {size_text(n_bytes)} of memory, {size_text(free)} are free; {hint}")


def size_text(n_bytes: int) -> str:
    """Write a size as ``3.2 GiB`` or ``12 MiB``."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"
