"""What a sweep costs beside its cells: Ray against local, and memory of the driver from 10 to 1,000 cells.

    python experiments/benchmark_sweep.py --cells 6

One worker of one thread makes the same cells under both executors (a Ray cluster of this machine, which the sweep starts
and ends). For memory all cells but two are copies of one that was made, so that the driver has what it has in a large
sweep and only two cells are made. The last line is one JSON object; ``ratios`` are of seconds (Ray over local, as
measured and for cells of a minute) and of peak memory of the driver. Without the extra ``leakmech[ray]`` the first part
is left out, with a line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from benchmark_scale import save_tiny

from leakmech.core.provenance import environment
from leakmech.studies.sweep.result import Places
from leakmech.studies.sweep.spec import read_sweep

MINUTE = 60.0
_MADE = 2
"""Cells of a large sweep that are made; the others are copies."""
BASE = {"dataset": "hexl", "max_new_tokens": 16, "noise_floor": False, "bootstrap_draws": 100, "estimator": "vader",
        "dtype": "float32", "device": "cpu"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="What a sweep costs beside its cells.")
    parser.add_argument("--cells", type=int, default=6, help="cells that both executors make")
    parser.add_argument("--generations", type=int, default=10, help="answers a prompt in these cells")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 1_000], help="cells of the sweeps for memory")
    arguments = parser.parse_args()
    ratios: dict[str, float] = {}
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny(folder / "tiny")
        if find_spec("ray") is None:
            print("Ray is not installed (pip install 'leakmech[ray]'): its overhead is not measured", flush=True)
        else:
            measured["executors"] = _executors(folder, arguments.cells, arguments.generations)
            local, ray = (measured["executors"][own]["seconds"] for own in ("local", "ray"))
            minutes = MINUTE * arguments.cells
            ratios = {"ray over local": ray / local, "the same for cells of a minute": (minutes + ray - local) / minutes}
        if arguments.sizes:
            measured["driver"] = {str(size): _driver(folder, size) for size in sorted(arguments.sizes)}
            peaks = [own["peak_mib"] for own in measured["driver"].values()]
            ratios["peak memory of the driver"] = peaks[-1] / peaks[0]
    print(json.dumps({
        "name": "sweep",
        "ratios": {own: round(value, 3) for own, value in ratios.items()},
        "measured": measured,
        "environment": environment(),
    }))  # fmt: skip


def _executors(folder: Path, cells: int, generations: int) -> dict[str, dict[str, float]]:
    """Seconds of the same sweep under both; local comes first and last, and the faster one counts."""
    found: dict[str, dict[str, float]] = {}
    config = _config(folder, f"sweep-{cells}", cells, generations=generations)
    for place, name in enumerate(("local", "ray", "local")):
        own = _sweep(config, folder / f"{name}-{place}", "--executor", name)
        print(f"{cells} cells, {name}: {own['seconds']:.1f} s, driver {own['peak_mib']:.0f} MiB", flush=True)
        found[name] = min(own, found.get(name, own), key=lambda one: one["seconds"])
    return found


def _driver(folder: Path, size: int) -> dict[str, float]:
    """Time and memory of a driver with `size` cells, all but two of which are copies of one that was made."""
    small = {"limit": 2, "generations": 1}
    out, config = folder / f"driver-{size}", _config(folder, f"driver-{size}", size, **small)
    first = _config(folder, f"first-{size}", 1, **small)
    _sweep(first, out)
    places, keys = Places(out), [cell.key for cell in read_sweep(config).cells]
    for key in keys[1:-_MADE]:
        shutil.copytree(places.run(keys[0]), places.run(key))
    own = _sweep(config, out)
    print(f"{size:,} cells: driver {own['peak_mib']:.0f} MiB, {own['seconds']:.1f} s", flush=True)
    return own


def _config(folder: Path, name: str, cells: int, **base: Any) -> Path:
    file = folder / f"{name}.yaml"
    values = {"base": {**BASE, "model": str(folder / "tiny"), **base}, "grid": {"seed": list(range(cells))}}
    file.write_text(yaml.safe_dump(values))
    return file


def _sweep(config: Path, out: Path, *more: str) -> dict[str, float]:
    """Seconds and peak memory of a driver; not of its workers, which are processes that another one has waited for."""
    words = ["sweep", str(config), "--out", str(out), "--workers", "1", "--threads", "1", *more]
    began = time.perf_counter()
    peak = _peak_of(words)
    return {"seconds": round(time.perf_counter() - began, 2), "peak_mib": round(peak, 1)}


def _peak_of(words: Sequence[str]) -> float:
    """Peak resident memory of a command without its children, in MiB, as the kernel counts it while it lives."""
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "leakmech", *words],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    peak, status = 0.0, Path(f"/proc/{child}/status")
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        lines = status.read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.05)
    _, code = os.waitpid(child, 0)
    if code != 0:
        raise SystemExit(f"leakmech {' '.join(words)}: exit code {os.waitstatus_to_exitcode(code)}")
    return peak


if __name__ == "__main__":
    main()
