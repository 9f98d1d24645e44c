"""Batches with padding, and one intervention of every kind."""

import sys
from dataclasses import dataclass, replace

import pytest
import torch

from leakmech.interventions.types import (
    AblateDirection,
    AblateHeads,
    AblateNeurons,
    AddToComponents,
    AngularSteering,
    DampenAttention,
    MapQueries,
    MapSublayer,
    ModulateCircuit,
    Probe,
    PromptSpans,
    ScaleHeads,
    ScaleNeurons,
    Steer,
)

LENGTHS = (9, 24, 17)
SPANS = [
    PromptSpans(length, injection=(2, 2 + length // 3), stem=(length // 2, length - 1), key=row)
    for row, length in enumerate(LENGTHS)
]


@dataclass(frozen=True)
class Batch:
    """Prompts of different length, padded on the left."""

    ids: torch.Tensor
    mask: torch.Tensor

    @property
    def inputs(self):
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": positions}

    def extended(self, tokens):
        """With one more token a row."""
        return Batch(torch.cat([self.ids, tokens], 1), torch.cat([self.mask, torch.ones_like(tokens)], 1))

    def row(self, i):
        """One prompt alone, without padding."""
        start = int((self.mask[i] == 0).sum())
        return Batch(self.ids[i : i + 1, start:], self.mask[i : i + 1, start:])


@pytest.fixture
def batch():
    width = max(LENGTHS)
    ids = torch.randint(0, 250, (len(LENGTHS), width), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in LENGTHS])
    return Batch(ids, mask)


def logits(model, batch):
    with torch.inference_mode():
        return model(**batch.inputs).logits[:, -1]


def unit(seed, *shape):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True)


