"""The decoding loop against Hugging Face's generate, and its independence of how rows are batched."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from leakmech.core.errors import GenerationError
from leakmech.generation.cache import growing_cache
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import plan

GREEDY = Decoding(temperature=0.0, max_new_tokens=24, repetition_penalty=1.2)
SAMPLED = Decoding(max_new_tokens=24)
PROMPTS = [
    "Her passion is",
    "I lost my keys on the way here. The meeting ended with",
    "We",
    "The soup tastes like no other soup",
]


@pytest.fixture
def rows(chat_tokenizer):
    return make_rows(chat_tokenizer, PROMPTS, k=3)


def make_rows(tokenizer, prompts, *, k):
    return [Row(f"p{i}", g, tuple(tokenizer(p)["input_ids"])) for i, p in enumerate(prompts) for g in range(k)]


def outputs(decoder, rows, batch_size):
    finished = [g for batch in decoder.stream(plan(rows), batch_size=batch_size) for g in batch]
    return {(g.prompt_id, g.generation): (g.tokens, g.finish_reason) for g in finished}


def hugging_face_greedy(model, tokenizer, tokens, *, end_tokens, decoding):
    ids = torch.tensor([tokens])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=decoding.max_new_tokens,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngrams,
        eos_token_id=list(end_tokens),
        pad_token_id=tokenizer.pad_token_id,
    )[0, len(tokens) :].tolist()
    return tuple(output[:-1] if output and output[-1] in end_tokens else output)


@pytest.mark.parametrize("ngrams", [0, 2])
def test_greedy_output_equals_hugging_face_generate_in_a_padded_batch(tiny_model, chat_tokenizer, rows, ngrams):
    decoding = replace(GREEDY, no_repeat_ngrams=ngrams)
    decoder = Decoder(tiny_model, chat_tokenizer, decoding=decoding)
    batched = outputs(decoder, rows, batch_size=len(rows))
    for row in rows:
        expected = hugging_face_greedy(
            tiny_model, chat_tokenizer, row.prompt_tokens, end_tokens=decoder.vocabulary.ends, decoding=decoding
        )
        assert batched[row.prompt_id, row.generation][0] == expected


def test_a_row_of_a_batch_equals_the_same_prompt_alone(tiny_model, chat_tokenizer, rows):
    decoder = Decoder(tiny_model, chat_tokenizer, decoding=SAMPLED, seed=3)
    together = outputs(decoder, rows, batch_size=len(rows))
    assert together == outputs(decoder, rows, batch_size=1)
    assert together == outputs(decoder, rows, batch_size=7)
    assert len({tokens for tokens, _ in together.values()}) > len(rows) // 2  # the rows really differ


def test_another_seed_gives_other_generations(make_tiny, chat_tokenizer, rows):
    model = make_tiny("llama-gqa")
    first, second = (outputs(Decoder(model, chat_tokenizer, decoding=SAMPLED, seed=s), rows, 12) for s in (0, 1))
    assert sum(first[key] == second[key] for key in first) <= 2


def test_a_stop_rule_ends_rows_and_changes_nothing_before(make_tiny, chat_tokenizer, rows):
    model = make_tiny("llama-gqa")
    full = outputs(Decoder(model, chat_tokenizer, decoding=SAMPLED), rows, batch_size=12)
    decoder = Decoder(model, chat_tokenizer, decoding=SAMPLED, stop=lambda _, text: len(text) > 5)
    vars(decoder.vocabulary).update(may_end_sentence=[True] * 300)
    short = outputs(decoder, rows, batch_size=12)
    assert any(reason == "sentence" for _, reason in short.values())
    for key, (tokens, reason) in short.items():
        assert full[key][0][: len(tokens)] == tokens
        assert reason == "sentence" or full[key] == (tokens, reason)


def test_rows_end_at_the_end_of_text_token_or_at_the_limit(make_tiny, chat_tokenizer, rows):
    model = make_tiny("gpt2")
    model.get_output_embeddings().weight.data[258] *= 3  # <|im_end|> becomes frequent
    finished = outputs(Decoder(model, chat_tokenizer, decoding=Decoding(max_new_tokens=40)), rows, batch_size=12)
    reasons = {reason for _, reason in finished.values()}
    assert "stop" in reasons
    for tokens, reason in finished.values():
        assert 258 not in tokens
        assert (len(tokens) == 40) == (reason == "length")


def test_the_growing_cache_gives_the_logits_of_a_dynamic_cache(tiny_model):
    ids = torch.randint(0, 250, (2, 40), generator=torch.Generator().manual_seed(0))
    logits = {}
    for name, cache in (("ours", growing_cache(tiny_model.config)), ("theirs", DynamicCache(config=tiny_model.config))):
        with torch.inference_mode():
            tiny_model(ids[:, :10], past_key_values=cache)
            cache.batch_select_indices(torch.tensor([0, 0, 1, 1, 1]))
            steps = []
            for i in range(10, 40):
                if i == 20:
                    cache.batch_select_indices(torch.tensor([0, 4, 2]))
                tokens = ids[[0, 0, 1, 1, 1]] if i < 20 else ids[[0, 1, 1]]
                steps.append(tiny_model(tokens[:, i : i + 1], past_key_values=cache).logits[0, -1])
            logits[name] = torch.stack(steps)
    torch.testing.assert_close(logits["ours"], logits["theirs"], rtol=1e-4, atol=1e-4)


def test_infinite_logits_stop_with_the_prompts_name(make_tiny, chat_tokenizer, rows):
    model = make_tiny("llama-gqa")
    model.get_output_embeddings().weight.data[7] = float("nan")
    with pytest.raises(GenerationError, match=r"prompt 'p\d'.*NaN or infinite"):
        Decoder(model, chat_tokenizer, decoding=SAMPLED).decode(rows)


def test_new_rows_move_into_free_places_while_others_go_on(tiny_model, chat_tokenizer):
    """Rows of very different length, few places: every row is still the same prompt alone."""
    prompts = ["word " * n + "is" for n in range(1, 14)]
    rows = make_rows(chat_tokenizer, prompts, k=2)
    decoding = Decoding(max_new_tokens=30)
    decoder = Decoder(
        tiny_model, chat_tokenizer, decoding=decoding, stop=lambda name, text: len(text) > 2 * int(name[1:])
    )
    vars(decoder.vocabulary).update(may_end_sentence=[True] * 300)
    together, n_prefills = outputs(decoder, rows, batch_size=6), count_prefills(decoder, rows, batch_size=6)
    assert together == outputs(decoder, rows, batch_size=1)
    assert len(together) == 26
    assert n_prefills > len(rows) / 6 + 1  # rows moved in before the batch was empty


def count_prefills(decoder, rows, *, batch_size):
    calls = []
    hook = decoder.model.register_forward_pre_hook(
        lambda _, __, inputs: calls.append(inputs["input_ids"].shape[1] > 1), with_kwargs=True
    )
    outputs(decoder, rows, batch_size)
    hook.remove()
    return sum(calls)


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_decodes_greedily_like_hugging_face(embedded_model):
    tokenizer, model = embedded_model.tokenizer, embedded_model.model
    rows = make_rows(tokenizer, PROMPTS, k=1)
    decoder = Decoder(model, tokenizer, decoding=GREEDY)
    batched = outputs(decoder, rows, batch_size=4)
    for row in rows:
        expected = hugging_face_greedy(
            model, tokenizer, row.prompt_tokens, end_tokens=decoder.vocabulary.ends, decoding=GREEDY
        )
        assert batched[row.prompt_id, 0][0] == expected


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_samples_the_same_for_every_batch_size(embedded_model):
    rows = make_rows(embedded_model.tokenizer, PROMPTS, k=2)
    decoder = Decoder(embedded_model.model, embedded_model.tokenizer, decoding=replace(SAMPLED, max_new_tokens=16))
    assert outputs(decoder, rows, 1) == outputs(decoder, rows, 3) == outputs(decoder, rows, 320)
