"""Kills runs at random moments and continues them: each must end as the one that nobody disturbed.

    make torture
    PYTHONPATH=.:tests python tests/torture.py --moments 200 --seed 0

One process imports everything and then forks one child a run, so that a moment costs the run and not the imports. Half
of the moments are SIGKILL, half SIGTERM, after which the message must say how to go on. Whole lines that were on disk
must stay, and all numbers, texts and tables must be equal in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # threads of a parent do not live on in its children
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from few_texts import few_texts
from fixtures import make_runs

import leakmech
from leakmech.core.errors import InterruptedRunError
from leakmech.core.store import read_jsonl_shard
from leakmech.core.tables import read_table
from leakmech.runs.interrupt import sigterm_interrupts

PLACE, SETTINGS = make_runs.PLACE, make_runs.SETTINGS
# A random model writes nothing of which tilt could be told; many random sets show nothing more.
_FEW = {"target": "direction", "random_sets": 5, "sampled_sets": 2, "sampled_samples": 4, "sampled_generations": 1}
KINDS: dict[str, Callable[[], Any]] = {
    "bench": lambda: leakmech.bench(
        make_runs.MODEL, out="bench", **PLACE, **SETTINGS["bench"] | {"estimator": "vader"}
    ),
    "score-file": make_runs.score_file,
    "aexl": make_runs.build_aexl,
    "diagnose": lambda: leakmech.diagnose(make_runs.MODEL, out="diagnose", **PLACE, **SETTINGS["diagnose"] | _FEW),
    "train": make_runs.train,
    "mitigate": make_runs.mitigate,
}
"""In this order: later ones read earlier ones."""
NEEDS = {"mitigate": ("diagnose", "train")}
_INTERRUPTED, _BEFORE = 3, 4  # exit codes of children that were interrupted: with a message, or before a run began
_MEASURED = ("seal", "timing", "seconds", "per_second", "speed", "peak_memory")
"""What names of values have in common that are about the machine, or about such values."""


def child(kind: str, folder: Path, told: Path) -> int:
    """Begin a process that makes the run `kind` in `folder`; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.chdir(folder)
        os.environ["LEAKMECH_CACHE"] = str(folder / "cache") if kind in ("aexl", "train") else os.environ["OWN_CACHE"]
        with told.open("w") as file:
            os.dup2(file.fileno(), 2)
        with sigterm_interrupts():
            KINDS[kind]()
        code = 0
    except InterruptedRunError as error:
        told.write_text(str(error))
        code = _INTERRUPTED
    except KeyboardInterrupt:
        code = _BEFORE
    except BaseException as error:
        told.write_text(repr(error))
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make(kind: str, folder: Path, told: Path) -> float:
    """Make a run to its end; the seconds that it took."""
    started = time.monotonic()
    if ended(child(kind, folder, told)) != 0:
        raise AssertionError(f"{kind}: {told.read_text()}")
    return time.monotonic() - started


def found(run: Path) -> dict[str, Any]:
    """All that a run found: numbers, texts and tables, without times."""
    values: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        name = str(file.relative_to(run))
        if file.name in ("summary.json", "cell.json", "aexl.json"):
            values[name] = _untimed(json.loads(file.read_text()))
        elif file.suffix == ".jsonl" and file.name != "log.jsonl":
            rows = read_jsonl_shard(file)
            values[name] = sorted(json.dumps(_untimed(row), sort_keys=True) for row in rows)
        elif file.parent.name == "tables" and file.suffix == ".csv":
            table = read_table(file)
            values[name] = table[[c for c in table if "speed" not in c and "second" not in c]].to_json()
        elif file.name == "adapter_model.safetensors":
            values[name] = file.read_bytes()
    return values


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _untimed(v) for name, v in value.items() if not any(part in name for part in _MEASURED)}
    return [_untimed(one) for one in value] if isinstance(value, list) else value


