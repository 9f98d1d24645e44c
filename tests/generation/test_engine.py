"""The seam: what an engine must give, what is refused before work starts, and backing off when memory runs out."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from parrot import Parrot

from leakmech.core.errors import ConfigError, GenerationError
from leakmech.datasets.samples import Sample
from leakmech.generation.contrast import CONTRASTS
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import Capabilities, generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine
from leakmech.interventions.hooks import apply
from leakmech.models.batching import is_out_of_memory
from leakmech.prompts.render import Renderer

SAMPLED = Decoding(max_new_tokens=24)
PROMPTS = [
    "Her passion is",
    "I lost my keys on the way here. The meeting ended with",
    "We",
    "The soup tastes like no other soup",
]


@pytest.fixture
def rows(chat_tokenizer):
    return [Row(f"p{i}", g, tuple(chat_tokenizer(p)["input_ids"])) for i, p in enumerate(PROMPTS) for g in range(3)]


@pytest.fixture
def engine(make_tiny, chat_tokenizer):
    return HFEngine(make_tiny("llama-gqa"), chat_tokenizer)


def outputs(engine, rows, **options):
    return {
        (g.prompt_id, g.generation): (g.tokens, g.finish_reason) for g in generate(engine, rows, SAMPLED, **options)
    }


# -- what an engine can do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("able", "asked", "message"),
    [
        (Capabilities(), {"coupled": True}, "draws that depend on seed"),
        (Capabilities(coupled_draws=True), {"combination": CONTRASTS["placebo"]}, "contrastive decoding"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_is_asked(rows, able, asked, message):
    parrot = Parrot(able)
    with pytest.raises(ConfigError, match=f"engine 'parrot': cannot do what this run needs: .*{message}") as caught:
        generate(parrot, rows, SAMPLED, **asked)
    assert "\n" not in str(caught.value)
    assert parrot.asked == []


def test_hooks_are_refused_by_an_engine_that_has_none(rows, make_tiny):
    parrot = Parrot(Capabilities(contrast=True, coupled_draws=True))
    with apply(make_tiny("llama-gqa"), ()) as applied, pytest.raises(ConfigError, match="interventions as hooks"):
        generate(parrot, rows, SAMPLED, applied=applied)


def test_everything_is_within_the_hugging_face_engine(engine, rows):
    with apply(engine.model, ()) as applied:
        assert len(generate(engine, rows[:2], SAMPLED, applied=applied, coupled=True)) == 2
    assert engine.capabilities == Capabilities(hooks=True, contrast=True, coupled_draws=True)


# -- the whole of a sample ---------------------------------------------------------------------------------------------


def test_generations_come_in_the_order_of_their_rows_and_are_kept_as_they_end(rows):
    parrot, kept, bar = Parrot(), [], []

    @contextmanager
    def progress(label, *, total, done):
        bar.append((label, total, done))
        yield bar.append

    made = generate(parrot, rows, SAMPLED, keep=kept.append, progress=progress, label="parroting", n_before=4)
    assert [(g.prompt_id, g.generation) for g in made] == [(row.prompt_id, row.generation) for row in rows]
    assert [(g.prompt_id, g.generation) for (g,) in kept] == parrot.asked
    assert bar == [("parroting", 16, 4), *[1] * 12]


def test_rows_of_prompts_have_their_tokens_and_the_asked_generations(chat_tokenizer):
    renderer = Renderer(chat_tokenizer)
    sample = Sample(id="s", stem="We are", positive="Joy came.", neutral="It rains.", negative="Woe is me.")
    prompts = [renderer.prompt(sample, condition) for condition in ("control", "negative")]
    rows = prompt_rows(prompts, renderer, range(1, 3))
    assert [(row.prompt_id, row.generation) for row in rows] == [
        ("s/control", 1), ("s/control", 2), ("s/negative", 1), ("s/negative", 2),
    ]  # fmt: skip
    assert rows[2].prompt_tokens == tuple(chat_tokenizer(prompts[1].rendered, add_special_tokens=False)["input_ids"])


# -- the engine on Hugging Face modules --------------------------------------------------------------------------------


def failing_stream(monkeypatch, fails):
    """Let the decoding loop raise what `fails(batch size)` gives before it yields; returns its batch sizes."""
    stream, sizes = Decoder.stream, []

    def failing(self, rows, *, batch_size):
        sizes.append(batch_size)
        for ended in stream(self, rows, batch_size=batch_size):
            if error := fails(batch_size):
                raise error
            yield ended

    monkeypatch.setattr(Decoder, "stream", failing)
    return sizes


def test_running_out_of_memory_halves_the_batch_and_changes_no_result(engine, rows, monkeypatch):
    expected = outputs(engine, rows, batch_size=len(rows))
    full = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
    sizes = failing_stream(monkeypatch, lambda size: full if size > 4 else None)
    assert outputs(engine, rows, batch_size=len(rows)) == expected
    assert sizes == [12, 6, 3]


def test_memory_that_does_not_suffice_for_one_row_is_an_error(engine, rows, monkeypatch):
    failing_stream(monkeypatch, lambda _: torch.OutOfMemoryError("CUDA"))
    with pytest.raises(GenerationError, match="one row"):
        outputs(engine, rows, batch_size=4)
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_other_errors_are_not_taken_for_missing_memory(engine, rows, monkeypatch):
    failing_stream(monkeypatch, lambda _: RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        outputs(engine, rows, batch_size=4)


def test_rows_that_are_done_are_not_generated_again(engine, rows):
    expected = outputs(engine, rows, batch_size=4)
    done = {(row.prompt_id, row.generation) for row in rows[:5]}
    rest = {
        (g.prompt_id, g.generation): (g.tokens, g.finish_reason)
        for ended in engine.complete(rows, SAMPLED, batch_size=4, done=done)
        for g in ended
    }
    assert rest == {key: value for key, value in expected.items() if key not in done}


def test_the_automatic_batch_shrinks_with_the_prompt_and_with_its_references(engine):
    short, long, read_twice = (
        engine.auto_batch_size(longest_prompt=n, max_new_tokens=64, n_streams=streams)
        for n, streams in ((100, 1), (10_000_000, 1), (100, 1000))
    )
    assert short > long >= 1
    assert short > read_twice >= 1


def test_an_automatic_batch_goes_by_the_longest_text_that_is_read(engine, rows, monkeypatch):
    asked = []
    monkeypatch.setattr(HFEngine, "auto_batch_size", lambda _, **given: asked.append(given) or 5)
    sizes = failing_stream(monkeypatch, lambda _: None)
    contrasted = [replace(row, references=(row.prompt_tokens * 2,)) for row in rows]
    outputs(engine, contrasted, combination=CONTRASTS["placebo"])
    longest = 2 * max(len(row.prompt_tokens) for row in rows)
    assert asked == [{"longest_prompt": longest, "max_new_tokens": 24, "n_streams": 2}]
    assert sizes == [5]


def test_the_clock_runs_over_all_that_an_engine_completes(engine, rows):
    outputs(engine, rows[:1])
    once = engine.clock.row_steps
    outputs(engine, rows[:1])
    assert engine.clock.row_steps == 2 * once > 0
    assert 0 < engine.clock.forward < engine.clock.total
