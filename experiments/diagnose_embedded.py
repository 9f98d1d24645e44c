"""Diagnose the embedded model: directions, attribution, causal checks, figures and report, on two cores.

AEXL samples that are built from the installed archive are fitted on and chosen on; HEXL is what everything is reported
on. Continues the run in ``--out`` if there is one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from leakmech import build_aexl, diagnose
from leakmech.cli.console import out as console
from leakmech.core.progress import rich_progress
from leakmech.studies.diagnosis.tables import diagnosis_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/diagnose"))
    parser.add_argument("--samples", type=int, default=50, help="AEXL samples to fit on, and as many to choose on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    n, seed = arguments.samples, arguments.seed
    data = arguments.out.with_name(f"{arguments.out.name}-aexl")
    fit, tune = (data / f"aexl-{n}-{seed}_{split}.jsonl" for split in ("fit", "tune"))
    if not tune.exists():
        build_aexl(data / f"aexl-{n}-{seed}.jsonl", samples=n, fit=n, tune=n, seed=seed, progress=rich_progress)
    result = diagnose(
        out=arguments.out,
        fit=str(fit),
        tune=str(tune),
        dataset="hexl",
        prompt_form="plain",
        seed=seed,
        progress=rich_progress,
    )
    for table in diagnosis_tables(result.summary, result.table("heads")):
        console.print(table.to_rich())
    seconds = result.summary["timing"]["total_s"]
    console.print(f"{seconds / 60:.1f} minutes; report: {result.path / 'report.html'}")


if __name__ == "__main__":
    main()
