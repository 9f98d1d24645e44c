"""How long the study will take, before it starts: tokens that are read, drawn and trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from leakmech.datasets.personas import load_personas
from leakmech.models.configured import load_configured
from leakmech.models.cost import (
    DECODED,
    FIXED_SECONDS,
    PEAK,
    UTILISATION,
    Shape,
    Work,
    known_shapes,
    seconds_per_token,
)
from leakmech.models.device import dtype_name
from leakmech.models.load import LoadedModel
from leakmech.reports.tables import Table
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.persona_leakage.behaviours import Behaviour, Tasks
from leakmech.studies.persona_leakage.bridge import TONE
from leakmech.studies.persona_leakage.containment import N_BYSTANDERS
from leakmech.studies.persona_leakage.settings import SHARES, PersonaLeakageConfig
from leakmech.studies.persona_leakage.workbench import N_NEGATIVES, Workbench, behaviours_of, cast
from leakmech.training.adapter import linear_modules

_PROMPT, _ANSWER = 65, 25
"""Tokens of a question under a persona, and of an answer."""
_ALONE = 2
"""A prompt that is read alone costs as much as this many in a batch, on a CPU."""
_TRAINED = {"float32": 3.5, "bfloat16": 9.0}
"""A token that is trained on costs as much as this many: the adapter computes in float32 whatever the model does
(measured with the embedded model on two CPU cores with AMX)."""
_GPU = ("Qwen2.5-7B-Instruct",)
_BYTES_A_ROW = 300
"""Of an answer on disk."""
_STATES = 7
"""Adapters' worth of disk while one is trained: itself, and two checkpoints with both moments."""


class Counts(NamedTuple):
    """Cells and tokens of a grid."""

    adapters: int
    rows: int
    tokens: Mapping[str, float]


def counts(
    c: PersonaLeakageConfig,
    behaviours: Mapping[str, Behaviour],
    tasks: Mapping[str, Tasks],
    n_personas: int,
    *,
    dtype: str,
    cpu: bool,
) -> Counts:
    """Adapters, rows that are asked, and tokens in passes through the whole model; a rough count."""
    n_sources = len(c.source)
    adapters = len(behaviours) * (n_sources * c.seeds + 1)
    questions = {name: min(c.questions or len(own.eval), len(own.eval)) for name, own in tasks.items()}
    each = {name: _row_tokens(c, own, tasks[name], cpu=cpu) for name, own in behaviours.items()}
    asked = sum((n_personas + 1) * questions[name] * each[name] for name in behaviours)
    examples = c.examples * (1 + sum(SHARES[c.contrast]))
    trained = examples * (_PROMPT + _ANSWER) * c.epochs * _TRAINED.get(dtype, max(_TRAINED.values()))
    tokens = {
        "base": asked,
        "similarity": 2.5 * n_personas * c.similarity_questions * (_PROMPT + _ANSWER),
        "training": adapters * trained,
        "measuring": asked * (n_sources * c.seeds + 1),
    }
    if c.containment:
        full = trained * (1 + sum(SHARES["full"])) / (1 + sum(SHARES[c.contrast]))
        first = next(iter(behaviours))
        tokens["containment"] = full + trained + 3 * (N_BYSTANDERS + 1) * questions[first] * each[first]
        adapters += 2
    if c.bridge and TONE in behaviours:
        drawn = c.leakage_generations * (_PROMPT + _ANSWER * DECODED) + c.leakage_completions * _ANSWER * 3
        tokens["bridge"] = 9 * c.leakage_samples * 4 * drawn
    rows = sum(n_personas * own for own in questions.values()) * (n_sources * c.seeds + 2)
    return Counts(adapters, rows, tokens)


def _row_tokens(c: PersonaLeakageConfig, behaviour: Behaviour, tasks: Tasks, *, cpu: bool) -> float:
    """Of one question under one persona."""
    if behaviour.measure == "answers":
        return _PROMPT + c.max_new_tokens * DECODED
    n = 2 if behaviour.measure == "pairs" else len(tasks.eval[0].choices)
    return _ALONE * (_PROMPT + n * _ANSWER) if cpu else n * (_PROMPT + _ANSWER)


def estimate_line(bench: Workbench) -> str:
    """A line that says how long the stages will take on this machine, roughly."""
    found = _counts_of(bench.config, bench.behaviours, bench.tasks, len(bench.cast.everybody), bench.loaded)
    each = seconds_per_token(bench.loaded)
    minutes = {name: own * each / 60 for name, own in found.tokens.items()}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    return f"about {sum(minutes.values()):.0f} minutes here ({parts})"


