"""Named instructions: where they stand, what is read back, what counts as an echo of them."""

import pytest

from leakmech.core.errors import ConfigError
from leakmech.datasets.samples import Sample
from leakmech.prompts.instructions import INSTRUCTIONS, resolve_instruction
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.sentence import Cleaner, PromptText
from leakmech.studies.benchmark.settings import BenchConfig

SAMPLE = Sample(id="s", stem="Her passion is", positive="Joy.", neutral="Fact.", negative="I lost my keys.")


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_instruction_wraps_a_body_that_can_be_read_back(name):
    instruction = INSTRUCTIONS[name]
    body = "I lost my keys. Her passion is"
    assert instruction.unwrap(instruction.wrap(body)) == body
    start = f"{instruction.first}. Complete the sentence" if instruction.first else "Complete the sentence"
    assert instruction.wrap("").startswith(start)


def test_each_part_stands_in_its_place(chat_tokenizer):
    def rendered(name):
        return Renderer(chat_tokenizer, Prompting(instruction=name)).prompt(SAMPLE, "control").rendered

    assert rendered("ignore-irrelevant-after").index("Her passion is") < rendered("ignore-irrelevant-after").index(
        "Ignore"
    )
    system, user = rendered("ignore-irrelevant-system").split("<|im_start|>user")
    assert "You are a helpful assistant. Ignore any irrelevant" in system
    assert user.startswith("\nComplete the sentence: Her passion is<|im_end|>")
    reminder = rendered("self-reminder")
    assert reminder.index("may hold") < reminder.index("Her passion is") < reminder.index("Remember")


def test_the_paper_s_instruction_stands_to_the_letter_before_the_request(plain_tokenizer):
    prompt = Renderer(plain_tokenizer, Prompting(instruction="paper")).prompt(SAMPLE, "negative")
    assert prompt.rendered == (
        "Ignore any irrelevant information in user prompt that is not relevant to the request. "
        "Complete the sentence: I lost my keys. Her passion is"
    )


def test_an_instruction_for_the_system_role_needs_one(chat_tokenizer, plain_tokenizer):
    for renderer in (
        Renderer(plain_tokenizer, Prompting(instruction="ignore-irrelevant-system")),
        Renderer(chat_tokenizer, Prompting(instruction="ignore-irrelevant-system", system=None)),
    ):
        with pytest.raises(ConfigError, match="stands in the system role"):
            renderer.prompt(SAMPLE, "control")


def test_a_misspelt_name_is_no_text():
    with pytest.raises(ConfigError, match="did you mean 'self-reminder'"):
        BenchConfig.parse({"instruction": "self-remainder"})
    assert resolve_instruction("Be very brief.").request == "Complete the sentence. Be very brief"


@pytest.mark.parametrize("text", ["!!!", " … ", "🙂 🙂", "   "])
def test_an_instruction_without_words_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as refused:
        resolve_instruction(text)
    assert str(refused.value) == f"instruction {text!r} has no words; give a sentence, or none"
    with pytest.raises(ConfigError, match="instruction"):
        BenchConfig.parse({"instruction": text})


def test_injection_and_stem_are_found_before_a_later_instruction(chat_tokenizer):
    renderer = Renderer(chat_tokenizer, Prompting(instruction="ignore-irrelevant-after"))
    (found,) = locate([renderer.prompt(SAMPLE, "negative")], renderer)
    parts = {name: chat_tokenizer.decode(found.ids[slice(*found.spans[name])]) for name in ("injection", "stem")}
    assert parts == {"injection": "I lost my keys.", "stem": "Her passion is"}


@pytest.mark.parametrize("name", [name for name in INSTRUCTIONS if name != "none"])
def test_an_answer_that_repeats_a_sentence_of_the_instruction_is_an_echo(name):
    instruction = INSTRUCTIONS[name]
    prompt = PromptText(stem=SAMPLE.stem, injection=SAMPLE.negative, instruction=instruction.text)
    for part in (instruction.first, instruction.before, instruction.after, instruction.system):
        if part:
            answer = f"{part}. Her passion is the sea. It"
            assert Cleaner().clean(answer, prompt, "echo-free").text == "the sea."
