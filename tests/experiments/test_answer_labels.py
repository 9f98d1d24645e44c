"""The sheet of answers that are labelled, and what the labels say."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from answer_labels import KEY, LABELS, SHOWN, agreement, draw, fill, read_key, tables

from leakmech.core.errors import DatasetError, UsageError
from leakmech.datasets.samples import CONDITIONS, load_dataset

SAMPLES = load_dataset("hexl").take(8)


def run(form):
    """A run with two generations a prompt, of which hexl-001 has only empty ones."""
    rows = [
        {
            "sample": sample.id,
            "condition": condition,
            "generation": number,
            "first_sentence": f"{form} {condition} {number}",
            "positive": float("nan") if sample.id.endswith("001") else 0.5,
            "resampled": False,
            "echo_free_topic_positive": 0.05 if number else 0.5,
            "echo_free_topic_negative": 0.05 if number else 0.5,
        }
        for sample in SAMPLES
        for condition in CONDITIONS
        for number in range(2)
    ]
    summary = {"prompt_form": form, "dataset": "hexl", "cleaning": "echo-free"}
    return SimpleNamespace(path=Path(form), summary=summary, scores=pd.DataFrame(rows))


def test_forms_and_polarities_are_balanced_and_a_sample_stands_once_a_form():
    drawn = draw([run("plain"), run("chat")], n=12, seed=0)
    assert drawn.groupby(["form", "condition"]).size().to_dict() == {
        (form, condition): 3 for form in ("plain", "chat") for condition in ("positive", "negative")
    }
    assert drawn.groupby("form")["sample"].nunique().to_dict() == {"plain": 6, "chat": 6}
    assert "hexl-001" not in set(drawn["sample"])
    assert (drawn["on_injection"] == (drawn["generation"] == 1)).all()
    assert drawn["number"].tolist() == list(range(1, 13))
    assert not drawn["form"].is_monotonic_increasing
    assert not drawn["form"].is_monotonic_decreasing
    assert {"form", "condition", "generation", "on_injection"}.isdisjoint(SHOWN)
    assert draw([run("plain"), run("chat")], n=12, seed=0).equals(drawn)


def test_a_draw_that_cannot_be_balanced_is_refused():
    with pytest.raises(UsageError, match="cannot be shared"):
        draw([run("plain")], n=3, seed=0)
    with pytest.raises(UsageError, match="one run a form"):
        draw([run("plain"), run("plain")], n=4, seed=0)
    with pytest.raises(UsageError, match="too few samples"):
        draw([run("plain")], n=16, seed=0)


def test_labels_are_found_by_number():
    key = pd.DataFrame({"number": [2, 1], "pass1": ["", ""]})
    sheet = pd.DataFrame({"number": [1, 2], "label": ["other ", "completes"]})
    assert fill(key, sheet, "pass1")["pass1"].tolist() == ["completes", "other"]
    with pytest.raises(DatasetError, match="number 2 has the label 'complete'"):
        fill(key, sheet.assign(label=["other", "complete"]), "pass1")
    with pytest.raises(DatasetError, match="other numbers"):
        fill(key, sheet[:1], "pass1")


def test_agreement_and_shares_by_hand():
    first = ["completes"] * 4 + ["injection"] * 4
    second = ["completes"] * 3 + ["injection"] * 5
    flags = [False, False, False, False, True, True, True, False]
    key = pd.DataFrame({"form": "plain", "pass1": first, "pass2": second, "on_injection": flags})
    same, kappa = agreement(key)
    assert same == 7 / 8
    assert kappa == pytest.approx((7 / 8 - 1 / 2) / (1 - 1 / 2))  # by chance 1/2 · 3/8 + 1/2 · 5/8
    confusion, shares, flag = tables(key)
    assert [row[1:] for row in confusion.rows[:2]] == [["3", "1", "0", "0"], ["0", "4", "0", "0"]]
    assert shares.rows[0][3].startswith("0.50 [")
    assert [cell[:4] for cell in flag.rows[0][2:]] == ["3", "4", "1.00", "0.75"]  # flagged, labelled, precision, recall


def test_the_labels_that_are_kept_are_complete_and_say_what_the_card_says():
    key = read_key(KEY)
    assert len(key) == 120
    assert key.groupby(["form", "condition"]).size().eq(20).all()
    assert key["pass1"].isin(LABELS).all()
    assert key["pass2"].isin(LABELS).all()
    same, kappa = agreement(key)
    assert (round(same * 120), round(kappa, 2)) == (109, 0.85)
    completes = key.groupby("form")["pass2"].apply(lambda labels: (labels == "completes").mean()).to_dict()
    assert completes == {"plain": 0.85, "prefill": 0.525, "chat": 0.175}
    assert "| plain | 0.90 / 0.85 [0.71, 0.93] |" in KEY.with_suffix(".md").read_text()
