"""Leakage as tasks of inspect_ai: ``leakmech/hexl`` and ``leakmech/aexl``.

    inspect eval leakmech/hexl --model openai/… -T estimator=vader --limit 40

A sample is one prompt, its K answers are epochs (``--epochs``), and each epoch has a seed of its own, which providers
that take a seed honour. The score of an epoch is its text; a reducer keeps the texts of all epochs, and one metric
makes every number of them (:mod:`leakmech.integrations.numbers`). inspect_ai imports this module by its entry point,
and nothing else in leakmech does: the decorators need inspect_ai as the module is read.
"""

from __future__ import annotations

from typing import Any

from leakmech.core.errors import DatasetError, UsageError

try:
    from inspect_ai import Epochs, Task, task  # pyright: ignore[reportMissingImports]
    from inspect_ai.dataset import MemoryDataset, Sample  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
    )
    from inspect_ai.scorer import (  # pyright: ignore[reportMissingImports]
        Metric,
        SampleScore,
        Score,
        Scorer,
        ScoreReducer,
        Target,
        Value,
        metric,
        score_reducer,
        scorer,
    )
    from inspect_ai.solver import (  # pyright: ignore[reportMissingImports]
        Generate,
        Solver,
        TaskState,
        solver,
    )
except ImportError as error:
    raise UsageError(f"leakmech's tasks need inspect_ai ({error}); pip install 'leakmech[harness]'") from error

from leakmech.core.seeds import stable_hash
from leakmech.integrations.numbers import (
    AEXL_FILE,
    GENERATIONS,
    Answers,
    leakage_numbers,
    no_numbers,
    settings_text,
    task_prompts,
    task_settings,
)
from leakmech.prompts.render import DEFAULT_SYSTEM
from leakmech.studies.benchmark.harness_logs import SETTINGS

_SEED_BITS = 31  # what every provider takes


@task
def hexl(
    dataset: str = "hexl",
    generations: int = GENERATIONS,
    seed: int = 0,
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    estimator: str = "embedded",
    cleaning: str = "echo-free",
) -> Task:
    """Expression leakage on HEXL-style samples.

    Parameters
    ----------
    dataset
        Samples: a built-in name, or a JSONL / CSV file.
    generations
        Answers to a prompt (K): the epochs.
    seed
        Seed of answers and intervals.
    system
        Text of the system message; ``null`` for none.
    instruction, estimator, cleaning
        Settings of ``leakmech score``.

    Raises
    ------
    UsageError
        A name, file or value is wrong.
    """
    scoring = {"seed": seed, "instruction": instruction, "estimator": estimator, "cleaning": cleaning}
    return _leakage_task({"dataset": dataset, **scoring}, generations=generations, system=system)


@task
def aexl(
    dataset: str = AEXL_FILE,
    generations: int = GENERATIONS,
    seed: int = 0,
    system: str | None = DEFAULT_SYSTEM,
    instruction: str = "none",
    estimator: str = "embedded",
    cleaning: str = "echo-free",
) -> Task:
    """Expression leakage on samples from a corpus: `dataset` is a file of ``leakmech data build-aexl``.

    The other parameters are those of :func:`hexl`.
    """
    scoring = {"seed": seed, "instruction": instruction, "estimator": estimator, "cleaning": cleaning}
    return _leakage_task({"dataset": dataset, **scoring}, generations=generations, system=system)


def _leakage_task(given: dict[str, Any], *, generations: int, system: str | None) -> Task:
    config = task_settings(given, where="leakmech's task of inspect_ai")
    settings = settings_text(config)
    samples = [
        Sample(
            id=f"{prompt.sample}/{prompt.condition}",
            input=[*([ChatMessageSystem(content=system)] if system else []), ChatMessageUser(content=prompt.text)],
            metadata={"sample": prompt.sample, "condition": prompt.condition},
        )
        for prompt in task_prompts(config)
    ]
    return Task(
        dataset=MemoryDataset(samples, name=config.dataset),
        solver=seeded_completion(config.seed),
        scorer=answers(),
        metrics=[leakage(settings)],
        epochs=Epochs(generations, all_epochs()),
        config=GenerateConfig(temperature=1.0, top_p=0.9, top_k=50, max_tokens=128),
        metadata={SETTINGS: settings},
    )


@solver
def seeded_completion(seed: int) -> Solver:
    """Ask once, with a seed that depends on `seed`, prompt and epoch."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await generate(state, seed=stable_hash(seed, state.sample_id, state.epoch) % 2**_SEED_BITS)

    return solve


@metric
def leakage(settings: str) -> Metric:
    """Every number of the answers, each under its name; NaN for no answers."""

    def compute(scores: list[SampleScore]) -> Value:
        try:
            return dict(leakage_numbers(tuple(_answers(score, settings) for score in scores)))
        except DatasetError:  # inspect_ai asks from the first answers on, and once of nothing to learn the names
            return no_numbers()

    return compute


@scorer(metrics=[])
def answers() -> Scorer:
    """The text of each epoch, which the metric :func:`leakage` makes numbers of."""

    async def score(state: TaskState, target: Target) -> Score:  # noqa: ARG001 (no answer is right or wrong)
        return Score(value=state.output.completion, metadata={"epochs": [state.epoch]})

    return score


@score_reducer
def all_epochs() -> ScoreReducer:
    """Keep the texts of all epochs of a sample, in their order."""

    def reduce(scores: list[Score]) -> Score:
        by_epoch = sorted((score.metadata["epochs"][0], score.as_str()) for score in scores)
        return Score(value=[text for _, text in by_epoch], metadata={"epochs": [epoch for epoch, _ in by_epoch]})

    return reduce


def _answers(score: SampleScore, settings: str) -> Answers:
    """The answers to one prompt; an epoch that failed leaves a gap."""
    if not isinstance(score.score.value, list):
        raise UsageError("leakmech: needs the answers of all epochs; leave out --epochs-reducer")
    texts = dict(zip(score.score.metadata["epochs"], score.score.value, strict=True))
    about = score.sample_metadata
    by_generation = tuple(texts.get(epoch) for epoch in range(1, max(texts) + 1))
    return Answers(about["sample"], about["condition"], by_generation, settings)
