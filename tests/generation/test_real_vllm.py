"""The engine on a real vLLM; skipped where the package is not installed. Everything else about it is tested against a
fake (`test_vllm_engine.py`)."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import VOCABULARY, build_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: its engine is tested against a fake only"
)

# vLLM starts processes of its own and keeps its memory: each test runs in one that ends.
SCRIPT = """
import json, sys
from pathlib import Path
from leakmech.generation.decode import Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.vllm_engine import VLLMEngine
from leakmech.models.load import load_adapter, load_model

def told(engine, rows, decoding):
    made = [g for ended in engine.complete(rows, decoding, stop=stop) for g in ended]
    return {f"{g.prompt_id}#{g.generation}": [list(g.tokens), g.text, g.finish_reason] for g in made}

def stop(name, text):
    return "!" in text

if __name__ == "__main__":
    folder, adapter, out = sys.argv[1:]
    loaded = load_model(folder, dtype="float32", device="cpu")
    loaded = load_adapter(loaded, adapter) if adapter else loaded
    ours, theirs = HFEngine.of(loaded), VLLMEngine.of(loaded)
    texts = ["Her passion is", "I lost my keys on the way here. The meeting ended with", "We"]
    rows = [Row(f"p{i}", g, tuple(text.encode())) for i, text in enumerate(texts) for g in range(2)]
    greedy = Decoding(max_new_tokens=16, temperature=0.0)
    first = [Row("p", g, tuple(b"Her passion is")) for g in range(2000)]
    one = Decoding(max_new_tokens=1, temperature=1.0, top_k=20, top_p=0.8, repetition_penalty=1.3)
    found = {
        "identity": theirs.identity(),
        "greedy": [told(engine, rows, greedy) for engine in (ours, theirs)],
        "again": [told(theirs, rows, Decoding(max_new_tokens=8)) for _ in range(2)],
        "first": [[*tokens, -1][0] for engine in (ours, theirs) for tokens, *_ in told(engine, first, one).values()],
    }
    Path(out).write_text(json.dumps(found))  # vLLM writes on all standard streams
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with heads of a size that vLLM has kernels for."""
    path = tmp_path_factory.mktemp("vllm") / "model"
    config = LlamaConfig(
        hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=VOCABULARY, max_position_embeddings=512, initializer_range=0.1, bos_token_id=256, eos_token_id=256,
        pad_token_id=256, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    build_tokenizer(chat=True).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder):
    path = folder.parent / "adapter"
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        get_peft_model(LlamaForCausalLM.from_pretrained(folder), config).save_pretrained(path)
    return path


def answers(folder, adapter, tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "found.json"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), str(adapter), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_a_real_vllm_agrees_in_distribution_and_repeats_itself(folder, adapter, tmp_path, adapted):
    found = answers(folder, adapter if adapted else "", tmp_path)
    assert found["identity"]["engine"] == "vllm"
    ours, theirs = found["greedy"]
    same = [ours[key] == theirs[key] for key in ours]
    assert sum(same) >= len(same) - 1  # kernels round differently, and a tie may fall to another token
    assert found["again"][0].keys() == ours.keys()
    assert {reason for *_, reason in theirs.values()} <= {"stop", "sentence", "length"}
    ours, theirs = torch.tensor(found["first"]).chunk(2)
    tokens = sorted({*ours.tolist(), *theirs.tolist()})
    shares = torch.tensor([[float((own == token).float().mean()) for token in tokens] for own in (ours, theirs)])
    assert 0.5 * float((shares[0] - shares[1]).abs().sum()) < 0.08  # total variation; 2,000 draws each
