"""Benchmark: memory and speed of building AEXL as the corpus grows, against reading, scoring and sorting everything.

Corpora of synthetic sentences of two sizes are written to a temporary folder. For each, two ways select the injections
and stems of 200 samples, each in a process of its own whose peak memory is measured:

* ``ours``: :func:`leakmech.build_aexl` as it is, with a heap of the best m sentences of each class;
* ``list and sort``: every usable sentence with its scores and every stem in a list, sorted at the end.

Both use the same filters and a stand-in estimator that costs next to nothing (a hash of the text), so that what is
measured is leakmech's own work. ``growth`` is the peak memory at the larger size minus that at the smaller one.

The last line is one JSON object with ``name``, ``ratios`` and ``environment``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leakmech.core.provenance import environment
from leakmech.core.seeds import stable_hash
from leakmech.datasets.corpus import open_corpus
from leakmech.datasets.filters import tidy
from leakmech.scoring.sentence import split_sentences
from leakmech.studies.aexl.run import build_aexl
from leakmech.studies.aexl.settings import AexlSettings

SETTINGS = {"samples": 200, "max_similarity": 1.0, "seed": 0}
SUBJECTS = [
    "garden",
    "bridge",
    "engine",
    "market",
    "teacher",
    "letter",
    "river",
    "planner",
    "kitchen",
    "station",
    "harbour",
    "museum",
]
VERBS = ["was", "is", "looks", "seemed", "felt", "sounds", "became", "remains"]


class HashEstimator:
    """Random but fixed probabilities of each text."""

    name = "hash"
    details = {"name": "hash"}  # noqa: RUF012 - the protocol asks for a plain mapping

    def __call__(self, texts: Sequence[str], /) -> Any:
        numbers = np.array([[stable_hash(text, label) % 1000 + 1 for label in range(3)] for text in texts], dtype=float)
        return numbers**4 / (numbers**4).sum(axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and speed of building AEXL.")
    parser.add_argument("--sizes", type=int, nargs=2, default=(100_000, 1_000_000), metavar="SENTENCES")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "list and sort": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            path = Path(folder) / f"{size}.txt"
            _write_corpus(path, size)
            for way, results in measured.items():
                result = _in_process(way, path, cache=Path(folder) / f"cache-{way}-{size}")
                results.append(result)
                rate = size / result["seconds"]
                print(f"{way}, {size:,} sentences: {result['peak_mib']:.0f} MiB, {rate:,.0f} sentences/s")
    ours, listed = measured["ours"], measured["list and sort"]
    growth = {way: own[1]["peak_mib"] - own[0]["peak_mib"] for way, own in measured.items()}
    print(json.dumps({
        "name": "aexl",
        "ratios": {
            "peak_memory_list_over_ours": round(listed[1]["peak_mib"] / ours[1]["peak_mib"], 2),
            "seconds_list_over_ours": round(listed[1]["seconds"] / ours[1]["seconds"], 2),
        },
        "sizes": list(arguments.sizes),
        "peak_mib": {way: [round(one["peak_mib"]) for one in own] for way, own in measured.items()},
        "growth_mib": {way: round(value, 1) for way, value in growth.items()},
        "sentences_per_second": round(arguments.sizes[1] / ours[1]["seconds"]),
        "environment": environment(),
    }))  # fmt: skip


def _write_corpus(path: Path, size: int) -> None:
    """Sentences of random made-up words, a third of which can be cut to stems."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(size):
            rest = " ".join("".join(draw.choices(letters, k=draw.randint(3, 8))) for _ in range(draw.randint(3, 12)))
            file.write(f"The {rest.split()[0]} {draw.choice(SUBJECTS)} {draw.choice(VERBS)} {rest}.\n")


def _in_process(way: str, path: Path, *, cache: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, str(path)]
    variables = os.environ | {"LEAKMECH_CACHE": str(cache)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _child(way: str, corpus: str) -> None:
    started = time.perf_counter()
    if way == "ours":
        with tempfile.TemporaryDirectory() as out:
            build_aexl(out, corpus=corpus, estimator=HashEstimator(), tokenizer=None, **SETTINGS)
    else:
        _list_and_sort(corpus)
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"peak_mib": peak, "seconds": time.perf_counter() - started}))


def _list_and_sort(corpus: str) -> None:
    """What one would write first: everything in lists, scored in one call, sorted."""
    settings = AexlSettings.parse(SETTINGS)
    rules, stem_rules = settings.injection_rules(), settings.stem_rules()
    sentences = [tidy(sentence) for text in open_corpus(corpus) for sentence in split_sentences(text.text)]
    stems = [stem for sentence in sentences if (stem := stem_rules.cut(sentence)) is not None]
    usable = [sentence for sentence in sentences if rules.refusal(sentence) is None]
    scores = HashEstimator()(usable)
    for label in range(3):
        ranked = sorted(zip(scores[:, label], usable, strict=True), reverse=True)[: settings.m]
        assert len(ranked) == settings.m
    random.Random(0).shuffle(stems)


if __name__ == "__main__":
    main()
