"""Commanded replies: what the model reads, resuming, acceptance by a judge that is not told, complete groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import leakmech
from leakmech.core.errors import ConfigError, LeakmechWarning
from leakmech.datasets.emotions import EMOTIONS
from leakmech.datasets.sev import Scenarios, load_scenarios
from leakmech.generation.decode import Generation
from leakmech.generation.hf_engine import HFEngine
from leakmech.studies.emotion_circuits.elicitation import (
    COMMAND,
    DECODING,
    NO_COMMAND,
    WORDINGS,
    Reply,
    accepted,
    ask,
    elicit,
    groups,
)

SHORT = replace(DECODING, max_new_tokens=5)


@pytest.fixture(scope="module")
def model(make_tiny, chat_tokenizer):
    return leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


@pytest.fixture
def two():
    return Scenarios("two", load_scenarios("sev").scenarios[:2])


def test_the_command_stands_in_the_system_role_and_the_event_is_what_the_user_says(model, two):
    asked = ask(model, two, (*EMOTIONS, None))
    assert len(asked) == 2 * 3 * 7
    assert asked[0].id == "sev-work-01/positive/anger"
    assert asked[6].id == "sev-work-01/positive/none"
    text = model.tokenizer.decode(asked[1].ids)
    scenario = two.scenarios[0]
    assert f"system\n{COMMAND.format('sadness')}" in text
    assert f"user\n{scenario.scenario} {scenario.positive}" in text
    assert NO_COMMAND in model.tokenizer.decode(asked[6].ids)
    second = ask(model, two, wording="second")
    assert "Reply with grief," in model.tokenizer.decode(second[1].ids)
    assert not {*WORDINGS["first"].values()} & {*WORDINGS["second"].values()}


def test_replies_are_kept_and_only_what_is_missing_is_asked_again(model, two, tmp_path, monkeypatch):
    asked, file = ask(model, two), tmp_path / "replies.jsonl"
    whole = elicit(model, asked, decoding=SHORT, file=file)
    assert [reply.id for reply in whole] == [own.id for own in asked]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:20]) + lines[20][:30] + b"\n")
    drawn, complete = [], HFEngine.complete

    def counting(self, rows, *arguments, **options):
        drawn.extend(row.prompt_id for row in rows)
        yield from complete(self, rows, *arguments, **options)

    monkeypatch.setattr(HFEngine, "complete", counting)
    with pytest.warns(LeakmechWarning, match="damaged line"):
        again = elicit(model, asked, decoding=SHORT, file=file)
    assert again == whole
    assert len(drawn) == 36 - 20
    assert elicit(model, asked, decoding=SHORT) == whole
    assert elicit(model, asked[:3], decoding=SHORT, file=file) == whole[:3]


def test_a_reply_is_accepted_where_the_judge_reads_what_was_commanded():
    class Judge:
        def __call__(self, texts):
            assert not any(emotion in text for text in texts for emotion in EMOTIONS)
            return np.eye(7)[[int(text) for text in texts]]

    def reply(emotion, text, event="e1"):
        return Reply(f"{event}/{emotion}", event, "work", "positive", emotion, text, ())

    replies = [reply(emotion, str(place)) for place, emotion in enumerate(EMOTIONS)]
    replies += [reply(emotion, "0", "e2") for emotion in EMOTIONS] + [reply(None, "6", "e3")]
    kept = accepted(replies, Judge())
    assert kept == [True] * 6 + [True] + [False] * 5 + [True]
    assert groups(replies) == ["e1", "e2"]
    assert groups(replies, kept) == ["e1"]
    assert groups(replies[:5]) == []


def test_in_plain_form_the_reply_ends_with_its_quotation(make_tiny, plain_tokenizer, two, monkeypatch):
    model = leakmech.load_model(make_tiny("gpt2"), tokenizer=plain_tokenizer)
    asked = ask(model, two, ("fear", None), form="plain")
    assert model.tokenizer.decode(asked[0].ids).endswith('this year.\n\nA reply that is full of fear:\n"')
    assert model.tokenizer.decode(asked[1].ids).endswith('this year.\n\nA reply:\n"')

    def saying(self, rows, *_, **__):
        yield [Generation(row.prompt_id, 0, ' Run now." he said\nMore', (1,), "length") for row in rows]

    monkeypatch.setattr(HFEngine, "complete", saying)
    assert {reply.text for reply in elicit(model, asked)} == {"Run now."}


def test_a_model_without_a_template_cannot_be_commanded(make_tiny, plain_tokenizer, two):
    with pytest.raises(ConfigError, match="has no chat template, and emotions are commanded in the system role"):
        ask(leakmech.load_model(make_tiny("gpt2"), tokenizer=plain_tokenizer), two)
