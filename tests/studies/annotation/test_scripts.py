"""Sheets in a script without ASCII letters are held against the export like English ones."""

from __future__ import annotations

import csv
import json

import pytest

import leakmech
from leakmech.core.errors import DatasetError

SAMPLES = [
    ("z1", "隔壁的花园看起来", "我为我的第一首诗感到骄傲。", "包裹星期二到了。", "我们的航班糟透了。"),
    ("z2", "街角的商店", "我妹妹赢得了大奖。", "会议改到十点。", "邻居又对我大喊大叫。"),
    ("z3", "他的新自行车", "我们野餐非常愉快。", "公交车停在广场。", "这部电影又闷又残忍。"),
]
ANSWERS = {
    "z1": {"control": "很整齐。", "positive": "美极了，阳光灿烂。", "neutral": "很普通。", "negative": "荒凉又可怕。"},
    "z2": {"control": "很安静。", "positive": "热闹极了。", "neutral": "很小。", "negative": "又脏又乱。"},
    "z3": {"control": "很轻便。", "positive": "漂亮极了。", "neutral": "是蓝色的。", "negative": "又旧又破。"},
}


@pytest.fixture
def sheet(tmp_path):
    """The answered sheet of an export of Chinese answers, its rows, and how to write others."""
    names = ("id", "stem", "positive", "neutral", "negative")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(dict(zip(names, s, strict=True))) + "\n" for s in SAMPLES))
    rows = (
        {"sample": sample, "condition": condition, "generation": 0, "text": text}
        for sample, texts in ANSWERS.items()
        for condition, text in texts.items()
    )
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = leakmech.score(
        tmp_path / "g.jsonl", dataset=str(tmp_path / "d.jsonl"), estimator="vader", bootstrap_draws=100,
        out=tmp_path / "run",
    )  # fmt: skip
    leakmech.export_annotation(scored.path, out=tmp_path / "out", annotators=1, n=6)
    path = tmp_path / "out" / "sheets" / "annotator-1.csv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = [row | {"answer": "1"} for row in csv.DictReader(file)]

    def write(rows):
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
        return leakmech.import_annotation(tmp_path / "out", draws=100)

    return found, write


@pytest.mark.fault(
    "F08", "text", "a Chinese sheet with one column sorted alone", "refused; all texts were equal before"
)
def test_a_column_that_was_sorted_alone_is_refused(sheet):
    rows, write = sheet
    texts = sorted(row["sentence_a"] for row in rows)
    with pytest.raises(DatasetError, match=r"column sentence_a: is not the text of item '\w+'; was one column sorted"):
        write([row | {"sentence_a": text} for row, text in zip(rows, texts, strict=True)])


def test_a_sheet_as_it_was_handed_out_is_read(sheet):
    rows, write = sheet
    assert len(write(rows).pairs) == 6
