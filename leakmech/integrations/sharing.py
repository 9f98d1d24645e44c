"""What leakmech makes, as a repository of the hub: files with a card, written beside them or uploaded.

An *artefact* is a folder with an adapter that leakmech trained, the ``.json`` file of a direction or of interventions
(their tensors are beside it), or a data set of samples (a built-in name or a file). Everything is read and checked
before anything is written or sent.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leakmech.core.errors import LeakmechError, UsageError
from leakmech.core.store import parsed_json, read_json, write_text
from leakmech.core.tensor_files import tensor_files
from leakmech.datasets.samples import PromptSet, builtin_datasets, load_dataset
from leakmech.integrations.cards import data_card, direction_card, interventions_card, leakage_section
from leakmech.interventions.files import load_interventions
from leakmech.mechanism.directions.direction import load_direction
from leakmech.models.hub import ADAPTER_CONFIG
from leakmech.models.reading import ADAPTER_CARD
from leakmech.training.card import card_markdown

README = "README.md"
_ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors", ADAPTER_CARD)
_DATA_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_DATASHEETS = {
    "hexl": "hexl.md",
    "hexl-mild": "hexl_mild.md",
    "hexl-frozen": "frozen.md",
    "relevant-frozen": "frozen.md",
    "self-frozen": "frozen.md",
}
_RELEVANT_DATASHEET = "relevant_affect.md"


@dataclass(frozen=True)
class Artefact:
    """Files of a repository, and its card."""

    kind: Literal["adapter", "direction", "interventions", "data set"]
    files: Mapping[str, Path]
    """By their names in the repository."""
    card: str
    beside: Path | None
    """Where the card lies beside the files; None for a built-in data set."""

    @property
    def repo_type(self) -> Literal["model", "dataset"]:
        return "dataset" if self.kind == "data set" else "model"


def read_artefact(path: str | Path, *, runs: Sequence[str | Path] = ()) -> Artefact:
    """What is at `path`, whole and readable, with the leakage of `runs` in its card; UsageError for anything else."""
    place = Path(path)
    if str(path) in builtin_datasets():
        return _data_set(str(path))
    if place.is_dir() and (place / ADAPTER_CONFIG).is_file():
        return _adapter(place, runs)
    if place.is_file() and place.suffix == ".json":
        found = _described(place, runs)
        if found is not None:
            return found
    if place.is_file() and place.suffix in _DATA_SUFFIXES:
        return _data_set(place)
    if not place.exists():
        raise UsageError(f"{path}: no such file, folder or built-in data set")
    raise UsageError(
        f"{path}: is not an adapter folder, a .json file of a direction or of interventions, or a file of samples"
    )


def write_card(path: str | Path, *, runs: Sequence[str | Path] = ()) -> Path:
    """Write the card of an artefact beside it and return where it is.

    Parameters
    ----------
    path
        As for :func:`push`; a built-in data set has its datasheet already and is refused.
    runs
        Runs of ``leakmech bench`` or ``score`` whose leakage the card tells.

    Raises
    ------
    UsageError
        `path` is not an artefact, or one of `runs` is not such a run.
    """
    artefact = read_artefact(path, runs=runs)
    if artefact.beside is None:
        raise UsageError(f"{path}: is built in; its card is written when it is pushed")
    write_text(artefact.beside, artefact.card)
    return artefact.beside


def push(path: str | Path, repo: str, *, runs: Sequence[str | Path] = (), public: bool = False) -> str:
    """Upload an artefact with its card to the hub and return its address.

    Parameters
    ----------
    path
        Folder of an adapter, ``.json`` file of a direction or of interventions, or a data set (a file or a built-in
        name).
    repo
        Id of the repository, ``owner/name``; it is made if it is not there.
    runs
        Runs of ``leakmech bench`` or ``score`` whose leakage the card tells.
    public
        Whether a repository that is made can be seen by all; one that is there stays as it is.

    Raises
    ------
    UsageError
        `path` is not an artefact, `repo` is not an id, or there is no token; nothing has been sent.
    LeakmechError
        The hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    artefact = read_artefact(path, runs=runs)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"repository {repo!r}: is not an id; write it as owner/name") from error
    if get_token() is None:
        raise UsageError("push: there is no token for the hub; set HF_TOKEN, or run: hf auth login")
    with tempfile.TemporaryDirectory(prefix="leakmech-") as folder:
        _lay_out(artefact, Path(folder))
        api: Any = HfApi()
        try:
            made = api.create_repo(repo, repo_type=artefact.repo_type, private=not public, exist_ok=True)
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=folder,
                repo_type=artefact.repo_type,
                commit_message=f"{artefact.kind} from leakmech",
            )
        except Exception as error:  # refusals, time-outs and broken connections have no class in common
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise LeakmechError(f"push: the hub did not take {repo!r} ({first})") from error
    return str(made)


def _lay_out(artefact: Artefact, folder: Path) -> None:
    """Put the repository together in `folder`."""
    for name, file in artefact.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    (folder / README).write_text(artefact.card, encoding="utf-8")


def _adapter(folder: Path, runs: Sequence[str | Path]) -> Artefact:
    lacking = [name for name in _ADAPTER_FILES if not (folder / name).is_file()]
    if lacking:
        raise UsageError(f"{folder}: is not an adapter that leakmech trained (it has no {lacking[0]})")
    try:
        text = card_markdown(read_json(folder / ADAPTER_CARD))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / ADAPTER_CARD}: is damaged ({error!r}); train the adapter again") from error
    card = f"{text}\n{leakage_section(folder, runs)}"
    return Artefact("adapter", {name: folder / name for name in _ADAPTER_FILES}, card, folder / README)


def _described(path: Path, runs: Sequence[str | Path]) -> Artefact | None:
    """A direction or interventions; None for a description of anything else."""
    try:
        description = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from error
    files = {file.name: file for file in tensor_files(path)}
    beside = path.with_suffix(".md")
    if isinstance(description, dict) and description.get("kind") == "interventions":
        card = interventions_card(path, load_interventions(path), description, runs)
        return Artefact("interventions", files, card, beside)
    if isinstance(description, dict) and "vector_hash" in description:
        return Artefact("direction", files, direction_card(path, load_direction(path), runs), beside)
    return None


def _data_set(name_or_path: str | Path) -> Artefact:
    samples = load_dataset(name_or_path)
    if str(name_or_path) in builtin_datasets():
        file = builtin_datasets()[str(name_or_path)]
        datasheet = file.with_name(_DATASHEETS.get(str(name_or_path), _RELEVANT_DATASHEET))
        return _laid_out(samples, {"test": file}, datasheet, beside=None)
    path = Path(name_or_path)
    described = path.with_suffix(".json")
    splits = {"test": path}
    if described.is_file():  # AEXL says there which files are its splits
        listed = read_json(described).get("files", {})
        splits = {split: path.with_name(own["file"]) for split, own in listed.items()} or splits
    return _laid_out(samples, splits, path.with_suffix(".md"), beside=path.with_name(f"{path.stem}_card.md"))


def _laid_out(samples: PromptSet, splits: Mapping[str, Path], datasheet: Path, *, beside: Path | None) -> Artefact:
    files = {split: f"data/{split}{file.suffix}" for split, file in splits.items()}
    text = datasheet.read_text(encoding="utf-8") if datasheet.is_file() else None
    stored = {files[split]: file for split, file in splits.items()}
    missing = [file for file in stored.values() if not file.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: no such file; the card of {samples.name} names it")
    return Artefact("data set", stored, data_card(samples, files, text), beside)
