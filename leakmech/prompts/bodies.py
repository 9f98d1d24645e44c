"""How the body of one prompt is written: what stands before, in and after a stem, and where its parts stand.

A body is a sequence of parts, some of which have a name:

    before    [injection] [stem]
    after     [stem] line break [injection]
    middle    filler [injection] filler [stem]
    clause    By the way, [injection], and [stem]

The characters of a part follow from the lengths of those before it. In a clause an injection loses its final stop, and
both parts begin in lower case unless their first word is always capitalised. What a body says besides injection and
stem (``inserted``) is known to whatever looks for echoes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from leakmech.core.errors import DatasetError
from leakmech.core.text import WORD, split_sentences
from leakmech.datasets.english import word_list
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, Condition, Sample

Span = tuple[int, int]
"""First character or token of a part and the one after its last."""
Place = Literal["before", "after", "turn"]
PLACES: tuple[Place, ...] = get_args(Place)

FRAMES = (
    "By the way, {injection}, and {stem}",
    "To come back to my point (by the way, {injection}), {stem}",
    "As I was going to say, and by the way {injection}, {stem}",
)
"""Sentences that hold an injection in a clause, as the samples of a data set take them in turns."""
REPLY = "I have noted that."
"""What the assistant says to an injection in an earlier turn."""
SPEAKERS = ("User:", "Assistant:")
"""How a plain text names who speaks."""


@dataclass(frozen=True)
class Body:
    """What the user writes besides the request, and the characters of its parts (``stem``, ``injection``)."""

    text: str
    spans: Mapping[str, Span]
    inserted: tuple[str, ...] = ()
    """What it says besides injection and stem, and what of it an answer may begin with."""

    @classmethod
    def of(cls, *parts: str | tuple[str, str], inserted: Iterable[str] = ()) -> Body:
        """Join texts; a part that is found again is a pair of its name and its text."""
        text, spans = "", {}
        for part in parts:
            name, words = ("", part) if isinstance(part, str) else part
            if name:
                spans[name] = (len(text), len(text) + len(words))
            text += words
        return cls(text, spans, tuple(inserted))


@dataclass(frozen=True, slots=True)
class ArrangedSample(Sample):
    """A sample whose prompts say more than injection and stem, or the two in another way.

    ``bodies`` are its prompts by condition; without them they are as in any sample. ``relatedness`` is the mean cosine
    of its stem with its three injections, before they were exchanged and after, where they were chosen by it.
    """

    bodies: Mapping[Condition, Body] = field(default_factory=dict)
    relatedness: tuple[float, float] | None = None


def body_of(sample: Sample, condition: Condition, place: Place) -> Body:
    """The body of one condition of a sample."""
    bodies = sample.bodies if isinstance(sample, ArrangedSample) else {}
    return bodies[condition] if condition in bodies else joined(sample.stem, sample.injection(condition), place)


def joined(stem: str, injection: str | None, place: Place) -> Body:
    """Injection and stem side by side; of two turns, the words of both."""
    inserted = (REPLY, *SPEAKERS) if place == "turn" else ()
    if not injection:
        return Body.of(("stem", stem), inserted=inserted)
    if place == "after":
        return Body.of(("stem", stem), "\n", ("injection", injection))
    return Body.of(("injection", injection), " ", ("stem", stem), inserted=inserted)


def between_fillers(sample: Sample, fillers: tuple[str, str]) -> ArrangedSample:
    """`sample` with each injection between two sentences, which stand in the control prompt, too."""
    first, second = fillers
    bodies: dict[Condition, Body] = {
        condition: Body.of(*_between(first, sample.injection(condition), second, sample.stem), inserted=fillers)
        for condition in CONDITIONS
    }
    return _with_bodies(sample, bodies)


def _with_bodies(sample: Sample, bodies: Mapping[Condition, Body]) -> ArrangedSample:
    fields: dict[str, Any] = {**sample.to_dict(), "bodies": bodies}
    return ArrangedSample(**fields)


def _between(first: str, injection: str | None, second: str, stem: str) -> Iterable[str | tuple[str, str]]:
    middle = (("injection", injection), " ") if injection else ()
    return (f"{first} ", *middle, f"{second} ", ("stem", stem))


def in_clause(sample: Sample, frame: str, *, lower: Collection[str]) -> ArrangedSample:
    """`sample` with each injection inside the sentence of its stem; DatasetError where that makes no sentence.

    `frame` is one of :data:`FRAMES`, `lower` holds the words that need no capital.
    """
    if len(split_sentences(sample.stem)) != 1:
        raise DatasetError(
            f"sample {sample.id!r}: its stem {sample.stem!r} has several sentences; arrangement 'clause' needs one"
        )
    bodies: dict[Condition, Body] = {name: _woven(sample, name, frame, lower) for name in INJECTIONS}
    return _with_bodies(sample, bodies)


def _woven(sample: Sample, condition: Condition, frame: str, lower: Collection[str]) -> Body:
    injection = sample.injection(condition) or ""
    if len(split_sentences(injection)) != 1 or injection.rstrip().endswith("?"):
        raise DatasetError(
            f"sample {sample.id!r}: its {condition} injection {injection!r} is not a single statement; "
            "arrangement 'clause' needs one"
        )
    clause, stem = (_uncapitalised(text, lower) for text in (injection.rstrip().rstrip(".!…"), sample.stem))
    before, rest = frame.split("{injection}")
    link = rest.removesuffix("{stem}")
    # An answer may repeat the frame, too, or begin with the injection and go on with the frame.
    inserted = (f"{before}{clause}{link}", f"{clause}{link}")
    return Body.of(before, ("injection", clause), link, ("stem", stem), inserted=inserted)


def _uncapitalised(text: str, lower: Collection[str]) -> str:
    """`text` with its first letter in lower case if its first word needs no capital."""
    found = WORD.match(text)
    return text[0].lower() + text[1:] if found and found.group().lower() in lower else text


def uncapitalised_words(samples: Iterable[Sample]) -> frozenset[str]:
    """Words that need no capital: function words but "I", and all that stand in lower case in the samples."""
    texts = (text for s in samples for text in (s.stem, s.positive, s.neutral, s.negative))
    seen = {word for text in texts for word in WORD.findall(text) if word[0].islower()}
    function = {word for word in word_list("function_words") if word.split("'")[0] != "i"}
    return frozenset(function | seen)
