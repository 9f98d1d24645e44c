"""leakmech: measure, diagnose and mitigate expression leakage in language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leakmech.annotation.exporting import export_annotation
    from leakmech.annotation.importing import import_annotation
    from leakmech.benchmark import bench
    from leakmech.comparison import Comparison, compare
    from leakmech.data_build import build_aexl
    from leakmech.datasets.samples import load_dataset
    from leakmech.diagnosis.pipeline import diagnose
    from leakmech.interventions.control_vectors import export_control_vector
    from leakmech.interventions.files import load_interventions, save_interventions
    from leakmech.interventions.fold import fold
    from leakmech.interventions.hooks import apply
    from leakmech.interventions.types import (
        AblateDirection,
        AblateHeads,
        AblateNeurons,
        DampenAttention,
        Intervention,
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
    from leakmech.mitigation.compare import MitigationComparison, evaluate_mitigations
    from leakmech.mitigation.lora import merge_lora, train_lora
    from leakmech.mitigation.selection import mitigate
    from leakmech.mitigation.types import Mitigation
    from leakmech.models.load import load_model
    from leakmech.power_analysis import power
    from leakmech.rescoring import score
    from leakmech.runs.directory import BenchResult, load_result
    from leakmech.scoring.expression import load_estimator
    from leakmech.training.settings import LoraTrainingConfig

__version__ = "0.1.0"
__all__ = [
    "AblateDirection",
    "AblateHeads",
    "AblateNeurons",
    "BenchResult",
    "Comparison",
    "DampenAttention",
    "Direction",
    "Intervention",
    "LoraTrainingConfig",
    "Mitigation",
    "MitigationComparison",
    "ModulateCircuit",
    "Probe",
    "PromptSpans",
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
    "evaluate_mitigations",
    "export_annotation",
    "export_control_vector",
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
    "power",
    "save_interventions",
    "score",
    "sentiment_directions",
    "train_lora",
]

_HOMES = {
    "mitigate": "leakmech.mitigation.selection",
    "evaluate_mitigations": "leakmech.mitigation.compare",
    "MitigationComparison": "leakmech.mitigation.compare",
    "Mitigation": "leakmech.mitigation.types",
    "AblateDirection": "leakmech.interventions.types",
    "AblateHeads": "leakmech.interventions.types",
    "AblateNeurons": "leakmech.interventions.types",
    "BenchResult": "leakmech.runs.directory",
    "Comparison": "leakmech.comparison",
    "DampenAttention": "leakmech.interventions.types",
    "Direction": "leakmech.mechanism.directions.direction",
    "attribute": "leakmech.mechanism.attribution.gradients",
    "Intervention": "leakmech.interventions.types",
    "ModulateCircuit": "leakmech.interventions.types",
    "Probe": "leakmech.interventions.types",
    "PromptSpans": "leakmech.interventions.types",
    "ScaleHeads": "leakmech.interventions.types",
    "ScaleNeurons": "leakmech.interventions.types",
    "Steer": "leakmech.interventions.types",
    "apply": "leakmech.interventions.hooks",
    "LoraTrainingConfig": "leakmech.training.settings",
    "bench": "leakmech.benchmark",
    "build_aexl": "leakmech.data_build",
    "cache_activations": "leakmech.mechanism.activations.cache",
    "compare": "leakmech.comparison",
    "diagnose": "leakmech.diagnosis.pipeline",
    "export_annotation": "leakmech.annotation.exporting",
    "export_control_vector": "leakmech.interventions.control_vectors",
    "fold": "leakmech.interventions.fold",
    "import_annotation": "leakmech.annotation.importing",
    "load_activations": "leakmech.mechanism.activations.store",
    "load_dataset": "leakmech.datasets.samples",
    "load_direction": "leakmech.mechanism.directions.direction",
    "load_estimator": "leakmech.scoring.expression",
    "load_interventions": "leakmech.interventions.files",
    "load_model": "leakmech.models.load",
    "load_result": "leakmech.runs.directory",
    "merge_lora": "leakmech.mitigation.lora",
    "power": "leakmech.power_analysis",
    "save_interventions": "leakmech.interventions.files",
    "score": "leakmech.rescoring",
    "sentiment_directions": "leakmech.mechanism.sentiment",
    "train_lora": "leakmech.mitigation.lora",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import leakmech`` and ``leakmech --help`` stay instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'leakmech' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
