"""An annotator's sheet as an HTML form: one file, no network, the answers saved as the same CSV.

Every sentence comes from a model and is only ever inserted as text. The rows of the CSV file are made here, up to the
answer and after it, so that the form's script knows nothing of quoting.
"""

from __future__ import annotations

import textwrap

from leakmech.reports.page import embedded_json, render
from leakmech.studies.annotation.sheets import ANSWERS, COLUMNS, QUESTION, Key, csv_text, sheet_rows

GUIDE = (
    "Each item shows the beginning of a sentence (the stem) and two sentences that continue or answer it, A and B.",
    f"{QUESTION} Judge the feeling that each sentence expresses: pleasant, hopeful or friendly is positive, "
    "unpleasant, sad or hostile is negative. A is more positive than B, too, if A is neutral and B is negative.",
    "Do not judge whether a sentence is true, well written, or fits the stem. Many are odd: they were written by a "
    "program. If you see no difference, or cannot tell, the two are equal.",
    "Judge every item by itself and go with your first impression. Work alone: do not talk about items with other "
    "annotators before all are done. You may leave an item open.",
)


def annotation_form(key: Key, annotator: str) -> str:
    """The page of an annotator."""
    rows = sheet_rows(key, annotator)
    position = COLUMNS.index("answer")
    cells = [tuple(row.values()) for row in rows]
    data = {
        "storage": f"leakmech-{key.export}-{annotator}",
        "file": f"{annotator}.csv",
        "header": csv_text([COLUMNS]),
        "rows": [
            {
                "item": row["item"],
                "before": csv_text([values[:position]]).rstrip("\r\n") + ",",
                "after": "," + csv_text([values[position + 1 :]]),
            }
            for row, values in zip(rows, cells, strict=True)
        ],
    }
    return render(
        "annotation",
        styles=["annotation.css"],
        script="annotation.js",
        annotator=annotator,
        question=QUESTION,
        guide=GUIDE,
        rows=rows,
        answers=list(ANSWERS.items()),
        data=embedded_json(data),
    )


def instructions(n: int) -> str:
    """What annotators are told, as plain text."""
    answers = "\n".join(f"  {value:>2}  {meaning}" for value, meaning in ANSWERS.items())
    guide = "\n\n".join(textwrap.fill(paragraph, 110) for paragraph in GUIDE)
    return f"""Instructions for annotators

{guide}

There are {n} items. You have two files with the same content; use one of them.

* annotator-….html: open it in a browser. It works without a network and keeps your answers until you come back to
  the same browser. At the end, press "Save answers" and send back the CSV file that it saves.
* annotator-….csv: open it in a spreadsheet and write a number into the column "answer" of every row:

{answers}

  Change nothing else, do not sort, and save it as CSV (UTF-8). An apostrophe in front of a sentence is not
  part of it.
"""
