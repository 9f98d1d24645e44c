"""leakmech: measure, diagnose and mitigate expression leakage in language models.

    import leakmech
    leakmech.quick("The garden next door looks", "Our flight was awful.")     # seconds: is there anything to see?
    model = leakmech.load_model("embedded:smollm2-135m-instruct")             # or a hub id, a folder, your own object
    result = leakmech.bench(model, prompt_form="plain", limit=12, out="runs/try")
    result.headline; result.to_markdown(); result.scores; result.report()     # what was found, as text, rows, page
    samples = leakmech.load_dataset("hexl"); samples[0]; samples[:12]         # stems and their injections
    fitted = leakmech.sentiment_directions(model, fit=samples[:30], test=samples[30:])
    heads = leakmech.attribute(model, samples[:6], target=fitted.chosen).heads_frame()
    without = leakmech.AblateDirection.of(fitted.chosen, set_point="control")  # or Steer.along, AblateHeads([(21, 1)])
    changed = leakmech.bench(model, interventions=without, prompt_form="plain", limit=12, out="runs/without")
    leakmech.compare([result.path, changed.path])                             # with intervals and tests
    leakmech.mitigate(out="runs/mitigations")                                 # everything that is known to help

``dir(leakmech)`` lists all there is; ``help(leakmech.bench)`` says what it takes and returns. Runs are directories: the
same call with the same ``out`` goes on where it stopped, and ``leakmech.load_result(path)`` reads what is finished.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakmech.datasets.samples import load_dataset
    from leakmech.interventions.control_vectors import export_control_vector, export_steering_vector
    from leakmech.interventions.files import load_interventions, save_interventions
    from leakmech.interventions.fold import fold
    from leakmech.interventions.hooks import apply
    from leakmech.interventions.types import (
        AblateDirection,
        AblateHeads,
        AblateNeurons,
        AddToComponents,
        AngularSteering,
        DampenAttention,
        Intervention,
        MapQueries,
        MapSublayer,
        ModulateCircuit,
        Probe,
        PromptSpans,
        ScaleHeads,
        ScaleNeurons,
        Steer,
    )
    from leakmech.mechanism.activations.cache import cache_activations
    from leakmech.mechanism.activations.store import load_activations
    from leakmech.mechanism.attribution.gradients import attribute
    from leakmech.mechanism.directions.direction import Direction, load_direction
    from leakmech.mechanism.sentiment import sentiment_directions
    from leakmech.models.load import load_model
    from leakmech.prompts.render import Prompting
    from leakmech.scoring.expression import load_estimator
    from leakmech.studies.aexl.run import build_aexl
    from leakmech.studies.annotation.exporting import export_annotation
    from leakmech.studies.annotation.importing import import_annotation
    from leakmech.studies.benchmark.comparison import Comparison
    from leakmech.studies.benchmark.power import power
    from leakmech.studies.benchmark.rescoring import score
    from leakmech.studies.benchmark.result import BenchResult
    from leakmech.studies.benchmark.run import bench
    from leakmech.studies.diagnosis.run import diagnose
    from leakmech.studies.emotion_circuits.result import EmotionCircuits
    from leakmech.studies.emotion_circuits.run import emotion_circuits
    from leakmech.studies.leaderboard.result import Leaderboard
    from leakmech.studies.lora.merging import merge_lora
    from leakmech.studies.lora.run import train_lora
    from leakmech.studies.mitigation.evaluation import MitigationComparison, evaluate_mitigations
    from leakmech.studies.mitigation.mitigation import Mitigation
    from leakmech.studies.mitigation.run import mitigate
    from leakmech.studies.persona_leakage.result import PersonaLeakage
    from leakmech.studies.persona_leakage.run import persona_leakage
    from leakmech.studies.quick.result import QuickResult
    from leakmech.studies.quick.run import quick
    from leakmech.studies.results import compare, load_result
    from leakmech.studies.sweep.run import sweep
    from leakmech.training.settings import LoraTrainingConfig

__version__ = "0.1.0"
__all__ = [
    "AblateDirection",
    "AblateHeads",
    "AblateNeurons",
    "AddToComponents",
    "AngularSteering",
    "BenchResult",
    "Comparison",
    "DampenAttention",
    "Direction",
    "EmotionCircuits",
    "Intervention",
    "Leaderboard",
    "LoraTrainingConfig",
    "MapQueries",
    "MapSublayer",
    "Mitigation",
    "MitigationComparison",
    "ModulateCircuit",
    "PersonaLeakage",
    "Probe",
    "PromptSpans",
    "Prompting",
    "QuickResult",
    "ScaleHeads",
    "ScaleNeurons",
    "Steer",
    "apply",
    "attribute",
    "bench",
    "build_aexl",
    "cache_activations",
    "compare",
    "diagnose",
    "emotion_circuits",
    "evaluate_mitigations",
    "export_annotation",
    "export_control_vector",
    "export_steering_vector",
    "fold",
    "import_annotation",
    "load_activations",
    "load_dataset",
    "load_direction",
    "load_estimator",
    "load_interventions",
    "load_model",
    "load_result",
    "merge_lora",
    "mitigate",
    "persona_leakage",
    "power",
    "quick",
    "save_interventions",
    "score",
    "sentiment_directions",
    "sweep",
    "train_lora",
]

_HOMES = {
    "mitigate": "leakmech.studies.mitigation.run",
    "evaluate_mitigations": "leakmech.studies.mitigation.evaluation",
    "MitigationComparison": "leakmech.studies.mitigation.evaluation",
    "Mitigation": "leakmech.studies.mitigation.mitigation",
    "AblateDirection": "leakmech.interventions.types",
    "AblateHeads": "leakmech.interventions.types",
    "AblateNeurons": "leakmech.interventions.types",
    "AddToComponents": "leakmech.interventions.types",
    "AngularSteering": "leakmech.interventions.types",
    "BenchResult": "leakmech.studies.benchmark.result",
    "Comparison": "leakmech.studies.benchmark.comparison",
    "DampenAttention": "leakmech.interventions.types",
    "Direction": "leakmech.mechanism.directions.direction",
    "attribute": "leakmech.mechanism.attribution.gradients",
    "Intervention": "leakmech.interventions.types",
    "MapQueries": "leakmech.interventions.types",
    "MapSublayer": "leakmech.interventions.types",
    "ModulateCircuit": "leakmech.interventions.types",
    "Probe": "leakmech.interventions.types",
    "PromptSpans": "leakmech.interventions.types",
    "Prompting": "leakmech.prompts.render",
    "ScaleHeads": "leakmech.interventions.types",
    "ScaleNeurons": "leakmech.interventions.types",
    "Steer": "leakmech.interventions.types",
    "apply": "leakmech.interventions.hooks",
    "Leaderboard": "leakmech.studies.leaderboard.result",
    "LoraTrainingConfig": "leakmech.training.settings",
    "bench": "leakmech.studies.benchmark.run",
    "build_aexl": "leakmech.studies.aexl.run",
    "cache_activations": "leakmech.mechanism.activations.cache",
    "compare": "leakmech.studies.results",
    "diagnose": "leakmech.studies.diagnosis.run",
    "EmotionCircuits": "leakmech.studies.emotion_circuits.result",
    "emotion_circuits": "leakmech.studies.emotion_circuits.run",
    "PersonaLeakage": "leakmech.studies.persona_leakage.result",
    "persona_leakage": "leakmech.studies.persona_leakage.run",
    "export_annotation": "leakmech.studies.annotation.exporting",
    "export_control_vector": "leakmech.interventions.control_vectors",
    "export_steering_vector": "leakmech.interventions.control_vectors",
    "fold": "leakmech.interventions.fold",
    "import_annotation": "leakmech.studies.annotation.importing",
    "load_activations": "leakmech.mechanism.activations.store",
    "load_dataset": "leakmech.datasets.samples",
    "load_direction": "leakmech.mechanism.directions.direction",
    "load_estimator": "leakmech.scoring.expression",
    "load_interventions": "leakmech.interventions.files",
    "load_model": "leakmech.models.load",
    "load_result": "leakmech.studies.results",
    "merge_lora": "leakmech.studies.lora.merging",
    "power": "leakmech.studies.benchmark.power",
    "QuickResult": "leakmech.studies.quick.result",
    "quick": "leakmech.studies.quick.run",
    "save_interventions": "leakmech.interventions.files",
    "score": "leakmech.studies.benchmark.rescoring",
    "sentiment_directions": "leakmech.mechanism.sentiment",
    "sweep": "leakmech.studies.sweep.run",
    "train_lora": "leakmech.studies.lora.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import leakmech`` and ``leakmech --help`` stay instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'leakmech' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, for the Tab key and ``help()``; none of them is imported by that."""
    return sorted({*globals(), *__all__})
