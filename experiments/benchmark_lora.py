"""Benchmark: completion-only training of an adapter, leakmech's trainer against the plain Hugging Face Trainer.

The same model, examples, order of length, adapter, batch size and learning rate; prompts are masked in both. Both train
the same number of steps in turns, and the median of the ratios counts. The last line is one JSON object with ``name``,
``ratios`` (examples per second, ours over the Trainer's) and ``environment``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from leakmech.core.provenance import environment
from leakmech.datasets.samples import load_dataset
from leakmech.models.load import LoadedModel, load_model
from leakmech.prompts.render import Renderer
from leakmech.studies.lora.run import train_lora
from leakmech.training.adapter import target_modules
from leakmech.training.examples import Collator, TrainingExample
from leakmech.training.settings import LoraTrainingConfig


def main() -> None:
    arguments = _arguments()
    loaded = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    config = LoraTrainingConfig.parse({
        "model": arguments.model,
        "dtype": arguments.dtype,
        "rank": 8,
        "epochs": 1,
        "batch_size": arguments.batch_size,
        "checkpoint_every": 10_000,
        "evaluation": [],
    })  # fmt: skip
    examples = _examples(loaded, arguments.steps * arguments.batch_size)
    ours, theirs = [], []
    for number in range(arguments.rounds):
        for way in (("ours", "theirs"), ("theirs", "ours"))[number % 2]:
            if way == "ours":
                ours.append(_ours(loaded, config, examples))
            else:
                theirs.append(_theirs(loaded, config, examples))
        print(f"round {number + 1}: {ours[-1]:.2f} against {theirs[-1]:.2f} examples per second")
    ratio = float(np.median([a / b for a, b in zip(ours, theirs, strict=True)]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(examples)} examples, {loaded.dtype}, batches of {config.batch_size}; peak memory {peak:.2f} GiB")
    print(json.dumps({
        "name": "lora",
        "ratios": {"hugging_face_trainer": round(ratio, 2)},
        "examples_per_second": round(float(np.median(ours)), 2),
        "peak_gib": round(peak, 2),
        "environment": environment() | {"dtype": str(loaded.dtype), "device": str(loaded.device)},
    }))  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _examples(loaded: LoadedModel, n: int) -> list[TrainingExample]:
    """HEXL prompts with a made-up completion: for speed, what they say does not matter."""
    renderer = Renderer(loaded.tokenizer)
    found = []
    for sample in load_dataset("hexl"):
        for condition in ("positive", "negative"):
            found.append(
                TrainingExample(
                    id=f"{sample.id}/{condition}",
                    kind="irrelevant",
                    prompt=renderer.prompt(sample, condition).rendered,
                    reference=renderer.prompt(sample, "control").rendered,
                    completion=f"{sample.stem} much as anybody would have thought it to be on such a day.",
                )
            )
    return found[:n]


def _ours(loaded: LoadedModel, config: LoraTrainingConfig, examples: Sequence[TrainingExample]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = train_lora(config, Path(folder) / "run", model=loaded, examples=examples)
    return float(result.card["results"]["examples_per_second"])


class _Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    def __init__(self, rows: list[dict[str, list[int]]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def _theirs(loaded: LoadedModel, config: LoraTrainingConfig, examples: Sequence[TrainingExample]) -> float:
    pad: Any = loaded.tokenizer.pad_token_id
    collator = Collator(Renderer(loaded.tokenizer).token_ids, pad)
    rows = []
    for encoded in map(collator.encode, examples):
        ids = [*encoded.prompt, *encoded.completion]
        rows.append({"input_ids": ids, "labels": [-100] * len(encoded.prompt) + list(encoded.completion)})

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in batch)
        padded = {"input_ids": pad, "labels": -100, "attention_mask": 0}
        full = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in batch]
        return {
            key: torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in full])
            for key, fill in padded.items()
        }

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - any number will do
        target_modules=target_modules(loaded.model),
    )
    model = get_peft_model(loaded.model, settings)  # pyright: ignore[reportArgumentType]
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=config.batch_size,
                num_train_epochs=1,
                learning_rate=config.learning_rate,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                remove_unused_columns=False,
                use_cpu=loaded.device.type == "cpu",
                logging_strategy="no",
            )
            trainer = Trainer(model=model, args=options, train_dataset=_Rows(rows), data_collator=collate)
            started = time.perf_counter()
            trainer.train()
            return len(rows) / (time.perf_counter() - started)
    finally:
        model.unload()  # pyright: ignore[reportCallIssue]


if __name__ == "__main__":
    main()
