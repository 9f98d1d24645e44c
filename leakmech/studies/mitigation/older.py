"""What runs of older versions do not say of their mitigations, from what their directories hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import LeakmechError
from leakmech.core.store import read_json, slug
from leakmech.core.tables import read_table
from leakmech.interventions.files import load_interventions
from leakmech.prompts.told import Told
from leakmech.studies.mitigation.mitigation import HELD_AGAINST, told_by_parts


def read_rows(run: Path) -> pd.DataFrame:
    """``tables/mitigations.csv``, in which every row says what its mitigation is told; None where nothing tells."""
    frame = read_table(run / "tables" / "mitigations.csv")
    if "told" in frame.columns:
        return frame
    told = [_told(run, row) for row in frame.to_dict("records")]
    frame.insert(2, "told", pd.Series(told, index=frame.index, dtype=object))
    return frame


def _told(run: Path, row: Mapping[str, Any]) -> Told | None:
    """Read from the cell's settings, and from the interventions that were fitted or named."""
    if row["kind"] in HELD_AGAINST:
        return "boundary" if row["kind"] == "oracle" else "nothing"
    cells = sorted((run / "cells" / str(row["split"])).glob(f"{slug(row['name'])}-{'[0-9a-f]' * 8}/*/run.json"))
    if not cells:
        return None
    record = read_json(cells[0])
    settings = {name: value for name, value in record["config"].items() if value is not None}
    fitted = run / "fitted" / f"{row['name']}.json"
    try:
        if fitted.exists():
            return told_by_parts({}, load_interventions(fitted))
        named = Path(settings.get("intervention", ""))
        if record.get("interventions") and not named.is_file():
            return None
        return told_by_parts(settings)
    except LeakmechError:
        return None
