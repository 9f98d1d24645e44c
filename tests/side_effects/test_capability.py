"""Four-choice questions by the log-probability of the answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakmech.core.errors import DatasetError, UsageError
from leakmech.generation.variants import ModelVariant
from leakmech.prompts.render import Renderer
from leakmech.side_effects.capability import Capability, Question, capability

# Of one length: to a model of bytes that knows nothing, the shortest text would always be the likeliest.
WORDS = ("red clay", "sea salt", "cold day", "New York", "eighteen", "not here", "a pepper", "seawater")


def _questions(n=24):
    generator = np.random.default_rng(0)
    return [
        Question(f"q{i}", f"What is thing number {i}?", tuple(generator.choice(WORDS, size=4, replace=False)), 0)
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def renderer(chat_tokenizer):
    return Renderer(chat_tokenizer)


@pytest.fixture(scope="module")
def known(tiny, renderer):
    """Questions whose right answer is what the tiny model takes for it."""
    found = capability(tiny, _questions(), renderer=renderer)
    return [replace(q, answer=int(best)) for q, best in zip(_questions(), found.scores.argmax(axis=1), strict=True)]


def test_scores_are_log_probabilities_after_the_rendered_question(tiny, renderer):
    question = _questions(1)[0]
    found = capability(tiny, [question], renderer=renderer)
    rendered = renderer.render(f"Answer the question in a few words: {question.question}")
    assert rendered.endswith("<|im_start|>assistant\n")
    prompt = renderer.token_ids(rendered)
    for choice, score in zip(question.choices, found.scores[0], strict=True):
        tokens = renderer.tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = tiny.loaded.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        log_p = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(tokens)[:, None])
        assert score == pytest.approx(float(log_p.sum()), rel=1e-5)


def test_an_unchanged_model_differs_by_nothing(tiny, renderer, known):
    found = capability(tiny, known, renderer=renderer)
    assert found.accuracy == 1
    assert (found.margins > 0).all()
    difference = found.difference(found, draws=200)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_broken_model_knows_less(tiny, noisy, renderer, known):
    base, broken = (capability(model, known, renderer=renderer) for model in (tiny, noisy))
    assert broken.accuracy < 0.9
    assert broken.difference(base, draws=500).high < 0
    assert broken.margins.mean() < base.margins.mean()


def test_batches_do_not_matter(tiny, renderer):
    one, many = (capability(tiny, _questions(6), renderer=renderer, batch_size=size) for size in (1, 24))
    np.testing.assert_allclose(one.scores, many.scores, atol=1e-4)


def test_plain_prompts_end_with_the_word_answer(make_tiny, plain_tokenizer, monkeypatch):
    from leakmech.models.load import load_model

    loaded = load_model(make_tiny("gpt2"), tokenizer=plain_tokenizer, dtype="float32", device="cpu")
    renderer = Renderer(plain_tokenizer)
    seen, logits = [], ModelVariant.logits
    monkeypatch.setattr(
        ModelVariant, "logits", lambda self, batch, keep: seen.extend(batch.rows) or logits(self, batch, keep=keep)
    )
    capability(ModelVariant(loaded), _questions(1), renderer=renderer)
    row = seen[0]
    assert plain_tokenizer.decode(row.prompt).endswith("What is thing number 0?\nAnswer:")
    assert plain_tokenizer.decode(row.tokens).startswith(" ")


def test_ties_count_in_part_and_answers_may_be_texts(tiny, renderer):
    tied = Capability(("a", "b"), np.array([[-1.0, -1, -2, -3], [-1, -2, -2, -3]]), np.array([1, 3]))
    assert tied.correct.tolist() == [0.5, 0]
    assert tied.margins.tolist() == [0, -2]
    question = _questions(1)[0]
    by_text = capability(tiny, [replace(question, answer=question.choices[2])], renderer=renderer)
    assert by_text.answers.tolist() == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ("a", "b", "c")}, "'q0': needs 4 different"),
        ({"choices": ("a", "b", "c", "c")}, "'q0': needs 4 different"),
        ({"choices": ("a", "b", "c", " ")}, "'q0': needs 4 different"),
        ({"answer": 4}, "answer 4 is not one of its choices"),
        ({"answer": "purple"}, "answer 'purple' is not one of its choices"),
        ({"id": "q1"}, "'q1': the id is used twice"),
    ],
)
def test_malformed_questions_are_named(tiny, renderer, change, message):
    questions = _questions(2)
    questions[0] = replace(questions[0], **change)
    with pytest.raises(DatasetError, match=message):
        capability(tiny, questions, renderer=renderer)


def test_other_questions_cannot_be_compared(tiny, renderer):
    first, second = (capability(tiny, _questions()[part], renderer=renderer) for part in (slice(2), slice(2, 4)))
    with pytest.raises(UsageError, match="different questions"):
        first.difference(second)
    with pytest.raises(DatasetError, match="no questions"):
        capability(tiny, [], renderer=renderer)
