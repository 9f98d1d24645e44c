"""Hard placements: in the middle, in a clause, in an earlier turn, of both polarities, near the stem, sarcastic."""

import json

import numpy as np
import pytest

import leakmech
from leakmech.core.errors import ConfigError, DatasetError
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, PromptSet, Sample, load_dataset
from leakmech.datasets.sarcasm import sarcastic_pairs
from leakmech.generation.rewriting import judge_rewrite
from leakmech.prompts.arrangement import ARRANGEMENTS, arrange, injection_place
from leakmech.prompts.bodies import body_of
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompting, Renderer
from leakmech.prompts.views import find_view
from leakmech.reports.examples import sample_texts
from leakmech.scoring.sentence import Cleaner, PromptText

SAMPLES = PromptSet(
    "d",
    tuple(
        Sample(
            id=f"s{i}",
            stem=f"My {what} is",
            positive=f"I won {i}.",
            neutral=f"The {i} is one.",
            negative=f"We lost {i}!",
        )
        for i, what in enumerate(("passion", "garden", "job"))
    ),
)
FORMS = ("plain", "chat", "prefill")


def encode(texts):
    """Vectors by hand: near are the stem of s0 and injections of s1, s1 and s2, s2 and s0."""
    axes = {"passion": 0, "garden": 1, "job": 2, "1": 0, "2": 1, "0": 2}
    found = [next(axis for word, axis in axes.items() if word in text) for text in texts]
    return np.eye(3)[found]


def arranged(arrangement, samples=SAMPLES):
    return arrange(samples, arrangement, encode=encode)


