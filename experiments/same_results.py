"""Does a change of the code change a result? Records what the code computes, and compares it bit for bit.

    python experiments/same_results.py record before.json
    (change the code)
    python experiments/same_results.py compare before.json

Both on one machine with the same number of threads: processors differ in the last digits, which is why the tests
(``tests/test_same_results.py``) compare with a tolerance. What is computed stands in ``tests/fixtures/results.py``.
``compare`` prints what differs and exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

SHOWN = 20
"""Differences that are printed of each part."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--parts", nargs="+", help="only these parts")
    parser.add_argument("--fast", action="store_true", help="without the real embedded model")
    parser.add_argument("--tolerance", type=float, default=0.0, help="by which floats may differ (default: none)")
    arguments = parser.parse_args()
    results = _results()
    wanted = arguments.parts or list(results.PARTS)
    wanted = [part for part in wanted if not (arguments.fast and part in results.SLOW)]
    before = json.loads(arguments.file.read_text(encoding="utf-8")) if arguments.action == "compare" else {}
    found: dict[str, Any] = {}
    changed = 0
    for part in wanted:
        started = time.perf_counter()
        found |= results.compute([part])
        said = f"{part}: {time.perf_counter() - started:.1f} s"
        if arguments.action == "compare":
            if part not in before:
                print(f"{said}, is not in {arguments.file}")
                changed += 1
                continue
            own = list(results.differences(found[part], before[part], tolerance=arguments.tolerance, where=part))
            said += f", {len(own)} differences" if own else ", the same"
            changed += len(own)
            said = "\n  ".join([said, *own[:SHOWN], *(["…"] if len(own) > SHOWN else [])])
        print(said, flush=True)
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(found), encoding="utf-8")
    return int(changed > 0)


def _results() -> Any:
    """The helper of the tests, wherever this script is called from."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    return importlib.import_module("fixtures.results")


if __name__ == "__main__":
    sys.exit(main())
