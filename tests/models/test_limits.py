"""What a model cannot read is refused before anything is generated, by the name of the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build_tiny, build_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel

import leakmech
from leakmech.core.errors import ModelError
from leakmech.datasets.samples import load_dataset
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.models.limits import BeyondTraining, has_learned_positions, n_positions, refuse_unreadable
from leakmech.models.load import load_model
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer

SETTINGS = {"generations": 1, "estimator": "vader", "dtype": "float32", "limit": 1}


def short_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=128, vocab_size=264, eos_token_id=256)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.fault("X530", "models", "a text longer than a GPT-2 has positions is to be scored", "refused by its name")
def test_a_text_that_is_scored_must_fit_too():
    variant = ModelVariant(load_model(short_gpt2(), tokenizer=build_tokenizer(chat=False)))
    found = log_likelihoods(variant, [Continuation("fits", "u", (5,) * 100, (6,) * 28)])
    assert np.isfinite(found.log_likelihood).all()
    with pytest.raises(ModelError, match=r"'long': has 129 tokens; the model reads at most 128"):
        log_likelihoods(variant, [Continuation("long", "u", (5,) * 100, (6,) * 29)])


@pytest.mark.fault("F15", "prompts", "prompts longer than a GPT-2 has positions", "refused by the prompt's name")
@pytest.mark.fault(
    "R11", "prompts", "prompt and new tokens pass the positions together", "refused by the prompt's name"
)
def test_a_model_with_learned_positions_refuses_more(tmp_path):
    short_gpt2().save_pretrained(tmp_path / "model")
    build_tokenizer(chat=False).save_pretrained(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"prompt 'hexl-\w+/\w+': has \d+ tokens and up to 128 are to come; the model reads"
    ):
        leakmech.bench(tmp_path / "model", out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ModelError, match=r"'long': has 129 tokens; the model reads at most 128; shorten it"):
        refuse_unreadable(short_gpt2(), [("short", [1]), ("long", [1] * 129)])
    refuse_unreadable(short_gpt2(), [("long", [1] * 100)], new_tokens=28)


@pytest.mark.fault("R11", "prompts", "prompts longer than a rotary model was trained on", "read, with a warning")
def test_a_rotary_model_reads_on_and_warns():
    model = build_tiny("llama-gqa")
    assert (n_positions(model), has_learned_positions(model)) == (1024, False)
    with pytest.warns(BeyondTraining, match=r"'long': has 1000 tokens and up to 25 are to come; .* trained on 1024"):
        refuse_unreadable(model, [("long", [1] * 1000)], new_tokens=25)


@pytest.mark.fault("X106", "prompts", "a tokenizer with added tokens that the model has no embeddings for", "refused")
def test_tokens_without_embeddings_are_refused():
    with pytest.raises(ModelError, match=r"'p': token 264 has no embedding, the model has 264"):
        refuse_unreadable(build_tiny("llama-gqa"), [("p", [1, 264])])


def appending(tokenizer, *, before="", after="<|endoftext|>"):
    """The tokenizer with special tokens around every text, as fine-tunes are saved with add_eos_token."""
    single = " ".join(part for part in (before, "$A", after) if part)
    specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in {before, after} if name]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=specials)
    return tokenizer


@pytest.mark.parametrize("before", ["", "<|endoftext|>"])
@pytest.mark.fault(
    "F20", "prompts", "a tokenizer appends the end-of-text token", "left out; the prompt ends with its stem"
)
def test_an_appended_end_of_text_is_left_out(before):
    plain, tokenizer = build_tokenizer(chat=False), appending(build_tokenizer(chat=False), before=before)
    sample = load_dataset("hexl").samples[0]
    renderer = Renderer(tokenizer)
    prompt = renderer.prompt(sample, "positive")
    ids = renderer.token_ids(prompt.rendered)
    assert ids == [256] * bool(before) + plain(prompt.rendered)["input_ids"]
    (located,) = locate([prompt], renderer)
    assert located.ids.tolist() == ids
    assert plain.decode(ids[slice(*located.spans["stem"])]) == sample.stem
    assert located.spans["stem"][1] == len(ids)


@pytest.mark.fault(
    "X107", "prompts", "a chat tokenizer that appends the end-of-text token", "the template's text as it is"
)
def test_a_chat_prompt_has_the_tokens_of_its_template_alone():
    tokenizer = appending(build_tokenizer(chat=True))
    renderer = Renderer(tokenizer, Prompting(form="chat"))
    rendered = renderer.prompt(load_dataset("hexl").samples[0], "control").rendered
    assert renderer.token_ids(rendered) == build_tokenizer(chat=True)(rendered)["input_ids"]


def test_a_loaded_model_knows_its_positions(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("gpt2"), tokenizer=chat_tokenizer)
    assert (n_positions(loaded.model), has_learned_positions(loaded.model)) == (1024, True)
