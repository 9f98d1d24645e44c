"""Twenty of the random moments at which ``make torture`` kills runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.fault("X416", "runs", "SIGKILL or SIGTERM at 20 random moments", "continued runs equal undisturbed ones")
def test_runs_that_are_killed_at_random_moments_end_as_if_they_were_not():
    command = [sys.executable, str(TESTS / "torture.py"), "--moments", "20", "--kinds", "bench,score-file,aexl"]
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    ended = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=1500, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.endswith("20 of 20 moments passed\n")
