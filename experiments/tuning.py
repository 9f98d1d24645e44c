"""Tune MiniLM with low-rank adapters on soft sentiment labels and mean ratings; used by train_estimator.py.

Every linear layer W of the encoder becomes W + (alpha / r) B A with trained A and B of rank r (LoRA, Hu et al. 2022).
On the mean of the token states sit two linear heads, three class logits and the mean rating, and the loss is

    cross-entropy(logits, q) + (rating / RATING_SCALE - predicted)^2,

where q is the probability of each class for the mean of a new panel of raters: the mass of a normal distribution
around the observed mean, with its standard error, below, between and above the thresholds. A text whose raters leave
it open on which side of a threshold it lies so teaches no false certainty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from estimator_quality import THRESHOLD
from jaxtyping import Float, Int
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save
from scipy.stats import norm
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from leakmech.core.errors import EstimatorError
from leakmech.core.store import atomic_path
from leakmech.scoring.classifiers import in_text_batches

EPOCHS = 3
RANK = 16
ALPHA = 32
TARGETS = ["query", "key", "value", "dense"]
MAX_TOKENS = 48
BATCH_SIZE = 32
LEARNING_RATE = 8e-4
WARM_UP = 0.06
RATING_SCALE = 1.5  # about the standard deviation of the mean ratings
MIN_STANDARD_ERROR = 0.1  # of a mean rating; also where all raters agree
MEGABATCH = 50  # batches whose texts are sorted by length together


class TunedClassifier(nn.Module):
    """A BERT encoder with adapters; logits of three classes and the scaled rating from the mean of its token states."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        bert = AutoModel.from_pretrained(folder, local_files_only=True)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS)
        self.bert = get_peft_model(bert, config)
        self.heads = nn.Linear(bert.config.hidden_size, 4)

    def forward(self, token_ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch 4"]:
        states = self.bert(input_ids=token_ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        with torch.autocast("cpu", enabled=False):
            return self.heads((states * weights).sum(dim=1) / weights.sum(dim=1))

    @classmethod
    def load(cls, folder: Path, trained: Path) -> TunedClassifier:
        """The encoder in `folder` with trained tensors that :func:`tune` wrote."""
        model = cls(folder).eval()
        tensors = load_file(trained)
        if tensors.keys() != model.trained().keys():
            raise EstimatorError(f"{trained}: holds no tensors of such a training; train again")
        model.load_state_dict(tensors, strict=False)
        return model

    def trained(self) -> dict[str, Tensor]:
        """The tensors that training changes, by their names in this module."""
        return {name: value.detach().contiguous() for name, value in self.named_parameters() if value.requires_grad}

    def adapters(self) -> dict[str, Tensor]:
        """``<layer>.lora_A`` and ``<layer>.lora_B`` by the layer's name in the plain encoder."""
        names = {name: name.removesuffix(".default.weight") for name in self.trained() if ".lora_" in name}
        return {new.removeprefix("bert.base_model.model."): self.trained()[old] for old, new in names.items()}


def soft_labels(ratings: Sequence[Sequence[int]]) -> Float[np.ndarray, "n 3"]:
    """Probability that the mean of a new panel is negative, neutral or positive (see above)."""
    means = np.array([np.mean(r) for r in ratings])
    errors = np.array([max(np.std(r, ddof=1) / math.sqrt(len(r)), MIN_STANDARD_ERROR) for r in ratings])
    below, above = norm.cdf((-THRESHOLD - means) / errors), norm.sf((THRESHOLD - means) / errors)
    return np.stack([below, 1 - below - above, above], axis=1)


def tune(
    texts: Sequence[str],
    *,
    folder: Path,
    labels: Float[np.ndarray, "n 3"],
    ratings: Float[np.ndarray, " n"],
    seed: int,
    checkpoint: Path,
    after_epoch: Callable[[int, TunedClassifier], None],
) -> TunedClassifier:
    """Train on all `texts`; writes the trained tensors to `checkpoint` after every epoch."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    token_ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    model = TunedClassifier(folder)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    n_steps = EPOCHS * math.ceil(len(token_ids) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / n_steps))
    goals = torch.tensor(np.column_stack([labels, ratings / RATING_SCALE]), dtype=torch.float32)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        started, total = time.perf_counter(), 0.0
        for number, batch in enumerate(batches(token_ids, generator), start=1):
            inputs = tokenizer.pad({"input_ids": [token_ids[i] for i in batch]}, return_tensors="pt")
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(inputs["input_ids"], inputs["attention_mask"])
            value = loss(output, goals[batch])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            total += value.item()
            if number % 50 == 0:
                seconds = time.perf_counter() - started
                print(f"epoch {epoch} batch {number}: loss {total / number:.4f}, {seconds:.0f} s", flush=True)
        with atomic_path(checkpoint) as temporary:
            temporary.write_bytes(save(model.trained()))
        after_epoch(epoch, model.eval())
    return model.eval()


def rate(progress: float) -> float:
    """Share of the learning rate: a linear rise, then a linear fall to zero."""
    return progress / WARM_UP if progress < WARM_UP else max(0.0, (1 - progress) / (1 - WARM_UP))


def loss(output: Float[Tensor, "batch 4"], goals: Float[Tensor, "batch 4"]) -> Float[Tensor, ""]:
    return nn.functional.cross_entropy(output[:, :3], goals[:, :3]) + nn.functional.mse_loss(output[:, 3], goals[:, 3])


def batches(token_ids: Sequence[Sequence[int]], generator: np.random.Generator) -> Iterator[list[int]]:
    """Batches of texts of like length, in random order."""
    order = generator.permutation(len(token_ids))
    found: list[list[int]] = []
    for start in range(0, len(order), MEGABATCH * BATCH_SIZE):
        mega = sorted(order[start : start + MEGABATCH * BATCH_SIZE].tolist(), key=lambda i: len(token_ids[i]))
        found += [mega[first : first + BATCH_SIZE] for first in range(0, len(mega), BATCH_SIZE)]
    return (found[i] for i in generator.permutation(len(found)))


def outputs(model: TunedClassifier, texts: Sequence[str], *, folder: Path) -> Float[np.ndarray, "n 4"]:
    """The four outputs for every text, in full precision."""
    return in_text_batches(
        texts,
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        max_tokens=256,
        device=torch.device("cpu"),
        forward=lambda inputs: model(inputs["input_ids"], inputs["attention_mask"]),
    )
