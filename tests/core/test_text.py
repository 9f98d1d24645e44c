"""Sentences, words and cuts in many scripts."""

from __future__ import annotations

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from leakmech.core.text import (
    contains_words,
    has_final_mark,
    joined_words,
    normalised_words,
    same_letters,
    scan_sentences,
    shortened,
    split_sentences,
    unspaced_pieces,
)


def script(name, *sentences, tried="two sentences", spaced=True):
    mark = pytest.mark.fault("X317", "text", f"{tried} in {name}", "found by the marks of the script")
    return pytest.param((" " if spaced else "").join(sentences), list(sentences), id=name, marks=mark)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        script("Arabic", "هل أنت بخير؟", "نعم، شكرا."),
        script("Armenian", "Այգին գեղեցիկ է։", "Խանութը փակ է։"),
        script("Bengali", "বাগানটি সুন্দর।", "দোকানটি বন্ধ।"),
        script("Burmese", "ဥယျာဉ်က လှတယ်။", "ဆိုင်က ပိတ်တယ်။", spaced=False),
        script("Chinese", "花园很整齐。", "真的吗？", "真的！", spaced=False),
        script("Chinese with ASCII marks", "花园很整齐!", "我喜欢.", "真的", spaced=False),
        script("Cyrillic", "Это я.", "А. С. Пушкин жил здесь, т.е. давно.", "Да."),
        script("Ethiopic", "አትክልቱ ቆንጆ ነው።", "ሱቁ ዝግ ነው።"),
        script("Georgian", "ბაღი ლამაზია…", "მაღაზია დაკეტილია."),
        script("German quotation marks", "Er rief: „Halt!“", "Dann ging er."),
        script("Greek", "Είσαι καλά;", "Ναι."),
        script("Gujarati", "બગીચો સુંદર છે.", "દુકાન બંધ છે."),
        script("Gurmukhi", "ਬਾਗ਼ ਸੋਹਣਾ ਹੈ।", "ਦੁਕਾਨ ਬੰਦ ਹੈ।"),
        script("Hebrew", "הגינה יפה.", "החנות סגורה?", "כן!"),
        script("Hindi", "बगीचा सुंदर है।", "दुकान बंद है॥"),
        script("Japanese", "「はい。」と言った。", "庭はきれいだ。", spaced=False),
        script("Japanese, half width", "ﾆﾜﾊｷﾚｲﾀﾞ｡", "ﾊｲ｡", spaced=False),
        script("Khmer", "សួនស្អាត។", "ហាងបិទ។", spaced=False),
        script("Korean", "네.", "정원이 예뻐요.", "정말요?"),
        script("Mongolian", "ᠴᠡᠴᠡᠷᠯᠢᠭ ᠰᠠᠶᠢᠬᠠᠨ᠃", "ᠳᠡᠯᠭᠡᠭᠦᠷ ᠬᠠᠭᠠᠯᠭᠠ᠃"),
        script("Santali", "ᱵᱟᱜᱟᱱ ᱥᱟᱱᱟᱢ᱾", "ᱫᱚᱠᱟᱱ ᱵᱚᱱᱫᱚ᱾"),
        script("Sinhala", "උයන ලස්සනයි.", "කඩය වසා ඇත෴"),
        script("Spanish", "¿Está bien?", "¡Sí!", "Lo dijo la Sra. Gómez."),
        script("Tamil", "தோட்டம் அழகாக உள்ளது.", "கடை மூடியுள்ளது."),
        script("Thai, a line each", "สวนสวยมาก\n", "ร้านปิด"),
        script("Tibetan", "སྡུམ་ར་མཛེས་པོ་འདུག །", "ཚོང་ཁང་བརྒྱབ་འདུག །"),
        script("Urdu", "باغ خوبصورت ہے۔", "دکان بند ہے۔"),
    ],
)
def test_sentences_end_at_the_marks_of_their_script(text, sentences):
    assert split_sentences(text) == [sentence.strip() for sentence in sentences]
    assert has_final_mark(text) is not text.endswith(("真的", "ปิด"))


ALPHABET = "aA 1.!?…。！？।॥؟۔։።།;\u037e…“”„「」」と)\n\u3000👍🏽\u200d\ufe0f\U000e0067\u0301่ूकสあ가αаგ-'"


@pytest.mark.fault("X318", "text", "an emoji after 。 and a space, while a model writes", "decided when it is there")
@example("։🏽ू", "")
@example("։\u200d\u0301", "")
@given(st.text(ALPHABET, max_size=30), st.text(ALPHABET, max_size=10))
def test_a_decided_sentence_never_changes_and_no_grapheme_is_cut(text, more):
    decided = [sentence for sentence, final in scan_sentences(text) if final]
    assert split_sentences(text + more)[: len(decided)] == decided
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())
    place = 0
    for sentence in split_sentences(text):
        place = text.index(sentence, place)
        assert not regex.match(r"[\p{M}\U000e0020-\U000e007f]", sentence) or place == 0 or text[place - 1].isspace()
        place += len(sentence)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don’t stop at 3.5, x_y!", ["don't", "stop", "at", "3", "5", "x_y"]),
        ("बगल का बगीचा", ["बगल", "का", "बगीचा"]),
        ("花园很大", ["花", "园", "很", "大"]),
        ("สวนข้าง", ["ส", "ว", "น", "ข้", "า", "ง"]),
        ("とてもABCだ", ["と", "て", "も", "abc", "だ"]),
        ("می‌روم", ["می‌روم"]),
        ("İstanbul", ["i̇stanbul"]),
        ("❤️ 1️⃣ ok", ["1", "ok"]),
    ],
)
def test_words_are_those_of_their_script(text, words):
    assert normalised_words(text) == words


def test_words_are_joined_as_their_script_writes_them():
    assert joined_words(["a", "花", "园", "b", "ข้", "า"]) == "a 花园 b ข้า"
    assert contains_words("今天花园很大。", "花园")


def test_pieces_stand_for_words_where_none_are_spaced():
    assert unspaced_pieces("the 花园很大, ok") == {"花园", "园很", "很大"}
    assert unspaced_pieces("とてもきれ") == {"とても" + "き", "てもきれ"}
    assert unspaced_pieces("plain") == set()


@pytest.mark.fault("X319", "text", "a text cut in the middle of an emoji of several parts", "cut before it")
@pytest.mark.parametrize(
    ("text", "length", "cut"),
    [
        ("ab👩‍👩‍👧c", 4, "ab"),
        ("ab👩‍👩‍👧c", 7, "ab👩‍👩‍👧"),
        ("ดู", 1, ""),
        ("abc", 2, "ab"),
        ("e\u0301e", 1, ""),
        ("", 3, ""),
    ],
)
def test_texts_are_cut_between_graphemes(text, length, cut):
    assert shortened(text, length) == cut


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("很整齐。", "荒凉又可怕。", False),
        ("很整齐。", "很整齐", True),
        ("дом", "сад", False),
        ("“Café” — it’s", '"CAFE\u0301" - it\'s', True),
        ("The café is nice", "The cafÃ© is nice", True),
        ("the red café", "the blue café", False),
        ("AI 很有用。", "AI 又可怕。", False),
        ("है", "हो", False),
        ("", "", True),
    ],
)
def test_texts_are_equal_by_their_letters_in_every_script(one, other, same):
    assert same_letters(one, other) is same
