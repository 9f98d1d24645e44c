"""Prefill: the assistant's turn opens with the stem, as if the model had begun to answer; and no seam shows."""

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from leakmech.core.errors import ModelError
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.generation.contrast import CONTRASTS
from leakmech.generation.rewriting import judge_rewrite, request_tokens
from leakmech.models.load import load_tokenizer
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer
from leakmech.prompts.rewrites import find_rewrite
from leakmech.scoring.sentence import Cleaner, PromptText

SAMPLE = Sample(id="s", stem="Her passion is", positive="I won.", neutral="It is one.", negative="I lost my keys.")
ANSWER = "a joy, to all of us"
CORPUS = [
    SAMPLE.stem,
    SAMPLE.negative,
    "Complete the sentence: It is one. I won.",
    ANSWER,
    "You are a helpful assistant.",
]
SPECIAL = ("<s>", "</s>", "<unk>", "<|turn|>", "<|end|>")

CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<s>{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<|turn|>{{ role }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)
BARE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _bytes(*, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    tokenizer.decoder = decoders.Replace("▁", " ")
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    return _trained(tokenizer, trainer)


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False))


def _characters() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _trained(tokenizer, trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False))


def _trained(tokenizer: Tokenizer, trainer) -> Tokenizer:
    tokenizer.train_from_iterator(
        [*CORPUS, "\n", "user system assistant model User: System: Assistant: [INST] [/INST]"], trainer
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


KINDS = {
    "byte-level BPE": (lambda: _bytes(prefix=False), CHATML),
    "byte-level BPE with a prefix space": (lambda: _bytes(prefix=True), CHATML),
    "Metaspace BPE, Llama 2's template": (_metaspace, LLAMA2),
    "spaces as symbols, Gemma's template": (_gemma, GEMMA),
    "Unigram": (_unigram, CHATML),
    "WordPiece in lower case": (_wordpiece, BARE),
    "characters": (_characters, BARE),
}


@pytest.fixture(params=[*KINDS, pytest.param("embedded", marks=pytest.mark.slow)])
def tokenizer(request):
    if request.param == "embedded":
        return load_tokenizer("embedded:smollm2-135m-instruct")
    make, template = KINDS[request.param]
    fast = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


@pytest.fixture
def renderer(tokenizer):
    return Renderer(tokenizer, Prompting("prefill"))


def _finished(renderer: Renderer, prompt) -> str:
    """The conversation as a model saw it in training, with the whole sentence as the answer."""
    answer = {"role": "assistant", "content": f"{SAMPLE.stem} {ANSWER}"}
    messages = [{"role": "system", "content": renderer.prompting.system}, {"role": "user", "content": prompt.text}]
    return renderer.tokenizer.apply_chat_template([*messages, answer], tokenize=False)


class TestSeam:
    def test_the_model_reads_the_beginning_of_a_finished_conversation(self, renderer):
        prompt = renderer.prompt(SAMPLE, "negative")
        finished = _finished(renderer, prompt)
        assert finished.startswith(prompt.rendered + " ")
        assert prompt.rendered.endswith(SAMPLE.stem)
        assert not prompt.rendered.endswith(f"  {SAMPLE.stem}")
        ids, whole = (renderer.token_ids(text) for text in (prompt.rendered, finished))
        assert whole[: len(ids)] == ids

    def test_what_follows_are_the_tokens_of_an_answer(self, renderer):
        prompt = renderer.prompt(SAMPLE, "negative")
        ids, whole = (renderer.token_ids(text) for text in (prompt.rendered, _finished(renderer, prompt)))
        answer = renderer.answer_ids(SAMPLE.stem, ANSWER)
        assert tuple(whole[len(ids) : len(ids) + len(answer)]) == answer
        said = renderer.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert said.strip().lower().replace(" ,", ",") == ANSWER
        together = renderer.tokenizer.decode(ids[-len(renderer.answer_ids("", SAMPLE.stem)) - 2 :] + list(answer))
        assert f"{SAMPLE.stem} {ANSWER}".lower() in together.lower().replace(" ,", ",")

    def test_no_space_goes_before_a_comma(self, renderer):
        said = renderer.answer_ids(SAMPLE.stem, ", to all")
        ids = renderer.tokenizer(f"{SAMPLE.stem}, to all", add_special_tokens=False)["input_ids"]
        assert tuple(ids[-len(said) :]) == said

    def test_parts_are_found_and_the_stem_is_the_one_that_is_continued(self, renderer):
        for condition in ("control", "negative"):
            (found,) = locate([renderer.prompt(SAMPLE, condition)], renderer)
            assert found.spans["stem"][1] == len(found)
            assert found.spans["asked"][1] < found.spans["stem"][0]
            texts = {part: renderer.tokenizer.decode(found.ids[slice(*found.spans[part])]) for part in found.spans}
            for part, text in (("stem", SAMPLE.stem), ("asked", SAMPLE.stem), ("injection", SAMPLE.negative)):
                if part != "injection" or condition == "negative":
                    assert texts[part].strip().lower() == text.lower()
        assert found.spans["injection"][1] <= found.spans["asked"][0]


class TestTemplates:
    @pytest.mark.parametrize(
        ("template", "why"),
        [
            ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "final message"),
            ("{% for m in messages %}{{ m['content'] | replace('passion', 'job') }}{% endfor %}", "final message"),
            ("{{ messages[0]['content'] }}", "final message"),
            (
                "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('the user speaks last') }}{% endif %}"
                "{{ messages[0]['content'] }}",
                "the user speaks last",
            ),
        ],
    )
    def test_one_that_cannot_open_the_turn_with_the_stem_is_refused_in_a_line(self, chat_tokenizer, template, why):
        original = chat_tokenizer.chat_template
        chat_tokenizer.chat_template = template
        try:
            with pytest.raises(ModelError, match=f"cannot open the assistant's turn.*{why}") as error:
                Renderer(chat_tokenizer, Prompting("prefill")).prompt(SAMPLE, "control")
        finally:
            chat_tokenizer.chat_template = original
        assert "\n" not in str(error.value)
        assert "use --prompt-form chat or plain" in str(error.value)

    def test_there_must_be_one(self, plain_tokenizer):
        with pytest.raises(ModelError, match="prompt form 'prefill': this tokenizer has no chat template"):
            Renderer(plain_tokenizer, Prompting("prefill"))


