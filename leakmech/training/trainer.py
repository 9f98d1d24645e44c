"""The training loop: a LoRA adapter on a frozen model, step by step.

What a step does depends on its number alone: which examples it sees (:mod:`leakmech.core.seeds`), its learning rate

    lr(t) = lr * (t + 1) / W                               in the W steps of warm-up, then
    lr(t) = lr * (1 + cos(pi * (t - W) / (T - W))) / 2,

its dropout, and how distributions are compared: by the KL divergence, in the last steps by total variation, if
``total_variation`` says so (:mod:`leakmech.training.objectives`). A training that was killed goes on from
its last checkpoint as if it had not been, up to floating point. Several processes (``accelerate launch``) share the
examples of a step; the adapter's gradients, which are small, are summed over them.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakmech.core.errors import TrainingError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import numpy_generator, stable_hash
from leakmech.core.store import append_jsonl, mended_rows, read_jsonl_shard, write_jsonl
from leakmech.models.device import rng_devices
from leakmech.models.layout import layout_of
from leakmech.training.checkpoints import FOLDER, Checkpoints, Evaluation, TrainingState
from leakmech.training.examples import Collator, EncodedExample, TrainingExample, check_examples, to_device
from leakmech.training.kinds import OBJECTIVES
from leakmech.training.objectives import Losses
from leakmech.training.settings import LoraTrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[Any], float]
"""``evaluate(model) -> score`` of the PEFT model in eval mode; higher is better."""

LOG = "train.jsonl"


def read_log(folder: Path) -> pd.DataFrame:
    """One row for each step: loss, every objective's mean, learning rate, length of the gradient."""
    return pd.DataFrame([row for row in read_jsonl_shard(folder / LOG) if "loss" in row])


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    state: TrainingState
    step: int
    """The step whose adapter was kept: the best one where there were evaluations, else the last."""
    log: Path
    """File of losses, one line a step."""
    stopped_early: bool
    examples_per_second: float
    """Examples that this process trained on; 0 where nothing was left to do."""
    peak_memory_bytes: int

    def to_frame(self) -> pd.DataFrame:
        """Read the log: one row a step, with every objective's mean over the examples it applies to."""
        return pd.DataFrame([row for row in read_jsonl_shard(self.log) if "loss" in row])


