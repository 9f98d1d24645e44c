"""Samples: a stem and its three injections; reading and writing them, with errors that name the line.

A data set is a JSON-lines, CSV, TSV or parquet file (:mod:`leakmech.core.rows`) with the fields
``id, stem, positive, neutral, negative`` and optionally ``split, theme, source, note``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, overload

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import read_items
from leakmech.core.shown import table_html
from leakmech.core.store import hash_of_parts, write_jsonl
from leakmech.core.validation import CLOSED, Text, Words

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Condition = Literal["control", "positive", "neutral", "negative"]
Polarity = Literal["positive", "negative"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
INJECTIONS: tuple[Condition, ...] = ("positive", "neutral", "negative")
POLARITIES: tuple[Polarity, ...] = get_args(Polarity)

_BUILTIN = {
    "hexl": "hexl.jsonl",
    "hexl-mild": "hexl_mild.jsonl",
    "hexl-frozen": "hexl_frozen.jsonl",
    "relevant-matched": "relevant_matched.jsonl",
    "relevant-self": "relevant_self.jsonl",
    "relevant-frozen": "relevant_frozen.jsonl",
    "self-frozen": "self_frozen.jsonl",
    "relevant-fit": "relevant_fit.jsonl",
    "relevant-train": "relevant_train.jsonl",
    "relevant-wide": "relevant_wide.jsonl",
}
_BUILT = {"aexl": "--samples 50 --fit 50 --tune 50", "aexl_lora": "--samples 50 --fit 150 --tune 50"}
"""How the data sets are built whose splits shipped configurations name."""
RELEVANT_DATASETS = ("relevant-matched", "relevant-self", "relevant-frozen", "self-frozen")
"""Built-in data sets to evaluate on whose injections should colour the generations, unlike those of a leakage set."""
FROZEN_DATASETS = ("hexl-frozen", "relevant-frozen", "self-frozen")
"""Built-in data sets that are kept for a last evaluation: nothing is fitted, chosen or looked at on them before."""
FITTING_DATASETS = ("relevant-fit", "relevant-train", "relevant-wide")
"""Built-in data sets of relevant affect that probes, thresholds and adapters are fitted on; never evaluate on them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One stem with its positive, neutral and negative injection: four prompts, with the control prompt.

    ``source`` names what the texts are from, and ``note`` says what is special about the sample.
    """

    __pydantic_config__ = CLOSED

    id: Text
    stem: Words
    positive: Words
    neutral: Words
    negative: Words
    split: Text | None = None
    theme: Text | None = None
    source: Text | None = None
    note: Text | None = None

    def injection(self, condition: Condition) -> str | None:
        """The sentence put before the stem, or None for the control condition."""
        return None if condition == "control" else getattr(self, condition)

    def to_dict(self) -> dict[str, str]:
        """The fields that are set, in file order."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def spread_out(items: Sequence[T], number: int) -> Sequence[T]:
    """`number` items at even distances, all where there are not as many."""
    count = len(items)
    return items if number >= count else [items[i * count // number] for i in range(number)]


@dataclass(frozen=True)
class PromptSet:
    """A named, ordered collection of samples with unique ids.

    ``content_hash`` depends on ids and texts only, not on the file's name or format.
    """

    name: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise DatasetError(f"{self.name}: holds no samples")

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @overload
    def __getitem__(self, place: int | str) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> PromptSet: ...
    def __getitem__(self, place: int | slice | str) -> Sample | PromptSet:
        """The sample at a place or of an id; of a slice, a set."""
        if isinstance(place, slice):
            return replace(self, samples=self.samples[place])
        if isinstance(place, int):
            return self.samples[place]
        found = next((sample for sample in self.samples if sample.id == place), None)
        if found is None:
            raise DatasetError(f"{self.name}: has no sample {place!r}{nearest(place, [s.id for s in self.samples])}")
        return found

    def __repr__(self) -> str:
        return f"PromptSet({self.name!r}, {len(self)} samples)"

    def _repr_html_(self) -> str:
        rows = [[sample.id, sample.stem, *(sample.injection(name) for name in INJECTIONS)] for sample in self.take(5)]
        more = [f"and {len(self) - len(rows)} more"] if len(self) > len(rows) else []
        return table_html(repr(self), ("id", "stem", *INJECTIONS), rows, more)

    def to_frame(self) -> pd.DataFrame:
        """One row for each sample, with the fields that any of them has."""
        import pandas as pd

        return pd.DataFrame([sample.to_dict() for sample in self])

    @property
    def content_hash(self) -> str:
        return hash_of_parts(json.dumps(sample.to_dict(), sort_keys=True) for sample in self.samples)

    def take(self, limit: int | None) -> PromptSet:
        """The first `limit` samples (all for None); DatasetError for a negative number."""
        if limit is not None and limit < 0:
            raise DatasetError(f"{self.name}: a limit must be 0 or more, found {limit}")
        return self if limit is None else replace(self, samples=self.samples[:limit])

    def spread(self, number: int) -> PromptSet:
        """`number` samples at even distances (all where there are not as many): many themes of a set in their order."""
        return replace(self, samples=tuple(spread_out(self.samples, number)))

    def split(self, name: str) -> PromptSet:
        """The samples whose ``split`` is `name`."""
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            raise DatasetError(f"{self.name}: has no samples with split {name!r}")
        return replace(self, name=f"{self.name}[{name}]", samples=chosen)

    def refuse_shared_injections(self, judged: PromptSet) -> None:
        """Refuse to judge what is fitted or chosen on these samples on `judged`, if both hold a charged injection."""
        texts = {sample.injection(polarity) for sample in judged for polarity in POLARITIES}
        shared = [sample.id for sample in self if {sample.positive, sample.negative} & texts]
        if shared:
            raise DatasetError(
                f"{self.name}: {len(shared)} samples have injections of {judged.name} (for example {shared[0]!r}); "
                "what is fitted must be judged on other texts"
            )

    def save(self, path: Path) -> None:
        """Write the samples as JSON lines, atomically."""
        write_jsonl(path, (sample.to_dict() for sample in self.samples))


def builtin_datasets() -> dict[str, Path]:
    """Names of the data sets of samples that ship with leakmech, and their files.

    ``hexl``
        60 samples with injections that are irrelevant to the stem (data/hexl.md).
    ``hexl-mild``
        60 more, of mild events (data/hexl_mild.md).
    ``hexl-frozen``
        240 more, half of them mild, kept for a last evaluation (data/frozen.md).
    ``relevant-matched``
        The same 60 stems with injections about what the stem asks; ``source`` is the id of the HEXL sample.
    ``relevant-self``
        40 self-reports ("I feel") with injections about the speaker's own day.
    ``relevant-frozen``
        The stems of ``hexl-frozen`` with injections about what the stem asks, kept for a last evaluation.
    ``self-frozen``
        120 self-reports, kept for a last evaluation.
    ``relevant-fit``
        240 other stems with injections about what they ask, splits ``fit`` and ``tune``: to fit on, never to evaluate.
    ``relevant-train``
        720 more to fit on, of other themes: adapters and probes of relevance need many different ones.
    ``relevant-wide``
        1,813 more, of other themes again, splits ``fit`` and ``tune``.

    All were written for this project by a language model, and no human rated them (data/relevant_affect.md).
    """
    folder = Path(str(resources.files("leakmech.datasets") / "data"))
    return {name: folder / file for name, file in _BUILTIN.items()}


def refuse_frozen(samples: PromptSet) -> None:
    """What is fitted or chosen on `samples` leaves the frozen data sets unseen."""
    for name in FROZEN_DATASETS:
        samples.refuse_shared_injections(load_dataset(name))


def load_pooled(names: Sequence[str | Path]) -> PromptSet:
    """Several data sets as one; raises as :func:`load_dataset`."""
    return pooled([load_dataset(name) for name in names])


def pooled(datasets: Sequence[PromptSet]) -> PromptSet:
    """Several data sets as one."""
    return PromptSet("+".join(d.name for d in datasets), tuple(sample for d in datasets for sample in d))


def load_dataset(name_or_path: str | Path | PromptSet) -> PromptSet:
    """Load a built-in data set by name, or a file of samples.

    Parameters
    ----------
    name_or_path
        A name of :func:`builtin_datasets`, a JSONL, CSV, TSV or parquet file with the fields of a :class:`Sample`, or
        a set that is returned as it is.

    Returns
    -------
    PromptSet
        The samples, in the order of the file.

    Raises
    ------
    DatasetError
        The file does not exist, is empty, or has a malformed line or a stem or injection without words; the message
        names file, line and field.
    """
    if isinstance(name_or_path, PromptSet):
        return name_or_path
    path = dataset_file(name_or_path)
    name = str(name_or_path) if str(name_or_path) in _BUILTIN else path.stem
    return PromptSet(name, read_items(path, Sample))


def dataset_file(name_or_path: str | Path) -> Path:
    """The file of a built-in data set, or the one that is named; DatasetError if there is none."""
    builtin = builtin_datasets()
    path = builtin.get(str(name_or_path), Path(name_or_path))
    if not path.exists():
        told = _how_to_build(path) or nearest(path.name, builtin)
        raise DatasetError(f"dataset {str(name_or_path)!r}: no such file and no built-in name{told}")
    return path


def _how_to_build(path: Path) -> str:
    """How to make a file that a shipped configuration names; nothing for another one."""
    name = path.stem.removesuffix("_fit").removesuffix("_tune")
    if name not in _BUILT or path.suffix != ".jsonl":
        return ""
    return f"; make it with: leakmech data build-aexl {_BUILT[name]} --out {path.with_name(f'{name}.jsonl')}"
