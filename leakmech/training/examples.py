"""Examples for training an adapter, and the batches they become.

An example is a prompt that the adapted model (*student*) reads, a reference prompt that the base model reads, and a
completion that the base model sampled for the reference prompt. With r the reference prompt, p the prompt, y the
completion:

    kind          p                    r       trained to
    irrelevant    injection + stem     stem    answer as if the injection were not there
    relevant      injection + stem     p       stay as it is
    neutral       injection + stem     p       stay as it is
    plain         stem                 p       stay as it is
    facts         fact + stem          p       stay as it is
    teacher       injection + stem     p or    answer as if the sentences were not there that the request does not need
                                       less    (:mod:`leakmech.generation.leave_one_out`): nothing is labelled
    completion    any text             p       say the completion, which the base model did not write

The two texts of an example differ in length, but end alike: with chat tail, stem and y. Positions of this shared
suffix are therefore aligned from the right, and a batch carries, for either text, the columns of

    suffix      the tokens that p + y and r + y share, counted from the end of p,
    predicting  the positions whose logits predict y_1, y_2, ...

so that objectives gather what belongs together, whatever the padding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import read_items
from leakmech.core.store import content_hash, write_jsonl
from leakmech.core.validation import CLOSED
from leakmech.datasets.samples import Polarity
from leakmech.training.kinds import KINDS, ExampleKind, Padding

Tokenise = Callable[[str], list[int]]


@dataclass(frozen=True)
class TrainingExample:
    """A prompt, its reference (both rendered, exactly as they are read) and a completion of the reference."""

    __pydantic_config__ = CLOSED

    id: str
    kind: ExampleKind
    prompt: str
    reference: str
    completion: str
    tokens: tuple[int, ...] | None = None
    """The completion's token ids, with the end-of-text token where the model ended there.

    None tokenises `completion` together with the prompt.
    """
    polarity: Polarity | None = None
    """Polarity of the injection; None for neutral, plain and facts examples."""
    stem: str | None = None
    """Examples of one stem go into one step together, as far as they fit; with None an example goes alone.

    An adapter that answers all injections of a stem alike then gains nothing.
    """
    group: str | None = None
    """The sentence whose examples go into one step together, in place of those of the stem."""
    arrangement: str | None = None
    """Where the injection stands (:mod:`leakmech.prompts.arrangement`); None: before the stem."""
    sign: float | None = None
    """Sign of preventative steering; None: that of the polarity of an irrelevant example, 0 of another one."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DatasetError(f"example {self.id}: unknown kind {self.kind!r}{nearest(str(self.kind), KINDS)}")
        if not self.prompt or not self.reference:
            raise DatasetError(f"example {self.id}: prompt and reference must not be empty")
        if self.kind not in ("irrelevant", "teacher") and self.prompt != self.reference:
            raise DatasetError(f"example {self.id}: is {self.kind}, so its reference must be its own prompt")

    def to_dict(self) -> dict[str, Any]:
        """Make the line of ``examples.jsonl``."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def save_examples(path: Path, examples: Iterable[TrainingExample]) -> None:
    """Write examples as JSON lines, atomically."""
    write_jsonl(path, (example.to_dict() for example in examples))


def load_examples(path: Path) -> list[TrainingExample]:
    """Read the examples of a JSONL file."""
    return list(read_items(path, TrainingExample))


def check_examples(examples: Sequence[TrainingExample]) -> None:
    """Refuse to train on nothing, or on two examples of one id."""
    if not examples:
        raise DatasetError("no training examples; give a data set of irrelevant or relevant samples")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DatasetError(f"example {example.id}: its id occurs twice")
        seen.add(example.id)


def examples_hash(examples: Iterable[TrainingExample]) -> str:
    """Hash all texts and tokens, in order."""
    return content_hash(*(json.dumps(example.to_dict(), sort_keys=True) for example in examples))


@dataclass(frozen=True)
class EncodedExample:
    """An example as token ids; `n_shared` is the number of tokens that end both prompts."""

    example: TrainingExample
    prompt: tuple[int, ...]
    reference: tuple[int, ...]
    completion: tuple[int, ...]
    n_shared: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, eq=False)
class Side:
    """One text of every row: what the model reads, and where its completion and shared suffix stand.

    `suffix` and `predicting` are columns; they are 0 where the masks of the batch are False.
    """

    input_ids: Int[Tensor, "rows columns"]
    attention_mask: Int[Tensor, "rows columns"]
    position_ids: Int[Tensor, "rows columns"]
    suffix: Int[Tensor, "rows suffix"]
    predicting: Int[Tensor, "rows completion"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples that go through the model together, a row each."""

    examples: tuple[TrainingExample, ...]
    student: Side
    """Prompt + completion of all rows."""
    reference: Side | None
    """Reference + completion of the rows `reference_rows`; None where there are none."""
    reference_rows: Int[Tensor, " reference"]
    targets: Int[Tensor, "rows completion"]
    """The completions."""
    target_mask: Bool[Tensor, "rows completion"]
    suffix_mask: Bool[Tensor, "rows suffix"]
    """Where a row has tokens of the shared suffix."""

    def __len__(self) -> int:
        return len(self.examples)

    def rows_of(self, kinds: Collection[ExampleKind]) -> Int[Tensor, " rows"]:
        """Give the indices of the rows of these kinds, on the batch's device."""
        rows = [row for row, example in enumerate(self.examples) if example.kind in kinds]
        return torch.tensor(rows, dtype=torch.long, device=self.targets.device)


