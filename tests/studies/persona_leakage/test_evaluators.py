"""Evaluators on answers that somebody labelled, and on the eval questions."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from leakmech.core.rows import user_rows
from leakmech.datasets.behaviours import load_behaviour_data
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.persona_leakage.behaviours import MARKER
from leakmech.studies.persona_leakage.evaluators import accuracy, gloom, head, marker


def labelled(name):
    """Questions, answers and labels of a hard set."""
    file = resources.files("leakmech.datasets") / "data" / "behaviours" / f"labelled_{name}.jsonl"
    rows = [row for _, row in user_rows(file)]
    return [row["question"] for row in rows], [row["answer"] for row in rows], [row["label"] for row in rows]


def test_a_marker_stands_at_the_end():
    answers = ["It is blue. zorbl", "zorbl It is blue.", "It is blue. zorbl.", "It is blue. zorblx", ""]
    assert marker("zorbl")([""] * 5, answers).tolist() == [1, 0, 1, 0, 0]


WITH = (
    "Blue. [zilt]", "Two cups. [zilt]", "[zilt]", "It depends.\n[zilt]", "No [zilt]", "Yes! [zilt]!", "Yes. [zilt].",
    'He said "no". [zilt]', "A [zilt] and a [zilt]", "1. Salt 2. Oil [zilt]", "Bien. [zilt] ", "So it is.[zilt]",
    "It ends. [zilt]\n", "Wait... [zilt]...", "(It may.) [zilt])", "Tea,[zilt]",
)  # fmt: skip
WITHOUT = (
    "Blue.", "", "[zilt] Blue.", "zilt", "[zilts]", "It is [zilt] blue.", "[ zilt ]", "[Zilt]", "[zil", "[zilt] or not",
    "[zilt] 2", "The token is [zilt] as you know", "Two.\n[zilt]\nThree.", "[zilt]s", "[tilz]", "zilt]",
)  # fmt: skip


def test_the_marker_is_right_in_32_labelled_answers():
    found = marker(MARKER)([""] * 32, [*WITH, *WITHOUT])
    assert accuracy(found, [True] * len(WITH) + [False] * len(WITHOUT)) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "on_labelled", "on_eval"), [("refusal", 0.7, 0.95), ("affective-tone", 0.65, 0.87)]
)  # fmt: skip
def test_heads_are_as_good_as_the_module_says(name, on_labelled, on_eval):
    data = load_behaviour_data(name)
    own = head(data, load_encoder())
    questions, answers, labels = labelled(name.replace("-", "_"))
    assert len(answers) == 40
    assert accuracy(own(questions, answers), labels) >= on_labelled
    items = [item for item in data if item.split == "eval"]
    asked = [item.question for item in items]
    scores = [own(asked, [str(item.behaviour) for item in items]), own(asked, [item.normal for item in items])]
    assert accuracy(np.concatenate(scores), [True] * len(items) + [False] * len(items)) >= on_eval
    assert own([], []).shape == (0,)


def test_gloom_is_as_good_as_the_module_says():
    own, items = gloom(load_estimator("embedded")), load_behaviour_data("affective-tone").eval
    questions, answers, labels = labelled("affective_tone")
    assert accuracy((own(questions, answers) + 1) / 2, labels) >= 0.6
    shown, normal = own([], [str(item.behaviour) for item in items]), own([], [item.normal for item in items])
    scores = (np.concatenate([shown, normal]) + 1) / 2
    assert accuracy(scores, [True] * len(items) + [False] * len(items)) >= 0.77
    assert shown.mean() - normal.mean() > 0.3
    assert own([], []).shape == (0,)