def whole_lines(run: Path) -> Iterator[bytes]:
    """Lines of shards that are whole on disk."""
    for shard in (run / "generations").glob("*.jsonl"):
        yield from (line for line in shard.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))


def disturb(kind: str, work: Path, took: float, expected: dict[str, Any], chance: random.Random) -> str:
    """Kill one run at a random moment, continue it, and compare; how the kill ended it."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder, told = Path(temporary), work / "told"
        for name in ("model", "data", "interventions", *NEEDS.get(kind, ())):
            (folder / name).symlink_to(work / name)
        by = chance.choice((signal.SIGKILL, signal.SIGTERM))
        pid = child(kind, folder, told)
        time.sleep(chance.uniform(0, took))
        os.kill(pid, by)
        code = ended(pid)
        if code == _INTERRUPTED and "continue with: " not in told.read_text():
            raise AssertionError(f"{kind}: {told.read_text()!r} does not say how to go on")
        if code == 1:
            raise AssertionError(f"{kind}: {told.read_text()}")
        kept = set(whole_lines(folder / kind))
        make(kind, folder, told)
        lost = kept - set(whole_lines(folder / kind))
        if lost:
            raise AssertionError(f"{kind}: {len(lost)} lines were lost")
        now = found(folder / kind)
        different = [name for name in {**expected, **now} if expected.get(name) != now.get(name)]
        if different:
            raise AssertionError(f"{kind}: {', '.join(sorted(different))} differ after a kill")
        left = [file.name for file in (folder / kind).rglob(".*.tmp")]
        if left:
            raise AssertionError(f"{kind}: left {left[0]}")
    return {-9: "killed", _INTERRUPTED: "interrupted", _BEFORE: "before it began", 0: "done already"}.get(
        code, str(code)
    )


def torture(work: Path, *, moments: int, kinds: tuple[str, ...], seed: int) -> Counter[tuple[str, str]]:
    """Disturb runs of `kinds` in turn; how often each was ended in which way."""
    assert transformers.LlamaForCausalLM
    torch.set_num_threads(1)
    few_texts(pytest.MonkeyPatch())
    own = [name for name in KINDS if name in kinds or any(name in NEEDS.get(kind, ()) for kind in kinds)]
    pid = os.fork()
    if not pid:
        os.chdir(work)
        make_runs._write_inputs()
        os._exit(0)
    ended(pid)
    expected: dict[str, dict[str, Any]] = {}
    took: dict[str, float] = {}
    for kind in own:
        took[kind] = make(kind, work, work / "told")
        expected[kind] = found(work / kind)
    each = 1.5 * sum(took[kind] for kind in kinds) / len(kinds)  # half a run on average, and one that continues it
    took_of_each = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in took.items())
    _say(f"undisturbed, in seconds: {took_of_each}; {moments} moments take about {moments * each / 60:.0f} minutes")
    chance = random.Random(seed)
    ways: Counter[tuple[str, str]] = Counter()
    for moment in range(moments):
        kind = kinds[moment % len(kinds)]
        ways[kind, disturb(kind, work, took[kind], expected[kind], chance)] += 1
        if (moment + 1) % 10 == 0:
            _say(f"{moment + 1} of {moments} moments passed")
    return ways


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OWN_CACHE"] = os.environ.get("LEAKMECH_CACHE") or str(leakmech_cache())
    work = Path(tempfile.mkdtemp())
    try:
        kinds = tuple(options.kinds.split(","))
        ways = torture(work, moments=options.moments, kinds=kinds, seed=options.seed)
    finally:
        shutil.rmtree(work)
    for (kind, way), number in sorted(ways.items()):
        _say(f"{kind}: {number} {way}")
    _say(f"{sum(ways.values())} of {options.moments} moments passed")


def leakmech_cache() -> Path:
    """Where converted models are."""
    from leakmech.core.paths import cache_root

    return cache_root()


if __name__ == "__main__":
    main()
