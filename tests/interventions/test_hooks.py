"""Interventions act where they say, under the cache as without it, and leave nothing behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakmech.core.errors import InterventionError
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import plan
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.interventions.base import Edit
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import (
    AblateDirection,
    AblateHeads,
    AngularSteering,
    DampenAttention,
    Intervention,
    Probe,
    PromptSpans,
    RowPositions,
    Steer,
)
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import STREAM_SITES, recording

GREEDY = Decoding(temperature=0.0, max_new_tokens=6, repetition_penalty=1.0)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def states(model, batch, site="resid_post"):
    """What a site holds, [layer, row, column, d_model]; transformers' own record is of before the hooks."""
    with torch.inference_mode(), recording(layout_of(model), sites=[site], layers=range(3), pick=lambda x: x) as found:
        model(**batch.inputs)
    return torch.stack([found[site, layer] for layer in range(3)])


# -- on and off ----------------------------------------------------------------------------------------------------


def test_every_kind_acts_and_leaves_logits_as_they_were(tiny_model, batch, kit):
    longer = batch.extended(torch.tensor([[1], [2], [3]]))
    base, before = kit.logits(tiny_model, longer), n_hooks(tiny_model)
    for name, intervention in kit.every_kind(tiny_model).items():
        rows = RowPositions.of(kit.SPANS, n_generated=1)
        for probe in (kit.probe(tiny_model), replace(kit.probe(tiny_model), ahead=True)):
            rows.decisions[probe.name] = torch.tensor([True, False, True])
        with apply(tiny_model, intervention) as applied, applied.positions(rows):
            changed = kit.logits(tiny_model, longer)
        assert (changed - base).abs().max() > 1e-4, name
        assert torch.equal(kit.logits(tiny_model, longer), base), name
    assert n_hooks(tiny_model) == before


def _fail(error):
    raise error


def test_an_exception_leaves_no_hook(tiny_model, batch, kit):
    base, before = kit.logits(tiny_model, batch), n_hooks(tiny_model)
    for failure in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(failure), apply(tiny_model, kit.together(tiny_model)):
            _fail(failure if n_hooks(tiny_model) > before else AssertionError)
    assert n_hooks(tiny_model) == before
    with pytest.raises(InterventionError), apply(tiny_model, DampenAttention(["L0H0"])):
        kit.logits(tiny_model, batch)  # positions are not known
    with pytest.raises(InterventionError), apply(tiny_model, AblateHeads(["L9H0"])):
        pass
    assert n_hooks(tiny_model) == before
    assert torch.equal(kit.logits(tiny_model, batch), base)


