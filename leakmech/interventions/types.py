"""The kinds of interventions, by name."""

from leakmech.interventions.added import AddToComponents
from leakmech.interventions.angular import AngularSteering
from leakmech.interventions.attention_edits import DampenAttention
from leakmech.interventions.base import AttentionEdit, Edit, Intervention, Probe, interventions_key
from leakmech.interventions.component_edits import AblateHeads, AblateNeurons, ModulateCircuit, ScaleHeads, ScaleNeurons
from leakmech.interventions.positions import PromptSpans, RowPositions
from leakmech.interventions.query_maps import MapQueries
from leakmech.interventions.steering import Steer
from leakmech.interventions.stream_edits import AblateDirection
from leakmech.interventions.sublayer_maps import MapSublayer

__all__ = [
    "AblateDirection",
    "AblateHeads",
    "AblateNeurons",
    "AddToComponents",
    "AngularSteering",
    "AttentionEdit",
    "DampenAttention",
    "Edit",
    "Intervention",
    "MapQueries",
    "MapSublayer",
    "ModulateCircuit",
    "Probe",
    "PromptSpans",
    "RowPositions",
    "ScaleHeads",
    "ScaleNeurons",
    "Steer",
    "interventions_key",
]
