"""From a hub id to a folder: the local cache first, then the hub, and every way in which that fails.

A complete copy in the cache is used as it is, without asking the hub. Only when there is none is the hub asked, after
a short probe: the client's own retries take half a minute to say that there is no network.
"""

from __future__ import annotations

import glob
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    is_offline_mode,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from leakmech.core.errors import LeakmechError, ModelError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}
    | {"tekken.json"}
)
# In the order of preference; each may be sharded.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
_OTHER_RUNTIMES = frozenset({"onnx", "openvino", "coreml", "original"})
_WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".gguf", ".onnx", ".tflite", ".mlmodel"}
)
_NO_HUB = "give a local folder or a name that starts with 'embedded:'"


def hub_reachable(*, timeout: float = 3.0) -> bool:
    """Whether the configured hub answers at all within `timeout` seconds, name resolution included.

    Any answer counts, whatever its status. False without a request where ``HF_HUB_OFFLINE`` is set.
    """
    if is_offline_mode():
        return False
    answered: list[int] = []

    def probe() -> None:
        try:
            answered.append(get_session().head(constants.ENDPOINT, timeout=timeout).status_code)
        except Exception:  # whatever the HTTP client raises means the same here: no answer
            return

    # A name server that does not answer can hold the call past its timeout; the thread is then abandoned.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answered)


def fetch(
    repo_id: str, *, revision: str | None = None, tokenizer: bool = True, error: type[LeakmechError] = ModelError
) -> Path:
    """The folder of a model or adapter from the hub: the cached one if it is complete, else a download.

    With `tokenizer` a cached copy without a tokenizer is incomplete; `error` is the class of error to raise.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as problem:
        raise error(f"{repo_id}: neither a local folder nor a possible hub id") from problem
    cached = _cached_folder(repo_id, revision=revision)
    if cached is not None and is_complete(cached, tokenizer=tokenizer):
        return cached
    if is_offline_mode():
        raise error(f"{repo_id}: no such folder, and not in the hub cache; unset HF_HUB_OFFLINE, or {_NO_HUB}")
    if not hub_reachable():
        raise error(f"{repo_id}: no such folder, not in the hub cache, and the hub cannot be reached; {_NO_HUB}")
    with _hub_errors(repo_id, revision=revision, error=error):
        return _download(repo_id, revision=revision)


def is_complete(folder: Path, *, tokenizer: bool) -> bool:
    """Whether `folder` holds configuration and all weights of a model (or adapter), and a tokenizer if asked for."""
    names = {path.name for path in folder.iterdir()}
    weights = weight_files(names, read=lambda name: (folder / name).read_text(encoding="utf-8"))
    if not weights or not set(weights) <= names:
        return False
    is_adapter = ADAPTER_CONFIG in names and CONFIG not in names
    return is_adapter or (CONFIG in names and (not tokenizer or bool(TOKENIZER_FILES & names)))


def weight_files(names: Iterable[str], *, read: Callable[[str], str]) -> list[str]:
    """The weight files that would be loaded from a folder with the files `names`; `read` gives the text of an index."""
    names = set(names)
    for name in _WEIGHTS:
        if name in names:
            return [name]
        index = f"{name}.index.json"
        if index in names:
            return sorted(set(json.loads(read(index))["weight_map"].values()))
    return []


def _cached_folder(repo_id: str, *, revision: str | None) -> Path | None:
    for name in (CONFIG, ADAPTER_CONFIG):
        path = try_to_load_from_cache(repo_id, name, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def _download(repo_id: str, *, revision: str | None) -> Path:
    """Download what loading takes: each folder's weights in one format only, nothing for other runtimes."""
    info = HfApi().model_info(repo_id, revision=revision)
    folders: dict[PurePosixPath, list[str]] = {}
    for file in info.siblings or []:
        path = PurePosixPath(file.rfilename)
        folders.setdefault(path.parent, []).append(path.name)

    wanted: list[str] = []
    for folder, names in folders.items():
        if _OTHER_RUNTIMES.isdisjoint(folder.parts):

            def read(name: str, folder: PurePosixPath = folder) -> str:
                return Path(hf_hub_download(repo_id, str(folder / name), revision=info.sha)).read_text("utf-8")

            small = [name for name in names if PurePosixPath(name).suffix not in _WEIGHT_SUFFIXES]
            wanted += [str(folder / name) for name in (*small, *weight_files(names, read=read))]
    # `revision`, not the commit: the cache then knows which commit the branch stood for.
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[glob.escape(name) for name in wanted]))


@contextmanager
def _hub_errors(repo_id: str, *, revision: str | None, error: type[LeakmechError]) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as problem:
        raise error(
            f"{repo_id}: gated; accept its conditions on the hub, then log in with `hf auth login`"
        ) from problem
    except RepositoryNotFoundError as problem:
        message = (
            f"{repo_id}: neither a local folder nor a model on the hub; if it is private, log in with `hf auth login`"
        )
        raise error(message) from problem
    except RevisionNotFoundError as problem:
        raise error(f"{repo_id}: has no branch, tag or commit {revision!r}") from problem
    except Exception as problem:  # the HTTP client, and with it its exceptions, changes between versions of the library
        raise error(f"{repo_id}: the download failed ({first_line(problem)}); run it again to continue") from problem


def first_line(error: BaseException) -> str:
    """The first line of an error's message, and the second where the first ends in a colon; else the error's class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return said.rstrip(".:") or type(error).__name__