def values(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


V, LAYERS = unit(1, 32), unit(2, 2, 32)
W = torch.nn.functional.normalize(unit(3, 32) - (unit(3, 32) @ V) * V, dim=0)
HEADS = ["L0H1", "L2H3", "L0H3"]
NEURONS = ["L1N5", "L1N60", "L2N0"]


def probe(model):
    """Fires on some prompts of the batch and not on others, in every architecture."""
    return Probe(vector=V, layer=1, site="resid_pre", threshold=-1.0 if model.config.model_type == "gpt_neox" else 0.0)


def head_width(model):
    return getattr(model.config, "head_dim", None) or 8


def foldable(model):
    """Interventions that have a hook path and a fold path, with a name for each."""
    d = head_width(model)
    gemma = model.config.model_type == "gemma3_text"
    found = {
        "heads zero": AblateHeads(HEADS),
        "heads mean": AblateHeads(HEADS, method="mean", values={"all": values(4, 3, d)}),
        "heads scaled": ScaleHeads(HEADS, scales=[0.5, -1.0, 3.0]),
        "neurons zero": AblateNeurons(NEURONS),
        "neurons scaled": ScaleNeurons(NEURONS, scales=2.5),
        "circuit": ModulateCircuit(["L0H1", "L1N5", "L1.attn", "L2.mlp"], scales=[0.0, 3.0, 0.5, 2.0]),
        "add to heads": AddToComponents(HEADS, values={"heads": values(12, 3, d)}, scale=0.7),
        "steer embedding": Steer(V, layers=[0], site="resid_pre", strength=0.3, stream_norm=5.0),
    }
    if model.config.model_type in ("llama", "qwen2"):
        found["map queries"] = MapQueries(HEADS, values(10, 3, d, 2), values(11, 3, 2, d), strength=0.5)
    if gemma:
        return found
    found |= {
        "add to heads and neurons": AddToComponents(
            [*HEADS, *NEURONS], values={"heads": values(12, 3, d), "neurons": values(13, 3)}, scale=0.7
        ),
        "neurons mean": AblateNeurons(NEURONS, method="mean", values={"all": values(5, 3)}),
        "direction everywhere": AblateDirection(V, site="everywhere"),
        "direction everywhere, half": AblateDirection(V, site="everywhere", strength=0.5),
        "direction everywhere, set point": AblateDirection(V, site="everywhere", set_point=1.5),
        "direction attn_out": AblateDirection(LAYERS, layers=[0, 2], site="attn_out"),
        "direction mlp_out": AblateDirection(LAYERS, layers=[0, 2], site="mlp_out", set_point=[0.5, -1], strength=0.7),
        "steer resid_post": Steer(LAYERS, layers=[0, 2], strength=[0.3, -0.2], stream_norm=[4.0, 8.0]),
        "steer resid_pre": Steer(LAYERS, layers=[0, 2], site="resid_pre", strength=0.3, stream_norm=4.0),
        "steer attn_out": Steer(V, layers=[1], site="attn_out", strength=0.5, stream_norm=4.0),
    }
    for site in ("attn_out", "mlp_out"):
        found[f"map {site}"] = MapSublayer(
            values(8, 2, 32, 3), values(9, 2, 3, 32), layers=[0, 2], site=site, strength=0.1
        )
    if model.config.model_type != "gpt_neox":
        found["steer resid_mid"] = Steer(V, layers=[1], site="resid_mid", strength=0.5, stream_norm=4.0)
    return found


def hooks_only(model):
    """Interventions that no weights hold, with a name for each."""
    d = head_width(model)
    fires = probe(model)
    parts = {name: values(seed, 3, d) for seed, name in enumerate(("prompt", "generated", "injection"))}
    found = {
        "heads mean by class": AblateHeads(HEADS, method="mean", values=parts),
        "heads resampled": AblateHeads(HEADS, method="resample", values={"all": values(6, 7, 3, d)}),
        "neurons resampled": AblateNeurons(NEURONS, method="resample", values={"all": values(7, 7, 3)}),
        "heads zero in injection": AblateHeads(HEADS, positions="injection"),
        "direction resid_post": AblateDirection(LAYERS, layers=[0, 2]),
        "direction set point": AblateDirection(LAYERS, layers=[0, 2], site="resid_pre", set_point=2.0),
        "direction in stem": AblateDirection(V, layers=[1], positions="stem"),
        "direction, conditional": AblateDirection(LAYERS, layers=[1, 2], condition=fires),
        "steer last prompt": Steer(V, layers=[0], positions="last_prompt", strength=1.0, stream_norm=5.0),
        "add to heads, newest": AddToComponents(HEADS, values={"heads": values(12, 3, d)}, positions="newest"),
        "heads zero, newest": AblateHeads(HEADS, positions="newest"),
        "steer generated": Steer(V, layers=[0], positions="generated", strength=1.0, stream_norm=5.0),
        "steer prompt": Steer(V, layers=[0], positions="prompt", strength=1.0, stream_norm=5.0),
        "steer, conditional": Steer(V, layers=[1], strength=1.0, stream_norm=5.0, condition=fires),
        "steer generated, conditional": Steer(
            V, layers=[0], strength=1.0, stream_norm=5.0, condition=fires, positions="generated"
        ),
        "rotate by": Steer(V, layers=[1], mode="rotate_by", second=W, angle=90.0),
        "rotate to": Steer(V, layers=[1], mode="rotate_to", second=W, angle=45.0),
        "angular": AngularSteering(V, second=W, layers=[0, 2], angle=[45.0, -100.0], strength=0.7),
        "angular, adaptive": AngularSteering(V, second=W, layers=[1], adaptive=True, threshold=-0.5),
        "dampen": DampenAttention(HEADS, factor=0.2),
        "knock out": DampenAttention(["L0H0", "L0H1", "L1H2", "L2H3"], factor=0.0),
        "knock out, generated": DampenAttention(HEADS, factor=0.0, positions="generated"),
        "knock out, conditional": DampenAttention(["L1H1", "L2H2"], factor=0.0, condition=fires),
        "knock out, read ahead": DampenAttention(HEADS, factor=0.0, condition=replace(fires, ahead=True)),
        "map generated": MapSublayer(values(8, 1, 32, 3), values(9, 1, 3, 32), layers=[1], positions="generated"),
        "direction, read ahead": AblateDirection(LAYERS, layers=[0, 2], condition=replace(fires, ahead=True)),
    }
    if model.config.model_type == "llama":
        found["map queries, stem"] = MapQueries(HEADS, values(10, 3, d, 2), values(11, 3, 2, d), positions="stem")
    if model.config.model_type != "gpt_neox":
        found["direction resid_mid"] = AblateDirection(LAYERS, layers=[0, 2], site="resid_mid")
    return found


def together(model):
    """Interventions at several positions, one of every mechanism."""
    found = hooks_only(model)
    names = ("heads resampled", "steer last prompt", "steer, conditional", "dampen", "direction in stem")
    return [found[name] for name in names]


def every_kind(model):
    return foldable(model) | hooks_only(model)


@pytest.fixture
def kit():
    """Everything of this module."""
    return sys.modules[__name__]
