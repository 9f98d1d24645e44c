"""Files that changed after runs were made from them."""

from __future__ import annotations

import os

from leakmech.core.store import write_json
from leakmech.runs.settings import ModelSettings
from leakmech.runs.sources import SOURCES, changed_sources, source_stamps


class Config(ModelSettings):
    command = "bench"


def test_a_changed_folder_is_named_with_how_many_runs_and_a_missing_one_is_not(tmp_path):
    model, gone = tmp_path / "model", tmp_path / "gone"
    for folder in (model, gone):
        folder.mkdir()
        (folder / "weights").write_text("1")
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for run, source in zip(runs, (model, model, gone), strict=True):
        stamps = source_stamps(Config(model=str(source)))
        assert str(source) in stamps
        write_json(run / "run.json", {"command": "bench", "settings": {}, SOURCES: stamps})
    assert changed_sources(runs) == {}
    (model / "weights").write_text("22")
    os.utime(model / "weights", (1, 1))
    (gone / "weights").unlink()
    gone.rmdir()
    assert changed_sources([*runs, tmp_path / "no run"]) == {str(model): 2}
