"""Architectures beside those of every test: read, changed and attributed against hooks of a plain forward pass."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_models import VOCABULARY, build_tokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from leakmech.core.errors import InterventionError, ModelError
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import (
    AblateDirection,
    AblateHeads,
    AblateNeurons,
    ModulateCircuit,
    ScaleHeads,
    Steer,
)
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.attribution.gradients import attribute
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.biases import with_output_biases
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.prompts.render import Renderer
from leakmech.studies.diagnosis.run import diagnose

SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": 256,
    "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
           "shared_expert_intermediate_size": 32}  # fmt: skip


def _gemma3_of_images():
    text = {**SHAPE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=260)
    return Gemma3ForConditionalGeneration(config)


_FALCON = {"ffn_hidden_size": 64, **{k: v for k, v in SHAPE.items() if not k.startswith(("inter", "num_key"))}}
BUILDERS = {
    "falcon": lambda: FalconForCausalLM(FalconConfig(**_FALCON, num_kv_heads=2, new_decoder_architecture=True)),
    "falcon-7b": lambda: FalconForCausalLM(FalconConfig(**_FALCON, multi_query=True, bias=True)),
    "falcon-rw": lambda: FalconForCausalLM(
        FalconConfig(**_FALCON, multi_query=False, parallel_attn=False, alibi=True, bias=True)
    ),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SHAPE)),
    "stablelm": lambda: StableLmForCausalLM(StableLmConfig(**SHAPE, use_parallel_residual=True)),
    "starcoder2": lambda: Starcoder2ForCausalLM(Starcoder2Config(**SHAPE)),
    "gemma3": _gemma3_of_images,
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**SHAPE)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, **EXPERTS)),
    "olmoe": lambda: OlmoeForCausalLM(OlmoeConfig(**SHAPE, **EXPERTS)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**SHAPE, **EXPERTS)),
}
MIXTURES = ("mixtral", "olmoe", "qwen2_moe")


def build(name):
    torch.manual_seed(0)
    return BUILDERS[name]().float().eval()


@pytest.fixture(scope="module", params=BUILDERS)
def loaded(request):
    return load_model(build(request.param), tokenizer=build_tokenizer(chat=True))


def blocks(model):
    if hasattr(model, "transformer"):  # Falcon
        return model.transformer.h
    inner = model.model.language_model if hasattr(model.model, "language_model") else model.model
    return inner.layers


def output_matrix(block):
    attention = block.self_attention if hasattr(block, "self_attention") else block.self_attn
    return attention.dense if hasattr(attention, "dense") else attention.o_proj


def logits(model):
    ids = torch.arange(1, 25)[None] * 7 % 250
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.fault(
    "F21", "models", "Gemma 3 in its multimodal class", "its text decoder is read, changed and attributed"
)
@pytest.mark.fault("F22", "models", "Phi-3, OLMo 2, Mixtral, OLMoE, Qwen2-MoE beyond bench", "heads at least")
def test_head_outputs_are_what_enters_the_output_matrix(loaded):
    samples = PromptSet("one", load_dataset("hexl").samples[:1])
    found = cache_activations(loaded, samples, sites=["z", "resid_post"], positions=["last_prompt"])
    seen = {}
    handles = [
        output_matrix(block).register_forward_hook(lambda _, given, __, n=n: seen.update({n: given[0][0, -1]}))
        for n, block in enumerate(blocks(loaded.model))
    ]
    renderer = Renderer(loaded.tokenizer)
    ids = renderer.token_ids(renderer.prompt(samples.samples[0], "positive").rendered)
    with torch.inference_mode():
        loaded.model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    z = found["z"].select(conditions="positive").values[0, 0]
    torch.testing.assert_close(z.reshape(2, -1).float(), torch.stack([seen[n] for n in range(2)]), atol=1e-4, rtol=1e-3)


def test_hooks_do_what_zeroed_weights_do_and_fold_alike(loaded):
    model = loaded.model
    edits = [AblateHeads(["L0H1", "L1H3"]), ScaleHeads(["L1H0"], scales=2.0)]
    with apply(model, edits):
        hooked = logits(model)
    plain = copy.deepcopy(model)
    d = layout_of(plain).d_head
    with torch.no_grad():
        first, second = (output_matrix(block).weight for block in blocks(plain))
        first[:, d : 2 * d] = 0
        second[:, 3 * d : 4 * d] = 0
        second[:, :d] *= 2
    torch.testing.assert_close(hooked, logits(plain), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits(fold(model, edits)), hooked, atol=1e-4, rtol=1e-3)
    assert (hooked - logits(model)).abs().max() > 0.01


def test_heads_are_attributed(loaded):
    vector = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    direction = Direction(vector, "resid_post", 1, "last_prompt", "pca", "read", 1.0, {}, 0.0, loaded.weights_hash)
    found = attribute(loaded, PromptSet("two", load_dataset("hexl").samples[:2]), target=direction)
    frame = found.heads_frame()
    assert len(frame) == 8
    assert frame["score"].abs().max() > 0


@pytest.mark.fault("F22", "models", "Falcon, Phi, StableLM, StarCoder 2 beyond bench", "what is added makes the stream")
def test_what_sublayers_add_makes_the_stream_and_its_gradient_arrives(loaded):
    """Also where a block adds in place (Falcon), and where attention and MLP read the same stream (Phi, StableLM)."""
    layout = layout_of(loaded.model)
    sites = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    with recording(layout, sites=sites, layers=[0, 1], pick=lambda x: x) as found:
        output = loaded.model(input_ids=torch.arange(1, 25)[None] * 7 % 250)
    for layer in (0, 1):
        pre, attention, mlp, post = (found[site, layer] for site in sites)
        torch.testing.assert_close(pre + attention + mlp, post, atol=1e-4, rtol=1e-3)
    gradients = torch.autograd.grad(output.logits[0, -1, 5], [found["mlp_out", 0], found["resid_post", 0]])
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.fault("X200", "models", "neurons of a mixture of experts", "refused in a line; its heads work")
def test_neurons_of_experts_are_refused(name, tmp_path):
    model = build(name)
    with pytest.raises(Exception, match="0 neurons"), apply(model, AblateNeurons(["L0N1"])):
        pass
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    build_tokenizer(chat=True).save_pretrained(folder)
    with pytest.raises(ModelError, match="mixture of experts"):
        diagnose(folder, fit="relevant-fit", target="direction", dtype="float32", out=tmp_path / "run")


@pytest.mark.parametrize("name", MIXTURES)
def test_what_needs_the_output_matrix_of_experts_is_not_folded(name):
    model = build(name)
    vector = torch.nn.functional.one_hot(torch.tensor(3), 32).float()
    for edit in (
        AblateDirection(vector, site="everywhere"),
        AblateDirection(vector, layers=[0], site="mlp_out"),
        ModulateCircuit(["L0H1", "L1.mlp"], scales=0.5),
        Steer(vector, layers=[1], strength=0.5, stream_norm=3.0),
    ):
        with pytest.raises(InterventionError, match=rf"{edit.kind}.*{name}.*mixtures of experts.*use hooks \(`apply`"):
            fold(model, edit)
        before = logits(model)
        with apply(model, edit):
            assert (logits(model) - before).abs().max() > 1e-4
    with pytest.raises(ModelError, match="cannot have a bias"):
        with_output_biases(model, attention=False, mlp=True)


@pytest.mark.fault("F22", "models", "heads of an architecture that is not known", "a line that names those that are")
def test_an_unknown_architecture_is_named_and_no_other_is_meant():
    model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    with pytest.raises(ModelError, match=r"'bloom': leakmech measures it \(bench\).*known are falcon") as found:
        layout_of(model)
    assert "did you mean" not in str(found.value)
    with pytest.raises(ModelError, match="known are"):
        layout_of(SimpleNamespace(config=SimpleNamespace(model_type="bert")))
