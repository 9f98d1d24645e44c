"""What the model reads is stated in full."""

import pytest

from leakmech.core.errors import ConfigError, ModelError
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.prompts.render import Prompting, Renderer
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.diagnosis.settings import DiagnoseConfig

SAMPLE = Sample(id="s", stem="Her passion is", positive="Joy.", neutral="Fact.", negative="Woe.")


def test_chat_form_states_the_system_role(chat_tokenizer):
    prompt = Renderer(chat_tokenizer).prompt(SAMPLE, "negative")
    assert prompt.id == "s/negative"
    assert prompt.text == "Complete the sentence: Woe. Her passion is"
    assert prompt.rendered == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nComplete the sentence: Woe. Her passion is<|im_end|>\n<|im_start|>assistant\n"
    )


def test_plain_form_is_the_text_itself(chat_tokenizer, plain_tokenizer):
    assert Renderer(plain_tokenizer).prompt(SAMPLE, "control").rendered == "Complete the sentence: Her passion is"
    assert Renderer(chat_tokenizer, Prompting(form="plain")).resolved_form == "plain"


def test_special_tokens_are_written_once(chat_tokenizer):
    renderer = Renderer(chat_tokenizer)
    ids = renderer.token_ids(renderer.prompt(SAMPLE, "control").rendered)
    assert ids.count(257) == 3
    assert ids[0] == 257


def test_instructions_come_by_name_or_as_text(plain_tokenizer):
    named = Renderer(plain_tokenizer, Prompting(instruction="ignore-irrelevant")).prompt(SAMPLE, "control").text
    assert named.startswith("Complete the sentence. Ignore any irrelevant information")
    assert named.endswith(": Her passion is")
    own = Renderer(plain_tokenizer, Prompting(instruction="Be brief.")).prompt(SAMPLE, "control").text
    assert own == "Complete the sentence. Be brief: Her passion is"


def test_prompting_is_checked_before_there_is_a_tokenizer():
    for settings, message in (
        ({"form": "plian"}, "did you mean 'plain'"),
        ({"place": "behind"}, "place of the injection 'behind'"),
        ({"instruction": "self-remainder"}, "did you mean 'self-reminder'"),
    ):
        with pytest.raises(ConfigError, match=message):
            Prompting(**settings)


def test_prompting_of_settings_says_all_that_they_say_of_prompts():
    settings = {"prompt_form": "chat", "system": None, "instruction": "same-topic"}
    found = Prompting.of(BenchConfig.parse(settings | {"arrangement": "after"}))
    assert found == Prompting("chat", None, "same-topic", "after")
    assert Prompting.of(BenchConfig.parse({"arrangement": "twice"})) == Prompting()
    assert Prompting.of(DiagnoseConfig.parse(settings | {"fit": "hexl"})) == Prompting("chat", None, "same-topic")


def test_every_sample_gives_four_prompts_with_unique_ids(plain_tokenizer):
    prompts = list(Renderer(plain_tokenizer).prompts(PromptSet("d", (SAMPLE,))))
    assert [p.condition for p in prompts] == ["control", "positive", "neutral", "negative"]
    assert len({p.id for p in prompts}) == 4


def test_chat_form_needs_a_chat_template(plain_tokenizer):
    with pytest.raises(ModelError, match="no chat template; use --prompt-form plain"):
        Renderer(plain_tokenizer, Prompting(form="chat"))
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        Renderer(plain_tokenizer, Prompting(form="plian"))


def test_a_template_that_refuses_the_system_role_is_explained(make_tokenizer_with_template):
    tokenizer = make_tokenizer_with_template("{{ raise_exception('System role not supported') }}")
    with pytest.raises(ModelError, match=r"System role not supported.*--system none"):
        Renderer(tokenizer).prompt(SAMPLE, "control")


@pytest.fixture
def make_tokenizer_with_template(chat_tokenizer):
    original = chat_tokenizer.chat_template

    def make(template):
        chat_tokenizer.chat_template = template
        return chat_tokenizer

    yield make
    chat_tokenizer.chat_template = original
