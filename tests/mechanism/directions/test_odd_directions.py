"""A saved direction whose description has an odd value is refused in one line, or means the same as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from leakmech.core.errors import DirectionError
from leakmech.mechanism.directions.direction import load_direction

SAVED = Path(__file__).parents[2] / "fixtures" / "runs" / "diagnose" / "directions"


@pytest.mark.fault("X520", "hostile", "each value of a direction's file by null, a list, a number …", "one line")
def test_odd_values_of_a_direction_are_one_line(tmp_path):
    for file in SAVED.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / "read.json"
    whole = json.loads(path.read_text())
    told = {}
    for name in whole:
        for odd in (None, True, -1, "", [], [1], {}):
            path.write_text(json.dumps(whole | {name: odd}))
            try:
                load_direction(path)
            except DirectionError as error:
                told[name] = str(error)
    assert {"format_version", "layer", "site", "method", "model_hash"} <= told.keys()
    assert [one for one in told.values() if "\n" in one or not one.startswith(str(tmp_path))] == []
