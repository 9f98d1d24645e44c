"""The card beside an adapter: which model it is for, what it was trained on, how, and what came out.

``adapter_card.json`` is for programs (:func:`leakmech.load_model` refuses an adapter whose base has other weights),
``README.md`` says the same to people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leakmech.core.hub_cards import front_matter, hub_id
from leakmech.core.provenance import environment
from leakmech.core.store import write_json, write_text
from leakmech.models.hashes import hash_base
from leakmech.models.load import LoadedModel
from leakmech.models.reading import ADAPTER_CARD
from leakmech.training.examples import TrainingExample, examples_hash
from leakmech.training.settings import LoraTrainingConfig
from leakmech.training.trainer import Trained

FORMAT_VERSION = 1


def base_description(loaded: LoadedModel) -> dict[str, Any]:
    """Identify the base model; ``base_hash`` is the same in float32 and bfloat16."""
    return {**loaded.info(), "base_hash": hash_base(loaded.model)}


def data_description(
    examples: Sequence[TrainingExample], *, sources: Mapping[str, str], evaluation: Mapping[str, str]
) -> dict[str, Any]:
    """Collect numbers and hashes of the examples, and hashes of what they were made from and kept apart from."""
    return {
        "examples": len(examples),
        "kinds": dict(Counter(example.kind for example in examples)),
        "examples_hash": examples_hash(examples),
        "sources": dict(sources),
        "disjoint_from": dict(evaluation),
    }


def adapter_card(
    base: Mapping[str, Any], data: Mapping[str, Any], config: LoraTrainingConfig, trained: Trained, *, modules: int
) -> dict[str, Any]:
    """Make the card, JSON-ready."""
    frame = trained.to_frame()
    return {
        "format_version": FORMAT_VERSION,
        "kind": "adapter",
        "base": dict(base),
        "data": dict(data),
        "settings": config.identity(),
        "results": {
            "steps": trained.state.step,
            "kept_step": trained.step,
            "stopped_early": trained.stopped_early,
            "adapted_modules": modules,
            "first_loss": float(frame["loss"].iloc[0]),
            "last_loss": float(frame["loss"].iloc[-1]),
            "evaluations": [asdict(evaluation) for evaluation in trained.state.evaluations],
            "examples_per_second": round(trained.examples_per_second, 3),
            "peak_memory_bytes": trained.peak_memory_bytes,
            "base_weights_unchanged": True,  # a training that changed them has raised
        },
        "environment": environment(),
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card as JSON and as text."""
    write_text(folder / "README.md", card_markdown(card))
    write_json(folder / ADAPTER_CARD, card)


def card_markdown(card: Mapping[str, Any]) -> str:
    """Write the card as text."""
    base, data, settings, results = (card[part] for part in ("base", "data", "settings", "results"))
    weights = {name: weight for name, weight in settings["objectives"].items() if weight}
    tags = ["lora", "leakmech", "expression-leakage"]
    head = {"library_name": "peft", "base_model": hub_id(base["name"]), "tags": tags}
    lines = [
        front_matter(head),
        f"# Adapter against expression leakage for {base['name']}",
        "",
        "Trained by leakmech so that affect which has nothing to do with the request does not colour the answer.",
        "",
        "| | |",
        "|---|---|",
        f"| Base model | {base['name']}, {base['architecture']}, hash {base['base_hash']} |",
        f"| Trained in | {base['dtype']} on {base['device']} |",
        f"| Adapter | rank {settings['rank']}, alpha {settings['alpha']:g}, {results['adapted_modules']} modules |",
        f"| Objectives | {_listed(weights)} |",
        f"| Examples | {data['examples']:,}: {_listed(data['kinds'])}; hash {data['examples_hash']} |",
        f"| Made from | {_listed(data['sources']) or 'a file of examples'} |",
        f"| Shares no text with | {_listed(data['disjoint_from']) or 'nothing was checked'} |",
        f"| Steps | {results['steps']:,}, of which {results['kept_step']:,} is kept |",
        f"| Loss | {results['first_loss']:.4f} in the first step, {results['last_loss']:.4f} in the last |",
        f"| Evaluations | {_evaluations(results['evaluations'])} |",
        "| Base weights | unchanged, compared by hash before and after |",
        "",
        "Load it with `leakmech.load_model(folder)`, or put it on the base with `leakmech bench --adapter folder`.",
        f"Every setting and version is in {ADAPTER_CARD}.",
        "",
    ]
    return "\n".join(lines)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['score']:.4f} at step {one['step']}" for one in evaluations) or "none"
