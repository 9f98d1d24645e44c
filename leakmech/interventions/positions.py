"""Which tokens of a batch are prompt, injection, stem or generated, counted from the right end of each prompt.

Batches are padded on the left, so the last column of a call is the newest token of every row. Let g_i be the number of
tokens that row i has generated up to there. The column that lies o columns left of the last one then has the place

    p = g_i - o,    p <= 0: token of the prompt (0 is its last one),    p > 0: p-th generated token,

whether the call sees the whole text or, under the key-value cache, only what is new. ``newest`` is p >= 0: the tokens
from which something is drawn, the prompt's last one and all generated ones. Spans of a prompt of n tokens are
moved to the same places: its token t is at p = t - (n - 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from leakmech.core.errors import InterventionError, nearest

Position = Literal["all", "prompt", "injection", "stem", "last_prompt", "generated", "newest"]
POSITIONS: tuple[str, ...] = get_args(Position)
SPAN_POSITIONS = ("injection", "stem")
"""Positions that need more knowledge of a prompt than its length."""

Span = tuple[int, int]
Phase = Literal["prompt", "generating", "mixed"]


class Located(Protocol):
    """A prompt whose parts have been found, as :func:`leakmech.prompts.locate.locate` returns it."""

    @property
    def spans(self) -> Mapping[str, Span]: ...


@dataclass(frozen=True)
class PromptSpans:
    """Where the parts of one prompt are, in tokens from its first one.

    Attributes
    ----------
    length
        Number of tokens of the prompt.
    injection, stem
        First token and the one after the last; equal where the prompt has no such part, None where that is unknown.
    key
        Any number that identifies the prompt: what is drawn for it (resampling) depends on it.

    Raises
    ------
    InterventionError
        A span ends before it starts, or outside of the prompt.
    """

    length: int
    injection: Span | None = None
    stem: Span | None = None
    key: int = 0

    def __post_init__(self) -> None:
        for name in SPAN_POSITIONS:
            span = getattr(self, name)
            if span is not None and not 0 <= span[0] <= span[1] <= self.length:
                raise InterventionError(f"{name} at tokens {span}: outside of a prompt of {self.length} tokens")

    @classmethod
    def of(cls, located: Located, *, key: int = 0) -> PromptSpans:
        """The spans of a located prompt, with or without a continuation."""
        return cls(located.spans["prompt"][1], located.spans["injection"], located.spans["stem"], key)


@dataclass(frozen=True, eq=False)
class RowPositions:
    """What the hooks know of the rows of a batch; rows can be repeated, dropped and joined as the batch does it."""

    n_prompt: Int[Tensor, " rows"] | None
    """Number of tokens of each prompt; None where it is unknown."""
    n_text: Int[Tensor, " rows"]
    """Number of tokens of each row up to the last column of the call."""
    spans: Mapping[str, Int[Tensor, "rows 2"]]
    """Places p of injection and stem, of the first token and of the one after the last; absent where unknown."""
    keys: Int[Tensor, " rows"]
    phase: Phase
    """``prompt``: no row has generated a token. ``generating``: each has, and the call's last column is one."""
    decisions: dict[str, Bool[Tensor, " rows"]] = field(default_factory=dict)
    """Decisions of probes by name; filled in while the model runs."""

    @classmethod
    def of(
        cls, prompts: Sequence[PromptSpans], *, n_generated: int | Sequence[int] = 0, device: torch.device | str = "cpu"
    ) -> RowPositions:
        """Positions of one row for each prompt; `n_generated` counts the tokens after it, for all rows or of each."""
        counts = [n_generated] * len(prompts) if isinstance(n_generated, int) else list(n_generated)
        if not prompts or len(counts) != len(prompts) or min(counts) < 0:
            raise InterventionError(f"positions: {len(prompts)} prompts with {len(counts)} counts of generated tokens")
        n_prompt = torch.tensor([prompt.length for prompt in prompts], device=device)
        spans = {}
        for name in SPAN_POSITIONS:
            found = [getattr(prompt, name) for prompt in prompts]
            if None not in found:
                spans[name] = torch.tensor(found, device=device) - (n_prompt - 1)[:, None]
        return cls(
            n_prompt=n_prompt,
            n_text=n_prompt + torch.tensor(counts, device=device),
            spans=spans,
            keys=torch.tensor([prompt.key for prompt in prompts], device=device),
            phase="prompt" if not any(counts) else "generating" if all(counts) else "mixed",
        )

    def __len__(self) -> int:
        return len(self.n_text)

    def select(self, rows: Int[Tensor, " kept"]) -> RowPositions:
        """Keep (or repeat) rows, in that order."""
        return replace(
            self,
            n_prompt=None if self.n_prompt is None else self.n_prompt[rows],
            n_text=self.n_text[rows],
            spans={name: span[rows] for name, span in self.spans.items()},
            keys=self.keys[rows],
            decisions={name: decision[rows] for name, decision in self.decisions.items()},
        )

    def joined(self, other: RowPositions) -> RowPositions:
        """These rows, then those of `other`."""
        if self.n_prompt is None or other.n_prompt is None:
            raise InterventionError("positions: rows whose prompts are unknown cannot be joined")
        return RowPositions(
            n_prompt=torch.cat([self.n_prompt, other.n_prompt]),
            n_text=torch.cat([self.n_text, other.n_text]),
            spans=_joined(self.spans, other.spans),
            keys=torch.cat([self.keys, other.keys]),
            phase=self.phase if self.phase == other.phase else "mixed",
            decisions=_joined(self.decisions, other.decisions),
        )

    def advanced(self, count: int = 1) -> RowPositions:
        """The same rows `count` tokens later; decisions are kept."""
        return replace(self, n_text=self.n_text + count, phase="generating")

    # -- what the hooks ask ----------------------------------------------------------------------------------------

    def mask(self, position: str, n_columns: int) -> bool | Bool[Tensor, "rows columns"]:
        """Which of the last `n_columns` columns are at `position`; True or False where all or none are.

        Padding may count as prompt: nothing looks at it.
        """
        if position == "all":
            return True
        if self.n_prompt is None:
            raise _unknown(position)
        if position in SPAN_POSITIONS and position not in self.spans:
            raise _unknown(position)
        if self.phase == "prompt" and position in ("prompt", "generated"):
            return position == "prompt"
        if self.phase == "generating" and n_columns == 1:
            return position in ("generated", "newest")
        places = self.places(n_columns)
        if position in SPAN_POSITIONS:
            span = self.spans[position]
            return (places >= span[:, :1]) & (places < span[:, 1:])
        if position == "last_prompt":
            return places == 0
        if position == "newest":  # what has been the newest token at some step
            return places >= 0
        return places > 0 if position == "generated" else places <= 0

    def reach_prompt(self, n_columns: int) -> bool:
        """Whether any of the last `n_columns` columns is, or may be, of a prompt."""
        if self.phase != "generating" or n_columns == 1:
            return self.phase != "generating"
        return self.n_prompt is None or bool((self.n_text - self.n_prompt < n_columns).any())

    def places(self, n_columns: int) -> Int[Tensor, "rows columns"]:
        """Places p of the last `n_columns` columns."""
        if self.n_prompt is None:
            raise _unknown("prompt")
        return (self.n_text - self.n_prompt)[:, None] + _offsets(n_columns, self.n_text.device)

    def tokens(self, n_columns: int) -> Int[Tensor, "rows columns"]:
        """Numbers of the tokens in the last `n_columns` columns, from the first of each row; negative in padding."""
        return (self.n_text - 1)[:, None] + _offsets(n_columns, self.n_text.device)


