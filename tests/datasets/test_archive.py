"""The Hutto & Gilbert archive: fetching, safe unpacking, parsing."""

from __future__ import annotations

import hashlib
import html
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import DatasetError
from leakmech.datasets import archive
from leakmech.datasets.archive import fetch_archive, load_ratings

FILES = {
    "tweets_GroundTruth.txt": b"1\t2.5\tI love it &lt;3\r\n2\t-0.1\t fine\there ",
    "tweets_anonDataRatings.txt": b"1\t2.0\t1.0\t[1, 3]\r\n2\t-2.0\t0\t[-2]",
    "movieReviewSnippets_GroundTruth.txt": "1\t0.5\ttr\u00e8s bien".encode(),
    "movieReviewSnippets_anonDataRatings.txt": b"1\t0.5\t0.5\t[0, 1]",
    "amazonReviewSnippets_GroundTruth.txt": b"1_1\t-4\tbroke.\r\n1_2\t0\tit is red.\r\n12_1\t0\tok",
    "amazonReviewSnippets_anonDataRatings.txt": b"\xef\xbb\xbf12_1\t0\t0\t[0]\r\n1_2\t0\t0\t[0]\r\n1_1\t-4\t0\t[-4]",
    "nytEditorialSnippets_GroundTruth.txt": b"7_1\t0\tTaxes rose.",
    "nytEditorialSnippets_anonDataRatings.txt": b"7_1\t0\t0\t[0]",
}


def make_tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return buffer.getvalue()


@pytest.fixture
def make_sdist(tmp_path, monkeypatch):
    """Write a source distribution with the given inner files and make its hash the expected one."""

    def make(files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
        inner = make_tar(files, links)
        data = make_tar(
            {f"vaderSentiment-3.3.2/{name}": inner for name in ["additional_resources/hutto_ICWSM_2014.tar.gz"]}
        )
        monkeypatch.setattr(archive, "SDIST_SHA256", hashlib.sha256(data).hexdigest())
        path = tmp_path / archive.SDIST
        path.write_bytes(data)
        return path

    return make


def in_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"hutto_ICWSM_2014/{name}": data for name, data in files.items()}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_only_the_text_files_are_unpacked(make_sdist, tmp_path):
    sdist = make_sdist(in_folder(FILES | {"vader.py": b"print()", "paper.pdf": b"%PDF"}))
    folder = fetch_archive(tmp_path / "cache", sdist=sdist)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "tweets_GroundTruth.txt").read_bytes() == FILES["tweets_GroundTruth.txt"]


def test_a_second_call_needs_no_distribution_and_a_lost_file_is_unpacked_again(make_sdist, tmp_path):
    sdist = make_sdist(in_folder(FILES))
    folder = fetch_archive(tmp_path / "cache", sdist=sdist)
    assert fetch_archive(tmp_path / "cache", sdist=tmp_path / "nowhere.tar.gz") == folder
    (folder / "tweets_GroundTruth.txt").unlink()
    fetch_archive(tmp_path / "cache", sdist=sdist)
    assert len(load_ratings(folder)) == 7


