"""Pages of the finished runs in `tests/fixtures/runs`, made anew, and a browser that all tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser.chromium import Browser

import leakmech

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
KINDS = ("bench", "score-file", "comparison", "diagnose", "mitigate", "evaluate", "train", "annotation")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running Chromium; that there is none is an error, never a reason to skip."""
    with Browser() as found:
        yield found


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run of each kind, and one about several runs."""
    folder = tmp_path_factory.mktemp("pages") / "runs"
    shutil.copytree(RUNS, folder)
    _invent_a_verdict(folder / "diagnose")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # their paths are relative
        found = {name: leakmech.load_result(name).report() for name in KINDS}
    return {name: folder / path for name, path in found.items()}


def _invent_a_verdict(run: Path) -> None:
    """Tables that runs of that version did not have; the numbers are made up."""
    row = {"set": "first 5 heads", "universe": "heads", "size": 5, "target": "direction", "share": 0.4, "low": 0.2}
    row |= {"high": 0.6, "share_judged": 0.4, "random_mean": 0.1, "random_max": 0.3, "random_sets": 9, "p": 0.1}
    pd.DataFrame([row | {"n": 3, "n_judged": 3}]).to_csv(run / "tables" / "verdict.csv", index=False)
    tokens = {"position": range(30), "token": [" tokens"] * 30, "projection": [place - 12.0 for place in range(30)]}
    frame = pd.DataFrame(tokens).assign(part="stem", condition="control")
    frame.to_csv(run / "tables" / "token_projection.csv", index=False)


@pytest.fixture
def told_topic(run: Path) -> Path:
    """The page of the run with hostile texts (`finished_run.py`); its first answers after injections are on topic."""
    file = run / "scores.parquet"
    frame = pd.read_parquet(file)
    for condition in ("positive", "neutral", "negative"):
        frame[f"echo_free_topic_{condition}"] = (frame["generation"] > 0).astype(float)
    frame.to_parquet(file)
    (run / "checksums.json").unlink()  # which says that the scores are no longer those of the run
    return leakmech.load_result(run).report()