def inferred_positions(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], before: RowPositions | None
) -> RowPositions | None:
    """Infer positions from a model call's attention mask and cache; prompts are unknown where these do not tell.

    `before` is what was inferred for the call before.
    """
    inputs = call_inputs(args, kwargs)
    if inputs is None:
        return None
    n_rows, n_columns = inputs.shape[:2]
    cache = kwargs.get("past_key_values")
    n_cached = _n_cached(kwargs)
    n_text = _text_lengths(inputs, kwargs)
    unknown = RowPositions(None, n_text, {}, torch.zeros_like(n_text), "mixed")
    if cache is None:
        return unknown
    if n_cached == 0:
        return replace(unknown, n_prompt=n_text, phase="prompt")
    if n_columns > 1 or before is None or before.n_prompt is None or len(before) != n_rows:
        return unknown
    return replace(before, n_text=n_text, phase="generating")


def positions_at_call(given: RowPositions, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RowPositions:
    """The rows `given`, as many tokens later as a model call's attention mask or cache holds beyond them.

    Without a mask, what is padded is not known: the longest row is then taken to begin in the first column.
    """
    inputs = call_inputs(args, kwargs)
    if inputs is None or len(inputs) != len(given):  # refused when a hook asks for the rows
        return given
    n_text = _text_lengths(inputs, kwargs).to(given.n_text.device)
    before = given.n_text if kwargs.get("attention_mask") is not None else given.n_text.max()
    later = (n_text - before).unique().tolist()
    if len(later) > 1 or later[0] < 0:
        raise InterventionError(
            f"positions: rows of {given.n_text.tolist()} tokens are given, but the call has {n_text.tolist()}; give "
            "the prompts of this batch in its order, n_generated for what follows them, and the attention mask of a "
            "padded batch"
        )
    return given.advanced(later[0]) if later[0] else given


def _text_lengths(inputs: Tensor, kwargs: Mapping[str, Any]) -> Int[Tensor, " rows"]:
    """Number of tokens of each row of a call, cached ones included."""
    mask = kwargs.get("attention_mask")
    if mask is None:
        return torch.full((inputs.shape[0],), _n_cached(kwargs) + inputs.shape[1], device=inputs.device)
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not bool(mask[:, -1].all()):
        raise InterventionError("positions: pad batches on the left, and give their attention mask as (rows, columns)")
    return mask.sum(dim=1).to(inputs.device)


def _n_cached(kwargs: Mapping[str, Any]) -> int:
    cache = kwargs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def call_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Token ids or embeddings of a model call, shape (rows, columns, ...); None where there are none."""
    given = args[0] if args else kwargs.get("input_ids")
    inputs = given if given is not None else kwargs.get("inputs_embeds")
    return inputs if isinstance(inputs, Tensor) else None


def check_position(position: str, *, where: str) -> None:
    """Refuse what does not name a position."""
    if position not in POSITIONS:
        raise InterventionError(f"{where}: unknown position {position!r}{nearest(str(position), POSITIONS)}")


def positions_overlap(first: str, second: str) -> bool:
    """Whether a token can be at both positions."""
    if first == second or "all" in (first, second):
        return True
    apart = ({"injection", "stem"}, {"injection", "last_prompt"}, {"injection", "newest"})
    if "newest" in (first, second):
        return {first, second} not in apart
    return "generated" not in (first, second) and {first, second} not in apart


def _offsets(n_columns: int, device: torch.device) -> Int[Tensor, " columns"]:
    return torch.arange(1 - n_columns, 1, device=device)


def _joined(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([first[name], second[name]]) for name in first if name in second}


def _unknown(position: str) -> InterventionError:
    hint = "spans of injection and stem" if position in SPAN_POSITIONS else "lengths of the prompts"
    return InterventionError(
        f"position {position!r}: its place in this batch is not known; give the {hint} with "
        "applied.positions([...]) (with apply(...) as applied) or to the rows that are decoded"
    )