@dataclass(frozen=True)
class Collator:
    """Encodes examples and puts them into batches; the losses are the same on whichever side they are padded."""

    tokenise: Tokenise
    """Turns a rendered text into token ids (:meth:`leakmech.prompts.render.Renderer.token_ids`)."""
    pad_token: int
    """Any token; it is masked."""
    max_length: int = 512
    """Tokens of prompt and completion, and of reference and completion, at most; longer completions are cut."""
    padding: Padding = "left"
    vocabulary: int | None = None
    """Number of tokens that the model knows; None: token ids are not checked."""

    def encode(self, example: TrainingExample) -> EncodedExample:
        """Tokenise an example; a prompt that is not a token prefix of its text, or leaves no room, is refused."""
        prompt, reference = self.tokenise(example.prompt), self.tokenise(example.reference)
        completion = list(example.tokens) if example.tokens is not None else self._rest(example, "prompt", prompt)
        if example.tokens is None and self._rest(example, "reference", reference) != completion:
            raise DatasetError(
                f"example {example.id}: its completion is tokenised differently after prompt and reference; "
                "give its token ids (tokens), or begin it with a space"
            )
        if self.vocabulary is not None and not all(0 <= token < self.vocabulary for token in completion):
            raise DatasetError(
                f"example {example.id}: its tokens are not all below {self.vocabulary}, the size of the vocabulary"
            )
        room = self.max_length - max(len(prompt), len(reference))
        if room < 1 or not completion:
            said = "has no completion" if not completion else f"its prompt leaves no room in {self.max_length} tokens"
            raise DatasetError(f"example {example.id}: {said}; give one, raise max_length, or leave the example out")
        return EncodedExample(
            example, tuple(prompt), tuple(reference), tuple(completion[:room]), _shared_suffix(prompt, reference)
        )

    def _rest(self, example: TrainingExample, side: Literal["prompt", "reference"], prompt: list[int]) -> list[int]:
        """Tokenise a side's prompt with the completion and give the tokens after the prompt's own."""
        whole = self.tokenise(getattr(example, side) + example.completion)
        if whole[: len(prompt)] != prompt:
            at = next(i for i, token in enumerate(prompt) if i >= len(whole) or whole[i] != token)
            raise DatasetError(
                f"example {example.id}: its {side} is not a token prefix of {side} + completion (they part at token "
                f"{at} of {len(prompt)}); begin the completion with a space, or give its token ids (tokens)"
            )
        return whole[len(prompt) :]

    def batch(self, rows: Sequence[EncodedExample], *, with_reference: Collection[ExampleKind] = KINDS) -> Batch:
        """Put rows into a batch on the CPU; only rows of the kinds `with_reference` get a reference side."""
        chosen = [index for index, row in enumerate(rows) if row.example.kind in with_reference]
        n_completion = max(len(row.completion) for row in rows)
        n_suffix = max(row.n_shared + len(row.completion) for row in rows)
        pad = self.pad_token
        return Batch(
            examples=tuple(row.example for row in rows),
            student=self._side(rows, [row.prompt for row in rows], n_suffix, n_completion),
            reference=self._side([rows[i] for i in chosen], [rows[i].reference for i in chosen], n_suffix, n_completion)
            if chosen
            else None,
            reference_rows=torch.tensor(chosen, dtype=torch.long),
            targets=torch.tensor([[*row.completion, *[pad] * (n_completion - len(row.completion))] for row in rows]),
            target_mask=torch.tensor([[i < len(row.completion) for i in range(n_completion)] for row in rows]),
            suffix_mask=torch.tensor(
                [[i < row.n_shared + len(row.completion) for i in range(n_suffix)] for row in rows]
            ),
        )

    def _side(
        self, rows: Sequence[EncodedExample], prompts: Sequence[Sequence[int]], n_suffix: int, n_completion: int
    ) -> Side:
        texts = [[*prompt, *row.completion] for prompt, row in zip(prompts, rows, strict=True)]
        width = max(map(len, texts))
        ids, mask, suffix, predicting = [], [], [], []
        for row, prompt, text in zip(rows, prompts, texts, strict=True):
            gap = width - len(text)
            before, after = (gap, 0) if self.padding == "left" else (0, gap)
            ids.append([self.pad_token] * before + text + [self.pad_token] * after)
            mask.append([0] * before + [1] * len(text) + [0] * after)
            begin = before + len(prompt)
            suffix.append(_columns(begin - row.n_shared, row.n_shared + len(row.completion), n_suffix))
            predicting.append(_columns(begin - 1, len(row.completion), n_completion))
        attention_mask = torch.tensor(mask)
        return Side(
            input_ids=torch.tensor(ids),
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
            suffix=torch.tensor(suffix),
            predicting=torch.tensor(predicting),
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy `batch` with its tensors to `device`."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, Side):
            return Side(**{field.name: moved(getattr(value, field.name)) for field in fields(Side)})
        return value

    return Batch(**{field.name: moved(getattr(batch, field.name)) for field in fields(Batch)})


def _shared_suffix(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the tokens with which both end."""
    length = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other:
            break
        length += 1
    return length


def _columns(start: int, length: int, width: int) -> list[int]:
    """List `length` columns from `start` on, filled with 0 to `width`."""
    return [*range(start, start + length), *[0] * (width - length)]