def test_interventions_compose_in_their_order(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    step = Steer(kit.V, layers=[1], strength=1.0, stream_norm=3.0)
    project = AblateDirection(kit.V, layers=[1])
    results = {}
    for name, order in {"project": [project], "both": [step, project], "reverse": [project, step]}.items():
        with apply(model, order):
            results[name] = states(model, batch)[1] @ kit.V
    torch.testing.assert_close(results["both"], results["project"], atol=1e-5, rtol=0)
    torch.testing.assert_close(results["reverse"], results["project"] + 3.0, atol=1e-5, rtol=0)


# -- what each kind does -------------------------------------------------------------------------------------------


def test_projections_reach_zero_or_their_set_point_at_every_site(tiny_model, batch, kit):
    sites = [site for site in STREAM_SITES if site != "resid_mid" or tiny_model.config.model_type != "gpt_neox"]
    for site in sites:
        points = torch.tensor([0.0, 2.0])
        with apply(tiny_model, AblateDirection(kit.LAYERS, layers=[1, 2], site=site, set_point=points.tolist())):
            found = states(tiny_model, batch, site)[1:][:, batch.mask.bool()]
        projections = torch.einsum("lnd,ld->ln", found, kit.LAYERS)
        torch.testing.assert_close(projections, points[:, None].expand(2, 50), atol=1e-4, rtol=0, msg=site)


def test_a_rotation_keeps_norms_and_turns_from_the_first_axis_to_the_second(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    base = states(model, batch)[1]
    plane = torch.stack([kit.V, kit.W])
    for mode in ("rotate_by", "rotate_to"):
        with apply(model, Steer(kit.V, layers=[1], mode=mode, second=kit.W, angle=90.0)):
            turned = states(model, batch)[1]
        torch.testing.assert_close(turned.norm(dim=-1), base.norm(dim=-1), rtol=1e-5, atol=1e-5)
        (a, b), (new_a, new_b) = (base @ plane.T).unbind(-1), (turned @ plane.T).unbind(-1)
        expected = (-b, a) if mode == "rotate_by" else (torch.zeros_like(a), torch.hypot(a, b))
        torch.testing.assert_close(torch.stack([new_a, new_b]), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_angular_steering_turns_the_shorter_way_by_a_share_and_keeps_the_rest(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    plane = torch.stack([kit.V, kit.W])
    base = states(model, batch)[1]
    before = torch.atan2(base @ kit.W, base @ kit.V)
    with apply(model, AngularSteering(kit.V, second=kit.W, layers=[1], angle=120.0, strength=0.25)):
        turned = states(model, batch)[1]
    way = (2 * torch.pi / 3 - before + torch.pi) % (2 * torch.pi) - torch.pi
    after = torch.atan2(turned @ kit.W, turned @ kit.V)
    difference = (after - before - way / 4 + torch.pi) % (2 * torch.pi) - torch.pi
    torch.testing.assert_close(difference, torch.zeros_like(difference), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.norm(dim=-1), base.norm(dim=-1), rtol=1e-5, atol=1e-5)
    outside = turned - base - ((turned - base) @ plane.T) @ plane
    torch.testing.assert_close(outside, torch.zeros_like(outside), atol=1e-5, rtol=0)


def test_adaptive_angular_steering_turns_aligned_tokens_only(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    base = states(model, batch)[1]
    along = (base @ kit.V).flatten().sort().values
    threshold = float(along[len(along) // 2 - 1 : len(along) // 2 + 1].mean())  # between two, not at one
    with apply(model, AngularSteering(kit.V, second=kit.W, layers=[1], adaptive=True, threshold=threshold)):
        turned = states(model, batch)[1]
    aligned = base @ kit.V > threshold
    assert 0.3 < aligned.float().mean() < 0.7
    length = torch.hypot(base @ kit.V, base @ kit.W)
    torch.testing.assert_close((turned @ kit.W)[aligned], length[aligned], rtol=1e-4, atol=1e-4)  # at 90 degrees
    torch.testing.assert_close(turned[~aligned], base[~aligned], rtol=0, atol=0)


def test_steering_is_in_units_of_the_streams_length(make_tiny, batch, kit):
    model = make_tiny("gpt2")
    base = states(model, batch)[1]
    with apply(model, Steer(kit.V, layers=[1], strength=-0.5, stream_norm=8.0)):
        torch.testing.assert_close(states(model, batch)[1], base - 4.0 * kit.V, rtol=1e-5, atol=1e-5)


def test_attention_to_the_injection_falls_by_the_factor_outside_of_it(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        base = model(**batch.inputs, output_attentions=True).attentions[0]
        with (
            apply(model, DampenAttention(["L0H2"], factor=0.25)) as applied,
            applied.positions(kit.SPANS),
        ):
            changed = model(**batch.inputs, output_attentions=True).attentions[0]
    row = 1  # without padding
    start, stop = kit.SPANS[row].injection
    inside = torch.zeros(24, dtype=torch.bool)
    inside[start:stop] = True
    share = base[row, 2][:, inside].sum(-1, keepdim=True)
    factors = torch.where(inside, 0.25, 1.0)
    expected = base[row, 2] * factors / (1 - 0.75 * share)
    torch.testing.assert_close(changed[row, 2][stop:], expected[stop:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(changed[row, 2][:stop], base[row, 2][:stop], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(changed[row, [0, 1, 3]], base[row, [0, 1, 3]], rtol=0, atol=1e-6)


def test_replaced_heads_have_the_value_of_the_most_particular_class(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    seen = []
    model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    parts = {"prompt": torch.full((1, 8), 1.0), "injection": torch.full((1, 8), 2.0), "generated": torch.zeros(1, 8)}
    bank = {"all": torch.arange(5.0)[:, None, None].expand(5, 1, 8)}
    with apply(model, AblateHeads(["L0H1"], method="mean", values=parts)) as applied, applied.positions(kit.SPANS):
        kit.logits(model, batch)
    with apply(model, AblateHeads(["L0H1"], method="resample", values=bank)) as applied, applied.positions(kit.SPANS):
        kit.logits(model, batch)
    mean, drawn = seen[0][1, :, 8], seen[1][1, :, 8]
    start, stop = kit.SPANS[1].injection
    assert mean.tolist() == [1.0] * start + [2.0] * (stop - start) + [1.0] * (24 - stop)
    assert set(drawn.tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert len(set(drawn.tolist())) > 2
    assert not torch.equal(seen[1][1, -9:, 8], seen[1][0, -9:, 8])  # another prompt, other draws


def test_a_probe_decides_row_by_row(make_tiny, batch, kit):
    model = make_tiny("qwen2")
    base = states(model, batch)
    score = base[0][:, -1] @ kit.V
    threshold = float(score.sort().values[1]) - 1e-4  # two rows above, one below
    for fires, acting in (("above", score > threshold), ("below", score <= threshold)):
        probe = Probe(vector=kit.V, layer=0, threshold=threshold, fires=fires)
        step = Steer(kit.W, layers=[1], strength=1.0, stream_norm=2.0, condition=probe)
        with apply(model, step) as applied, applied.positions(kit.SPANS):
            moved = states(model, batch)[1] - base[1]
        expected = acting.float()[:, None, None] * 2.0 * kit.W
        torch.testing.assert_close(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-5)


# -- under the cache -----------------------------------------------------------------------------------------------


def test_every_kind_acts_under_the_cache_as_without_it(tiny_model, batch, kit):
    tokens = torch.randint(0, 250, (3, 3), generator=torch.Generator().manual_seed(5))
    whole = batch.extended(tokens)
    for name, intervention in kit.every_kind(tiny_model).items():
        with apply(tiny_model, intervention) as applied, torch.inference_mode():
            rows = RowPositions.of(kit.SPANS)
            with applied.positions(rows):
                cache = tiny_model(**batch.inputs, use_cache=True).past_key_values
            cached, now = batch, rows
            for step in range(3):
                cached, now = cached.extended(tokens[:, step : step + 1]), now.advanced()
                inputs = {key: value[:, -1:] for key, value in cached.inputs.items() if key != "attention_mask"}
                with applied.positions(now):
                    output = tiny_model(**inputs, attention_mask=cached.mask, past_key_values=cache).logits[:, -1]
            at_once = replace(RowPositions.of(kit.SPANS, n_generated=3), decisions=rows.decisions)
            with applied.positions(at_once):
                expected = tiny_model(**whole.inputs, use_cache=False).logits[:, -1]
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4, msg=name)


def rows_of(batch, kit, k=3):
    return [
        Row(f"p{i}", g, tuple(batch.row(i).ids[0].tolist()), spans=kit.SPANS[i])
        for i in range(len(kit.SPANS))
        for g in range(k)
    ]


def outputs(decoder, rows, batch_size):
    return {
        (g.prompt_id, g.generation): g.tokens
        for part in decoder.stream(plan(rows), batch_size=batch_size)
        for g in part
    }


def test_greedy_outputs_are_those_of_each_prompt_alone_without_a_cache(tiny_model, chat_tokenizer, batch, kit):
    interventions = kit.together(tiny_model)
    with apply(tiny_model, interventions) as applied:
        decoder = Decoder(tiny_model, chat_tokenizer, decoding=GREEDY, applied=applied)
        found = outputs(decoder, rows_of(batch, kit, k=1), batch_size=3)
        assert found == outputs(decoder, rows_of(batch, kit, k=1), batch_size=1)  # without padding, so without a mask
        for i, spans in enumerate(kit.SPANS):
            alone, expected = batch.row(i), []
            key = decoder_key(alone)
            for step in range(GREEDY.max_new_tokens):
                with applied.positions([replace(spans, key=key)], n_generated=step):
                    token = kit.logits(tiny_model, alone).argmax(-1)
                if int(token) in decoder.vocabulary.ends:
                    break
                expected.append(int(token))
                alone = alone.extended(token[None])
            assert found[f"p{i}", 0] == tuple(expected)
    plain = outputs(Decoder(tiny_model, chat_tokenizer, decoding=GREEDY), rows_of(batch, kit, k=1), batch_size=3)
    assert found != plain


def decoder_key(batch):
    from leakmech.core.seeds import stable_hash

    return stable_hash(*batch.ids[0].tolist())


def test_rows_that_leave_and_enter_keep_their_positions(make_tiny, chat_tokenizer, batch, kit):
    model = make_tiny("llama-gqa")
    model.get_output_embeddings().weight.data[258] *= 2  # some rows end early
    rows = rows_of(batch, kit, k=4)
    with apply(model, kit.together(model)) as applied:
        decoder = Decoder(model, chat_tokenizer, decoding=Decoding(max_new_tokens=16), seed=3, applied=applied)
        full = outputs(decoder, rows, batch_size=12)
        assert full == outputs(decoder, rows, batch_size=5)
        assert full == outputs(decoder, rows, batch_size=1)
    assert len({len(tokens) for tokens in full.values()}) > 2


def test_hugging_faces_generate_needs_no_word_of_prompt_and_generated(tiny_model, chat_tokenizer, batch, kit):
    found = kit.hooks_only(tiny_model)
    for name in ("steer last prompt", "steer generated", "steer, conditional", "steer generated, conditional"):
        with apply(tiny_model, found[name]) as applied:
            with torch.inference_mode():
                output = tiny_model.generate(
                    input_ids=batch.ids, attention_mask=batch.mask, do_sample=False, max_new_tokens=6, eos_token_id=999
                )[:, batch.ids.shape[1] :]
            decoder = Decoder(tiny_model, chat_tokenizer, decoding=GREEDY, applied=applied)
            vars(decoder.vocabulary).update(ends=frozenset())
            ours = outputs(decoder, rows_of(batch, kit, k=1), batch_size=3)
        assert [tuple(row) for row in output.tolist()] == [ours[f"p{i}", 0] for i in range(3)], name


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["prompt", "last_prompt", "generated", "injection", "stem"])
def test_unknown_positions_are_an_error_and_not_a_guess(make_tiny, batch, kit, position):
    model = make_tiny("llama-gqa")
    with (
        apply(model, Steer(kit.V, layers=[1], strength=1.0, stream_norm=1.0, positions=position)) as applied,
        pytest.raises(InterventionError, match=rf"position '{position}'.*applied.positions"),
    ):
        kit.logits(model, batch)
    with (
        apply(model, Steer(kit.V, layers=[1], strength=1.0, stream_norm=1.0, positions="stem")) as applied,
        applied.positions([PromptSpans(length) for length in kit.LENGTHS]),
        pytest.raises(InterventionError, match=r"'stem'.*spans"),
    ):
        kit.logits(model, batch)


def test_positions_of_other_rows_and_padding_on_the_right_are_refused(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    step = Steer(kit.V, layers=[1], strength=1.0, stream_norm=1.0, positions="last_prompt")
    with apply(model, step) as applied:
        with applied.positions(kit.SPANS[:2]), pytest.raises(InterventionError, match="2 rows, but the batch has 3"):
            kit.logits(model, batch)
        with pytest.raises(InterventionError, match="on the left"):
            model(input_ids=batch.ids, attention_mask=batch.mask.flip(1))
    with pytest.raises(InterventionError, match="outside of a prompt of 5 tokens"):
        PromptSpans(5, injection=(3, 6))


def test_a_probe_of_the_stem_reads_the_mean_over_its_tokens(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    streams = []
    handle = model.model.layers[0].register_forward_hook(lambda _, __, output: streams.append(as_tensor(output)))
    kit.logits(model, batch)
    handle.remove()
    starts = [int((row == 0).sum()) for row in batch.mask]
    means = [
        streams[0][i, start + spans.stem[0] : start + spans.stem[1]].mean(0) @ kit.V
        for i, (start, spans) in enumerate(zip(starts, kit.SPANS, strict=True))
    ]
    low, middle, _ = sorted(float(value) for value in means)
    threshold = (low + middle) / 2
    probe = Probe(vector=kit.V, layer=0, threshold=threshold, position="stem", fires="below")
    without_stem = [replace(spans, stem=(0, 0)) for spans in kit.SPANS]
    steer = Steer(kit.V, layers=[1], strength=1.0, stream_norm=1.0, condition=probe)
    assert steer.spans == {"stem"}
    plain = kit.logits(model, batch)
    with apply(model, steer) as applied:
        with applied.positions(kit.SPANS):
            changed = (kit.logits(model, batch) - plain).abs().amax(1) > 1e-4
        with applied.positions(without_stem):
            unread = kit.logits(model, batch)
    assert changed.tolist() == [float(value) <= threshold for value in means]
    assert changed.sum() == 1
    assert torch.equal(unread, plain)


def test_a_probe_that_is_read_ahead_sees_the_unchanged_model(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    score = states(model, batch)[1][:, -1] @ kit.V
    threshold = float(score.sort().values[1]) - 1e-4
    probe = Probe(vector=kit.V, layer=1, threshold=threshold, ahead=True)
    # In layer 0 it would push every row over the threshold, or below it, before the probe is reached.
    always = Steer(kit.V, layers=[0], strength=10.0, stream_norm=2.0)
    plain, pushed = kit.logits(model, batch), under(model, batch, kit, always)
    mixed = under(model, batch, kit, replace(always, condition=probe))
    assert (score > threshold).tolist().count(True) == 2
    torch.testing.assert_close(mixed, torch.where((score > threshold)[:, None], pushed, plain))
    both = under(
        model, batch, kit, [replace(always, condition=probe), replace(always, condition=replace(probe, layer=0))]
    )
    assert not torch.equal(both, mixed)
    assert torch.equal(kit.logits(model, batch), plain)


def test_reading_ahead_ends_at_the_probe_and_happens_once(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    calls = [0, 0, 0]
    for layer, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, layer=layer: calls.__setitem__(layer, calls[layer] + 1))
    probe = Probe(vector=kit.V, layer=1, site="resid_pre", threshold=0.0, ahead=True)
    knocked = DampenAttention(["L0H0"], factor=0.0, condition=probe)
    with apply(model, knocked) as applied, applied.positions(kit.SPANS) as rows, torch.inference_mode():
        cache = model(**batch.inputs, use_cache=True).past_key_values
        assert calls == [2, 1, 1]
        later = batch.extended(torch.zeros(3, 1, dtype=torch.long)).inputs
        with applied.positions(rows.advanced()):
            model(
                input_ids=later["input_ids"][:, -1:], position_ids=later["position_ids"][:, -1:],
                attention_mask=later["attention_mask"], past_key_values=cache,
            )  # fmt: skip
    assert calls == [3, 2, 2]


def under(model, batch, kit, interventions):
    with apply(model, interventions) as applied, applied.positions(kit.SPANS):
        return kit.logits(model, batch)


def as_tensor(output):
    return output[0] if isinstance(output, tuple) else output


def test_a_probe_that_comes_too_late_is_refused(make_tiny, kit):
    model = make_tiny("llama-gqa")
    early = Steer(kit.V, layers=[0], strength=1.0, stream_norm=1.0, condition=kit.probe(model))
    with pytest.raises(InterventionError, match=r"resid_post of layer 0, before its probe"), apply(model, early):
        pass
    late = Steer(kit.V, layers=[0], strength=1.0, stream_norm=1.0, condition=kit.probe(model), positions="generated")
    with (
        apply(model, late) as applied,
        applied.positions(kit.SPANS, n_generated=1),
        pytest.raises(InterventionError, match="has not seen these prompts"),
    ):
        model(torch.zeros(3, max(kit.LENGTHS) + 1, dtype=torch.long))


def test_a_strength_that_yields_nan_is_named(make_tiny, batch, kit):
    model = make_tiny("llama-gqa").to(torch.float16)
    step = Steer(kit.V, layers=[1], strength=3e5, stream_norm=10.0)
    with apply(model, step), pytest.raises(InterventionError, match=r"steer \(.*layer 1, strength 300000\).*NaN"):
        kit.logits(model, batch)
    model = make_tiny("gpt2")  # too large to be squared by the norm that follows, in float32
    step = Steer(kit.V, layers=[2], strength=1e30, stream_norm=10.0)
    with apply(model, step), pytest.raises(InterventionError, match=r"logits.*strength 1e\+30"):
        kit.logits(model, batch)


def test_interventions_that_do_not_fit_a_model_are_refused(make_tiny, chat_tokenizer, kit):
    model = make_tiny("llama-gqa")
    for bad, message in [
        (AblateHeads(["L0H4"]), "L0H4: this model has 4 heads"),
        (AblateHeads(["L0H0"], method="mean", values={"all": torch.ones(1, 7)}), "width 7, heads of this model 8"),
        (AblateDirection(kit.unit(1, 31), layers=[0]), "width 31, the stream of this model 32"),
        (AblateDirection(kit.V, layers=[3]), "3 layers"),
    ]:
        with pytest.raises(InterventionError, match=message), apply(model, bad):
            pass
    with (
        pytest.raises(InterventionError, match="gpt_neox runs attention and MLP in parallel"),
        apply(make_tiny("gpt-neox"), AblateDirection(kit.V, layers=[0], site="resid_mid")),
    ):
        pass
    loaded = load_model(model, tokenizer=chat_tokenizer)
    with apply(loaded, AblateHeads(["L0H0"], model_hash=loaded.weights_hash)):
        pass
    with (
        pytest.raises(InterventionError, match="hash 1234, not on this one"),
        apply(loaded, AblateHeads(["L0H0"], model_hash="1234")),
    ):
        pass


def test_overlapping_edits_are_refused_and_orthogonal_ones_compose(make_tiny, kit):
    model = make_tiny("llama-gqa")
    near = torch.nn.functional.normalize(kit.V + 0.5 * kit.W, dim=0)
    for pair, message in [
        ([AblateHeads(["L0H1", "L1H1"]), AblateHeads(["L1H1"])], "both fix L1H1"),
        ([AblateDirection(kit.V, layers=[1]), AblateDirection(near, layers=[0, 1])], r"resid_post of layer 1.*0\.894"),
    ]:
        with pytest.raises(InterventionError, match=message), apply(model, pair):
            pass
    fine = [
        [AblateDirection(kit.V, layers=[1]), AblateDirection(kit.W, layers=[1])],
        [AblateDirection(kit.V, layers=[1], strength=0.5), AblateDirection(near, layers=[1])],
        [AblateHeads(["L0H1"], positions="generated"), AblateHeads(["L0H1"], positions="stem")],
    ]
    for pair in fine:
        with apply(model, pair):
            pass


def test_a_class_of_ones_own_is_an_intervention(make_tiny, batch, kit):
    class Shrink(Intervention):
        kind = "shrink_in_test"

        def edits(self, _, /):
            return [Edit("resid_post", 1, lambda x, rows: x / 2, positions="stem")]

        @property
        def spans(self):
            return frozenset({"stem"})

        @property
        def needs_positions(self):
            return True

    model = make_tiny("llama-gqa")
    base = states(model, batch)[1]
    with apply(model, Shrink()) as applied, applied.positions(kit.SPANS):
        changed = states(model, batch)[1]
    start, stop = kit.SPANS[1].stem
    assert applied.spans == {"stem"}
    torch.testing.assert_close(changed[1, start:stop], base[1, start:stop] / 2)
    torch.testing.assert_close(changed[1, stop:], base[1, stop:])


def test_a_class_of_ones_own_that_names_no_site_is_refused_with_the_nearest_one(make_tiny):
    class Misplaced(Intervention):
        kind = "misplaced_in_test"

        def edits(self, _, /):
            return [Edit("resid_pots", 1, lambda x, rows: x / 2)]

    model = make_tiny("gpt2")
    message = "site: unknown 'resid_pots'; did you mean 'resid_post'"
    with pytest.raises(InterventionError, match=message), apply(model, Misplaced()):
        pass
    assert n_hooks(model) == 0


def continuations(batch, kit):
    """Three texts after each prompt of the batch."""
    texts = torch.randint(0, 250, (3, 6), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        Continuation(f"{row}/{n}", "u", prompt, tuple(text[:n]), injection=spans.injection, stem=spans.stem)
        for row, spans in enumerate(kit.SPANS)
        for prompt in [tuple(batch.row(row).ids[0].tolist())]
        for n, text in zip((1, 6, 3), texts, strict=True)
    ]


def likelihoods(loaded, items, interventions, **options):
    variant = ModelVariant(loaded, lambda: apply(loaded.model, interventions))
    return log_likelihoods(variant, items, **options).log_likelihood


def test_texts_after_a_prompt_that_is_read_once_are_as_likely_as_whole_texts(tiny_model, batch, chat_tokenizer, kit):
    loaded, items, every = (
        load_model(tiny_model, tokenizer=chat_tokenizer),
        continuations(batch, kit),
        kit.every_kind(tiny_model),
    )
    base = likelihoods(loaded, items, [])
    del every["steer generated, conditional"]  # acts before its probe: see below
    for position in ("injection", "stem"):
        probe = replace(kit.probe(tiny_model), position=position, threshold=-100.0)  # fires
        every[f"probe of the {position}"] = replace(every["steer, conditional"], condition=probe)
    for name, interventions in {**every, "together": kit.together(tiny_model)}.items():
        plain, shared = (likelihoods(loaded, items, interventions, share_prompts=share) for share in (False, True))
        np.testing.assert_allclose(shared, plain, rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.abs(plain - base).max() > 1e-3, name


def test_after_a_prompt_that_is_read_once_a_change_may_act_before_its_probe(tiny_model, batch, chat_tokenizer, kit):
    loaded, items, every = (
        load_model(tiny_model, tokenizer=chat_tokenizer),
        continuations(batch, kit),
        kit.every_kind(tiny_model),
    )
    base, steered, found = (
        likelihoods(loaded, items, chosen, share_prompts=True)
        for chosen in ([], every["steer generated"], every["steer generated, conditional"])
    )
    fires = np.abs(found - base).reshape(3, 3).max(axis=1) > 1e-3
    assert 0 < fires.sum() < 3
    np.testing.assert_allclose(found, np.where(fires.repeat(3), steered, base), rtol=1e-4, atol=1e-4)
    with pytest.raises(InterventionError, match="run the prompt first"):
        likelihoods(loaded, items, every["steer generated, conditional"])


class TestMadeOfADirection:
    def direction(self, tiny_model):
        from leakmech import Direction

        width = layout_of(tiny_model).d_model
        projections = {"control": 0.75, "positive": 2.0}
        return Direction(
            torch.nn.functional.one_hot(torch.tensor(1), width).float(),
            "resid_post",
            1,
            "last_prompt",
            "pca",
            "read",
            3.0,
            projections,
            0.0,
            "abc",
        )

    def test_of_takes_place_and_model_of_it_and_a_condition_is_a_set_point(self, tiny_model):
        made = AblateDirection.of(self.direction(tiny_model), set_point="control")
        assert (list(made.layers), made.site, made.set_points, made.model_hash) == ([1], "resid_post", (0.75,), "abc")
        assert AblateDirection.of(self.direction(tiny_model), layers=[0, 1]).set_points == (0.0, 0.0)
        with pytest.raises(InterventionError, match="no projection of 'contrl'; did you mean 'control'"):
            AblateDirection.of(self.direction(tiny_model), set_point="contrl")

    def test_of_everywhere_is_all_layers(self, tiny_model):
        direction = self.direction(tiny_model)
        made = AblateDirection.of(direction, site="everywhere")
        assert (tuple(made.layers), made.site, made.strengths) == ((), "everywhere", (1.0,))
        torch.testing.assert_close(made.vector(0), direction.vector)
        with pytest.raises(InterventionError, match="leave `layers` out"):
            AblateDirection.of(direction, site="everywhere", layers=[1])

    def test_along_steps_in_units_of_the_stream(self, tiny_model):
        direction = self.direction(tiny_model)
        made = Steer.along(direction, -0.5)
        torch.testing.assert_close(made.step(0), -1.5 * direction.vector)
        assert Steer.along(direction, 0.1, layers=[2], site="resid_pre").site == "resid_pre"
