"""Saved interventions come back as they were, state what they mean, and are refused where they do not belong."""

import base64
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

import leakmech
from leakmech.core.errors import InterventionError
from leakmech.interventions.control_vectors import export_control_vector, export_steering_vector
from leakmech.interventions.files import load_interventions, save_interventions
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import (
    AblateDirection,
    AblateHeads,
    AblateNeurons,
    AddToComponents,
    DampenAttention,
    Intervention,
    MapQueries,
    MapSublayer,
    ModulateCircuit,
    Probe,
    ScaleHeads,
    Steer,
    interventions_key,
)
from leakmech.models.load import load_model


@pytest.fixture
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


def edited(path, change):
    """Change the description of a file."""
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def test_every_kind_survives_json_and_files(tiny_model, kit, tmp_path):
    for number, (name, intervention) in enumerate(kit.every_kind(tiny_model).items()):
        again = Intervention.from_dict(json.loads(json.dumps(intervention.to_dict())), intervention.tensors())
        assert again == intervention, name
        assert str(again) == str(intervention)
        (loaded,) = load_interventions(save_interventions(intervention, tmp_path / f"{number}.json"))
        assert loaded == intervention, name
        assert loaded.key == intervention.key


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6, exclude_min=True), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_numbers_survive_exactly(strength, norm, layer):
    steer = Steer(torch.eye(3)[1], layers=[layer], strength=strength, stream_norm=norm)
    again = Intervention.from_dict(json.loads(json.dumps(steer.to_dict())), steer.tensors())
    assert isinstance(again, Steer)
    assert (again.strengths, again.stream_norms, again.layers) == ((strength,), (norm,), (layer,))


def test_the_key_covers_every_setting_and_every_byte_of_the_tensors(kit):
    base = Steer(kit.V, layers=[1], strength=0.5, stream_norm=2.0)
    nudged = kit.V.clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(1.0))
    others = [
        replace(base, strength=0.25),
        replace(base, layers=[2]),
        replace(base, positions="stem"),
        replace(base, vectors=nudged),
        replace(base, condition=Probe(vector=kit.V, layer=0, threshold=0.0)),
    ]
    assert len({base.key, *(other.key for other in others)}) == 6
    assert interventions_key([base, others[0]]) != interventions_key([others[0], base])


def test_a_file_states_operation_site_layer_map_sign_units_and_model(loaded, kit, tmp_path):
    steer = Steer(kit.LAYERS, layers=[0, 2], strength=[0.5, 1.0], stream_norm=4.0)
    path = save_interventions(steer, tmp_path / "steer.json", model=loaded)
    entry = json.loads(path.read_text())["interventions"][0]
    assert entry["site"] == "resid_post"
    assert entry["model_hash"] == loaded.weights_hash
    assert entry["stated"]["layer_map"] == {"0": 0, "2": 1}
    assert "x + strength * stream_norm * v" in entry["stated"]["operation"]
    assert "positive strength" in entry["stated"]["conventions"]["sign"]
    assert "RMS" in entry["stated"]["conventions"]["strength"]
    (again,) = leakmech.load_interventions(path, model=loaded)
    assert again == replace(steer, model_hash=loaded.weights_hash)


def test_a_file_for_another_model_is_refused(loaded, make_tiny, chat_tokenizer, kit, tmp_path):
    path = save_interventions(AblateDirection(kit.V, layers=[1]), tmp_path / "a.json", model=loaded)
    other = load_model(make_tiny("llama-gqa", seed=1), tokenizer=chat_tokenizer)
    with pytest.raises(InterventionError, match=rf"a\.json.*fitted on the model with hash {loaded.weights_hash}"):
        load_interventions(path, model=other)
    save_interventions(AblateDirection(kit.unit(1, 16), layers=[1]), path)
    with pytest.raises(InterventionError, match="width 16, the stream of this model 32"):
        load_interventions(path, model=loaded)
    with pytest.raises(InterventionError, match=r"L7H0.*3 layers"):
        save_interventions(AblateHeads(["L7H0"]), tmp_path / "b.json", model=loaded)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2), "format version 2; this leakmech reads 1"),
        (lambda d: d.update(kind="direction"), "does not describe interventions"),
        (lambda d: d.update(counting="from 1"), "in another way"),
        (lambda d: d.update(interventions=[]), "holds no interventions"),
        (lambda d: d["interventions"][0].update(kind="stear"), "unknown kind.*did you mean 'steer'"),
        (lambda d: d["interventions"][0].update(strenght=1), "steer: unknown field 'strenght'"),
        (lambda d: d["interventions"][0].pop("site"), "steer: missing field 'site'"),
        (lambda d: d["interventions"][0].update(strength=[None, 1.0]), "strength: must be a finite number"),
        (lambda d: d["interventions"][0]["stated"].update(operation="x <- x - v"), "states another operation"),
        (lambda d: d["interventions"][0].update(layers=[1, 2]), "states another operation or convention"),
        (lambda d: d["interventions"][0]["vectors"].update(shape=[2, 31]), "missing or has another shape"),
        (lambda d: d.update(tensors_hash="00"), "holds other tensors"),
    ],
)
def test_a_description_that_was_tampered_with_is_refused(kit, tmp_path, change, message):
    path = save_interventions(Steer(kit.LAYERS, layers=[0, 2], strength=0.5, stream_norm=4.0), tmp_path / "s.json")
    edited(path, change)
    with pytest.raises(InterventionError, match=rf"s\.(json|safetensors).*{message}"):
        load_interventions(path)


