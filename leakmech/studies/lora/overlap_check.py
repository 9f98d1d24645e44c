"""Proof that nothing that is evaluated was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from leakmech.core.errors import DatasetError
from leakmech.datasets.filters import words
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.samples import INJECTIONS, PromptSet
from leakmech.prompts.render import Renderer
from leakmech.training.examples import TrainingExample

Role = Literal["stem", "injection"]
_LISTED = 5


@dataclass(frozen=True)
class SharedText:
    """A text of training and the evaluated text that it repeats."""

    text: str
    evaluated: str
    dataset: str

    def __str__(self) -> str:
        twin = "" if self.text == self.evaluated else f" (there {self.evaluated!r})"
        return f"{self.text!r} in {self.dataset}{twin}"


def shared_texts(
    training: Iterable[tuple[Role, str]], evaluation: Sequence[PromptSet], *, max_overlap: float = 0.7
) -> list[SharedText]:
    """Texts of training that stand in an evaluation set: the same words, or a near duplicate of the same role.

    Texts are near duplicates from a share `max_overlap` of shared words (Jaccard).
    """
    near: dict[Role, OverlapIndex] = {"stem": OverlapIndex(max_overlap), "injection": OverlapIndex(max_overlap)}
    same: dict[str, str] = {}
    home: dict[str, str] = {}
    for dataset in evaluation:
        for sample in dataset:
            injections = (sample.positive, sample.neutral, sample.negative)
            near["stem"].add(sample.stem)
            for text in injections:
                near["injection"].add(text)
            for text in (sample.stem, *injections):
                same[_key(text)] = text
                home.setdefault(text, dataset.name)
    found = []
    for role, text in dict.fromkeys(training):
        twin = same.get(_key(text)) or near[role].find(text)
        if twin is not None:
            found.append(SharedText(text, twin, home[twin]))
    return found


def refuse_shared_texts(
    training: Iterable[tuple[Role, str]], evaluation: Sequence[PromptSet], *, max_overlap: float = 0.7
) -> None:
    """Refuse training data that overlaps with evaluation data (:func:`shared_texts`), and list the first five texts."""
    _refuse(shared_texts(training, evaluation, max_overlap=max_overlap))


def refuse_shared_prompts(
    examples: Iterable[TrainingExample], evaluation: Sequence[PromptSet], renderer: Renderer
) -> None:
    """Refuse examples whose prompt or reference is one that is evaluated, or holds an evaluated injection.

    This looks at what the model reads, whatever it was made from.
    """
    prompts = {
        prompt.rendered: (dataset, prompt.text) for dataset in evaluation for prompt in renderer.prompts(dataset)
    }
    injections = {
        f" {_key(text)} ": (text, dataset.name)
        for dataset in evaluation
        for sample in dataset
        for text in (getattr(sample, condition) for condition in INJECTIONS)
    }
    found: dict[str, SharedText] = {}
    for example in examples:
        for rendered in dict.fromkeys((example.prompt, example.reference)):
            if rendered in prompts:
                dataset, text = prompts[rendered]
                found.setdefault(text, SharedText(text, text, dataset.name))
                continue
            own = f" {_key(rendered)} "
            for key, (text, name) in injections.items():
                if key in own:
                    found.setdefault(text, SharedText(text, text, name))
    _refuse(list(found.values()))


def _refuse(found: Sequence[SharedText]) -> None:
    if found:
        listed = "; ".join(map(str, found[:_LISTED]))
        more = f" (the first {_LISTED} of {len(found)})" if len(found) > _LISTED else ""
        raise DatasetError(f"training data overlaps evaluation data: {listed}{more}; leave these samples out")


def _key(text: str) -> str:
    return " ".join(words(text))
