"""Facts: which completion a model prefers after fact and stem, and when an accuracy says anything."""

from dataclasses import replace

import numpy as np
import pytest

from leakmech.datasets.facts import Fact, facts_to_choose_on, facts_to_report_on, load_facts
from leakmech.generation.variants import Continuation
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer
from leakmech.side_effects.capability import Capability
from leakmech.side_effects.facts import answer_facts, facts_part, no_better_than_chance

FACTS = (
    Fact("f1", "The hammer is in the blue box.", "The box with the hammer is", "blue", ("gray", "pink", "dark")),
    Fact("f2", "The bus leaves at seven.", "The hour when the bus leaves is", "seven", ("eight", "three", "forty")),
)


@pytest.fixture
def renderer(chat_tokenizer):
    return Renderer(chat_tokenizer, Prompting("plain"))


def known(right, total):
    """A model that knows `right` of `total` facts."""
    scores = np.tile([-2.0, -1, -3, -4], (total, 1))
    scores[:right, 0] = 0
    return Capability(tuple(map(str, range(total))), scores, np.zeros(total, dtype=int))


def asked(variant, facts, renderer):
    located = locate([renderer.prompt(fact.sample, "neutral") for fact in facts], renderer)
    prompts = {found.sample: Continuation(found.id, found.sample, tuple(found.ids.tolist()), ()) for found in located}
    return answer_facts(variant, facts, prompts=prompts, renderer=renderer)


def test_a_fact_is_known_if_its_answer_is_the_likeliest_completion(tiny, renderer):
    found = asked(tiny, FACTS, renderer)
    best = int(found.scores[0].argmax())
    texts = list(FACTS[0].completions)
    preferred = texts.pop(best)
    again = asked(tiny, [replace(FACTS[0], answer=preferred, wrong=tuple(texts)), FACTS[1]], renderer)
    assert again.correct[0] == 1
    turned = asked(tiny, [replace(FACTS[0], answer=texts[0], wrong=(preferred, *texts[1:]))], renderer)
    assert turned.correct[0] == 0


def test_the_fact_stands_before_the_stem(tiny, renderer):
    assert renderer.prompt(FACTS[0].sample, "neutral").text.endswith(f"{FACTS[0].fact} {FACTS[0].stem}")
    other = replace(FACTS[0], fact="The hammer is in the pink box.")
    assert not np.allclose(asked(tiny, [FACTS[0]], renderer).scores, asked(tiny, [other], renderer).scores)


def test_the_accuracy_ratio_is_a_part_of_selectivity():
    part = facts_part(known(8, 10), known(6, 10))
    assert part.name == "retention_facts"
    assert part.estimate(draws=100).value == pytest.approx(0.75)


def test_a_base_model_that_guesses_has_nothing_to_keep():
    assert no_better_than_chance(known(90, 120)) is None
    assert no_better_than_chance(known(40, 120)) is None  # p = 0.03
    reason = no_better_than_chance(known(34, 120))
    assert reason == "the base model knows 34 of 120 facts, which is not more than guessing (30)"


def test_what_is_reported_on_is_not_what_is_chosen_on():
    facts = load_facts("facts-fit")
    chosen, reported = facts_to_choose_on(facts), facts_to_report_on(facts)
    assert len(chosen) == len(reported) == 60
    assert not set(chosen) & set(reported)