def test_files_that_are_missing_or_no_json_are_named(kit, tmp_path):
    with pytest.raises(InterventionError, match=r"name the \.json file"):
        load_interventions(tmp_path / "s.safetensors")
    with pytest.raises(InterventionError, match="no such file"):
        load_interventions(tmp_path / "s.json")
    path = save_interventions(AblateDirection(kit.V, layers=[1]), tmp_path / "s.json")
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(InterventionError, match=r"belongs beside the \.json file"):
        load_interventions(path)
    path.write_text("{")
    with pytest.raises(InterventionError, match="cannot be read"):
        load_interventions(path)
    with pytest.raises(InterventionError, match="both fix L0H1"):
        save_interventions([AblateHeads(["L0H1"]), AblateHeads(["L0H1"])], path)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda v: Steer(2 * v, layers=[1]), "vectors must have length 1, found 2"),
        (lambda v: Steer(v, layers=[1], strength=float("nan"), stream_norm=1.0), "strength: must be a finite number"),
        (lambda v: Steer(v, layers=[1], strength=1.0), "give stream_norm above 0"),
        (lambda v: Steer(v, layers=[1, 0]), "ascending order"),
        (lambda v: Steer(v), "layers must be a list"),
        (lambda v: Steer(v, layers=[0, 1], strength=[1.0]), "give one number or 2"),
        (lambda v: Steer(v, layers=[1], mode="rotate_by", angle=3.0), "give its second vector"),
        (lambda v: Steer(v, layers=[1], mode="rotate_by", second=v), "orthogonal"),
        (lambda v: AblateDirection(v, layers=[1], site="resid_pst"), "did you mean 'resid_p"),
        (lambda v: AblateDirection(v, layers=[1], site="everywhere"), "leave `layers` out"),
        (lambda v: AblateDirection(v, layers=[1], positions="last"), "unknown position 'last'"),
        (lambda v: AblateDirection(v / 0, layers=[1]), "NaN or infinite"),
        (lambda v: AblateHeads(["L0H1"], method="mean"), "no mean for positions 'all'"),
        (lambda v: AblateHeads(["L0H1"], values={"all": torch.ones(1, 8)}), "takes no values"),
        (lambda v: AblateNeurons(["L0N1"], method="mean", values={"all": torch.ones(2)}), "for 2 of 1 components"),
        (lambda v: AblateNeurons(["L0N1"], method="mean", values={"stem": torch.ones(1)}), "no mean for positions"),
        (lambda v: ScaleHeads(["L0H1"], scales=[1.0, 2.0]), "give one number or 1"),
        (lambda v: ModulateCircuit(["L0H1"], scales=float("inf")), "finite number"),
        (lambda v: MapSublayer(v[None, :, None], v[None, :, None], layers=[1]), "must be .layers, d_model, rank. and"),
        (lambda v: MapSublayer(v[None, :, None], v[None, None], layers=[1, 2]), "for 2 layers"),
        (lambda v: MapSublayer(v[None, :, None], v[None, None], layers=[1], site="resid_post"), "unknown 'resid_post'"),
        (lambda v: AddToComponents(["L0H1"]), "has 1 heads; give values of 'heads'"),
        (lambda v: AddToComponents(["L0N1"], values={"neurons": torch.ones(2)}), "for 2 of 1 components"),
        (lambda v: AddToComponents(["L0N1"], values={"neurons": torch.ones(1), "x": v}), "unknown values 'x'"),
        (
            lambda v: AblateHeads(["L0H1"], method="mean", values={"generated": torch.ones(1, 8)}, positions="newest"),
            "no mean for positions 'newest'",
        ),
        (lambda v: MapQueries(["L0H1"], v[None, :, None], v[None, :, None]), "must be .heads, d_head, rank. and"),
        (lambda v: MapQueries(["L0H1", "L1H0"], v[None, :, None], v[None, None]), "for 2 heads"),
        (lambda v: DampenAttention(["L0H1"], factor=-0.1), "at least 0"),
        (lambda v: DampenAttention(["L0H1"], positions="injection"), "choose other positions"),
    ],
)
def test_values_that_make_no_sense_are_refused_when_they_are_made(kit, build, message):
    with pytest.raises(InterventionError, match=message):
        build(kit.V)


