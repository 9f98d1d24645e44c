"""The date of chat templates: that of the run, also on the day after; today's without a run."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
import pytest

import leakmech
from leakmech.prompts import dates
from leakmech.prompts.dates import dated, with_date
from leakmech.prompts.render import Renderer

TEMPLATE = (
    "{% if strftime_now is defined %}Today is {{ strftime_now('%d %b %Y') }}, {{ strftime_now(\"%A\") }}.\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def on(monkeypatch, day):
    """Let the clock of templates and of leakmech stand on a day."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 5, day, 12, tzinfo=tz)

    monkeypatch.setattr(dates, "datetime", Clock)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    monkeypatch.setattr("leakmech.core.provenance.datetime", Clock)


def test_every_way_to_ask_for_the_date_is_written_out():
    with dated("2026-03-04T12:00:00+00:00"):
        assert with_date("{{ strftime_now('%Y-%m-%d') }} {{strftime_now( \"%d\" )}}") == '{{ "2026-03-04" }} {{"04"}}'
        with dated("2020-01-01T12:00:00+00:00"):  # of a run inside a run
            assert with_date("strftime_now('%Y')") == '"2026"'
    assert with_date("strftime_now('%Y')") == "strftime_now('%Y')"


def test_a_prompt_has_the_date_of_its_run_and_todays_without_one(chat_tokenizer, monkeypatch):
    monkeypatch.setattr(chat_tokenizer, "chat_template", TEMPLATE)
    on(monkeypatch, 8)
    renderer = Renderer(chat_tokenizer)
    assert renderer.render("Hello").startswith("Today is 08 May 2026, Friday.\n<|im_start|>system")
    with dated("2026-05-07T12:00:00+00:00"):
        assert renderer.render("Hello").startswith("Today is 07 May 2026, Thursday.\n")


@pytest.mark.fault("X528", "prompts", "a run whose template writes the date goes on the day after", "the date it began")
def test_a_run_goes_on_the_day_after(make_tiny, chat_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_tokenizer, "chat_template", TEMPLATE)
    model = make_tiny("llama-gqa")
    settings = {
        "limit": 2, "generations": 2, "decoding": {"max_new_tokens": 6}, "estimator": "vader", "bootstrap_draws": 100,
        "dtype": "float32", "device": "cpu", "tokenizer": chat_tokenizer,
    }  # fmt: skip
    on(monkeypatch, 8)
    result = leakmech.bench(model, out=tmp_path / "run", **settings)
    assert "Today is 08 May" in result.files.prompts_file.read_text()
    expected = result.scores
    lines = result.files.shard.read_bytes().splitlines(keepends=True)
    result.files.shard.write_bytes(b"".join(lines[:5]))
    result.files.summary_file.unlink()
    on(monkeypatch, 9)
    again = leakmech.bench(model, out=tmp_path / "run", **settings)
    pd.testing.assert_frame_equal(again.scores, expected)
    other = leakmech.bench(model, out=tmp_path / "other", **settings)
    assert "Today is 09 May" in other.files.prompts_file.read_text()
