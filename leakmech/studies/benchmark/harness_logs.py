"""Logs of evaluation harnesses: what leakmech's tasks asked there, as generations and settings of ``leakmech score``.

* lm-evaluation-harness writes ``samples_<task>_<date>.jsonl`` with ``--log_samples``: a line is a document (one prompt)
  with all its answers in ``filtered_resps``.
* inspect_ai writes one log a run: an ``.eval`` file is a ZIP archive with one JSON file for each prompt and epoch, and
  a ``.json`` file is one object with the same content. Archives are compressed by Zstandard, which Python 3.11 cannot
  read by itself; pyarrow can.

Reading needs neither harness.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError
from leakmech.core.rows import Row, fields_of_first_row, user_rows
from leakmech.studies.benchmark.settings import ScoreConfig

SETTINGS = "leakmech"
"""The entry of a harness's metadata that has settings of a task."""
_LM_EVAL_FIELDS = {"doc", "filtered_resps", "filter"}
_ATTACHMENT = "attachment://"
_ZSTANDARD = 93
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of an archive: it ends with the lengths of name and extra field


@dataclass(frozen=True)
class HarnessLog:
    """A log as it is scored."""

    rows: Sequence[Row]
    """Number and fields (``sample, condition, generation, text``) of every answer."""
    settings: Mapping[str, Any]
    """Those of the task, as fields of :class:`~leakmech.studies.benchmark.settings.ScoreConfig`."""


def read_harness_log(path: Path) -> HarnessLog | None:
    """Read the log of a harness; None for a file or folder that is something else.

    DatasetError for a log of another task than leakmech's, one without answers, or one that is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return None
    if path.suffix == ".eval":
        return _inspect_log(path, *_archive(path))
    if path.suffix == ".json":
        log = _json_object(path)
        return None if log is None else _inspect_log(path, log, log.get("samples") or ())
    return _lm_eval_log(path) if fields_of_first_row(path) >= _LM_EVAL_FIELDS else None


# -- lm-evaluation-harness ---------------------------------------------------------------------------------------------


def _lm_eval_log(path: Path) -> HarnessLog:
    rows: list[Row] = []
    settings: dict[str, Any] = {}
    first_filter = None
    for number, line in user_rows(path):
        where = f"{path}:{number}"
        if not line.keys() >= _LM_EVAL_FIELDS:
            raise DatasetError(f"{where}: is no line of a log of lm-evaluation-harness, as the first one is")
        first_filter = first_filter or line["filter"]
        if line["filter"] == first_filter:  # another filter says the same answers once more
            document, answers = line["doc"], line["filtered_resps"]
            _refuse_other_task(document, where, needed=("sample", "condition", "settings"))
            if not (isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], list)):
                raise DatasetError(f"{where}: field 'filtered_resps' must be a list with one list of answers")
            settings = settings or _settings(document["settings"], where)
            rows += ((number, _row(document, k, text)) for k, text in enumerate(answers[0]))
    return HarnessLog(rows, settings)


# -- inspect_ai --------------------------------------------------------------------------------------------------------


def _inspect_log(path: Path, header: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> HarnessLog:
    about = header.get("eval")
    if not isinstance(about, dict):
        raise DatasetError(f"{path}: is not a log of inspect_ai (it has no object 'eval')")
    metadata = about.get("metadata") or {}
    if SETTINGS not in metadata:
        raise DatasetError(f"{path}: is a log of the task {about.get('task')!r}, not of leakmech/hexl or leakmech/aexl")
    if not samples:
        raise DatasetError(f"{path}: holds no samples; run the task without --no-log-samples")
    settings = _settings(metadata[SETTINGS], str(path))
    rows = [(number, _inspect_row(sample, f"{path} (sample {number})")) for number, sample in enumerate(samples, 1)]
    return HarnessLog(rows, {"model": str(about.get("model", path.stem)), **settings})


def _inspect_row(sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    _refuse_other_task(sample.get("metadata"), where, needed=("sample", "condition"))
    epoch = sample.get("epoch")
    if not isinstance(epoch, int):
        raise DatasetError(f"{where}: field 'epoch' must be a whole number, found {epoch!r}")
    return _row(sample["metadata"], epoch - 1, None if sample.get("error") else _completion(sample, where))


def _completion(sample: Mapping[str, Any], where: str) -> str | None:
    """What the model said; reasoning that a provider tells apart is no part of it."""
    output = sample.get("output") or {}
    if not output.get("choices"):
        return None
    text = output.get("completion")
    if not isinstance(text, str):
        raise DatasetError(f"{where}: field 'output' has no text 'completion'")
    if text.startswith(_ATTACHMENT):
        return (sample.get("attachments") or {}).get(text.removeprefix(_ATTACHMENT), text)
    return text


def _json_object(path: Path) -> dict[str, Any] | None:
    """The object that a whole file is, if it is one that inspect_ai writes."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # JSON lines under another name
        return None
    return value if isinstance(value, dict) and {"eval", "status"} <= value.keys() else None


def _archive(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and samples of an ``.eval`` file; a run that was cut off has the header that it began with."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}  # of a sample run again, the last
            headers = [name for name in ("header.json", "_journal/start.json") if name in members]
            if not headers:
                raise DatasetError(f"{path}: is not a log of inspect_ai (it has no header.json)")
            header = json.loads(_content(archive, members[headers[0]]))
            names = sorted(name for name in members if name.startswith("samples/") and name.endswith(".json"))
            return header, [json.loads(_content(archive, members[name])) for name in names]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise DatasetError(f"{path}: is a damaged log of inspect_ai ({error})") from error


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != _ZSTANDARD:
        return archive.read(info)
    import pyarrow as pa  # here, since it takes long to import

    file: Any = archive.fp
    file.seek(info.header_offset)
    file.seek(sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))), 1)
    with pa.CompressedInputStream(pa.BufferReader(file.read(info.compress_size)), "zstd") as stream:
        content = stream.read()
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"bad checksum of {info.filename}")
    return content


# -- both --------------------------------------------------------------------------------------------------------------


def _row(document: Mapping[str, Any], generation: int, text: Any) -> dict[str, Any]:
    return {
        "sample": document["sample"],
        "condition": document["condition"],
        "generation": generation,
        "text": text,
    }


def _refuse_other_task(document: Any, where: str, *, needed: Sequence[str]) -> None:
    lacking = [name for name in needed if not isinstance(document, dict) or name not in document]
    if lacking:
        raise DatasetError(f"{where}: is of another task than leakmech's (no field {lacking[0]!r} in the document)")


def _settings(text: Any, where: str) -> dict[str, Any]:
    """The settings that a task wrote into its log; a log of another version may know others."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: the settings of the task cannot be read ({error})") from error
    return {name: value for name, value in dict(found).items() if name in ScoreConfig.model_fields}
