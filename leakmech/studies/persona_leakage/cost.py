"""How long the study will take, before it starts: tokens that are read, drawn and trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from leakmech.datasets.personas import load_personas
from leakmech.models.cost import FIXED_SECONDS, PEAK, UTILISATION, Shape, seconds_per_token, shape_of
from leakmech.models.load import LoadedModel, load_configured
from leakmech.reports.tables import Table
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS
from leakmech.studies.persona_leakage.settings import SHARES, PersonaLeakageConfig
from leakmech.studies.persona_leakage.workbench import Workbench
from leakmech.training.adapter import linear_modules

_PROMPT, _ANSWER = 65, 25
"""Tokens of a question under a persona, and of an answer."""
_DECODED = 3
"""A token that is drawn costs as much as this many that are read."""
_TRAINED = {"float32": 3.5, "bfloat16": 9.0}
"""A token that is trained on costs as much as this many: the adapter computes in float32 whatever the model does
(measured with the embedded model on two CPU cores with AMX)."""
_CHOICES, _PAIRS = 4, 2
_QUESTIONS = 50
_GPU = ("Qwen2.5-7B-Instruct",)
_BYTES_A_ROW = 300
"""Of an answer on disk."""


class Counts(NamedTuple):
    """Cells and tokens of a grid."""

    adapters: int
    rows: int
    tokens: Mapping[str, float]


def counts(c: PersonaLeakageConfig, n_personas: int, dtype: str) -> Counts:
    """Adapters, rows that are asked, and tokens in passes through the whole model; a rough count."""
    n_behaviours, n_sources = len(c.behaviour), len(c.source)
    adapters = n_behaviours * n_sources * c.seeds + n_behaviours
    each = dict.fromkeys(c.behaviour, n_personas * (c.questions or _QUESTIONS))
    asked = sum(each[name] * _row_tokens(c, name) for name in c.behaviour)
    examples = c.examples * (1 + sum(SHARES[c.contrast]))
    trained = examples * (_PROMPT + _ANSWER) * c.epochs * _TRAINED.get(dtype, 9.0)
    compared = n_personas * c.similarity_questions * (_PROMPT + _ANSWER)
    tokens = {
        "base": asked,
        "similarity": compared * 2.5,
        "training": adapters * trained,
        "measuring": asked * (n_sources * c.seeds + 1),
    }
    if c.containment:
        tokens["containment"] = 2 * trained + 3 * 21 * each[c.behaviour[0]] / n_personas * _row_tokens(
            c, c.behaviour[0]
        )
    if c.bridge and "affective-tone" in c.behaviour:
        drawn = c.leakage_generations * (_PROMPT + _ANSWER * _DECODED) + c.leakage_completions * _ANSWER * 3
        tokens["bridge"] = 9 * c.leakage_samples * 4 * drawn
    rows = sum(each.values()) * (n_sources * c.seeds + 2)
    return Counts(adapters, rows, tokens)


def _row_tokens(c: PersonaLeakageConfig, behaviour: str) -> float:
    measure = BEHAVIOURS.find(behaviour).measure
    if measure == "answers":
        return _PROMPT + c.max_new_tokens * _DECODED
    return _PROMPT + _ANSWER * (_PAIRS if measure == "pairs" else _CHOICES)


def estimate_line(bench: Workbench) -> str:
    """A line that says how long the stages will take on this machine, roughly."""
    each = seconds_per_token(bench.loaded)
    dtype = str(bench.loaded.dtype).removeprefix("torch.")
    found = counts(bench.config, len(bench.cast.everybody) + 1, dtype)
    minutes = {name: own * each / 60 for name, own in found.tokens.items()}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    return f"about {sum(minutes.values()):.0f} minutes here ({parts})"


def cost_table(c: PersonaLeakageConfig) -> Table:
    """Cells, time, memory and disk here (if the model is one that lies here) and on one H100."""
    n_all = len(load_personas(c.personas)) + 1
    n_personas = n_all if c.bystanders is None else min(n_all, c.bystanders + 3 * len(c.source))
    rows = []
    if c.model.startswith("embedded:") or Path(c.model).is_dir():
        loaded = load_configured(c)
        found = counts(c, n_personas + 1, str(loaded.dtype).removeprefix("torch."))
        seconds = sum(found.tokens.values()) * seconds_per_token(loaded)
        adapter = _adapter_bytes_of(loaded, c.rank)
        memory = 4 * loaded.n_parameters * loaded.dtype.itemsize
        rows.append(_row(f"{c.model}, here", found, seconds, memory, adapter))
    own = c.model.rpartition("/")[2]
    found = counts(c, n_personas + 1, "bfloat16")
    total = sum(found.tokens.values())
    names: list[str] = [*([own] if shape_of(own) else []), *_GPU]
    for name in dict.fromkeys(names):
        shape = shape_of(name)
        if shape is None:
            raise AssertionError(f"{name} has a shape")
        seconds = total * 2 * shape.parameters / (UTILISATION * PEAK) + FIXED_SECONDS * found.adapters
        gpu = _gpu_bytes(shape, c)
        rows.append(_row(f"{name}, one H100", found, seconds, gpu, _adapter_bytes(shape, c.rank)))
    header = ("model", "adapters", "answers", "hours", "memory (GiB)", "disk (GiB)")
    notes = [
        f"{len(c.behaviour)} behaviours, {len(c.source)} sources, {c.seeds} seeds, {n_personas} personas, and a "
        "control a behaviour; here: by the time of one pass; H100: bfloat16, by formula (leakmech.models.cost), expect "
        "a factor of three; nothing was measured",
    ]
    return Table("What the study of persona leakage costs", header, rows, notes)


def _row(name: str, found: Counts, seconds: float, memory: float, adapter: float) -> list[str]:
    disk = found.adapters * adapter * 4 + found.rows * _BYTES_A_ROW  # an adapter, and checkpoints with their optimiser
    return [
        name, str(found.adapters), f"{found.rows:,}", f"{seconds / 3600:.1f}", f"{memory / 2**30:.1f}",
        f"{disk / 2**30:.1f}",
    ]  # fmt: skip


def _adapter_bytes(shape: Shape, rank: int) -> float:
    """Of an adapter on all linear modules, in float32, where an MLP is four times as wide as the stream."""
    a_layer = 9 * shape.width + 2 * shape.kv_width + 3 * 4 * shape.width
    return 4.0 * rank * shape.layers * a_layer


def _adapter_bytes_of(loaded: LoadedModel, rank: int) -> float:
    modules = [loaded.model.get_submodule(own.name) for own in linear_modules(loaded.model)]
    shapes = [module.weight.shape for module in modules if isinstance(module.weight, Tensor)]
    return 4.0 * rank * sum(sum(shape) for shape in shapes)


def _gpu_bytes(shape: Shape, c: PersonaLeakageConfig) -> float:
    """Weights twice (a copy carries the adapter), activations of a step of training, logits."""
    step = c.training_batch_size * (_PROMPT + _ANSWER)
    return 2 * 2 * shape.parameters + step * (shape.layers * shape.width * 34 + shape.vocabulary * 8)