def test_a_control_vector_holds_the_steps_at_the_outputs_of_the_blocks(make_tiny, batch, kit, tmp_path):
    model = make_tiny("qwen2")
    steps = [
        Steer(kit.LAYERS, layers=[1, 2], strength=[0.5, -1.0], stream_norm=[4.0, 3.0]),
        Steer(kit.W, layers=[2], site="resid_pre", strength=0.25, stream_norm=4.0),
    ]
    reader = GGUFReader(export_control_vector(steps, tmp_path / "v.gguf", model=model))
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "qwen2"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    found = {tensor.name: torch.tensor(tensor.data.copy()) for tensor in reader.tensors}
    assert set(found) == {"direction.1", "direction.2"}
    torch.testing.assert_close(found["direction.1"], 2.0 * kit.LAYERS[0] + 1.0 * kit.W)
    torch.testing.assert_close(found["direction.2"], -3.0 * kit.LAYERS[1])
    # What llama.cpp does with it: direction.l is added to the output of block l.
    with apply(model, steps):
        expected = kit.logits(model, batch)
    for layer in (1, 2):
        model.model.layers[layer].register_forward_hook(lambda _, __, out, v=found[f"direction.{layer}"]: out + v)
    torch.testing.assert_close(kit.logits(model, batch), expected, rtol=1e-4, atol=1e-5)


def test_what_a_control_vector_cannot_do_is_refused(make_tiny, kit, tmp_path):
    model = make_tiny("llama-gqa")
    step = Steer(kit.V, layers=[1], strength=0.5, stream_norm=4.0)
    for bad, message in [
        (AblateHeads(["L0H1"]), "can only add"),
        (replace(step, positions="generated"), "every token"),
        (replace(step, site="attn_out"), "output of blocks"),
        (replace(step, layers=[0]), "block 0"),
        (replace(step, strength=0.0), "nothing is added"),
    ]:
        with pytest.raises(InterventionError, match=message):
            export_control_vector(bad, tmp_path / "v.gguf", model=model)
    assert not (tmp_path / "v.gguf").exists()


def test_a_steering_vector_is_what_vllm_lens_reads_and_adds(make_tiny, batch, kit, tmp_path):
    model = make_tiny("qwen2")
    steps = [
        Steer(kit.LAYERS, layers=[0, 2], strength=[0.5, -1.0], stream_norm=[4.0, 3.0]),
        Steer(kit.W, layers=[1], site="resid_pre", strength=0.25, stream_norm=4.0),
    ]
    [vector] = json.loads(export_steering_vector(steps, tmp_path / "v.json", model=model).read_text())
    # The fields of vllm_lens.SteeringVector (1.2.1), whose tensors may come uncompressed.
    assert vector.keys() == {"activations", "layer_indices", "scale", "norm_match", "position_indices"}
    assert (vector["scale"], vector["norm_match"], vector["position_indices"]) == (1.0, False, None)
    tensor = vector["activations"]
    raw = np.frombuffer(base64.b64decode(tensor["data"]), dtype=np.dtype(tensor["dtype"])).reshape(tensor["shape"])
    found = dict(zip(vector["layer_indices"], torch.from_numpy(raw.copy()), strict=True))
    assert list(found) == [0, 2]
    torch.testing.assert_close(found[0], 2.0 * kit.LAYERS[0] + 1.0 * kit.W)
    with apply(model, steps):
        expected = kit.logits(model, batch)
    for layer, step in found.items():  # what vllm-lens does with it
        model.model.layers[layer].register_forward_hook(lambda _, __, out, v=step: out + v)
    torch.testing.assert_close(kit.logits(model, batch), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InterventionError, match="vllm-lens adds nothing before block 0"):
        export_steering_vector(replace(steps[1], layers=[0]), tmp_path / "w.json", model=model)


def test_files_are_read_without_anything_else_of_leakmech(tmp_path):
    path = save_interventions(DampenAttention(["L0H0"], factor=0.5), tmp_path / "edit.json")
    script = f"from leakmech.interventions.files import load_interventions as load; print(*load({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "dampen_attention (1 heads, injection, factor 0.5)\n"


def test_edits_that_share_one_gate_are_saved_together(kit, tmp_path):
    gate = Probe(vector=kit.V, layer=1, threshold=0.5)
    edits = [Steer(kit.W, layers=[layer], strength=1.0, stream_norm=2.0, condition=gate) for layer in (1, 2)]
    assert edits[0].tensors()["condition.vector"].data_ptr() == edits[1].tensors()["condition.vector"].data_ptr()
    save_interventions(edits, tmp_path / "edits.json")
    assert list(load_interventions(tmp_path / "edits.json")) == edits


@pytest.mark.fault("X517", "hostile", "each value of a file of interventions by null, a list, a number …", "one line")
def test_no_odd_value_of_a_description_ends_in_anything_but_a_line(make_tiny, kit, tmp_path):
    told = []
    for number, intervention in enumerate(kit.every_kind(make_tiny("llama-gqa")).values()):
        path = save_interventions(intervention, tmp_path / f"{number}.json")
        whole = json.loads(path.read_text())
        for field in whole["interventions"][0]:
            for odd in (None, -1, "x", [[None]]):
                path.write_text(json.dumps(whole | {"interventions": [whole["interventions"][0] | {field: odd}]}))
                try:
                    load_interventions(path)
                except InterventionError as error:
                    told.append(str(error))
    assert len(told) > 100
    assert [one for one in told if "\n" in one or not one.startswith(str(tmp_path))] == []
