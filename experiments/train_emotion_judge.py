"""Fit the judge of emotion that reads sentence embeddings, and say how good the two shipped judges are.

The 280 sentences of leakmech/scoring/data/emotion_replies.jsonl were written for this by a language model that assists
the maintainers, 40 for each class, with varied openings; no human rated them, and none is a reply of a model that is
tested. The strength of the regularisation is chosen among CANDIDATES by five-fold cross-validation (macro-F1), and the
accuracy that is reported is that of the held-out folds.

    python experiments/train_emotion_judge.py

Takes half a minute on one core; writes emotion_judge.json, .safetensors and .md beside the sentences.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from leakmech.core.store import read_jsonl_shard, write_text
from leakmech.reports.tables import Table
from leakmech.scoring.emotion_judges import CLASSES, judged, load_judge, save_head, shipped
from leakmech.scoring.semantic import load_encoder

CANDIDATES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""C of the logistic regression, written down before any was fitted."""
CARD = """# Emotion judges that ship with leakmech

`encoder`: multinomial logistic regression (C = {c:g}) on the shipped sentence encoder. `lexicon`: shares of the words
in `leakmech/datasets/data/emotion_words.toml`. Both are held against `emotion_replies.jsonl`: 280 English sentences, 40
for each class, **written for this by a language model that assists the maintainers, labelled by what was asked for, and
rated by no human**. None is a reply of a model that is tested. The word lists and the sentences have one writer, so
that the lexicon's figure is flattered; the encoder's is of held-out folds, of sentences by the same writer as those
that it was fitted to.

{quality}

Agreement of the two beyond chance (Cohen's kappa, held-out folds): {kappa:.2f}.

{confusion}

Made by `experiments/train_emotion_judge.py`. Both read English, one or two sentences at a time, and know nothing of
what a text was asked to express.
"""


def main() -> None:
    folder = shipped().parent
    rows = list(read_jsonl_shard(folder / "emotion_replies.jsonl"))
    texts, labels = [row["text"] for row in rows], np.array([CLASSES.index(row["emotion"]) for row in rows])
    encoder = load_encoder()
    embedded = encoder(texts)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    held_out = {c: np.asarray(cross_val_predict(_head(c), embedded, labels, cv=folds)) for c in CANDIDATES}
    best = max(CANDIDATES, key=lambda c: f1_score(labels, held_out[c], average="macro"))
    fitted = _head(best).fit(embedded, labels)
    save_head(shipped(), fitted.coef_, fitted.intercept_, encoder=encoder)
    words = np.array([CLASSES.index(name) for name in judged(load_judge("lexicon")(texts))])
    write_text(Path(folder) / "emotion_judge.md", _card(best, labels, held_out[best], words))
    print(_quality(labels, held_out[best], words).to_markdown())


def _head(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=2_000)


def _quality(labels: np.ndarray, read: np.ndarray, words: np.ndarray) -> Table:
    found = [
        (name, f"{accuracy_score(labels, own):.2f}", f"{f1_score(labels, own, average='macro'):.2f}")
        for name, own in (("encoder (held-out folds)", read), ("lexicon", words))
    ]
    return Table(
        "On 280 sentences", ("judge", "accuracy", "macro-F1"), [*found, ("chance", f"{1 / len(CLASSES):.2f}", "")]
    )


def _card(c: float, labels: np.ndarray, read: np.ndarray, words: np.ndarray) -> str:
    counts = confusion_matrix(labels, read)
    rows = [(name, *map(str, own)) for name, own in zip(CLASSES, counts, strict=True)]
    confusion = Table("Judged by the encoder, held-out folds", ("written as", *CLASSES), rows)
    kappa = float(cohen_kappa_score(read, words))
    quality = _quality(labels, read, words)
    return CARD.format(c=c, quality=quality.to_markdown(), kappa=kappa, confusion=confusion.to_markdown())


if __name__ == "__main__":
    main()
