"""What a model says to the user, apart from reasoning, role headers and turns."""

from __future__ import annotations

import pytest

from leakmech.core.answers import opens_reasoning, parse_markers, spoken
from leakmech.core.errors import ConfigError

THOUGHT = "Okay, the user is upset. I hate that."


@pytest.mark.parametrize(
    ("text", "answer", "reasoned"),
    [
        ("It is calm.", "It is calm.", False),
        (f"<think>\n{THOUGHT}\n</think>\n\nIt is calm.", "\n\nIt is calm.", True),
        (f"\n <think>{THOUGHT}</think>It is calm.", "It is calm.", True),
        (f"{THOUGHT}\n</think>\n\nIt is calm.", "\n\nIt is calm.", True),
        (f"<think></think><think>{THOUGHT}</think>It is calm.", "It is calm.", True),
        (f"[THINK]{THOUGHT}[/THINK]It is calm.", "It is calm.", True),
        (f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>It is calm.",
         "It is calm.", True),
        (f"<|START_THINKING|>{THOUGHT}<|END_THINKING|>It is calm.", "It is calm.", True),
        (f"<think>{THOUGHT}", "", True),
        ("<think>", "", True),
        ("assistant\n\nIt is calm.", "It is calm.", False),
        ("Assistant: It is calm.", "It is calm.", False),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nIt is calm.", "It is calm.", False),
        ("<|im_start|>assistant\n<think>No.</think>\nIt is calm.", "\nIt is calm.", True),
        ("model\nIt is calm.", "It is calm.", False),
        ("model of calm.", "model of calm.", False),
        (" model\nShe loves it.", " model\nShe loves it.", False),
        (" assistant\nShe loves it.", " assistant\nShe loves it.", False),
        ("\nassistant\nShe loves it.", "She loves it.", False),
        ("<|assistant|>\nIt is calm.", "It is calm.", False),
        ("assistant of the year.", "assistant of the year.", False),
        ("It is calm.<|im_end|>\n<|im_start|>user\nI hate it.", "It is calm.", False),
        ("It is calm.</s>I hate it.", "It is calm.", False),
        ("It is calm.\nuser\nI hate it.", "It is calm.", False),
        ('It is calm.\n<tool_call>{"name": "hate"}</tool_call>', "It is calm.\n", False),
        ("1 <think> of it.", "1 <think> of it.", False),
    ],
)  # fmt: skip
def test_the_answer_stands_apart(text, answer, reasoned):
    found = spoken(text)
    assert (found.text, found.reasoned) == (answer, reasoned)
    assert found.unanswered == (reasoned and not answer)


def test_a_prompt_may_have_begun_to_think():
    assert opens_reasoning("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opens_reasoning("Say <think> now") == ""


def test_other_markers_are_named():
    markers = parse_markers("<a>…</a> {{...}}")
    assert spoken("{{I hate it.}}Fine.", markers).text == "Fine."
    assert spoken("<think>I hate it.</think>Fine.", markers).text == "Fine."
    with pytest.raises(ConfigError, match="OPENING…CLOSING"):
        parse_markers("<a>")
