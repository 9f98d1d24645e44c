"""Positions that are given once hold for all that is generated after the prompts."""

from dataclasses import replace

import pytest
import torch

from leakmech.core.errors import InterventionError
from leakmech.core.seeds import stable_hash
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import plan
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import DampenAttention, RowPositions, Steer

N_NEW = 6
POSITIONS = ("prompt", "injection", "stem", "last_prompt", "generated", "newest")


def steps(kit):
    heads = [f"L{layer}H{head}" for layer in range(3) for head in range(4)]
    return {
        position: Steer(kit.V, layers=[1], strength=4.0, stream_norm=3.0, positions=position) for position in POSITIONS
    } | {
        "dampen": DampenAttention(heads, factor=0.0),
        "dampen the stem, generated": DampenAttention(heads, span="stem", factor=0.0, positions="generated"),
        "resampled": kit.AblateHeads(kit.HEADS, method="resample", values={"all": kit.values(6, 7, 3, 8)}),
    }


def engine_tokens(model, tokenizer, batch, applied, spans):
    """What leakmech's own decoder draws, which is told where rows stand at every step."""
    decoder = Decoder(
        model,
        tokenizer,
        decoding=Decoding(temperature=0.0, max_new_tokens=N_NEW, repetition_penalty=1.0),
        applied=applied,
    )
    vars(decoder.vocabulary).update(ends=frozenset())
    rows = [Row(f"p{i}", 0, tuple(batch.row(i).ids[0].tolist()), spans=spans[i]) for i in range(len(spans))]
    found = {g.prompt_id: g.tokens for part in decoder.stream(plan(rows), batch_size=3) for g in part}
    return [list(found[f"p{i}"]) for i in range(len(spans))]


def generated_tokens(model, batch, **options):
    with torch.inference_mode():
        output = model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            do_sample=False,
            max_new_tokens=N_NEW,
            eos_token_id=999,
            **options,
        )
    return output[:, batch.ids.shape[1] :].tolist()


def keyed(batch, kit):
    """The spans with the keys that the decoder gives, so that both draw alike."""
    ids = [batch.row(i).ids[0].tolist() for i in range(len(kit.SPANS))]
    return [replace(spans, key=stable_hash(*own)) for spans, own in zip(kit.SPANS, ids, strict=True)]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_generate_with_positions_given_once_draws_what_the_decoder_draws(
    make_tiny, chat_tokenizer, batch, kit, use_cache
):
    model, spans = make_tiny("llama-gqa"), keyed(batch, kit)
    plain = generated_tokens(model, batch)
    changed = 0
    for name, step in steps(kit).items():
        with apply(model, step) as applied:
            expected = engine_tokens(model, chat_tokenizer, batch, applied, spans)
            with applied.positions(spans):
                first = generated_tokens(model, batch, use_cache=use_cache)
                again = generated_tokens(model, batch, use_cache=use_cache)
            with applied.positions(RowPositions.of(spans)):
                known = generated_tokens(model, batch, use_cache=use_cache)
        assert first == again == known == expected, name
        changed += first != plain
    assert changed >= 8


def test_each_position_is_steered_where_it_is_and_nowhere_else(make_tiny, batch, kit):
    """Seen at the site itself, call by call, of a row with 24 tokens and one with 9."""
    model = make_tiny("llama-gqa")
    expected = {
        "generated": lambda row, token: token >= kit.LENGTHS[row],
        "stem": lambda row, token: kit.SPANS[row].stem[0] <= token < kit.SPANS[row].stem[1],
        "newest": lambda row, token: token >= kit.LENGTHS[row] - 1,
    }
    for position, acts in expected.items():
        step = Steer(kit.V, layers=[1], site="resid_pre", strength=4.0, stream_norm=3.0, positions=position)
        before, after = [], []
        first = model.model.layers[1].register_forward_pre_hook(lambda _, args, seen=before: seen.append(args[0]))
        with apply(model, step) as applied, applied.positions(kit.SPANS):
            last = model.model.layers[1].register_forward_pre_hook(lambda _, args, seen=after: seen.append(args[0]))
            generated_tokens(model, batch)
            last.remove()
        first.remove()
        moved = torch.cat([(a - b).norm(dim=-1) for a, b in zip(after, before, strict=True)], dim=1)
        width = batch.ids.shape[1]
        assert moved.shape[1] == width + N_NEW - 1
        for row, length in enumerate(kit.LENGTHS):
            for column in range(width - length, moved.shape[1]):
                wanted = 12.0 if acts(row, column - (width - length)) else 0.0
                assert float(moved[row, column]) == pytest.approx(wanted, abs=1e-3), (position, row, column)


def test_rows_of_one_length_need_no_mask(make_tiny, batch, kit):
    model, row = make_tiny("llama-gqa"), batch.row(1)
    with apply(model, steps(kit)["generated"]) as applied, applied.positions([kit.SPANS[1]]):
        masked = generated_tokens(model, row)
        cache = model(row.ids, use_cache=True).past_key_values
        token, found = torch.tensor([[masked[0][0]]]), [masked[0][0]]
        for _ in range(N_NEW - 1):
            token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            found.append(int(token))
    assert found == masked[0] != generated_tokens(model, row)[0]


def test_a_call_with_other_rows_is_refused(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    for given in (kit.SPANS[::-1], [replace(spans, length=spans.length + 1) for spans in kit.SPANS]):
        with (
            apply(model, steps(kit)["generated"]) as applied,
            applied.positions(given),
            pytest.raises(InterventionError, match=r"rows of \[.*call has \[9, 24, 17\]; give the prompts"),
        ):
            generated_tokens(model, batch)
    everywhere = Steer(kit.V, layers=[1], strength=1.0, stream_norm=1.0)
    with apply(model, everywhere) as applied, applied.positions(kit.SPANS[::-1]):
        generated_tokens(model, batch)
