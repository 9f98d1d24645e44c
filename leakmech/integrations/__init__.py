"""leakmech in other programs: tasks of evaluation harnesses, and repositories of the hub."""

from __future__ import annotations

from pathlib import Path


def lm_eval_tasks() -> Path:
    """The folder for ``--include_path`` of lm-evaluation-harness."""
    return Path(__file__).parent / "lm_eval_tasks"