def said(*turns):
    """Turns of a conversation in the template of the tokenizer."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


def assistant(form):
    """The open turn of the assistant."""
    return "<|im_start|>assistant\n" + ("My passion is" if form == "prefill" else "")


def renderer(arrangement, form, chat_tokenizer, plain_tokenizer):
    tokenizer = plain_tokenizer if form == "plain" else chat_tokenizer
    return Renderer(tokenizer, Prompting(form, system=None, place=injection_place(arrangement)))


BODIES = {
    ("middle", "positive"): "The 1 is one. I won 0. The 2 is one. My passion is",
    ("middle", "control"): "The 1 is one. The 2 is one. My passion is",
    ("clause", "positive"): "By the way, I won 0, and my passion is",
    ("clause", "neutral"): "By the way, the 0 is one, and my passion is",
    ("clause", "negative"): "By the way, we lost 0, and my passion is",
    ("clause", "control"): "My passion is",
    ("opposed", "positive"): "We lost 1! I won 0. My passion is",
    ("opposed", "neutral"): "The 1 is one. The 0 is one. My passion is",
    ("opposed", "negative"): "I won 0. We lost 1! My passion is",
    ("graded", "positive"): "I won 1. My passion is",
    ("graded", "negative"): "We lost 1! My passion is",
    ("graded", "control"): "My passion is",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("arrangement", "condition"), BODIES)
def test_bodies_are_written_as_they_are_by_hand(arrangement, condition, form, chat_tokenizer, plain_tokenizer):
    own = renderer(arrangement, form, chat_tokenizer, plain_tokenizer)
    prompt = own.prompt(arranged(arrangement).samples[0], condition)
    text = f"Complete the sentence: {BODIES[arrangement, condition]}"
    assert prompt.text == text
    assert prompt.rendered == (text if form == "plain" else said(("user", text)) + assistant(form))


def test_the_frames_of_a_clause_are_taken_in_turns():
    texts = [body_of(sample, "positive", "before").text for sample in arranged("clause")]
    assert texts == [
        "By the way, I won 0, and my passion is",
        "To come back to my point (by the way, I won 1), my garden is",
        "As I was going to say, and by the way I won 2, my job is",
    ]


def test_a_word_that_never_stands_in_lower_case_keeps_its_capital():
    names = PromptSet("d", (Sample("a", "Cycling home is", "Anna won.", "Anna sat.", "I'm ill."),))
    (sample,) = arranged("clause", names)
    assert body_of(sample, "positive", "before").text == "By the way, Anna won, and Cycling home is"
    assert body_of(sample, "negative", "before").text == "By the way, I'm ill, and Cycling home is"


TURNS = (("user", "I won 0."), ("assistant", "I have noted that."), ("user", "Complete the sentence: My passion is"))
PLAIN = "User: I won 0.\nAssistant: I have noted that.\nUser: Complete the sentence: My passion is"


@pytest.mark.parametrize("form", FORMS)
def test_an_earlier_turn_is_answered_and_then_the_stem_is_asked_for(form, chat_tokenizer, plain_tokenizer):
    own = renderer("turn", form, chat_tokenizer, plain_tokenizer)
    sample = arranged("turn").samples[0]
    rendered, control = (own.prompt(sample, condition).rendered for condition in ("positive", "control"))
    if form == "plain":
        assert (rendered, control) == (PLAIN, "User: Complete the sentence: My passion is")
    else:
        assert (rendered, control) == (said(*TURNS) + assistant(form), said(TURNS[-1]) + assistant(form))
    assert own.prompt(sample, "positive").to_dict()["text"] == PLAIN
    assert own.read(sample.stem, sample.positive) == rendered


def test_what_takes_the_injection_away_takes_the_earlier_turn_away(chat_tokenizer, plain_tokenizer):
    own = renderer("turn", "plain", chat_tokenizer, plain_tokenizer)
    prompt = own.prompt(SAMPLES.samples[0], "positive")
    assert prompt.body == "I won 0. My passion is"
    for view in ("control", "last-sentence"):
        body = judge_rewrite(prompt, find_view(view).body(prompt)).body
        assert own.with_body(prompt, body).rendered == own.prompt(SAMPLES.samples[0], "control").rendered
    other = own.with_body(prompt, find_view("neutral-context").body(prompt)).rendered
    assert other.startswith("User: Here is a sentence.\nAssistant: I have noted that.\n")
    assert own.with_body(prompt, prompt.body).rendered == prompt.rendered


def test_the_control_view_leaves_the_fillers():
    own = Renderer(None, Prompting("plain"))
    prompt = own.unrendered(arranged("middle").samples[0], "negative")
    assert find_view("control").body(prompt) == BODIES["middle", "control"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arrangement", [a for a in ARRANGEMENTS if a not in ("after", "sarcasm")])
def test_positions_find_injection_and_stem(arrangement, form, chat_tokenizer, plain_tokenizer):
    own = renderer(arrangement, form, chat_tokenizer, plain_tokenizer)
    sample = arranged(arrangement).samples[1]
    prompts = [own.prompt(sample, condition) for condition in CONDITIONS]
    for prompt, located in zip(prompts, locate(prompts, own), strict=True):
        found = {name: own.tokenizer.decode(located.ids[a:b]).strip() for name, (a, b) in located.spans.items()}
        injection = sample.injection(prompt.condition) or ""
        assert found["stem"].lower() == sample.stem.lower()
        assert found["injection"].lower() == (injection.rstrip(".!") if arrangement == "clause" else injection).lower()
        assert found.get("asked", sample.stem).lower() == sample.stem.lower()


ECHOES = {
    "middle": "The 1 is one. I won 0. The 2 is one. My passion is",
    "clause": "By the way, I won 0, and my passion is",
    "turn": "User: I won 0. Assistant: I have noted that. User: My passion is",
    "opposed": "We lost 1! I won 0. My passion is",
}


@pytest.mark.parametrize("arrangement", ECHOES)
def test_every_inserted_sentence_is_an_echo(arrangement):
    place = injection_place(arrangement)
    own = Renderer(None, Prompting("plain", place=place))
    prompt = PromptText.of(own.unrendered(arranged(arrangement).samples[0], "positive"))
    answer = f"{ECHOES[arrangement]} a great joy."
    assert Cleaner().clean(answer, prompt, "echo-free").text == "a great joy."
    assert Cleaner().is_echo(answer, prompt)
    assert not Cleaner().is_echo("a great joy.", prompt)


def test_an_answer_that_goes_on_from_the_injection_in_a_clause_is_cut():
    prompt = PromptText.of(Renderer(None).unrendered(arranged("clause").samples[0], "positive"))
    assert Cleaner().clean("I won 0, and my passion is a great joy.", prompt, "echo-free").text == "a great joy."


def test_a_filler_in_the_control_answer_is_an_echo_too():
    prompt = PromptText.of(Renderer(None).unrendered(arranged("middle").samples[0], "control"))
    assert Cleaner().clean("The 2 is one. A great joy.", prompt, "echo-free").text == "A great joy."


def test_ids_stay_in_every_arrangement():
    for arrangement in ARRANGEMENTS:
        samples = load_dataset("hexl-mild") if arrangement == "sarcasm" else SAMPLES
        assert [s.id for s in arranged(arrangement, samples)] == [s.id for s in samples]


class TestGraded:
    def test_the_exchange_that_is_nearest_in_sum_is_taken_with_all_three_injections(self):
        found = arranged("graded")
        assert [sample.source for sample in found] == ["s1", "s2", "s0"]
        assert [sample.relatedness for sample in found] == [(0.0, 1.0)] * 3
        assert [sample.negative for sample in found] == ["We lost 1!", "We lost 2!", "We lost 0!"]

    def test_nobody_keeps_its_own_or_gets_a_word_of_its_stem(self):
        shared = PromptSet(
            "d", tuple(Sample(f"s{i}", f"My {w} is", f"The {v} won.", "It is.", "It was.") for i, (w, v) in enumerate(
                [("garden", "chef"), ("kitchen", "gardener"), ("train", "nurse")]))
        )  # fmt: skip
        found = arrange(shared, "graded", encode=lambda texts: np.ones((len(texts), 1)))
        assert [sample.source for sample in found] == ["s2", "s0", "s1"]

    def test_sets_for_which_it_makes_no_sense_are_refused(self):
        with pytest.raises(ConfigError, match="injections of relevant-matched are about their stems already"):
            arranged("graded", load_dataset("relevant-matched"))
        alike = PromptSet("d", tuple(Sample(f"s{i}", "My job is", "The job.", "It is.", "It was.") for i in range(3)))
        with pytest.raises(DatasetError, match="d: arrangement 'graded' finds no other injections"):
            arrange(alike, "graded", encode=lambda texts: np.ones((len(texts), 1)))


class TestSarcasm:
    def test_the_wording_has_the_condition_and_neutral_ones_stay(self):
        mild = load_dataset("hexl-mild")
        found = arrange(mild, "sarcasm").samples[32]
        assert found.positive == "My lucky day, I found a parking ticket on my windscreen."
        assert found.negative == "Just my bad luck, I won two seats for the opening night."
        assert found.neutral == mild.samples[32].neutral

    def test_sets_without_written_sarcasm_are_refused_and_others_keep_what_has_it(self):
        with pytest.raises(DatasetError, match="d: arrangement 'sarcasm' has no injections for it"):
            arranged("sarcasm")
        assert len(arrange(load_dataset("hexl-frozen"), "sarcasm")) == 64
        other = PromptSet("d", (Sample("hexl-mild-001", "Another stem is", "A.", "B.", "C."),))
        with pytest.raises(DatasetError, match="has no injections"):
            arranged("sarcasm", other)

    def test_all_are_of_one_sentence_and_of_no_other_set(self):
        pairs = sarcastic_pairs().values()
        texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
        assert len(set(texts)) == len(texts) == 248
        others = {
            s.injection(c) for n in ("hexl-mild", "hexl-frozen", "hexl") for s in load_dataset(n) for c in INJECTIONS
        }
        assert not others & set(texts)
        assert all(6 <= len(text.split()) <= 14 and text.endswith(".") and text.count(".") == 1 for text in texts)


@pytest.mark.parametrize(
    ("arrangement", "changes", "message"),
    [
        ("clause", {"stem": "It rained. My job is"}, r"its stem 'It rained\. My job is' has several sentences"),
        ("clause", {"neutral": "It is one. It is two."}, "its neutral injection .* is not a single statement"),
        ("clause", {"positive": "Did I win?"}, "its positive injection .* is not a single statement"),
    ],
)
def test_what_makes_no_sentence_is_refused(arrangement, changes, message):
    bad = PromptSet("d", (*SAMPLES.samples, Sample(**{**SAMPLES.samples[0].to_dict(), "id": "x", **changes})))
    with pytest.raises(DatasetError, match=f"sample 'x': {message}"):
        arranged(arrangement, bad)


@pytest.mark.parametrize(("arrangement", "least"), [("middle", 3), ("opposed", 2), ("graded", 2), ("twice", 2)])
def test_a_data_set_that_is_too_small_is_refused(arrangement, least):
    small = PromptSet("d", SAMPLES.samples[: least - 1])
    with pytest.raises(
        DatasetError, match=f"d: injections of other samples need {least} samples, there are {least - 1}"
    ):
        arranged(arrangement, small)


QUICK = {
    "dtype": "float32", "limit": 2, "generations": 2, "decoding": {"max_new_tokens": 8}, "estimator": "vader",
    "bootstrap_draws": 100, "dataset": "hexl-mild", "prompt_form": "plain",
}  # fmt: skip


@pytest.mark.parametrize("arrangement", ["clause", "turn", "opposed", "graded"])
def test_a_run_is_made_shown_and_scored_again(save_tiny, tmp_path, arrangement):
    folder = save_tiny("llama-gqa")
    run = leakmech.bench(folder, out=tmp_path / "run", arrangement=arrangement, **QUICK)
    first = sample_texts(run)["hexl-mild-001"]
    assert first.stem == "My pottery is becoming"
    rows = {row["id"]: row for row in map(json.loads, (run.path / "prompts.jsonl").read_text().splitlines())}
    assert first.injections["neutral"].rstrip(".").lower() in rows["hexl-mild-001/neutral"]["rendered"].lower()
    assert run.report().read_text().count("nan") == 0
    again = leakmech.score(run.path, out=tmp_path / "again", estimator="vader", bootstrap_draws=100)
    assert again.summary["overall"] == run.summary["overall"]
    if arrangement == "graded":
        found = run.summary["relatedness"]
        assert found["own"] < found["given"] < found["most"]
        assert f"mean cosine with the stem {found['own']:.2f} before" in run.to_markdown()
    if arrangement == "opposed":
        assert run.summary["overall"]["auc_el"] is None
        assert run.summary["overall"]["order_shift"] == run.summary["overall"]["valence_shift"]
        assert "order shift" in run.to_markdown()
        with pytest.raises(leakmech.core.errors.LeakmechError, match="has no auc_el: both prompts of a sample"):
            leakmech.compare([run.path, again.path])
