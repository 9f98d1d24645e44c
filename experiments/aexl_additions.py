"""What each of our additions to the paper's algorithm changes in AEXL, one at a time and all together.

    python experiments/aexl_additions.py --corpus embedded --samples 200
    python experiments/aexl_additions.py --samples 60 --model embedded:smollm2-135m-instruct --limit 30 --generations 2

Every row is built by ``leakmech data build-aexl --algorithm paper`` with the settings of the row in :data:`ADDITIONS`;
the last row is ``--algorithm leakmech``. Printed are

* mean words of injections and stems;
* the mean cosine similarity of stem and injection, and the share of samples whose stem shares a content word with one
  of its injections (overlap in topic);
* the share of stems that end in a final mark (nothing to complete), and of those that break off in a function word
  other than a linking verb;
* the share of stems that the estimator itself does not call neutral;
* the share of injections that would not stand alone, that run into the stem (no final mark), and of those with
  profanity or personal data;

and with ``--model`` the leakage of its answers (all pairs), how many are about the injection, and the leakage of the
others. The words are English rules of :mod:`leakmech.datasets.filters`, not a parser. A row that the corpus cannot
carry says why. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paper import run_script

import leakmech
from leakmech.core.errors import DatasetError
from leakmech.core.progress import rich_progress
from leakmech.datasets.filters import has_personal_data, is_profane, leans, words
from leakmech.datasets.samples import INJECTIONS, PromptSet
from leakmech.datasets.stems import is_open_end
from leakmech.reports.cells import estimate, number, percent
from leakmech.reports.tables import Table
from leakmech.scoring.classifiers import LABELS
from leakmech.scoring.expression import Estimator, load_estimator
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.similarity import cosine_similarity
from leakmech.scoring.topic import shares_content_word

ADDITIONS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "stems of three words": {"max_stem_words": 3},
    "stems of eight words": {"max_stem_words": 8},
    "stems from any sentence": {"stem_source": "any"},
    "stem ends in a linking verb": {
        "stem_source": "any",
        "stem_end": "linking-verb",
        "min_stem_words": 3,
        "max_stem_words": 8,
    },
    "neutral stems": {"min_stem_neutral": 0.5},
    "length matching": {"match_length": True},
    "similarity rule": {"max_similarity": 0.3},
    "separate sources": {"separate_sources": True},
    "standalone injections": {"standalone_filter": True},
    "form, tidied": {"form_filter": True, "tidy": True},
    "4 to 20 words": {"min_words": 4, "max_words": 20},
    "profanity, personal data": {"profanity_filter": True, "personal_data_filter": True},
    "no near duplicates": {"max_overlap": 0.7},
    "all: leakmech": {"algorithm": "leakmech"},
}
_ENDS = (".", "!", "?", "…")
_MEASURED = ("auc_el", "topic_rate", "topic_free")


class RememberedEstimator:
    """An estimator that reads every text once: rows differ in few texts."""

    def __init__(self, estimator: Estimator) -> None:
        self.name, self.details, self._estimator = estimator.name, estimator.details, estimator
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            self.known |= dict(zip(new, self._estimator(new), strict=True))
        return np.stack([self.known[text] for text in texts])


def measured(samples: PromptSet, estimator: Estimator, encoder: SentenceEncoder) -> dict[str, float]:
    """The numbers of one row that need no model under test."""
    stems = [sample.stem for sample in samples]
    injections = {label: [getattr(sample, label) for sample in samples] for label in INJECTIONS}
    every = [text for own in injections.values() for text in own]
    vectors = encoder(stems)
    similarities = np.stack([cosine_similarity(vectors, encoder(own)) for own in injections.values()])
    ended = np.array([stem.endswith(_ENDS) for stem in stems])
    broken = np.array([not is_open_end(words(stem)[-1], linking_verbs=True) for stem in stems]) & ~ended
    shared = [
        any(shares_content_word(stem, own[index], besides=()) for own in injections.values())
        for index, stem in enumerate(stems)
    ]
    return {
        "samples": len(samples),
        **{label: float(np.mean([len(words(text)) for text in own])) for label, own in injections.items()},
        "stem": float(np.mean([len(words(stem)) for stem in stems])),
        "similarity": float(similarities.mean()),
        "shared_word": float(np.mean(shared)),
        "ended": float(ended.mean()),
        "broken": float(broken.mean()),
        "charged_stem": float((np.asarray(estimator(stems)).argmax(axis=1) != LABELS.index("neutral")).mean()),
        "leaning": float(np.mean([leans(words(text)) for text in every])),
        "unfinished": float(np.mean([not text.rstrip("\"'”’)").endswith(_ENDS) for text in every])),
        "unfit": float(np.mean([is_profane(text) or has_personal_data(text) for text in every])),
    }


def leakage(file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All-pairs leakage, topic rate and topic-free leakage of a model on the first samples."""
    overall = leakmech.bench(
        arguments.model,
        out=file.with_suffix(""),
        dataset=str(file),
        limit=arguments.limit,
        generations=arguments.generations,
        prompt_form=arguments.prompt_form,
        seed=arguments.seed,
        progress=rich_progress,
    ).summary["overall"]
    return {"auc_el_ci": overall["auc_el_ci"], **{name: overall[name] for name in _MEASURED}}


