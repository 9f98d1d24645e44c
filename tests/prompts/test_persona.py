"""Personas in prompts: the system role is explicit, templates without one are told, and defaults are read."""

from __future__ import annotations

import pytest

from leakmech.core.errors import LeakmechWarning, ModelError
from leakmech.datasets.personas import Persona
from leakmech.models.load import load_tokenizer
from leakmech.prompts.persona import PersonaRenderer, model_default

VILLAIN = Persona("villain", "original", "Villain", "You are a villain.")
TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
DEFAULT = "You are Tiny, made by nobody."
INSERTS = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + DEFAULT + "<|im_end|>\n{% endif %}" + TURNS + START
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS + START
DROPS = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}" + START
)
FOLDS = (
    "{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m['role'] }}\n{{ (head if loop.first else '') + m['content'] }}<|im_end|>\n"
    "{% endfor %}" + START
)
HEADER = (
    "<|im_start|>system\nKnowledge: 2023\n\n{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}<|im_end|>\n"
    "{% for m in rest %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}" + START
)
OTHER_ROLE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>rules\nBe Tiny.<|im_end|>\n{% endif %}" + TURNS + START
)
ASKED = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def renderer(chat_tokenizer, monkeypatch):
    def make(template=None):
        if template:
            monkeypatch.setattr(chat_tokenizer, "chat_template", template)
        return PersonaRenderer(chat_tokenizer)

    return make


@pytest.mark.parametrize("template", [None, INSERTS])
def test_a_persona_is_the_system_role(renderer, template):
    prompt = renderer(template).render("Why?", VILLAIN)
    assert prompt.rendered == "<|im_start|>system\nYou are a villain.<|im_end|>\n" + ASKED
    assert (prompt.persona, prompt.place, prompt.system, prompt.text) == (
        "villain",
        "system",
        "You are a villain.",
        "Why?",
    )
    assert renderer(template).notes == ()


@pytest.mark.fault(
    "X610", "prompts", "personas, and a template that refuses or drops the system role", "user turn, told"
)
@pytest.mark.parametrize("template", [REFUSES, DROPS])
def test_a_template_without_a_system_role_has_the_persona_before_the_question(renderer, template):
    own = renderer(template)
    prompt = own.render("Why?", VILLAIN)
    text = "You are a villain.\n\nWhy?"
    assert prompt.rendered == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert (prompt.place, prompt.system, prompt.text) == ("user", None, text)
    assert own.notes == (
        "the chat template has no system role: personas stand before the question, in the user's turn",
    )
    assert own.default is None


def test_a_template_that_folds_the_system_role_into_the_turn_has_one(renderer):
    own = renderer(FOLDS)
    assert own.place == "system"
    assert own.default is None
    assert own.render("Why?", VILLAIN).rendered == "<|im_start|>user\nYou are a villain.\n\nWhy?<|im_end|>\n" + (
        "<|im_start|>assistant\n"
    )


def test_without_a_persona_the_template_may_speak_for_itself_and_is_quoted(renderer):
    plain = renderer().render("Why?")
    assert (plain.persona, plain.place, plain.system, plain.rendered) == (None, "none", None, ASKED)
    own = renderer(INSERTS).render("Why?")
    assert (own.place, own.system) == ("none", DEFAULT)
    assert own.rendered == f"<|im_start|>system\n{DEFAULT}<|im_end|>\n" + ASKED


def test_the_default_is_what_the_template_inserts_and_as_a_persona_it_is_the_same_prompt(renderer):
    own = renderer(INSERTS)
    default = own.default
    assert default == model_default(own.tokenizer) == DEFAULT
    said = Persona("model_default", "original", "Model's default", default)
    assert own.render("Why?", said).rendered == own.render("Why?").rendered


@pytest.mark.parametrize("template", [None, HEADER])
def test_a_template_that_inserts_nothing_has_no_default(renderer, template):
    assert renderer(template).default is None


def test_a_default_may_have_letters_in_common_with_its_surroundings(renderer):
    for default in ("system", "<|im_end|>", "user", "s"):
        assert renderer(INSERTS.replace(DEFAULT, default)).default == default


def test_what_no_system_text_gives_back_is_no_default_and_is_told(renderer):
    with pytest.warns(LeakmechWarning, match=r"Be Tiny\..*which no system text gives back"):
        assert renderer(OTHER_ROLE).default is None


def test_the_answer_can_be_opened(renderer):
    for template, place in ((None, "system"), (REFUSES, "user")):
        prompt = renderer(template).render("Why?", VILLAIN, opening="Because")
        assert prompt.rendered.endswith("Why?<|im_end|>\n<|im_start|>assistant\nBecause")
        assert prompt.place == place


def test_a_tokenizer_without_a_template_and_a_template_that_fails_are_refused_in_a_line(renderer, plain_tokenizer):
    with pytest.raises(ModelError, match="personas: this tokenizer has no chat template"):
        PersonaRenderer(plain_tokenizer)
    with pytest.raises(ModelError, match="chat template failed: never"):
        _ = renderer("{{ raise_exception('never') }}").place


@pytest.mark.slow
def test_the_embedded_model_has_a_default():
    assert model_default(load_tokenizer("embedded:smollm2-135m-instruct")) == (
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