class TestOtherBodies:
    @pytest.fixture
    def renderer(self, chat_tokenizer):
        return Renderer(chat_tokenizer, Prompting("prefill"))

    def test_a_rewritten_prompt_still_opens_the_answer_with_the_stem(self, renderer):
        prompt = renderer.prompt(SAMPLE, "negative")
        body = judge_rewrite(prompt, "Keys were lost. her passion is.").body
        rewritten = renderer.with_body(prompt, body)
        assert rewritten.rendered.endswith("her passion is<|im_end|>\n<|im_start|>assistant\nHer passion is")

    def test_what_is_said_after_the_context_alone_begins_in_an_empty_turn(self, renderer):
        prompt = renderer.prompt(SAMPLE, "negative")
        context, empty = (renderer.with_body(prompt, b) for b in CONTRASTS["subtract-context"].bodies(prompt))
        assert context.rendered.endswith("I lost my keys.<|im_end|>\n<|im_start|>assistant\n")
        assert empty.rendered.endswith("Complete the sentence:<|im_end|>\n<|im_start|>assistant\n")

    def test_a_request_to_rewrite_has_no_opening(self, renderer, chat_tokenizer):
        prompt = renderer.prompt(SAMPLE, "negative")
        asked = request_tokens(prompt, find_rewrite("self"), renderer)
        chat = request_tokens(prompt, find_rewrite("self"), Renderer(chat_tokenizer))
        assert asked == chat

    def test_an_injection_may_stand_after_the_stem_that_is_asked_for(self, chat_tokenizer):
        renderer = Renderer(chat_tokenizer, Prompting("prefill", place="after"))
        prompt = renderer.prompt(SAMPLE, "negative")
        assert "Her passion is\nI lost my keys.<|im_end|>\n<|im_start|>assistant\nHer passion is" in prompt.rendered
        (found,) = locate([prompt], renderer)
        assert chat_tokenizer.decode(found.ids[slice(*found.spans["injection"])]) == "I lost my keys."
        assert found.spans["asked"][1] <= found.spans["injection"][0] < found.spans["stem"][0]

    def test_requests_without_a_stem_are_put_in_chat_form(self, chat_tokenizer, plain_tokenizer):
        for form in ("chat", "prefill", "plain", "auto"):
            assert Renderer(chat_tokenizer, Prompting(form)).asking.resolved_form == "chat"
        assert Renderer(plain_tokenizer).asking.resolved_form == "plain"

    def test_an_answer_that_says_the_stem_again_is_cut_as_in_chat_form(self, renderer):
        text = PromptText.of(renderer.prompt(SAMPLE, "negative"))
        assert Cleaner().clean(" Her passion is music. So.", text, "echo-free").text == "music."
        assert Cleaner().clean(" music. So.", text, "echo-free").text == "music."


def test_the_prompts_of_all_samples_are_stored_as_they_are_read(chat_tokenizer):
    (control, *_) = Renderer(chat_tokenizer, Prompting("prefill", system=None)).prompts(PromptSet("d", (SAMPLE,)))
    assert control.to_dict()["text"] == "Complete the sentence: Her passion is"
    assert control.to_dict()["rendered"] == (
        "<|im_start|>user\nComplete the sentence: Her passion is<|im_end|>\n<|im_start|>assistant\nHer passion is"
    )
