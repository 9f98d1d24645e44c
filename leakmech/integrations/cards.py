"""Cards for the hub: what an adapter, a direction, interventions or a data set is, and the leakage measured with it.

A card is a ``README.md`` with metadata in its head (:mod:`leakmech.core.hub_cards`). The table of leakage comes from
the comparison of mitigations in whose run directory a file lies, and from runs that the user names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import RunDirectoryError
from leakmech.core.hub_cards import front_matter, hub_id
from leakmech.datasets.samples import INJECTIONS, PromptSet
from leakmech.interventions.types import Intervention
from leakmech.mechanism.directions.direction import Direction
from leakmech.reports.cells import DASH, number
from leakmech.reports.tables import Table
from leakmech.runs.directory import RunRecord
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.results import load_result

TAGS = ["leakmech", "expression-leakage"]
_HEADER = ("measured with", "data set", "auc_EL", "interval", "leakage reduction", "retention")
_NOT_MEASURED = (
    "No leakage was measured with it. Measure it (`leakmech bench`), and name the run: `leakmech card PATH --run RUN`."
)


def leakage_section(path: Path, runs: Sequence[str | Path]) -> str:
    """The table of leakage; without any run, how to get one."""
    rows = [*_compared(path), *(_row_of_run(Path(run)) for run in runs)]
    if not rows:
        return f"## Leakage\n\n{_NOT_MEASURED}\n"
    notes = [
        "auc_EL: share of pairs of answers in which the answer after a charged, unrelated sentence leans further "
        "towards that sentence's polarity than the answer without it; 0.5 is no leakage. Reduction and retention are "
        "those of a comparison of mitigations: of leakage, and of affect that belongs in the answer."
    ]
    return f"## Leakage\n\n{Table('Expression leakage', _HEADER, rows, notes).to_markdown()}\n"


def _compared(path: Path) -> Iterator[tuple[str, ...]]:
    """The rows of a file, and of the model as it is, in the comparison of mitigations that the file is part of."""
    for folder in path.resolve().parents:
        record = RunRecord.find(folder)
        if record is not None and record.kind == "mitigate":
            result = load_result(folder)
            table = result.table("mitigations")
            names = ["base", result.summary.get("chosen", {}).get(path.stem, path.stem)]  # a file is a family's chosen
            rows: Any = table.to_dict("records")
            for row in (row for row in rows if row["name"] in names and row["split"] == "test"):
                yield (
                    row["name"],
                    str(record.config.get("dataset", DASH)),
                    number(row["auc_el"]),
                    _interval([row["auc_el_low"], row["auc_el_high"]]),
                    number(_present(row["leakage_reduction"])),
                    number(_present(row["retention"])),
                )
            return


def _row_of_run(run: Path) -> tuple[str, ...]:
    result = load_result(run)
    if not isinstance(result, BenchResult):
        raise RunDirectoryError(f"{run}: is not a run of leakmech bench or score, whose leakage a card could tell")
    overall, config = result.summary["overall"], result.record.config
    used = [str(config[name]) for name in ("adapter", "intervention") if config.get(name)]
    name = f"{result.summary['model']}{' with ' + ', '.join(Path(one).name for one in used) if used else ''}"
    interval = _interval(overall["auc_el_ci"])
    return name, result.summary["dataset"], number(overall["auc_el"]), interval, DASH, DASH


def _present(value: Any) -> Any:
    return None if pd.isna(value) else value


def _interval(ends: Sequence[float] | None) -> str:
    return DASH if ends is None or any(pd.isna(end) for end in ends) else f"[{number(ends[0])}, {number(ends[1])}]"


def interventions_card(
    path: Path, interventions: Sequence[Intervention], description: Mapping[str, Any], runs: Sequence[str | Path]
) -> str:
    """The card of a file of interventions."""
    model = description.get("model") or {}
    head = {"library_name": "leakmech", "base_model": hub_id(model.get("name")), "tags": [*TAGS, "intervention"]}
    rows = [(str(edit), edit.operation, edit.positions, edit.model_hash or "any") for edit in interventions]
    table = Table("Changes to the forward pass, in order", ("what", "operation", "positions", "fitted on"), rows)
    return "\n".join(
        [
            front_matter(head),
            f"# Interventions `{path.stem}`\n",
            "Changes to the forward pass of a language model, fitted and saved by leakmech.\n",
            _facts({"Model": model.get("name"), "Form of prompts": description.get("prompt_form")}),
            table.to_markdown() + "\n",
            leakage_section(path, runs),
            f"## Use\n\n```python\nimport leakmech\n\nedits = leakmech.load_interventions({path.name!r})\n```\n\n"
            f"or `leakmech bench --model MODEL --intervention {path.name}`.\n",
        ]
    )


def direction_card(path: Path, direction: Direction, runs: Sequence[str | Path]) -> str:
    """The card of a direction."""
    label = f", {direction.label}" if direction.label else ""
    facts = {
        "Kind": f"{direction.kind}{label}",
        "Place": f"{direction.site} of layer {direction.layer}, {direction.position}; layers are counted from 0",
        "Fitted by": direction.method,
        "Size": f"{direction.d_model} numbers, unit length; positive affect has the larger projection",
        "Hash of the model's weights": direction.model_hash,
        "Hash of the data": direction.data_hash,
        "Mean projections": ", ".join(f"{name} {value:.3g}" for name, value in direction.projections.items()),
    }
    return "\n".join(
        [
            front_matter({"library_name": "leakmech", "tags": [*TAGS, "direction"]}),
            f"# Direction `{path.stem}`\n",
            "A unit vector in the residual stream of a language model along which affect lies, fitted by leakmech.\n",
            _facts(facts),
            leakage_section(path, runs),
            f"## Use\n\n```python\nfrom leakmech.mechanism.directions.direction import load_direction\n\n"
            f"direction = load_direction({path.name!r})\n```\n",
        ]
    )


def data_card(samples: PromptSet, files: Mapping[str, str], datasheet: str | None) -> str:
    """The card of a data set; `files` are those of the repository by split, `datasheet` what is known of its origin."""
    configs = [{"split": split, "path": file} for split, file in files.items()]
    head = {
        "pretty_name": samples.name,
        "task_categories": ["text-generation"],
        "size_categories": [_size(len(samples))],
        "tags": TAGS,
        "configs": [{"config_name": "default", "data_files": configs}],
    }
    lengths = [
        (name, f"{sum(words) / len(words):.1f}", str(min(words)), str(max(words)))
        for name in ("stem", *INJECTIONS)
        for words in [[len(getattr(sample, name).split()) for sample in samples]]
    ]
    table = Table("Words a text", ("text", "mean", "fewest", "most"), lengths)
    unknown = "No datasheet came with this file: say who wrote the texts, how, and under which licence.\n"
    return "\n".join(
        [
            front_matter(head),
            f"# {samples.name}\n",
            f"{len(samples)} samples: a stem to be completed, and a positive, a neutral and a negative sentence to be "
            "put before it. leakmech measures how far these colour the completion.\n",
            table.to_markdown() + "\n",
            "## Datasheet\n",
            datasheet or unknown,
        ]
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *rows, ""]) if rows else ""


def _size(number_of_samples: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if number_of_samples < bound), "n>1M")