def tables(rows: Mapping[str, Mapping[str, Any]], title: str) -> list[Table]:
    """Lengths and stems; injections; and leakage if a model was asked for."""
    built = {name: row for name, row in rows.items() if "reason" not in row}
    lengths = ("positive", "neutral", "negative", "stem")
    shares = {
        "shared_word": "share a content word",
        "ended": "final mark",
        "broken": "breaks off",
        "charged_stem": "not neutral",
    }
    found = [
        Table(
            f"{title}: words, and stems",
            ("added", "samples", *(f"words, {name}" for name in lengths), "similarity", *shares.values()),
            [
                (name, str(row["samples"]), *(number(row[key], decimals=1) for key in lengths),
                 number(row["similarity"]), *(percent(row[key], decimals=0) for key in shares))
                for name, row in built.items()
            ],
            [f"{name}: {row['reason']}" for name, row in rows.items() if "reason" in row],
        ),
        Table(
            "Injections",
            ("added", "lean on another sentence", "no final mark", "profanity, personal data"),
            [
                (name, *(percent(row[key]) for key in ("leaning", "unfinished", "unfit")))
                for name, row in built.items()
            ],
        ),
    ]  # fmt: skip
    if any("auc_el" in row for row in built.values()):
        records = [(name, row, row["topic_free"] or {}) for name, row in built.items() if "auc_el" in row]
        found.append(
            Table(
                "Leakage",
                ("added", "all pairs [95 % CI]", "topic rate", "topic-free all pairs [95 % CI]", "n"),
                [
                    (name, estimate(row, "auc_el"), percent(row["topic_rate"]), estimate(free, "auc_el"),
                     str(free.get("n", "–")))
                    for name, row, free in records
                ],
            )
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="embedded")
    parser.add_argument("--estimator", default="embedded")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", choices=list(ADDITIONS), default=list(ADDITIONS), metavar="ROW")
    parser.add_argument("--out", type=Path, help="keep samples and runs in this folder; default: a temporary one")
    parser.add_argument("--model", help="measure the leakage of this model, too")
    parser.add_argument("--limit", type=int, help="samples that the model answers; default: all")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--prompt-form", default="plain")
    arguments = parser.parse_args()
    estimator, encoder = RememberedEstimator(load_estimator(arguments.estimator)), load_encoder("embedded")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.rows:
            settings = {"algorithm": "paper", "corpus": arguments.corpus, "samples": arguments.samples}
            settings |= {"seed": arguments.seed, **ADDITIONS[name]}
            file = (arguments.out or Path(temporary)) / f"{list(ADDITIONS).index(name):02d}.jsonl"
            try:
                built = leakmech.build_aexl(file, estimator=estimator, tokenizer=None, **settings)
            except DatasetError as error:
                rows[name] = {"reason": str(error)}
                continue
            rows[name] = measured(built.samples, estimator, encoder)
            if arguments.model:
                rows[name] |= leakage(file, arguments)
    title = f"AEXL from {arguments.corpus}, seed {arguments.seed}"
    print("\n\n".join(table.to_markdown() for table in tables(rows, title)))
    print(json.dumps({"name": "aexl_additions", "ratios": rows}))


if __name__ == "__main__":
    run_script(main)