def _counts_of(
    c: PersonaLeakageConfig,
    behaviours: Mapping[str, Behaviour],
    tasks: Mapping[str, Tasks],
    n_personas: int,
    loaded: LoadedModel,
) -> Counts:
    dtype = dtype_name(loaded.dtype)
    return counts(c, behaviours, tasks, n_personas, dtype=dtype, cpu=loaded.device.type == "cpu")


def cost_table(c: PersonaLeakageConfig) -> Table:
    """Cells, time, memory and disk here (if the model is one that lies here) and on one H100."""
    behaviours, tasks = behaviours_of(c)
    n_personas = len(cast(c, load_encoder(c.encoder), "any text").everybody)
    rows = []
    if c.model.startswith("embedded:") or Path(c.model).is_dir():
        loaded = load_configured(c)
        found = _counts_of(c, behaviours, tasks, n_personas, loaded)
        seconds = sum(found.tokens.values()) * seconds_per_token(loaded)
        memory = 4 * loaded.n_parameters * loaded.dtype.itemsize
        rows.append(_row(f"{c.model}, here", found, seconds, memory, _adapter_bytes_of(loaded, c.rank)))
    found = counts(c, behaviours, tasks, n_personas, dtype="float32", cpu=False)  # as a GPU has it: no emulation
    own = c.model.rpartition("/")[2]
    for name, shape in known_shapes(own, *_GPU).items():
        seconds = sum(found.tokens.values()) * 2 * shape.parameters / (UTILISATION * PEAK)
        seconds += FIXED_SECONDS * found.adapters
        rows.append(_row(f"{name}, one H100", found, seconds, _gpu_bytes(shape, c), _adapter_bytes(shape, c.rank)))
    header = ("model", "adapters", "rows", "hours", "memory (GiB)", "disk (GiB)")
    notes = [
        f"{len(c.behaviour)} behaviours, {len(c.source)} sources, {c.seeds} seeds, {n_personas} personas, and a "
        "control a behaviour; rows: questions under personas; here: by the time of one pass; H100: bfloat16, by "
        "formula (leakmech.models.cost), expect a factor of three; nothing was measured",
    ]
    return Table("What the study of persona leakage costs", header, rows, notes)


def _row(name: str, found: Counts, seconds: float, memory: float, adapter: float) -> list[str]:
    disk = (found.adapters + _STATES) * adapter + found.rows * _BYTES_A_ROW
    return [
        name, str(found.adapters), f"{found.rows:,}", f"{seconds / 3600:.1f}", f"{memory / 2**30:.1f}",
        f"{disk / 2**30:.1f}",
    ]  # fmt: skip


def _adapter_bytes(shape: Shape, rank: int) -> float:
    """Of an adapter on all linear modules, in float32, where an MLP is five times as wide as the stream."""
    a_layer = 9 * shape.width + 2 * shape.kv_width + 3 * 5 * shape.width
    return 4.0 * rank * shape.n_layers * a_layer


def _adapter_bytes_of(loaded: LoadedModel, rank: int) -> float:
    modules = [loaded.model.get_submodule(own.name) for own in linear_modules(loaded.model)]
    shapes = [module.weight.shape for module in modules if isinstance(module.weight, Tensor)]
    return 4.0 * rank * sum(sum(shape) for shape in shapes)


def _gpu_bytes(shape: Shape, c: PersonaLeakageConfig) -> float:
    """Weights twice (a copy carries the adapter), activations of a step of training, logits."""
    step = c.training_batch_size * (_PROMPT + _ANSWER)
    return 2 * 2 * shape.parameters + step * (shape.n_layers * shape.width * 34 + shape.vocabulary * 8)


def work_of(c: PersonaLeakageConfig, shape: Shape) -> Work:
    """What the study has a model do, for sweeps; no model is loaded, so who is a negative is not known."""
    behaviours, tasks = behaviours_of(c)
    all_of_them = len(load_personas(c.personas)) + 1  # the model's default
    named = len(c.source) * (1 + (N_NEGATIVES if c.negatives is None else len(c.negatives)))
    asked = all_of_them if c.bystanders is None else min(all_of_them, c.bystanders + named)
    dtype = "float32" if c.dtype == "auto" else c.dtype
    found = counts(c, behaviours, tasks, asked, dtype=dtype, cpu=c.device == "cpu")
    disk = (found.adapters + _STATES) * _adapter_bytes(shape, c.rank) + found.rows * _BYTES_A_ROW
    held = _gpu_bytes(shape, c) - 4 * shape.parameters
    return Work(sum(found.tokens.values()), found.rows, disk, copies=2.0, held=held)
