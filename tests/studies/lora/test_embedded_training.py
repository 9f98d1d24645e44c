"""An adapter of the real embedded model: trained, killed and resumed, read by another process, merged."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from leakmech.datasets.samples import load_dataset
from leakmech.models.hashes import hash_weights
from leakmech.models.load import load_adapter, load_model
from leakmech.prompts.render import Renderer
from leakmech.studies.lora.merging import merge_lora
from leakmech.studies.lora.run import train_lora
from leakmech.training.examples import TrainingExample
from leakmech.training.settings import LoraTrainingConfig

pytestmark = pytest.mark.slow

CONFIG = LoraTrainingConfig.parse(
    {
        "objectives": {"contrastive": 1.0}, "learning_rate": 2e-3, "warmup": 0.0, "epochs": 1, "batch_size": 2,
        "checkpoint_every": 1, "dtype": "float32", "device": "cpu", "evaluation": ["hexl"],
    }
)  # fmt: skip
GREEDY = """
import json, sys
from leakmech import load_model
loaded = load_model(sys.argv[1], dtype="float32", device="cpu")
ids = loaded.tokenizer(sys.argv[2], return_tensors="pt", add_special_tokens=False).input_ids
drawn = loaded.model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)
print(json.dumps(drawn[0, ids.shape[1]:].tolist()))
"""


@pytest.fixture(scope="module")
def prompts(embedded_model):
    renderer = Renderer(embedded_model.tokenizer)
    samples = load_dataset("relevant-train").samples[:6]
    return [tuple(renderer.prompt(sample, c).rendered for c in ("negative", "control")) for sample in samples]


@pytest.fixture(scope="module")
def examples(prompts):
    return [
        TrainingExample(f"e{i}", "irrelevant", injected, plain, " quite ordinary, as far as I can tell.")
        for i, (injected, plain) in enumerate(prompts)
    ]


@pytest.fixture(scope="module")
def trained(embedded_model, examples, tmp_path_factory):
    before = hash_weights(embedded_model.model)
    result = train_lora(CONFIG, tmp_path_factory.mktemp("adapters") / "whole", model=embedded_model, examples=examples)
    assert hash_weights(embedded_model.model) == before
    return result


@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted(trained, embedded_model, examples, tmp_path):
    class KilledError(Exception):
        pass

    @contextmanager
    def killing(label, *, total, done):
        steps = iter(range(done + 1, total + 1))

        def advance(_):
            if label == "training" and next(steps) == 2:
                raise KilledError

        yield advance

    with pytest.raises(KilledError):
        train_lora(CONFIG, tmp_path / "torn", model=embedded_model, examples=examples, progress=killing)
    resumed = train_lora(CONFIG, tmp_path / "torn", model=embedded_model, examples=examples)
    whole, again = (load_file(result.path / "adapter_model.safetensors") for result in (trained, resumed))
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.long
def test_another_process_says_the_same_greedily(trained, embedded_model, prompts):
    adapted = load_adapter(embedded_model, trained.path)
    prompt = prompts[0][0]
    ids = adapted.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids

    def greedy(model):
        return model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :].tolist()

    command = [sys.executable, "-c", GREEDY, str(trained.path), prompt]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout) == greedy(adapted.model) != greedy(embedded_model.model)


@pytest.mark.long
def test_merged_and_unmerged_agree(trained, embedded_model, prompts, tmp_path):
    adapted = load_adapter(embedded_model, trained.path)
    merged = load_model(merge_lora(trained.path, tmp_path / "merged"), dtype="float32", device="cpu")
    ids = adapted.tokenizer(prompts[1][0], return_tensors="pt", add_special_tokens=False).input_ids
    with torch.inference_mode():
        base, one, other = (loaded.model(input_ids=ids).logits for loaded in (embedded_model, adapted, merged))
        # In double precision at all places: rounding alone reaches 1.1e-4 somewhere in this prompt, merging does not.
        exact = [copy.deepcopy(loaded.model).double()(input_ids=ids).logits for loaded in (adapted, merged)]
    torch.testing.assert_close(one[:, -1], other[:, -1], rtol=0, atol=1e-4)
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)
    torch.testing.assert_close(*exact, rtol=0, atol=1e-4)
    assert (one - base).abs().max() > 0.1
