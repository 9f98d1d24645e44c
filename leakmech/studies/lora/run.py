"""Train a LoRA adapter against expression leakage, from a configuration to a folder that any PEFT program can load.

Order on disk: ``run.json`` and ``examples.jsonl`` first, then ``train.jsonl`` grows step by step beside
``checkpoints/``, then the adapter with its card, and ``summary.json`` last: its presence says that the run is complete.
The same call on the same folder goes on where it stopped.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leakmech.core.errors import DatasetError, ModelError
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.core.store import atomic_path, content_hash, slug
from leakmech.core.yaml_files import read_yaml
from leakmech.datasets.facts import facts_to_choose_on, load_facts
from leakmech.datasets.relevant_pairs import archive_pairs
from leakmech.datasets.samples import PromptSet, load_dataset, pooled
from leakmech.mechanism.directions.direction import load_direction
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, given_name, load_model
from leakmech.models.quiet import quiet
from leakmech.prompts.dates import dated
from leakmech.prompts.render import Prompting, Renderer
from leakmech.runs.directory import SCRIPT, RunDirectory, RunRecord, began
from leakmech.runs.run import Run, run_path
from leakmech.studies.lora.candidates import TrainingSources
from leakmech.studies.lora.cost import estimate
from leakmech.studies.lora.evaluation import Pairing, TuneSelectivity
from leakmech.studies.lora.overlap_check import refuse_shared_prompts
from leakmech.studies.lora.result import LoraResult
from leakmech.studies.lora.sampling import build_training_examples
from leakmech.training.adapter import adapted, component_layers, target_modules
from leakmech.training.card import adapter_card, base_description, data_description, write_card
from leakmech.training.checkpoints import FOLDER, Checkpoints
from leakmech.training.examples import (
    Collator,
    TrainingExample,
    check_examples,
    load_examples,
    save_examples,
)
from leakmech.training.objectives import Losses
from leakmech.training.preventative import PreventativeSteering
from leakmech.training.settings import LoraTrainingConfig
from leakmech.training.trainer import Evaluate, Trainer

_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def train_lora(
    config: LoraTrainingConfig | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    *,
    model: LoadedModel | str | Path | None = None,
    examples: Sequence[TrainingExample] | int | None = None,
    evaluate: Evaluate | None = None,
    cache_dir: Path | None = None,
    progress: Shown = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> LoraResult:
    """Train an adapter, or go on with the training in `out`.

    Parameters
    ----------
    config
        Settings of the training: a YAML file, a dict, or what :meth:`LoraTrainingConfig.parse` made of them.
    out
        The folder of the adapter, its log and its checkpoints; default ``runs/adapter-<model>-seed<seed>``.
    model
        A name, or a loaded model, to train on instead of the configured one; a loaded one is left as it was.
    examples
        Training examples instead of the configured data, or how many are made of it (the setting of that name).
    evaluate
        Function that is called with the PEFT model every ``evaluate_every`` steps; higher is better. The adapter with
        the highest score is kept, and training stops after ``patience`` evaluations without a new best. By default the
        selectivity on ``config.tune``, if that is set.
    cache_dir
        Where completions are kept; by default the user's cache.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    say
        Takes a line with the estimated time before the training starts; none is made by default.
    **settings
        Fields of :class:`LoraTrainingConfig`, which go before those of `config`.

    Returns
    -------
    LoraResult
        ``.path`` (the adapter's folder), ``.card`` (dict), ``.to_frame()`` (one row a step).

    Raises
    ------
    UsageError
        A setting, name, file or sample is wrong, or `out` holds another run; nothing has been written.
    TrainingError
        A loss is NaN or infinite (the last good checkpoint is kept), or the base weights were changed.
    InterruptedRunError
        Ctrl-C or SIGTERM; the same call goes on.
    """
    progress = shown_progress(progress)
    from accelerate import Accelerator

    given = None if isinstance(examples, int | np.integer) else examples
    if examples is not None and given is None:
        settings = {**settings, "examples": examples}
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings = {**settings, "model": str(model) if by_name else given_name(model)}
    config = _parsed(config, settings)
    out = run_path(out, f"adapter-{slug(config.model)}-seed{config.seed}")
    config = config if by_name else _named_as_before(config, out)
    accelerator = Accelerator(cpu=config.device == "cpu")
    Run.check(out, config, lock=accelerator.is_main_process)
    with dated(began(out)):
        loaded: Any = model
        if by_name:
            device = accelerator.device if config.device == "auto" else config.device
            loaded = load_model(config.model, device=device, dtype=config.dtype, revision=config.revision)
        in_script = not by_name or given is not None or evaluate is not None
        training = _LoraTraining(config, out, loaded, accelerator, progress, say)
        return training.complete(given, evaluate, cache_dir, in_script=in_script)


def _parsed(
    given: LoraTrainingConfig | Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]
) -> LoraTrainingConfig:
    """Settings from wherever they come; what was built without parse() is checked too."""
    where = "train_lora"
    if isinstance(given, LoraTrainingConfig):
        given = given.model_dump()
    elif isinstance(given, str | Path):
        where, given = str(given), read_yaml(Path(given))
    return LoraTrainingConfig.parse({**(given or {}), **settings}, where=where)


def _named_as_before(config: LoraTrainingConfig, out: Path) -> LoraTrainingConfig:
    """The settings with the name that a script's run in `out` gives its model: early versions kept the default."""
    record = RunRecord.find(out)
    if record is None or not record.values.get(SCRIPT):
        return config
    return config.model_copy(update={"model": record.config.get("model", config.model)})


@dataclass(frozen=True)
class _LoraTraining:
    """One training with everything loaded."""

    config: LoraTrainingConfig
    out: Path
    loaded: LoadedModel
    accelerator: Any
    progress: Progress
    say: Callable[[str], None] | None = None

    def complete(
        self,
        given: Sequence[TrainingExample] | None,
        evaluate: Evaluate | None,
        cache_dir: Path | None,
        *,
        in_script: bool,
    ) -> LoraResult:
        """Do what is missing and return the result."""
        config, loaded, main = self.config, self.loaded, self.accelerator.is_main_process
        modules = self._modules()
        losses = self._losses()
        evaluation = [load_dataset(name) for name in config.evaluation]
        number = config.examples if given is None and config.examples_file is None else None
        if number is not None:  # else it is known when the examples are there
            self._say_cost(number)
        if evaluate is None and config.tune is not None:
            evaluate = TuneSelectivity(loaded, config, self.out / "tune", self._shown)
        examples, sources = self._examples(given, evaluation, cache_dir)
        self._refuse_unfit(examples, losses)
        data = data_description(
            examples, sources=sources, evaluation={dataset.name: dataset.content_hash for dataset in evaluation}
        )
        base = base_description(loaded)
        with self._open(base, data, losses, modules, {SCRIPT: True} if in_script else {}) as run:
            if run.finished:
                return LoraResult.load(self.out)
            if main:
                save_examples(self.out / "examples.jsonl", examples)
            if number is None:
                self._say_cost(len(examples))
            with run.interruptible(Checkpoints(self.out / FOLDER).good):
                if main and isinstance(evaluate, TuneSelectivity):
                    evaluate.measure_base()
                with adapted(loaded, config, modules) as model:
                    trained = self._trainer(model, examples, losses, evaluate).run()
                    if main:
                        _save_adapter(model, self.out)
            if main:
                card = adapter_card(base, data, config, trained, modules=len(modules))
                write_card(self.out, card)
                form = self._renderer.resolved_form
                about = {
                    "model": loaded.name, "prompt_form": form, "data": card["data"], "results": card["results"],
                    "decoding": config.decoding.resolved(loaded.model).to_dict(),
                }  # fmt: skip
                run.finish(about, result=LoraResult)
            self.accelerator.wait_for_everyone()
            return LoraResult.load(self.out)

    # -- preparing -----------------------------------------------------------------------------------------------------

    @property
    def _shown(self) -> Progress:
        """Of several processes the first one draws progress."""
        return self.progress if self.accelerator.is_main_process else no_progress

    def _say_cost(self, n_examples: int) -> None:
        """Say how long so many examples take, unless they have been trained on."""
        if self.say is not None and self.accelerator.is_main_process and not RunDirectory(self.out).is_complete():
            self.say(estimate(self.config, n_examples, self.loaded))

    def _modules(self) -> list[str]:
        config = self.config
        if hasattr(self.loaded.model, "peft_config"):
            raise ModelError(f"{self.loaded.name}: has an adapter already; merge it first (leakmech merge-lora)")
        components = config.components and component_layers(
            config.components.diagnosis,
            top_heads=config.components.heads,
            top_neurons=config.components.neurons,
            method=config.components.method,
        )
        return target_modules(self.loaded.model, config.targets, layers=config.layers, components=components)

    @property
    def _collator(self) -> Collator:
        pad: Any = self.loaded.tokenizer.pad_token_id
        embeddings: Any = self.loaded.model.get_input_embeddings()
        return Collator(
            self._renderer.token_ids,
            pad,
            max_length=self.config.max_length,
            padding=self.config.padding,
            vocabulary=int(embeddings.weight.shape[0]),
        )

    def _refuse_unfit(self, examples: Sequence[TrainingExample], losses: Losses) -> None:
        """Refuse, before anything is written, examples that nothing is learnt from or that cannot be read."""
        kinds = {example.kind for example in examples}
        if kinds.isdisjoint(losses.kinds):
            raise DatasetError(
                f"no objective with a weight applies to {' or '.join(sorted(kinds))} examples, all there are; "
                "give 'anchor' or 'contrastive' a weight"
            )
        collator = self._collator
        for example in examples:
            collator.encode(example)

    def _losses(self) -> Losses:
        config, model_hash = self.config, self.loaded.weights_hash
        layout = layout_of(self.loaded.model)
        for layer in config.activation_layers or ():
            layout.block(layer)
        steering = config.steering and PreventativeSteering(
            load_direction(config.steering.direction, model_hash=model_hash), config.steering.strength
        )
        return Losses(
            weights=config.objectives.model_dump(),
            layers=config.activation_layers,
            directions=[load_direction(path, model_hash=model_hash) for path in config.directions],
            set_point=config.set_point,
            steering=steering,
        )

    @property
    def _renderer(self) -> Renderer:
        return Renderer(self.loaded.tokenizer, Prompting.of(self.config))

    def _examples(
        self, given: Sequence[TrainingExample] | None, evaluation: Sequence[PromptSet], cache_dir: Path | None
    ) -> tuple[list[TrainingExample], dict[str, str]]:
        """The examples, and the hashes of what they were made from."""
        config = self.config
        if given is not None or config.examples_file is not None:
            examples = list(given) if given is not None else load_examples(Path(config.examples_file or ""))
            check_examples(examples)
            refuse_shared_prompts(examples, evaluation, self._renderer)
            return examples, {}
        sources = training_sources(config, evaluation, self._shown)
        with self.accelerator.main_process_first():
            examples = build_training_examples(
                self.loaded,
                sources,
                shares=config.shares.model_dump(),
                n_examples=config.examples,
                completions=config.completions,
                polarities=config.polarities,
                evaluation=evaluation,
                max_overlap=config.max_overlap,
                renderer=self._renderer,
                decoding=config.decoding.resolved(self.loaded.model),
                seed=config.seed,
                batch_size=config.generation_batch_size,
                cache_dir=cache_dir,
                progress=self.progress,
            )
        return examples, sources.hashes()

    def _open(
        self,
        base: dict[str, Any],
        data: dict[str, Any],
        losses: Losses,
        modules: Sequence[str],
        facts: dict[str, Any],
    ) -> Run:
        """The first process begins the run and holds it for all of them."""
        fingerprint = {
            "base": base["weights_hash"],
            "data": data["examples_hash"],
            "processes": str(self.accelerator.num_processes),
        }
        steering = [] if losses.steering is None else [losses.steering.direction]
        named = {
            "directions": [one.vector.numpy().tobytes() for one in (*losses.directions, *steering)],
            "modules": sorted(modules) if self.config.components else [],
        }
        record = RunRecord.find(self.out)
        for name, files in named.items():  # what files that are named hold; early versions did not note it
            if files and (record is None or name in record.fingerprint):
                fingerprint[name] = content_hash(*files)
        main = self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            return Run.open(self.out, self.config, fingerprint, lock=main, base=base, data=data, **facts)

    # -- training ------------------------------------------------------------------------------------------------------

    def _trainer(
        self, model: Any, examples: Sequence[TrainingExample], losses: Losses, evaluate: Evaluate | None
    ) -> Trainer:
        return Trainer(
            model,
            examples,
            self.config,
            losses,
            self._collator,
            self.out,
            self.accelerator,
            evaluate=evaluate,
            progress=self._shown,
        )


def training_sources(
    config: LoraTrainingConfig, evaluation: Sequence[PromptSet], progress: Progress = no_progress
) -> TrainingSources:
    """What examples are made from: the configured data sets, their exchanged pairs, and pairs of the archive."""
    pairing, relevant, mismatched = Pairing.of(config, progress), [], []
    if config.relevant:
        samples = pooled([_to_fit(load_dataset(name)) for name in config.relevant])
        relevant = [pairing.relevant(samples)]
        mismatched = [pairing.irrelevant(samples, number=number) for number in range(config.mismatched)]
    return TrainingSources(
        irrelevant=_to_fit(load_dataset(config.irrelevant)) if config.irrelevant else None,
        relevant=relevant,
        mismatched=mismatched,
        pairs=archive_pairs(exclude=evaluation, max_overlap=config.max_overlap, seed=config.seed)
        if config.relevant_pairs
        else (),
        facts=facts_to_choose_on(load_facts(config.facts)) if config.shares.facts else (),
        paired=config.paired,
        arrangements=config.arrangements,
        teacher=config.teacher if config.shares.teacher else None,
    )


def _to_fit(samples: PromptSet) -> PromptSet:
    """The samples marked ``fit``, if there are any: the others are for choosing."""
    return samples.split("fit") if any(sample.split == "fit" for sample in samples) else samples


def _save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as PEFT does, each file whole or absent, its configuration last."""
    from leakmech.models.gated import mark_gated  # here: PEFT takes two seconds to import

    with tempfile.TemporaryDirectory() as temporary:
        with quiet():
            model.save_pretrained(temporary, safe_serialization=True, save_embedding_layers=False)
        if model.peft_config["default"].to_dict().get("gate_bias") is not None:
            mark_gated(Path(temporary))
        for name in _ADAPTER_FILES:
            with atomic_path(folder / name) as path:
                shutil.copyfile(Path(temporary) / name, path)