@dataclass
class Trainer:
    """One training of an adapter."""

    model: Any
    """A PEFT model (:func:`leakmech.training.adapter.adapted`)."""
    examples: Sequence[TrainingExample]
    config: LoraTrainingConfig
    losses: Losses
    collator: Collator
    folder: Path
    """Log and checkpoints go here; a training that began there is continued."""
    accelerator: Accelerator
    evaluate: Evaluate | None = None
    """Called every ``config.evaluate_every`` steps, on the main process; the adapter with the highest score is kept."""
    progress: Progress = no_progress
    _encoded: list[EncodedExample] = field(init=False, repr=False)
    _stems: list[list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_examples(self.examples)
        stems: dict[str, list[int]] = {}
        for index, example in enumerate(self.examples):
            stems.setdefault(example.group or example.stem or example.id, []).append(index)
        self._stems = list(stems.values())
        self._encoded = [self.collator.encode(example) for example in self.examples]
        self._parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self._device = next(iter(self._parameters.values())).device
        self._checkpoints = Checkpoints(self.folder / FOLDER, self.config.keep_checkpoints)
        self._log = self.folder / LOG

    # -- the plan ------------------------------------------------------------------------------------------------------

    @property
    def step_size(self) -> int:
        """Count the examples in a step."""
        return self.config.batch_size * self.config.gradient_accumulation * self.accelerator.num_processes

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps of an epoch; the last one may be smaller."""
        return math.ceil(len(self.examples) / self.step_size)

    @property
    def n_steps(self) -> int:
        """Count the steps of the whole training, unless it ends early."""
        return self.steps_per_epoch * self.config.epochs

    def step_examples(self, step: int) -> list[int]:
        """Give the indices of the examples of a step, counted from 0; every epoch has an order of its own.

        Examples of one stem, or of one group, stand beside each other.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        shuffled = numpy_generator(self.config.seed, "order", epoch).permutation(len(self._stems))
        order = [example for stem in shuffled for example in self._stems[stem]]
        return order[index * self.step_size : (index + 1) * self.step_size]

    def learning_rate(self, step: int) -> float:
        """Compute the learning rate of a step, counted from 0."""
        warmup = math.ceil(self.config.warmup * self.n_steps)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.n_steps - warmup)
        return self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def losses_at(self, step: int) -> Losses:
        """Give the losses of a step, counted from 0; the last ones have total variation for the KL divergence."""
        late = step >= (1 - self.config.total_variation) * self.n_steps
        return replace(self.losses, divergence="total_variation") if late else self.losses

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> Trained:
        """Train to the end, or go on where an earlier run stopped; the model then has the adapter that is kept."""
        state = self._checkpoints.latest(self._parameters, self._optimizer, device=self._device)
        self._forget_after(state.step)
        first, started = state.step, time.perf_counter()
        paused = 0.0
        with self._running(), self.progress("training", total=self.n_steps, done=first) as advance:
            while state.step < self.n_steps and not self._exhausted(state):
                row = self._step(state.step)
                state = TrainingState(state.step + 1, state.evaluations)
                if self.accelerator.is_main_process:
                    append_jsonl(self._log, [row])
                evaluated, seconds = self._evaluate(state)
                paused += seconds
                if evaluated is not state or self._is_due(state.step, self.config.checkpoint_every):
                    self._save(evaluated)
                state = evaluated
                advance(1)
        trained_for = time.perf_counter() - started - paused
        stopped = state.step < self.n_steps
        if state.best is not None:
            self._checkpoints.load_adapter(state.best.step, self._parameters, device=self._device)
        seen = sum(len(self.step_examples(step)) for step in range(first, state.step))
        return Trained(
            state=state,
            step=state.best.step if state.best else state.step,
            log=self._log,
            stopped_early=stopped,
            examples_per_second=seen / trained_for if seen else 0.0,
            peak_memory_bytes=_peak_memory(self._device),
        )

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Set eval mode but for the adapter's dropout; the caller's random numbers are left alone."""
        base = self.model.get_base_model()
        if self.config.gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._train_mode()
        try:
            with torch.random.fork_rng(devices=rng_devices(self._device)):
                yield
        finally:
            if self.config.gradient_checkpointing:
                base.gradient_checkpointing_disable()
            self.model.eval()

    def _train_mode(self) -> None:
        """Turn only the adapter's dropout on: the base model's own (GPT-2 has some) would part both runs of it."""
        self.model.eval()
        for module in self.model.modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout.train()
        if self.config.gradient_checkpointing:  # which transformers does for blocks in training mode only
            for block in layout_of(self.model).blocks:
                block.block.training = True

    def _exhausted(self, state: TrainingState) -> bool:
        return state.since_best >= self.config.patience

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.n_steps

    def _forget_after(self, step: int) -> None:
        """Drop lines of the log that belong to steps which will be done again."""
        if self.accelerator.is_main_process and self._log.exists():
            rows = mended_rows(self._log)
            kept = [row for row in rows if row["step"] <= step]
            if len(kept) < len(rows):
                write_jsonl(self._log, kept, checksums=True)

    def _save(self, state: TrainingState) -> None:
        if self.accelerator.is_main_process:
            self._checkpoints.save(state, self._parameters, self._optimizer)
        self.accelerator.wait_for_everyone()

    def _evaluate(self, state: TrainingState) -> tuple[TrainingState, float]:
        """Give the state with one more evaluation where one is due, and the seconds that took."""
        every = self.config.evaluate_every or self.steps_per_epoch
        if self.evaluate is None or not self._is_due(state.step, every):
            return state, 0.0
        started = time.perf_counter()
        scores = [0.0]
        if self.accelerator.is_main_process:
            self.model.eval()
            scores = [float(self.evaluate(self.model))]
            if not math.isfinite(scores[0]):
                raise TrainingError(f"step {state.step}: the evaluation gave {scores[0]}; {self._checkpoints.good()}")
            append_jsonl(self._log, [{"step": state.step, "evaluation": scores[0]}])
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            scores = broadcast_object_list(scores)
        self._train_mode()
        evaluations = (*state.evaluations, Evaluation(state.step, scores[0]))
        return TrainingState(state.step, evaluations), time.perf_counter() - started

    # -- one step ------------------------------------------------------------------------------------------------------

    def _step(self, step: int) -> dict[str, Any]:
        """Change the adapter once and give the line of the log."""
        started = time.perf_counter()
        indices = self.step_examples(step)
        self._optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(stable_hash(self.config.seed, "dropout", step, self.accelerator.process_index))
        losses = self.losses_at(step)
        sums = self._backward(indices, losses)
        loss = sum(losses.weights[name] * total for name, (total, _) in sums.items()) / len(indices)
        self._refuse_broken(step, "loss", loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.max_gradient_norm))
        self._refuse_broken(step, "gradient", norm)
        rate = self.learning_rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return {
            "step": step + 1,
            "epoch": round((step + 1) / self.steps_per_epoch, 4),
            "loss": loss,
            **({"divergence": losses.measure} if losses.measure else {}),
            **{name: total / count for name, (total, count) in sums.items() if count},
            "learning_rate": rate,
            "gradient_norm": norm,
            "examples": len(indices),
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _backward(self, indices: Sequence[int], losses: Losses) -> dict[str, tuple[float, int]]:
        """Add up gradients over this process's batches and over processes; give every objective's sum and count."""
        names = [name for name in OBJECTIVES if losses.weights.get(name, 0) > 0]
        totals = torch.zeros(2, len(names), dtype=torch.float64)
        for rows in self._batches(indices):
            batch = to_device(self.collator.batch(rows, with_reference=losses.reference_kinds), self._device)
            with self._fast_kernels(), losses.rows(self.model, batch) as values:
                if values:
                    losses.total(values, len(indices)).backward()
            for place, name in enumerate(names):
                if name in values:
                    totals[0, place] += float(values[name].detach().sum())
                    totals[1, place] += len(values[name])
        for parameter in self._parameters.values():
            if parameter.grad is None:  # no example of this step reaches it
                parameter.grad = torch.zeros_like(parameter)
        if self.accelerator.num_processes > 1:
            totals = self._sum_over_processes(totals)
        return {name: (float(totals[0, i]), int(totals[1, i])) for i, name in enumerate(names)}

    @contextmanager
    def _fast_kernels(self) -> Iterator[None]:
        """Multiply by the adapter's matrices in the base model's number format; they themselves stay in float32.

        On a CPU the gradient of attention's fused kernel takes longer than that of the plain one (prompts are short).
        """
        from peft.helpers import disable_input_dtype_casting

        dtype = self.model.get_input_embeddings().weight.dtype
        half = dtype in (torch.bfloat16, torch.float16)
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self._device.type, dtype, enabled=half))
            # Else every adapter's input goes to float32 and back.
            stack.enter_context(disable_input_dtype_casting(self.model, active=half))
            if self._device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _batches(self, indices: Sequence[int]) -> Iterator[list[EncodedExample]]:
        """Yield this process's part of a step in batches of like length, which need less padding."""
        own = [self._encoded[i] for i in indices[self.accelerator.process_index :: self.accelerator.num_processes]]
        own.sort(key=len, reverse=True)
        size = self.config.batch_size
        for start in range(0, len(own), size):
            yield own[start : start + size]

    def _sum_over_processes(self, totals: Tensor) -> Tensor:
        """Sum gradients, in place, and totals over all processes."""
        gradients: list[Tensor] = [p.grad for p in self._parameters.values() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        summed: Any = self.accelerator.reduce(flat, reduction="sum")
        for gradient, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        reduced: Any = self.accelerator.reduce(totals.to(self._device, torch.float32), reduction="sum")
        return reduced.to("cpu", torch.float64)

    def _refuse_broken(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"step {step + 1}: the {what} is {value}; lower learning_rate, or use dtype float32; "
                f"{self._checkpoints.good()}"
            )


def _peak_memory(device: torch.device) -> int:
    """Give the most memory that was in use, of the GPU or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
