"""Folded weights compute what hooks compute, and can be saved; what no weight holds is refused by name."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from leakmech.core.errors import InterventionError, StorageError
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import (
    AblateDirection,
    AblateHeads,
    AblateNeurons,
    MapSublayer,
    ModulateCircuit,
    ScaleHeads,
    Steer,
)
from leakmech.models.load import load_model


def hooked(kit, model, interventions, batch):
    with apply(model, interventions):
        return kit.logits(model, batch)


def test_hook_path_equals_fold_path_for_every_kind(tiny_model, batch, kit):
    base = kit.logits(tiny_model, batch)
    for name, intervention in kit.foldable(tiny_model).items():
        expected = hooked(kit, tiny_model, intervention, batch)
        assert (expected - base).abs().max() > 0.01, name
        folded = kit.logits(fold(tiny_model, intervention), batch)
        torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4, msg=name)
    assert torch.equal(kit.logits(tiny_model, batch), base)  # the model itself is as it was


def test_weights_that_stay_as_they_are_can_be_shared_and_are_not_changed(tiny_model, batch, kit):
    base = kit.logits(tiny_model, batch)
    own = {weight.data_ptr() for weight in tiny_model.parameters()}
    for name, intervention in kit.foldable(tiny_model).items():
        folded = fold(tiny_model, intervention, share=True)
        assert torch.equal(kit.logits(folded, batch), kit.logits(fold(tiny_model, intervention), batch)), name
        assert torch.equal(kit.logits(tiny_model, batch), base), name
        assert not own & {weight.data_ptr() for weight in fold(tiny_model, intervention).parameters()}, name
    few = fold(tiny_model, AblateHeads(["L0H1"]), share=True)
    assert len([weight for weight in few.parameters() if weight.data_ptr() not in own]) <= 2  # a matrix and its bias


def test_several_interventions_fold_in_the_order_of_their_hooks(tiny_model, batch, kit):
    steps = [
        ScaleHeads(["L0H1", "L1H0"], scales=2.0),
        AblateHeads(["L0H1"]),
        ModulateCircuit(["L1.mlp", "L1N3"], scales=[0.5, -2.0]),
        Steer(kit.V, layers=[0], site="resid_pre", strength=0.2, stream_norm=4.0),
    ]
    if tiny_model.config.model_type != "gemma3_text":
        mean = {"all": kit.values(4, 1, kit.head_width(tiny_model))}
        steps += [
            Steer(kit.V, layers=[1], site="mlp_out", strength=0.5, stream_norm=4.0),
            AblateDirection(kit.V, site="everywhere", set_point=0.7),
            AblateDirection(kit.unit(9, 32), layers=[1], site="attn_out", strength=0.6),
            Steer(kit.V, layers=[1], strength=0.5, stream_norm=4.0),
            MapSublayer(kit.values(8, 1, 32, 3), kit.values(9, 1, 3, 32), layers=[1], site="mlp_out", strength=0.1),
            AblateHeads(["L1H0"], method="mean", values=mean),
        ]
    for order in (steps, steps[::-1]):
        expected = hooked(kit, tiny_model, order, batch)
        torch.testing.assert_close(kit.logits(fold(tiny_model, order), batch), expected, rtol=1e-4, atol=1e-4)


def test_a_folded_model_is_saved_and_loaded_by_transformers_alone(tiny_model, batch, kit, tmp_path):
    chosen = ["heads mean", "steer embedding"]
    if tiny_model.config.model_type != "gemma3_text":
        chosen += ["neurons mean", "direction everywhere, set point"]
    folded = fold(tiny_model, [kit.foldable(tiny_model)[name] for name in chosen])
    folded.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(kit.logits(loaded, batch), kit.logits(folded, batch), rtol=0, atol=0)
    assert loaded.config.tie_word_embeddings is False


def test_a_direction_that_is_folded_everywhere_is_nowhere_in_the_stream(make_tiny, batch, kit):
    for name in ("llama-gqa", "gpt2", "gpt-neox"):
        folded = fold(make_tiny(name), AblateDirection(kit.V, site="everywhere", set_point=1.5))
        with torch.inference_mode():
            states = folded(**batch.inputs, output_hidden_states=True).hidden_states[:-1]
        for state in states:
            torch.testing.assert_close(
                (state @ kit.V)[batch.mask.bool()], torch.tensor(1.5).expand(50), rtol=0, atol=1e-4
            )


def test_what_no_weight_holds_is_refused_by_name(make_tiny, kit):
    model = make_tiny("llama-gqa")
    for name, intervention in kit.hooks_only(model).items():
        with pytest.raises(InterventionError, match=rf"^{intervention.kind}.*cannot be folded.*use hooks"):
            fold(model, [AblateHeads(["L0H0"]), intervention])
        assert name


@pytest.mark.parametrize(
    "build",
    [
        lambda kit: AblateDirection(kit.V, site="everywhere"),
        lambda kit: AblateDirection(kit.V, layers=[1], site="mlp_out"),
        lambda kit: MapSublayer(kit.values(8, 1, 32, 3), kit.values(9, 1, 3, 32), layers=[1], site="mlp_out"),
        lambda kit: Steer(kit.V, layers=[1], strength=0.5, stream_norm=4.0),
        lambda kit: AblateNeurons(["L0N1"], method="mean", values={"all": torch.ones(1)}),
    ],
)
def test_what_gemma_cannot_hold_is_refused_and_its_hooks_work(make_tiny, batch, kit, build):
    model, intervention = make_tiny("gemma3"), build(kit)
    with pytest.raises(InterventionError, match=r"cannot be folded \((gemma3_text).*use hooks"):
        fold(model, intervention)
    assert (hooked(kit, model, intervention, batch) - kit.logits(model, batch)).abs().max() > 1e-3


def test_an_adapter_is_merged_and_what_comes_out_is_plain(make_tiny, batch, kit):
    model = make_tiny("llama-gqa")
    adapted = get_peft_model(
        model,
        LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False),
    ).eval()
    intervention = AblateHeads(kit.HEADS)
    folded = fold(adapted, intervention)
    assert type(folded) is type(model)
    expected = hooked(kit, adapted, intervention, batch)
    torch.testing.assert_close(kit.logits(folded, batch), expected, rtol=1e-4, atol=1e-4)
    assert any("lora" in name for name, _ in adapted.named_parameters())


def test_a_loaded_model_folds_and_its_copy_has_another_hash(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("qwen2"), tokenizer=chat_tokenizer)
    folded = fold(loaded, AblateHeads(["L0H0"]))
    assert folded.weights_hash != loaded.weights_hash
    with pytest.raises(InterventionError, match="was fitted on the model with hash 1234"):
        fold(loaded, AblateHeads(["L0H0"], model_hash="1234"))


def test_a_folded_model_keeps_its_tokenizer_so_that_its_folder_is_measured_by_its_path(
    make_tiny, chat_tokenizer, tmp_path
):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    folded = fold(loaded, AblateHeads(["L0H0"]))
    assert (folded.tokenizer, folded.name) == (loaded.tokenizer, f"{loaded.name} (folded)")
    again = load_model(folded.save_pretrained(tmp_path / "folded"), dtype="float32")
    assert again.weights_hash == folded.weights_hash
    assert again.tokenizer_hash == loaded.tokenizer_hash
    assert (again.has_chat_template, again.weights_hash != loaded.weights_hash) == (True, True)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        folded.save_pretrained(tmp_path / "file")


def test_sliding_windows_cannot_become_a_llama(make_tiny):
    model = make_tiny("qwen2")
    model.config.layer_types = ["sliding_attention", "full_attention", "full_attention"]
    mean = AblateHeads(["L0H0"], method="mean", values={"all": torch.ones(1, 8)})
    with pytest.raises(InterventionError, match="sliding windows"):
        fold(model, mean)


@pytest.mark.slow
@pytest.mark.long
def test_hooks_and_folds_agree_on_a_real_model(embedded_model, kit):
    n_heads_mean = {"all": kit.values(1, 2, 64)}
    steps = [
        AblateDirection(kit.unit(0, 576), site="everywhere"),
        AblateHeads(["L5H2", "L20H7"], method="mean", values=n_heads_mean),
        Steer(kit.unit(1, 576), layers=[20], strength=0.1, stream_norm=50.0),
    ]
    ids = embedded_model.tokenizer("I lost my keys on the way here. Her passion is", return_tensors="pt")
    with torch.inference_mode():
        base = embedded_model.model(**ids).logits
        folded = fold(embedded_model, steps).model(**ids).logits
        with apply(embedded_model, steps):
            hooked = embedded_model.model(**ids).logits
        assert torch.equal(embedded_model.model(**ids).logits, base)
    assert (hooked - base).abs().max() > 1
    torch.testing.assert_close(folded, hooked, rtol=1e-4, atol=1e-4)
