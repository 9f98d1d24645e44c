"""The annotation form of a run that the benchmark itself made, with hostile texts in it."""

import json
import re

import leakmech
from leakmech.reports.examples import printable
from leakmech.studies.annotation.form import annotation_form


def test_sheets_of_a_benchmark_run_hold_its_scored_texts_and_cannot_break_out_of_the_form(run, tmp_path):
    export = leakmech.export_annotation(run, n=30, annotators=2, out=tmp_path / "export")
    frame = leakmech.load_result(run).scores.set_index(["sample", "condition", "generation"])
    hostile = 0
    for item in export.key.items.values():
        row = frame.loc[(item.sample, item.condition, item.generation)]
        assert item.p_test == (row["negative"], row["neutral"], row["positive"])
        assert item.test == printable(row["first_sentence"])
        assert item.control == printable(frame.loc[(item.sample, "control", item.generation), "first_sentence"])
        assert item.sample != "s3"  # nothing but echo is not scored
        hostile += "<img" in item.stem
    assert hostile
    page = annotation_form(export.key, "annotator-2")
    assert page == (tmp_path / "export" / "sheets" / "annotator-2.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert "{{7*7}}" in page
    data = json.loads(re.search(r'id="sheet">(.*?)</script>', page, re.S)[1])
    assert [row["item"] for row in data["rows"]] == [item for item, _ in export.key.annotators["annotator-2"]]
