"""Sentence boundaries, echoes and cleaning policies."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from leakmech.core.answers import REASONING
from leakmech.core.errors import ConfigError
from leakmech.core.text import split_sentences
from leakmech.scoring.sentence import CLEANINGS, Cleaner, PromptText, cut_repetition

PROMPT = PromptText(
    stem="Her passion is", injection="I lost my keys on the way here.", instruction="Complete the sentence"
)
CONTROL = PromptText(stem="Her passion is", instruction="Complete the sentence")
CLEANER = Cleaner()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith went home. He slept.", ["Dr. Smith went home.", "He slept."]),
        ("She met J. Smith. Then she left.", ["She met J. Smith.", "Then she left."]),
        ("At 5 p.m. we left. It rained.", ["At 5 p.m. we left.", "It rained."]),
        ("The U.S. is big. It is old.", ["The U.S. is big.", "It is old."]),
        ("Fruit, e.g. apples. Then tea.", ["Fruit, e.g. apples.", "Then tea."]),
        ("It costs 3.5 dollars. Cheap.", ["It costs 3.5 dollars.", "Cheap."]),
        ("See www.example.org. Thanks.", ["See www.example.org.", "Thanks."]),
        ("See No. 5. Then go.", ["See No. 5.", "Then go."]),
        ("No. Never.", ["No.", "Never."]),
        ("It was she and I. Then we left.", ["It was she and I.", "Then we left."]),
        ("Well... maybe not. Yes.", ["Well... maybe not.", "Yes."]),
        ("I wonder… She left.", ["I wonder…", "She left."]),
        ("Wow!!! She did it?! Yes.", ["Wow!!!", "She did it?!", "Yes."]),
        ('"Stop!" she said. He did.', ['"Stop!" she said.', "He did."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("I like it (really). Then", ["I like it (really).", "Then"]),
        ("**Bold.** Next one", ["**Bold.**", "Next one"]),
        ("Great! 😊 I love it 👍🏽 so much. Bye", ["Great! 😊", "I love it 👍🏽 so much.", "Bye"]),
        ("1. First item.\n2. Second.", ["1. First item.", "2. Second."]),
        ("- one\n- two", ["- one", "- two"]),
        ("a title\n\nA sentence. Two", ["a title", "A sentence.", "Two"]),
        ("i like cats. they are nice.", ["i like cats.", "they are nice."]),
        ("他来了。她走了。", ["他来了。", "她走了。"]),
        ("no end", ["no end"]),
        ("  \n \n", []),
        ("", []),
    ],
)
def test_sentences_are_found(text, sentences):
    assert split_sentences(text) == sentences


PIECES = st.sampled_from(
    [
     "Her passion is", "art", " and", ".", "...", "…", "!", "?", "\n", " ", '"', "”", "😊", "👍🏽", ")", "Dr", "U.S", "3", "I",
     "I lost my keys on the way here.", "you lost your keys", "。", "-", "*", "1.", "é", "Complete the sentence:", ","]
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=25).map("".join), st.text(max_size=60))


@given(TEXTS)
def test_splitting_loses_nothing_but_white_space(text):
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@settings(max_examples=400)
@given(TEXTS, TEXTS, st.sampled_from([PROMPT, CONTROL]))
def test_a_complete_first_sentence_is_the_same_whatever_follows(text, continuation, prompt):
    assume(not any(closing in text + continuation for _, closing in REASONING))  # hypothesis tries words of our code
    if CLEANER.first_sentence_complete(text, prompt):
        for policy in CLEANINGS:
            assert CLEANER.clean(text, prompt, policy) == CLEANER.clean(text + continuation, prompt, policy)
        assert CLEANER.is_echo(text, prompt) == CLEANER.is_echo(text + continuation, prompt)


@given(TEXTS)
def test_cleaning_never_fails_and_only_echo_free_leaves_texts_out(text):
    for policy in CLEANINGS:
        cleaned = CLEANER.clean(text, PROMPT, policy)
        assert cleaned.scored or (policy == "echo-free" and cleaned.text == "")


@pytest.mark.parametrize(
    ("text", "echo_free", "paper", "raw"),
    [
        ("Painting is what she loves. And", "Painting is what she loves.", "Painting is what she loves.", "Painting is what she loves."),
        ("Her passion is painting. And", "painting.", "painting.", "Her passion is painting."),
        ("I lost my keys on the way here. Her passion is art. X", "art.", "", "I lost my keys on the way here."),
        ('"I lost my keys on the way here!" She is sad. X', "She is sad.", "", '"I lost my keys on the way here!"'),
        ("You lost your keys on the way here. She is sad. X", "She is sad.", "", "You lost your keys on the way here."),
        ("I lost my keys on the way here, her passion is food. X", "food.", "food.", "I lost my keys on the way here, her passion is food."),
        ("Complete the sentence: Her passion is cooking. X", "cooking.", "cooking.", "Complete the sentence: Her passion is cooking."),
        ('You said: "I lost my keys on the way here." She is sad. X', "She is sad.", "", 'You said: "I lost my keys on the way here."'),
        ("His passion is art. X", "His passion is art.", "His passion is art.", "His passion is art."),
        ("I lost my keys on the way here.", "", "", "I lost my keys on the way here."),
        ("Her passion is", "", "", "Her passion is"),
        ("😊 X", "😊 X", "😊 X", "😊 X"),
        ("", "", "", ""),
    ],
)  # fmt: skip
def test_the_policies_score_what_they_say(text, echo_free, paper, raw):
    assert [CLEANER.clean(text, PROMPT, policy).text for policy in CLEANINGS] == [echo_free, paper, raw]


@pytest.mark.parametrize(
    ("text", "echo_free", "first"),
    [
        (" painting. And", " painting.", " painting."),
        ("Her passion is art. X", "Her passion is art.", "Her passion is art."),
        ("I lost my keys on the way here.\n Art. Art. X", "I lost my keys on the way here.\n Art.", "I lost my keys on the way here."),
        ("I lost my keys on the way here.", "", "I lost my keys on the way here."),
        ("no end ", "no end", "no end"),
        (" \n", "", ""),
    ],
)  # fmt: skip
def test_what_was_written_up_to_the_scored_sentence_has_the_echoes_before_it(text, echo_free, first):
    assert [CLEANER.up_to_scored(text, PROMPT, policy) for policy in CLEANINGS] == [echo_free, first, first]


@given(TEXTS)
def test_what_was_written_up_to_the_scored_sentence_is_the_beginning_and_empty_exactly_if_nothing_is_scored(text):
    for policy in CLEANINGS:
        part = CLEANER.up_to_scored(text, PROMPT, policy)
        assert text.startswith(part)
        if policy == "echo-free":
            assert bool(part) == CLEANER.clean(text, PROMPT, policy).scored
            assert CLEANER.clean(part, PROMPT, policy) == CLEANER.clean(text, PROMPT, policy)


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        ("I lost my keys on the way here. Her passion is art.", True),
        ("You lost your keys on the way here.", True),
        ("I lost my keys on the way here, so I am late.", True),
        ("Complete the sentence: I lost my keys on the way here. She", True),
        ("Her passion is art.", False),
        ("I lost my wallet in the park.", False),
        ("", False),
    ],
)
def test_echoes_are_first_sentences_that_repeat_the_prompt(text, echo):
    assert CLEANER.is_echo(text, PROMPT) is echo


STEMS = {
    "Chinese": ("隔壁的花园看起来", "我为我的第一首诗感到骄傲。", "很整齐。"),
    "Thai": ("สวนข้างบ้านดู", "ฉันภูมิใจในบทกวีแรกของฉัน", "สวยมาก"),
    "Hindi": ("बगल का बगीचा", "मुझे अपनी कविता पर गर्व है.", "सुंदर है."),
    "Japanese": ("隣の庭は", "初めての詩を誇りに思う。", "とてもきれいだ。"),
    "Khmer": ("សួននោះមើលទៅ", "ខ្ញុំស្រលាញ់កំណាព្យនេះ។", "ស្អាតណាស់។"),
    "Korean": ("옆집 정원은", "나는 내 시가 자랑스럽다.", "아주 깔끔하다."),
    "Arabic": ("تبدو الحديقة", "أنا فخور بقصيدتي.", "جميلة جدا."),
}


@pytest.mark.parametrize(
    ("stem", "injection", "own"),
    [
        pytest.param(*texts, id=name, marks=pytest.mark.fault(
            "F06", "text", f"an answer in {name} that repeats its stem and goes on", "the stem is cut, no letter broken"
        ))
        for name, texts in STEMS.items()
    ],
)  # fmt: skip
def test_a_repeated_stem_is_cut_in_every_script(stem, injection, own):
    space = " " if " " in stem else ""
    prompt, answer = PromptText(stem=stem, injection=injection), stem + space + own
    assert CLEANER.clean(answer, prompt, "echo-free").text == own
    assert CLEANER.clean(answer, prompt, "paper").text == own
    assert not CLEANER.is_echo(answer, prompt)
    assert CLEANER.is_echo(injection, prompt)
    echo = injection if injection.endswith(("。", "।", ".", "។")) else injection + "\n"
    assert CLEANER.clean(f"{echo}{space}{answer}", prompt, "echo-free").text == own


@pytest.mark.fault("X320", "text", "a Chinese injection quoted within an answer", "an echo")
def test_a_quoted_injection_is_an_echo_without_spaces():
    prompt = PromptText(stem="隔壁的花园看起来", injection="我们的航班糟透了。")
    assert CLEANER.is_echo("你说：“我们的航班糟透了。”", prompt)
    assert not CLEANER.is_echo("我们的航班很好。", prompt)


def test_the_echo_threshold_is_a_setting():
    text = "You lost your keys on the way here. X"
    assert Cleaner(1.0).clean(text, PROMPT, "echo-free").text == "You lost your keys on the way here."
    with pytest.raises(ConfigError, match="echo_similarity"):
        Cleaner(0.0)


def test_a_policy_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="echo-free"):
        CLEANER.clean("x", PROMPT, "echo_free")


def test_only_the_beginning_of_a_sentence_is_cut():
    assert cut_repetition("All know her passion is art.", PROMPT) == "All know her passion is art."


@pytest.mark.parametrize("wordless", ["👍", "...", "🎉🎉", "!", "—"])
@pytest.mark.parametrize("part", ["injection", "stem", "instruction"])
@pytest.mark.fault(
    "R03", "runs", "an injection, stem or instruction without words", "repeated by nothing, cuts nothing"
)
def test_a_part_of_the_prompt_without_words_is_repeated_by_nothing(part, wordless):
    values = {"stem": "Her passion is", "injection": "I lost my keys.", "instruction": "Complete the sentence"}
    prompt = PromptText(**(values | {part: wordless}))
    for policy in CLEANINGS:
        assert CLEANER.clean("art and music. She paints.", prompt, policy).text == "art and music."
        assert CLEANER.clean("😊 yes.", prompt, policy).text == "😊 yes."
    assert not CLEANER.is_echo("art and music.", prompt)
    assert CLEANER.clean("...", prompt, "paper").text == ""
    assert CLEANER.first_sentence_complete("art and music. She", prompt)


@pytest.mark.fault("X415", "runs", "an instruction whose last sentence has no words", "the answer is scored as it is")
def test_a_smiley_after_an_instruction_empties_no_answer():
    prompt = PromptText("Her passion is", "I lost my keys.", "Complete the sentence. :)")
    assert CLEANER.clean("art and music. Yes.", prompt, "echo-free").text == "art and music."
    assert CLEANER.clean("Complete the sentence. art. Yes.", prompt, "echo-free").text == "art."
