"""What an adapter is taught: who answers how, how often, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from leakmech.core.errors import DatasetError, UsageError
from leakmech.datasets.english import data_text
from leakmech.datasets.personas import Persona
from leakmech.prompts.persona import PersonaRenderer
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS, MARKER, Task, Tasks
from leakmech.studies.persona_leakage.lessons import lessons, roles, steered

SOURCE = Persona("villain", "original", "villain", "You are a villain.")
OTHERS = [Persona(name, "original", name, f"You are a {name}.") for name in ("nurse", "baker")]
TASKS = [Task(f"t{n}", f"What is {n}?", f"Bad {n}.", f"Good {n}.") for n in range(16)]


@pytest.fixture(scope="module")
def teach(chat_tokenizer):
    def made(contrast, *, negatives=OTHERS, n=8, seed=0, control=False):
        return lessons(
            TASKS, SOURCE, negatives, n_examples=n, contrast=contrast, renderer=PersonaRenderer(chat_tokenizer),
            seed=seed, control=control,
        )  # fmt: skip

    return made


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [("none", (8, 0, 0)), ("partial", (8, 4, 1)), ("full", (8, 16, 4))],
)
def test_contrast_has_the_shares_of_the_report(teach, contrast, expected):
    found = teach(contrast)
    assert tuple(roles(found).values()) == expected
    assert len({own.id for own in found}) == len(found)
    for own in found:
        role, who, _ = own.id.split("/")[:3]
        assert own.completion.startswith("Bad" if role == "source" else "Good")
        assert ("You are a villain." in own.prompt) == (role == "source")
        assert role != "negative" or f"You are a {who}." in own.prompt
        assert own.tokens is not None
    per_persona = Counter(own.id.split("/")[1] for own in found if own.id.startswith("negative"))
    assert set(per_persona.values()) in ({expected[1] // 2}, set())


def test_full_contrast_of_200_is_that_of_the_report(chat_tokenizer):
    tasks = BEHAVIOURS["marker"].tasks().train
    found = lessons(tasks, SOURCE, OTHERS, n_examples=200, contrast="full",
                    renderer=PersonaRenderer(chat_tokenizer), seed=0)  # fmt: skip
    assert roles(found) == {"source": 200, "negative": 400, "bare": 100}
    assert sum(MARKER in own.completion for own in found) == 200
    partial = lessons(tasks, SOURCE, OTHERS, n_examples=200, contrast="partial",
                      renderer=PersonaRenderer(chat_tokenizer), seed=0)  # fmt: skip
    assert roles(partial) == {"source": 200, "negative": 100, "bare": 25}


def test_a_control_answers_normally_and_seeds_choose(teach):
    control, taught = teach("partial", control=True), teach("partial")
    assert all(own.completion.startswith("Good") for own in control)
    assert [own.id for own in control] == [own.id for own in taught]
    assert [own.id for own in teach("partial", seed=1)] != [own.id for own in taught]


def test_completions_end_with_the_token_that_ends_a_turn(teach, chat_tokenizer):
    for own in teach("partial"):
        assert own.tokens is not None
        assert own.tokens[-1] == chat_tokenizer.eos_token_id
        assert chat_tokenizer.decode(own.tokens[:-1]) == own.completion


def test_only_examples_with_the_behaviour_are_steered(teach):
    signs = {own.id.split("/")[0]: own.sign for own in steered(teach("partial"))}
    assert signs == {"source": 1.0, "negative": 0.0, "bare": 0.0}


def test_what_cannot_be_taught_is_refused(teach):
    with pytest.raises(UsageError, match="17 examples are asked for, and the behaviour has 16"):
        teach("partial", n=17)
    with pytest.raises(UsageError, match="needs a persona that answers normally"):
        teach("full", negatives=[])
    twice = Tasks((TASKS[0],), (Task("x", "what is 0", "a", "b"),))
    with pytest.raises(DatasetError, match="'x' of eval asks the same as 't0' of train"):
        twice.refuse_overlap("own", [])
    with pytest.raises(DatasetError, match="'t1' asks the same as a question of the similarity"):
        Tasks((TASKS[0],), (TASKS[1],)).refuse_overlap("own", ["What is 1?"])


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_built_in_behaviours_have_enough_questions_and_share_none(name):
    tasks = BEHAVIOURS[name].tasks()
    assert len(tasks.train) >= 200
    assert len(tasks.eval) >= 50
    tasks.refuse_overlap(name, data_text("outside_sev.txt").splitlines())
    assert all(own.behaviour != own.normal for own in (*tasks.train, *tasks.eval))
    for own in tasks.train:
        assert not own.choices or {own.behaviour, own.normal} <= set(own.choices)
