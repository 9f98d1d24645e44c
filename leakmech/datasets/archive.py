"""The human ratings of Hutto & Gilbert (2014): fetched, unpacked and read.

"VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (ICWSM 2014) came with some
23,700 short texts (tweets, and sentences of film reviews, product reviews and newspaper editorials), each rated by
about twenty people from -4 (extremely negative) to 4 (extremely positive). The source distribution of the Python
package vaderSentiment (MIT licence) carries them in an archive. pip fetches that distribution, its hash
is checked, and the text files are unpacked into the user's cache; nothing of it is copied into this repository.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

import pandas as pd

from leakmech.core.errors import DatasetError
from leakmech.core.paths import cache_root
from leakmech.core.store import atomic_path, parsed_json

SDIST = "vaderSentiment-3.3.2.tar.gz"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"

_REQUIREMENT = "vaderSentiment==3.3.2"
_INNER_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
_FOLDER = "hutto_icwsm_2014"
_STEMS = {
    "tweets": "tweets",
    "movies": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}
SOURCES = tuple(_STEMS)
_RATED_FILES = [f"{stem}_{part}.txt" for stem in _STEMS.values() for part in ("GroundTruth", "anonDataRatings")]
_MAX_MEMBER_BYTES = 32 * 2**20


def fetch_archive(cache_dir: Path | None = None, *, sdist: Path | None = None) -> Path:
    """The folder with the text files of the archive, fetched and unpacked on the first call.

    `sdist` is a vaderSentiment-3.3.2.tar.gz that is on disk already; by default pip downloads it.
    """
    folder = (cache_root() if cache_dir is None else Path(cache_dir)) / _FOLDER
    if all((folder / name).is_file() for name in _RATED_FILES):
        return folder
    if sdist is not None:
        _unpack(Path(sdist), folder)
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        _unpack(_download(Path(temporary)), folder)
    return folder


def load_ratings(folder: Path) -> pd.DataFrame:
    """Read the rated texts of an unpacked archive, files in the order of :data:`SOURCES`.

    ``document`` is the review or editorial that a sentence comes from, unique within its ``source``; a tweet or a
    snippet of a film review is its own. ``ratings`` (-4 to 4) are those of the individual raters.

    For 195 tweets, variants of one another that differ in emphasis, the mean in ``tweets_GroundTruth.txt`` is not the
    mean of their ratings (it is up to 1.1 away); everywhere else the two agree. ``mean_rating`` follows the ratings.
    """
    return pd.concat([_load_source(Path(folder), source) for source in SOURCES], ignore_index=True)


def _load_source(folder: Path, source: str) -> pd.DataFrame:
    texts_path = folder / f"{_STEMS[source]}_GroundTruth.txt"
    ratings_path = folder / f"{_STEMS[source]}_anonDataRatings.txt"
    ratings = {row_id: _parse_ratings(fields[-1], where) for row_id, fields, where in _rows(ratings_path, n_fields=4)}
    rows = []
    for row_id, fields, where in _rows(texts_path, n_fields=3):
        if row_id not in ratings:
            raise DatasetError(f"{where}: id {row_id!r} has no ratings in {ratings_path.name}")
        rows.append(
            {
                "source": source,
                "document": row_id.partition("_")[0],
                "id": row_id,
                "text": html.unescape(fields[-1]).strip(),
                "mean_rating": sum(ratings[row_id]) / len(ratings[row_id]),
                "ratings": ratings[row_id],
            }
        )
    if not rows:
        raise DatasetError(f"{texts_path}: holds no texts")
    return pd.DataFrame(rows)


def _rows(path: Path, *, n_fields: int) -> list[tuple[str, list[str], str]]:
    """Yield (id, fields, place) of every line of a tab-separated file; the last field may itself hold tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # universal newlines; a byte order mark opens some of the files
    except FileNotFoundError as problem:
        raise DatasetError(f"{path}: not found; give the folder that fetch_archive returned") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise DatasetError(f"{path}: cannot be read ({problem})") from problem
    rows: list[tuple[str, list[str], str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.split("\t", n_fields - 1)
        if len(fields) != n_fields or not fields[-1].strip():
            raise DatasetError(f"{path}:{number}: expected {n_fields} tab-separated fields, found {line[:60]!r}")
        rows.append((fields[0], fields, f"{path}:{number}"))
    return rows


def _parse_ratings(text: str, where: str) -> list[int]:
    try:
        ratings = parsed_json(text)
    except ValueError as problem:
        raise DatasetError(f"{where}: ratings are not a list of numbers ({problem})") from problem
    if not isinstance(ratings, list) or not ratings or not all(type(r) is int and -4 <= r <= 4 for r in ratings):
        raise DatasetError(f"{where}: ratings must be whole numbers from -4 to 4, found {text[:60]!r}")
    return ratings


def _download(folder: Path) -> Path:
    """Let pip fetch the source distribution; it checks the hash before it looks inside."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", "vaderSentiment", "--require-hashes"]
    if importlib.util.find_spec("setuptools") is not None:
        command += ["--no-build-isolation"]  # pip reads the metadata with it; without it, pip fetches its own copy
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0 or not (folder / SDIST).is_file():
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (errors or result.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise DatasetError(
            f"Hutto & Gilbert archive: pip cannot download {_REQUIREMENT} ({reason}); "
            f"fetch its source distribution {SDIST} elsewhere and give its path (sdist)"
        )
    return folder / SDIST


def _unpack(sdist: Path, folder: Path) -> None:
    """Check the distribution and write the text files of its inner archive into `folder`, each whole or not at all."""
    try:
        with sdist.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise DatasetError(f"{sdist}: cannot be read ({problem.strerror})") from problem
    if found != SDIST_SHA256:
        raise DatasetError(f"{sdist}: is not {SDIST} (sha256 {found[:12]}…, expected {SDIST_SHA256[:12]}…)")
    try:
        files = _text_files(sdist)
    except (tarfile.TarError, EOFError, KeyError, OSError) as problem:
        raise DatasetError(f"{sdist}: is damaged ({problem})") from problem
    missing = [name for name in _RATED_FILES if name not in files]
    if missing:
        raise DatasetError(f"{sdist}: its archive lacks {', '.join(missing)}")
    for name, data in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(data)


def _text_files(sdist: Path) -> dict[str, bytes]:
    """Base name and contents of the text files in the archive inside the distribution.

    Members are read, never extracted: only plain files count, and only the last part of their names.
    """
    with tarfile.open(sdist, "r:gz") as outer:
        prefix = SDIST.removesuffix(".tar.gz")
        with tarfile.open(fileobj=_member(outer, f"{prefix}/{_INNER_ARCHIVE}"), mode="r:gz") as inner:
            names = {member.name: PurePosixPath(member.name).name for member in inner if member.isfile()}
            return {base: _member(inner, name).read() for name, base in names.items() if base.endswith(".txt")}


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.getmember(name)
    stream = archive.extractfile(member) if member.isfile() and member.size <= _MAX_MEMBER_BYTES else None
    if stream is None:
        raise tarfile.TarError(f"{name} is not a plain file of reasonable size")
    return stream
