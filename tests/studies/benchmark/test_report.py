"""The HTML report: what it says, that it is self-contained, and that no text of a model becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from leakmech.cli import app as cli
from leakmech.core.errors import RunDirectoryError
from leakmech.reports.browser import choose_samples, sample_browser
from leakmech.reports.cells import typeset
from leakmech.reports.page import embedded_json
from leakmech.reports.tables import answers_table, cleaning_table, leakage_table
from leakmech.runs.directory import RunRecord
from leakmech.studies.benchmark.report import headline, leakage_chart, write_report
from leakmech.studies.benchmark.report_facts import how_to_repeat
from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig
from leakmech.studies.results import load_result

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}} [bold]\u2028&amp;"


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self.attributes, self.texts, self._open = html, [], [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._open = [tag, dict(attrs)]

    def handle_endtag(self, tag):
        self._open = []

    def handle_data(self, data):
        tag, attributes = self._open or ("", {})
        self.texts.setdefault(attributes.get("id") or tag, []).append(data)

    @property
    def text(self):
        visible = [part for key, parts in self.texts.items() if key not in ("style", "script") for part in parts]
        return " ".join(" ".join(visible).split())

    @property
    def data(self):
        return json.loads("".join(self.texts["sample-data"]))


@pytest.fixture
def page(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def summary_of(run):
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def change_summary(run, change):
    summary = summary_of(run)
    change(summary)
    (run / "summary.json").write_text(json.dumps(summary))


# -- safety ----------------------------------------------------------------------------------------------------------


def test_hostile_texts_stay_texts(page):
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    sample = next(sample for sample in page.data["samples"] if sample["id"] == HOSTILE.strip())
    assert sample["stem"] == HOSTILE.strip()
    assert sample["conditions"][2]["injection"] == f"Yes {HOSTILE}."
    assert sample["conditions"][0]["generations"][1][1].startswith(HOSTILE)
    assert "49" not in json.dumps(sample)


def test_hostile_names_of_model_and_data_set_are_escaped(run):
    change_summary(run, lambda summary: summary.update(model="<b>{{7*7}}</b>", dataset='"><script>x</script>'))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2
    assert "b" not in page.tags
    assert "Expression leakage of <b>{{7*7}}</b>" in page.text


def test_the_page_loads_nothing_from_elsewhere(page):
    assert "link" not in page.tags
    elsewhere = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "style")]
    assert [value for value in elsewhere if not value.startswith("#")] == []
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_the_content_security_policy_allows_exactly_the_pages_own_style_and_script(page):
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src"))
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{element}>(.*?)</{element}>", page.html, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_script_inserts_no_markup(page):
    script = re.search(r"<script>(.*?)</script>", page.html, re.DOTALL).group(1)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.lists))
def test_embedded_json_reads_back_and_cannot_leave_its_element(value):
    text = str(embedded_json(value))
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)


# -- content ---------------------------------------------------------------------------------------------------------


def test_the_headline_says_the_share_its_interval_and_what_no_leakage_would_be(run, page):
    overall = summary_of(run)["overall"]
    low, high = overall["mu_el_ci"]
    share = f"{100 * overall['mu_el']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    assert share in page.texts["strong"]
    assert "Chance gives 50 %, unless charged sentences change how intense answers are." in page.text


@pytest.mark.parametrize(
    ("value", "interval", "contrast", "share", "verdict"),
    [
        (0.7, [0.67, 0.73], [0.3, 0.5], "70 % [67, 73]", "the model leaks"),
        (0.7, [0.67, 0.73], [-0.1, 0.1], "70 % [67, 73]", "do not show leakage"),  # intensity alone
        (0.4, [0.35, 0.45], [0.1, 0.2], "40 % [35, 45]", "the model leaks"),
        (0.4, [0.35, 0.45], [-0.3, -0.2], "40 % [35, 45]", "answers move away from the polarity"),
        (0.7, [0.67, 0.73], None, "70 % [67, 73]", "interval lies above 50 %. Without a contrast"),
        (0.52, [0.49, 0.55], None, "52 % [49, 55]", "interval contains 50 %. Without a contrast"),
        (0.7, None, None, "70 %", "too few samples for an interval"),
        (None, None, None, None, "began by repeating the prompt"),
    ],
)
def test_the_verdict_follows_from_the_interval_of_contrast(run, value, interval, contrast, share, verdict):
    summary = summary_of(run)
    summary["overall"] |= {"mu_el": value, "mu_el_ci": interval, "contrast_ci": contrast}
    found = headline(summary | {"n_samples": 60})
    if share is None:
        assert found.text == "No comparison could be made: cleaning left no sentence to score."
    else:
        assert f"In <strong>{share}</strong> of comparisons" in found.text
    assert verdict in found.below


def test_few_samples_give_no_verdict(run):
    summary = summary_of(run)
    summary["overall"] |= {"mu_el": 0.7, "mu_el_ci": [0.67, 0.73], "contrast_ci": [0.3, 0.5]}
    assert "is not to be relied on: 5 samples are too few to tell" in headline(summary | {"n_samples": 5}).below


def test_a_run_in_which_nothing_was_scored_still_has_a_page(run):
    def nothing(summary):
        for section in (summary["overall"], summary["whole"], *summary["conditions"].values()):
            section.update({key: None for key in section if key not in ("echo_rate", "empty_rate", "n_scored")})

    change_summary(run, nothing)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "No comparison could be made" in page.text
    assert "circle" not in page.tags


def test_every_cell_of_both_tables_is_on_the_page(run, page):
    summary = summary_of(run)
    for table in (leakage_table(summary), answers_table(summary), cleaning_table(summary)):
        for row in table.rows:
            cells = "".join(f"<td>{typeset(cell)}</td>" for cell in row[1:])
            assert f'<th scope="row">{row[0]}</th>{cells}' in page.html
        for note in table.notes:
            assert typeset(note.split(";")[0]) in page.text


def test_the_chart_places_values_between_zero_and_one_in_proportion(run):
    summary = summary_of(run)
    summary["overall"] |= {"mu_el": 0.75, "mu_el_ci": [0.5, 1.0]}
    chart = leakage_chart(summary)
    total = next(row for row in chart.rows if row.label == "overall")
    assert total.low == chart.null_x == (chart.left + chart.right) / 2
    assert total.high == chart.right
    assert total.x == (chart.null_x + chart.right) / 2
    assert [row.label for row in chart.rows] == ["overall", "positive", "negative", "neutral", "noise floor"]
    assert [tick.label for tick in chart.ticks if tick.is_null] == ["0.5"]
    assert f"overall: {total.text}" in chart.description


def test_a_run_without_a_noise_floor_has_a_chart_without_it(run):
    summary = summary_of(run)
    summary["overall"] |= {"noise_floor": None, "noise_floor_ci": None, "noise_floor_mu_el": None}
    assert "noise floor" not in [row.label for row in leakage_chart(summary).rows]


def test_only_a_run_on_hexl_says_that_hexl_is_a_re_creation(run, page):
    assert "re-creation" not in page.text
    change_summary(run, lambda summary: summary.update(dataset="hexl"))
    again = Page(write_report(run).read_text(encoding="utf-8"))
    assert "no human judged it" in again.text


def test_tables_and_chart_are_labelled_for_assistive_technology(page):
    drawn = [(name, value) for tag, name, value in page.attributes if tag == "svg"]
    assert [value for name, value in drawn if name == "role"] == ["img", "img"]
    by_condition, by_answers = (value for name, value in drawn if name == "aria-label")
    assert "overall: " in by_condition
    assert "stem + answer: " in by_answers
    assert page.html.count('<th scope="col">') == 9 + 6 + 7 + 5
    assert page.tags.count("h1") == 1
    assert page.tags.count("main") == 1
    assert {"search", "button"} & {value for _, name, value in page.attributes if name == "type"} == {
        "search",
        "button",
    }


def test_everything_in_run_json_is_on_the_page(run, page):
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for value in record["fingerprint"].values():
        assert value in page.text
    assert "decoding.repetition_penalty" in page.text
    assert record["environment"]["date"] in page.text


# -- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_has_its_four_conditions_with_injection_texts_and_probabilities(page):
    sample = next(sample for sample in page.data["samples"] if sample["id"] == "s1")
    assert [condition["name"] for condition in sample["conditions"]] == ["control", "neutral", "positive", "negative"]
    positive = sample["conditions"][2]
    assert positive["injection"] == "My 1 friends laughed happily."
    scored, full, mark, p, topic = positive["generations"][2]
    assert scored == "great and lovely, number 2."
    assert full == "My 1 friends laughed happily. great and lovely, number 2. It went on."
    assert mark == "after an echo"
    assert topic is None  # eight samples are too few to rank an injection among
    assert positive["prompt"].endswith("<|im_start|>assistant\n")
    assert "My 1 friends laughed happily. The garden behind house 1 looks" in positive["prompt"]
    assert sum(p) == pytest.approx(1, abs=0.002)
    assert len(positive["generations"]) == 3
    assert len(sample["conditions"][0]["generations"]) == 3  # the noise floor's second set is left out


def test_the_shift_of_a_sample_is_positive_where_it_leaks_and_negative_where_it_goes_against(page):
    shifts = {sample["id"]: sample["shift"] for sample in page.data["samples"]}
    assert shifts["s1"] > 0.5
    assert shifts["s2"] == -shifts["s1"]
    assert shifts["s3"] is None  # nothing was scored


def test_unscored_generations_say_why(page):
    by_id = {sample["id"]: sample["conditions"] for sample in page.data["samples"]}
    echo = by_id["s3"][2]["generations"][0]
    empty = by_id["s4"][2]["generations"][0]
    assert echo == ["", "My 3 friends laughed happily.", "echo only", None, None]
    assert empty == ["", None, "empty", None, None]


def test_a_page_that_would_be_too_large_embeds_fewer_samples_and_says_which(run):
    result = load_result(run)
    whole = sample_browser(result)
    assert whole.selection.startswith("All 8 samples")
    fewer = sample_browser(result, max_samples=4)
    assert len(json.loads(fewer.json)["samples"]) == 4
    assert fewer.selection.startswith("4 of 8 samples, to keep this page small: the 2 whose valence shifts most")
    small = sample_browser(result, max_bytes=len(whole.json) // 2)
    assert len(small.json) <= len(whole.json) // 2
    assert set(json.loads(small.json)["samples"][0]) == set(json.loads(whole.json)["samples"][0])


def test_long_texts_are_cut(run, monkeypatch):
    monkeypatch.setattr("leakmech.reports.browser.MAX_TEXT_LENGTH", 10)
    browser = sample_browser(load_result(run))
    first = json.loads(browser.json)["samples"][0]["conditions"][0]["generations"][0]
    assert first[0] == "as it did  …"
    assert "longer than 10 characters are cut" in browser.selection


@given(
    st.lists(st.floats(-2, 2) | st.just(float("nan")), min_size=1, max_size=60).map(np.array),
    st.integers(1, 70),
)
def test_chosen_samples_are_distinct_ordered_and_hold_the_largest_shifts(shifts, number):
    chosen = choose_samples(shifts, number)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(number, len(shifts))
    size = np.nan_to_num(np.abs(shifts))
    largest = np.sort(size)[::-1][: (min(number, len(shifts)) + 1) // 2]
    assert np.all(np.sort(size[chosen])[::-1][: len(largest)] == largest)
    assert set(choose_samples(shifts, max(1, number - 1))) <= set(chosen)


# -- files and command ------------------------------------------------------------------------------------------------


def test_writing_twice_gives_the_same_page_and_leaves_no_other_file(run):
    before = {path.name for path in run.iterdir()}
    first = write_report(run).read_bytes()
    assert write_report(str(run)).read_bytes() == first
    assert {path.name for path in run.iterdir()} - before == {"report.html"}


def test_an_unfinished_run_is_refused(run):
    (run / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="is not finished"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_run_of_another_kind_is_refused(run):
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"kind": "mitigate"}), encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="run of kind 'mitigate'"):
        write_report(run)


class _CapturedError(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "some dir/it's", "dataset": "a b.jsonl", "generations": 3, "seed": 7, "limit": 5, "adapter": "x"},
        {"system": None, "instruction": "ignore-irrelevant", "stop_at_first_sentence": False, "cleaning": "raw"},
        {"system": "Be brief.", "decoding": {"temperature": 0.5, "max_new_tokens": 9}, "estimator": "vader"},
        {
            "decoding": {"top_k": 3, "temperature": 0.5},
            "noise_floor": False,
            "echo_similarity": 0.9,
            "model": "a/b",
            "revision": "v1",
        },
    ],
)
def test_the_command_on_the_page_leads_to_the_same_settings(settings, monkeypatch, tmp_path):
    config = BenchConfig.parse(settings)
    *_, code = how_to_repeat(RunRecord(tmp_path, {"config": config.identity(), "fingerprint": {"dtype": "float32"}}))
    words = shlex.split(code.text)
    caught = {}

    def capture(**given):
        caught.update(given)
        raise _CapturedError

    monkeypatch.setattr("leakmech.studies.benchmark.run.bench", capture)
    monkeypatch.chdir(tmp_path)
    for folder in ("some dir/it's", "x"):  # what is not there is refused before
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a b.jsonl").touch()
    assert words[:2] == ["leakmech", "bench"]
    outcome = CliRunner().invoke(cli.app, words[1:])
    assert isinstance(outcome.exception, _CapturedError), outcome.output
    assert caught.pop("out") is None
    del caught["progress"], caught["interim"]
    again = BenchConfig.parse(caught)
    assert again.identity() == config.identity()
    assert again.dtype == "float32"


def test_the_command_of_scored_texts_names_their_file_and_columns(tmp_path):
    record = {"command": "score", "source": "my texts.jsonl", "columns": {"text": "answer"}}
    *_, code = how_to_repeat(
        RunRecord(tmp_path, record | {"config": ScoreConfig.parse({"estimator": "vader"}).identity()})
    )
    assert code.text.startswith("leakmech score 'my texts.jsonl' --column text=answer ")
    assert "--estimator vader" in code.text
    assert "--dtype" not in code.text


def test_a_run_of_a_script_says_that_its_command_needs_a_name_of_the_model(tmp_path):
    config = {"config": BenchConfig.parse({"model": "LlamaForCausalLM"}).identity()}
    said, _ = how_to_repeat(RunRecord(tmp_path, config | {"script": True}))
    assert "with a model that it had loaded itself" in said.text
    said, _ = how_to_repeat(RunRecord(tmp_path, config))
    assert said.text.startswith("With the same weights")