def test_members_cannot_leave_the_folder_and_links_are_not_followed(make_sdist, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    members = in_folder(FILES) | {"../../../escaped.txt": b"x", "/absolute.txt": b"y"}
    folder = fetch_archive(tmp_path / "cache", sdist=make_sdist(members, {"hutto_ICWSM_2014/link.txt": str(secret)}))
    assert {path.name for path in folder.iterdir()} == {*FILES, "escaped.txt", "absolute.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "secret.txt", archive.SDIST}


def test_a_distribution_with_another_hash_is_refused_and_nothing_is_written(tmp_path):
    wrong = tmp_path / archive.SDIST
    wrong.write_bytes(b"something else")
    with pytest.raises(DatasetError, match=r"is not vaderSentiment-3\.3\.2\.tar\.gz \(sha256 .*expected 5d7c06e027fc"):
        fetch_archive(tmp_path / "cache", sdist=wrong)
    assert not (tmp_path / "cache").exists()


def test_a_distribution_without_a_rated_file_names_it(make_sdist, tmp_path):
    files = {name: data for name, data in FILES.items() if name != "tweets_GroundTruth.txt"}
    with pytest.raises(DatasetError, match=r"lacks tweets_GroundTruth\.txt"):
        fetch_archive(tmp_path / "cache", sdist=make_sdist(in_folder(files)))


def test_pip_is_asked_for_the_exact_distribution_by_hash(make_sdist, tmp_path, monkeypatch):
    sdist = make_sdist(in_folder(FILES))
    commands = []

    def pip(command, *, cwd, **_):
        commands.append((command, (cwd / "requirements.txt").read_text()))
        (cwd / archive.SDIST).write_bytes(sdist.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    folder = fetch_archive(tmp_path / "cache")
    ((command, requirements),) = commands
    assert requirements == f"vaderSentiment==3.3.2 --hash=sha256:{archive.SDIST_SHA256}\n"
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert len(load_ratings(folder)) == 7


def test_a_failing_pip_is_one_line_with_its_reason(tmp_path, monkeypatch):
    stderr = "WARNING: Retrying\nERROR: No matching distribution found\n"
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr))
    with pytest.raises(DatasetError, match=r"\(No matching distribution found\).*\(sdist\)$") as caught:
        fetch_archive(tmp_path)
    assert "\n" not in str(caught.value)


def test_ratings_are_joined_by_id_with_document_text_and_mean_of_the_raters(tmp_path):
    frame = load_ratings(write_folder(tmp_path, FILES))
    rows = frame[["source", "document", "id", "text", "mean_rating"]].to_numpy().tolist()
    assert rows == [
        ["tweets", "1", "1", "I love it <3", 2.0],
        ["tweets", "2", "2", "fine\there", -2.0],
        ["movies", "1", "1", "tr\u00e8s bien", 0.5],
        ["amazon", "1", "1_1", "broke.", -4.0],
        ["amazon", "1", "1_2", "it is red.", 0.0],
        ["amazon", "12", "12_1", "ok", 0.0],
        ["nyt", "7", "7_1", "Taxes rose.", 0.0],
    ]
    assert frame["ratings"].iloc[0] == [1, 3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tweets_GroundTruth.txt", b"1\t2.5\tgood\r\n2\t1", r"tweets_GroundTruth\.txt:2: expected 3 tab-separated"),
        ("tweets_GroundTruth.txt", b"9\t2.5\tgood", r"tweets_GroundTruth\.txt:1: id '9' has no ratings in tweets_anon"),
        (
            "tweets_anonDataRatings.txt",
            b"1\t0\t0\t[1]\r\n2\t0\t0\t[1,",
            r"anonDataRatings\.txt:2: ratings are not a list",
        ),
        ("tweets_anonDataRatings.txt", b"1\t0\t0\t[5]", r"anonDataRatings\.txt:1: ratings must be whole numbers"),
        ("tweets_anonDataRatings.txt", b"1\t0\t0\t[]", r"anonDataRatings\.txt:1: ratings must be whole numbers"),
        ("nytEditorialSnippets_GroundTruth.txt", b"", r"nytEditorialSnippets_GroundTruth\.txt: holds no texts"),
        ("tweets_GroundTruth.txt", b"1\t2\tcaf\xe9", r"tweets_GroundTruth\.txt: cannot be read"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, data, message):
    with pytest.raises(DatasetError, match=message):
        load_ratings(write_folder(tmp_path, FILES | {name: data}))


def test_a_missing_file_is_named(tmp_path):
    write_folder(tmp_path, FILES)
    (tmp_path / "movieReviewSnippets_anonDataRatings.txt").unlink()
    with pytest.raises(DatasetError, match=r"movieReviewSnippets_anonDataRatings\.txt: not found"):
        load_ratings(tmp_path)


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t"), min_size=1, max_size=40)
rated = st.tuples(texts.filter(str.strip), st.lists(st.integers(-4, 4), min_size=1, max_size=5))


@given(st.lists(rated, min_size=1, max_size=8))
def test_any_text_and_ratings_survive_the_format(tmp_path_factory, rows):
    lines = [f"{number}\t0\t{html.escape(text)}" for number, (text, _) in enumerate(rows)]
    ratings = [f"{number}\t0\t0\t{values}" for number, (_, values) in enumerate(rows)]
    files = {
        "tweets_GroundTruth.txt": "\r\n".join(lines).encode(),
        "tweets_anonDataRatings.txt": "\r\n".join(ratings).encode(),
    }
    frame = load_ratings(write_folder(tmp_path_factory.mktemp("archive"), FILES | files))
    tweets = frame[frame["source"] == "tweets"]
    assert tweets["text"].tolist() == [text.strip() for text, _ in rows]
    assert tweets["ratings"].tolist() == [values for _, values in rows]
