"""Training: losses fall, what was killed goes on as if it had not been, adapters reload, wrong input is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from leakmech.core.errors import (
    ConfigError,
    DatasetError,
    InterruptedRunError,
    LeakmechWarning,
    ModelError,
    RunDirectoryError,
    TrainingError,
    UsageError,
)
from leakmech.core.store import read_json
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.hashes import hash_base, hash_weights
from leakmech.models.load import LoadedModel, load_adapter, load_model
from leakmech.reports.figures.losses import loss_figure
from leakmech.studies.lora.merging import merge_lora
from leakmech.studies.lora.run import LoraResult, train_lora
from leakmech.training.adapter import component_layers, target_modules
from leakmech.training.examples import TrainingExample
from leakmech.training.settings import LoraTrainingConfig
from leakmech.training.trainer import Trainer

SETTINGS = {
    "rank": 4, "alpha": 16, "learning_rate": 5e-3, "warmup": 0.2, "batch_size": 4, "epochs": 2, "checkpoint_every": 3,
    "dtype": "float32", "device": "cpu", "evaluation": [], "objectives": {"contrastive": 1.0, "consistency_sft": 0.5},
}  # fmt: skip


def config(**changes: object) -> LoraTrainingConfig:
    return LoraTrainingConfig.parse(SETTINGS | changes)


def examples(n: int = 18) -> list[TrainingExample]:
    """Two of three examples are irrelevant."""
    found = []
    for i in range(n):
        stem, tail = f"The {i} is", "<|im_end|>\n<|im_start|>assistant\n"
        plain = f"<|im_start|>user\n{stem}{tail}"
        injected = f"<|im_start|>user\n{'Sad. ' * (1 + i % 2)}{stem}{tail}"
        kind, reference = ("irrelevant", plain) if i % 3 else ("relevant", injected)
        found.append(TrainingExample(f"e{i}", kind, injected, reference, f" {'ab' * (1 + i % 4)}", polarity="negative"))  # pyright: ignore
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


class KilledError(Exception):
    pass


def killing(after: int, error: type[BaseException] = KilledError):
    """Progress that raises after the step number `after`."""

    @contextmanager
    def progress(label: str, *, total: int | None, done: int) -> Iterator:
        steps = done

        def advance(n: int) -> None:
            nonlocal steps
            steps += n
            if steps == after and label == "training":
                raise error

        yield advance

    return progress


@pytest.fixture
def loaded(make_tiny, chat_tokenizer) -> LoadedModel:
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


class TestTraining:
    def test_settings_come_from_a_file_a_dict_or_keywords_and_keywords_go_first(self, loaded, tmp_path) -> None:
        file, said = tmp_path / "adapter.yaml", []
        file.write_text("rank: 3\nepochs: 1\nevaluation: []\ndevice: cpu\n")
        given = {"model": loaded, "examples": examples(6), "say": said.append}
        by_file = train_lora(file, tmp_path / "a", **given)
        by_keywords = train_lora(out=tmp_path / "b", rank=3, epochs=1, evaluation=(), device="cpu", **given)
        assert same(by_file.path, by_keywords.path)
        changed = train_lora({"rank": 3, "epochs": 1, "evaluation": []}, tmp_path / "c", rank=2, device="cpu", **given)
        assert load_file(changed.path / "adapter_model.safetensors").popitem()[1].shape.count(2) == 1
        assert [line.partition(" here for 6 examples")[1] != "" for line in said] == [True] * 3
        with pytest.raises(ConfigError, match="unknown key 'rnak'"):
            train_lora(file, tmp_path / "d", rnak=2)

    def test_the_loss_falls_and_the_base_stays(self, loaded, tmp_path) -> None:
        before = hash_weights(loaded.model)
        result = train_lora(config(), tmp_path / "a", model=loaded, examples=examples())
        log = result.to_frame()
        assert len(log) == 10
        assert log["loss"].iloc[-3:].mean() < 0.8 * log["loss"].iloc[0]
        assert hash_weights(loaded.model) == before
        assert not any("lora" in name for name, _ in loaded.model.named_modules())
        assert result.card["base"]["base_hash"] == hash_base(loaded.model)
        assert result.card["data"]["kinds"] == {"relevant": 6, "irrelevant": 12}

    def test_the_last_steps_have_total_variation(self, loaded, tmp_path) -> None:
        settings = config(total_variation=0.3, objectives={"contrastive": 1.0})
        log = train_lora(settings, tmp_path / "a", model=loaded, examples=examples()).to_frame()
        assert log["divergence"].tolist() == ["kl"] * 7 + ["total_variation"] * 3
        only_kl = config(objectives={"contrastive": 1.0})
        other = train_lora(only_kl, tmp_path / "b", model=loaded, examples=examples()).to_frame()
        assert log["loss"].iloc[:7].tolist() == pytest.approx(other["loss"].iloc[:7].tolist())
        assert (log["loss"].iloc[7:] - other["loss"].iloc[7:]).abs().min() > 1e-4

    def test_the_log_names_a_divergence_only_where_one_is_computed(self, loaded, tmp_path) -> None:
        settings = config(objectives={"consistency_sft": 1.0}, shares={"irrelevant": 1})
        log = train_lora(settings, tmp_path / "a", model=loaded, examples=examples()).to_frame()
        assert "divergence" not in log
        loss_figure(log, tmp_path / "loss")
        assert {path.suffix for path in tmp_path.glob("loss.*")} == {".png", ".pdf", ".csv"}

    def test_examples_of_a_stem_go_together(self, loaded, tmp_path, monkeypatch) -> None:
        seen, whole = [], Trainer._backward

        def recorded(self: Trainer, indices, losses):
            seen.append([self.examples[i].stem or self.examples[i].id for i in indices])
            return whole(self, indices, losses)

        monkeypatch.setattr(Trainer, "_backward", recorded)
        given = [replace(example, stem=f"stem {i % 8}") for i, example in enumerate(examples(16))] + examples(20)[16:]
        train_lora(config(), tmp_path / "a", model=loaded, examples=given)
        epochs = [[stem for step in steps for stem in step] for steps in (seen[:5], seen[5:])]
        assert epochs[0] != epochs[1]
        for order in epochs:
            assert sorted(order) == sorted(e.stem or e.id for e in given)
            places = {stem: [i for i, other in enumerate(order) if other == stem] for stem in order}
            assert all(at[-1] - at[0] == len(at) - 1 for at in places.values())

    def test_the_learning_rate_rises_and_falls(self, loaded, tmp_path) -> None:
        rates = train_lora(config(), tmp_path / "a", model=loaded, examples=examples()).to_frame()["learning_rate"]
        assert rates.iloc[0] == pytest.approx(5e-3 / 2)
        assert rates.max() == pytest.approx(5e-3)
        assert rates.iloc[-1] < 5e-4

    @pytest.mark.parametrize(("killed_after", "dropout"), [(2, 0.0), (5, 0.3)])
    def test_killed_and_resumed_equals_uninterrupted(self, loaded, tmp_path, killed_after, dropout) -> None:
        whole = train_lora(config(dropout=dropout), tmp_path / "whole", model=loaded, examples=examples())
        with pytest.raises(KilledError):
            train_lora(
                config(dropout=dropout),
                tmp_path / "torn",
                model=loaded,
                examples=examples(),
                progress=killing(killed_after),
            )
        assert not (tmp_path / "torn" / "summary.json").exists()
        resumed = train_lora(config(dropout=dropout), tmp_path / "torn", model=loaded, examples=examples())
        assert same(whole.path, resumed.path)
        columns = ["step", "loss", "contrastive", "consistency_sft", "gradient_norm"]
        pd.testing.assert_frame_equal(whole.to_frame()[columns], resumed.to_frame()[columns], rtol=1e-5)

    def test_ctrl_c_says_how_to_go_on(self, loaded, tmp_path) -> None:
        with pytest.raises(InterruptedRunError, match="step-000003"):
            train_lora(
                config(), tmp_path / "a", model=loaded, examples=examples(), progress=killing(4, KeyboardInterrupt)
            )

    def test_a_finished_training_is_read_not_repeated(self, loaded, tmp_path) -> None:
        first = train_lora(config(), tmp_path / "a", model=loaded, examples=examples())
        again = train_lora(config(), tmp_path / "a", model=loaded, examples=examples(), progress=killing(1))
        assert again.card == json.loads(json.dumps(first.card))

    def test_accumulated_small_batches_equal_one_large_batch(self, loaded, tmp_path) -> None:
        large = train_lora(config(batch_size=6), tmp_path / "large", model=loaded, examples=examples())
        small = config(batch_size=2, gradient_accumulation=3, padding="right")
        assert same(large.path, train_lora(small, tmp_path / "small", model=loaded, examples=examples()).path)

    @pytest.mark.parametrize("weights", [{"activation_consistency": 1.0, "anchor": 1.0}, {"contrastive": 1.0}])
    def test_checkpointed_blocks_give_the_same_adapter(self, loaded, tmp_path, weights) -> None:
        plain = train_lora(config(objectives=weights), tmp_path / "plain", model=loaded, examples=examples())
        again = config(objectives=weights, gradient_checkpointing=True)
        assert same(plain.path, train_lora(again, tmp_path / "again", model=loaded, examples=examples()).path)

    @pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "gemma3"])
    def test_other_architectures_train_too(self, make_tiny, chat_tokenizer, tmp_path, name) -> None:
        model = load_model(make_tiny(name), tokenizer=chat_tokenizer)
        log = train_lora(config(), tmp_path / "a", model=model, examples=examples()).to_frame()
        assert log["loss"].iloc[-3:].mean() < 0.9 * log["loss"].iloc[0]

    def test_the_best_adapter_is_kept_and_training_stops_early(self, loaded, tmp_path) -> None:
        scores = iter([0.5, 0.7, 0.6, 0.7, 0.9])
        changed = config(evaluate_every=2, patience=2, checkpoint_every=1, keep_checkpoints=1)
        result = train_lora(
            changed, tmp_path / "a", model=loaded, examples=examples(), evaluate=lambda model: next(scores)
        )
        assert max(one["score"] for one in result.card["results"]["evaluations"]) == 0.7
        assert result.card["results"]["kept_step"] == 4
        assert result.card["results"]["steps"] == 8
        assert result.card["results"]["stopped_early"]
        short = config(evaluate_every=2, patience=2, checkpoint_every=1)
        with pytest.raises(KilledError):
            train_lora(short, tmp_path / "b", model=loaded, examples=examples(), progress=killing(4))
        kept = load_file(tmp_path / "b" / "checkpoints" / "step-000003.safetensors")
        assert len(kept) == 3 * len(weights(result.path))

    def test_a_loss_that_is_nan_stops_and_leaves_the_last_good_checkpoint(self, loaded, tmp_path, monkeypatch) -> None:
        step = Trainer._backward

        def broken(self: Trainer, indices, losses):
            sums = step(self, indices, losses)
            done = (
                len(pd.read_json(tmp_path / "a" / "train.jsonl", lines=True))
                if (tmp_path / "a/train.jsonl").exists()
                else 0
            )
            return {name: (float("nan"), count) for name, (_, count) in sums.items()} if done == 4 else sums

        monkeypatch.setattr(Trainer, "_backward", broken)
        with pytest.raises(TrainingError, match=r"step 5: the loss is nan.*step-000003\.safetensors"):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples())
        kept = load_file(tmp_path / "a" / "checkpoints" / "step-000003.safetensors")
        assert all(tensor.isfinite().all() for tensor in kept.values())
        assert not (tmp_path / "a" / "adapter_model.safetensors").exists()


class TestAdapters:
    @pytest.fixture
    def trained(self, save_tiny, tmp_path) -> LoraResult:
        model = load_model(save_tiny("qwen2"), dtype="float32", device="cpu")
        return train_lora(config(), tmp_path / "adapter", model=model, examples=examples())

    def logits(self, model: LoadedModel) -> torch.Tensor:
        with torch.no_grad():
            return model.model(input_ids=torch.tensor([[72, 101, 114, 32, 112, 97]])).logits

    def test_reloaded_merged_and_unmerged_agree(self, trained, tmp_path) -> None:
        reloaded = load_model(trained.path, dtype="float32", device="cpu")
        base = load_model(tmp_path / "qwen2-0", dtype="float32", device="cpu")
        assert torch.equal(self.logits(load_adapter(base, trained.path)), self.logits(reloaded))
        assert (self.logits(reloaded) - self.logits(base)).abs().max() > 0.01
        merged = load_model(merge_lora(trained.path, tmp_path / "merged"), dtype="float32", device="cpu")
        assert merged.adapter is None
        assert torch.allclose(self.logits(merged), self.logits(reloaded), atol=1e-4)
        assert merged.tokenizer_hash == reloaded.tokenizer_hash
        assert merged.tokenizer.chat_template == reloaded.tokenizer.chat_template

    def test_the_saved_adapter_is_the_one_that_was_trained(self, trained) -> None:
        last = load_file(trained.path / "checkpoints" / "step-000010.safetensors")
        for name, tensor in weights(trained.path).items():
            assert torch.equal(tensor, last[name.replace(".weight", ".default.weight")])

    def test_an_adapter_is_refused_on_other_weights_in_either_dtype(self, trained, save_tiny) -> None:
        for dtype in ("float32", "bfloat16"):
            other = load_model(save_tiny("qwen2", seed=1), dtype=dtype, device="cpu")
            with pytest.raises(ModelError, match="other weights"):
                load_adapter(other, trained.path)
        assert load_model(trained.path, dtype="bfloat16", device="cpu").adapter == str(trained.path)

    def test_merging_needs_an_adapter_and_an_empty_place(self, trained, tmp_path) -> None:
        with pytest.raises(ModelError, match="plain model"):
            merge_lora(tmp_path / "qwen2-0", tmp_path / "merged")
        with pytest.raises(UsageError, match="exists already"):
            merge_lora(trained.path, trained.path)


class TestRefusals:
    def test_settings(self) -> None:
        for changes, message in (
            ({"rank": 0}, "rank must be greater than or equal to 1, found 0"),
            ({"leraning_rate": 1}, "did you mean 'learning_rate'"),
            ({"objectives": {"anchr": 1}}, r"'objectives\.anchr'; did you mean 'anchor'"),
            ({"objectives": {}}, "none has a weight"),
            ({"objectives": {"direction_penalty": 1}}, "needs directions"),
            (
                {"objectives": {"distillation": 1}, "shares": {"relevant": 1}},
                r"shares\.relevant is 1, but no objective",
            ),
            (
                {"objectives": {"consistency_sft": 1}, "shares": {"irrelevant": 1}, "total_variation": 0.5},
                r"total_variation is 0\.5, but no objective .* compares distributions; .* distillation, teacher,",
            ),
            ({"dtype": "float16"}, "dtype"),
            ({"decoding": {"temprature": 1}}, "did you mean 'temperature'"),
        ):
            with pytest.raises(ConfigError, match=message):
                config(**changes)

    def test_targets(self, make_tiny, tmp_path) -> None:
        model = make_tiny("llama-gqa")
        with pytest.raises(ConfigError, match=r"'c_attn'; valid: all-linear, attention, mlp, .*q_proj"):
            target_modules(model, ["q_proj", "c_attn"])
        with pytest.raises(ConfigError, match="layers: 3 is not one of this model's 3 layers"):
            target_modules(model, layers=[3])
        assert len(target_modules(model)) == 3 * 7
        assert target_modules(model, "mlp", layers=[1]) == [
            f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")
        ]

    def test_components_of_a_diagnosis(self, make_tiny, tmp_path) -> None:
        tables = tmp_path / "tables"
        with pytest.raises(DatasetError, match=r"no heads\.csv"):
            component_layers(tmp_path)
        tables.mkdir()
        rows = [
            {"layer": layer, "head": 0, "method": "atp", "score": 1.0, "rank": rank}
            for rank, layer in enumerate((2, 1, 0))
        ]
        pd.DataFrame(rows).to_csv(tables / "heads.csv", index=False)
        pd.DataFrame([{"layer": 0, "neuron": 5, "method": "atp", "score": 1.0, "rank": 1}]).to_csv(
            tables / "neurons.csv", index=False
        )
        layers = component_layers(tmp_path, top_heads=2)
        assert (layers.attention, layers.mlp) == ({1, 2}, {0})
        places = {tuple(name.split(".")[2:4]) for name in target_modules(make_tiny("qwen2"), components=layers)}
        assert places == {("0", "mlp"), ("1", "self_attn"), ("2", "self_attn")}
        with pytest.raises(ConfigError, match="no ranking by 'atpp'; did you mean 'atp'"):
            component_layers(tmp_path, method="atpp")

    def test_no_examples_and_other_runs(self, loaded, tmp_path) -> None:
        with pytest.raises(DatasetError, match="no training examples"):
            train_lora(config(), tmp_path / "a", model=loaded, examples=[])
        assert not (tmp_path / "a").exists()
        with pytest.raises(KilledError):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples(), progress=killing(1))
        with pytest.raises(RunDirectoryError, match=r"other settings \(rank; rank is 4 there"):
            train_lora(config(rank=2), tmp_path / "a", model=loaded, examples=examples())
        with pytest.raises(RunDirectoryError, match="other data;"):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples(17))

    @pytest.mark.fault("X341", "adapters", "a training from whose examples nothing can be learnt", "refused beforehand")
    @pytest.mark.fault("X342", "adapters", "max_length below the prompts, mended in the next call", "the same --out")
    def test_examples_that_cannot_be_learnt_from_are_refused_before_anything_is_written(self, loaded, tmp_path) -> None:
        plain = [TrainingExample("p", "plain", "Say it.", "Say it.", " yes")]
        sft = config(objectives={"consistency_sft": 1.0})
        unknown = [TrainingExample("u", "irrelevant", "Sad. It is", "It is", " so", tokens=(5, 999_999))]
        for settings, given, message in (
            (sft, plain, "no objective with a weight applies to plain examples"),
            (config(max_length=3), examples(), "leaves no room in 3 tokens"),
            (config(), unknown, "example u: its tokens are not all below"),
        ):
            with pytest.raises(DatasetError, match=message):
                train_lora(settings, tmp_path / "a", model=loaded, examples=given)
            assert not (tmp_path / "a").exists()
        assert train_lora(config(), tmp_path / "a", model=loaded, examples=examples(3))

    @pytest.mark.fault("X343", "adapters", "a direction file exchanged while a training is interrupted", "refused")
    def test_a_training_does_not_go_on_with_another_direction(self, loaded, tmp_path) -> None:
        path = tmp_path / "direction.json"
        settings = config(objectives={"direction_penalty": 1.0}, directions=[str(path)])
        place = {
            "site": "resid_post", "layer": 1, "position": "last_prompt", "method": "difference_of_means",
            "kind": "read", "stream_norm": 1.0, "projections": {}, "threshold": 0.0,
            "model_hash": loaded.weights_hash, "data_hash": "d", "fit_hash": "f",
        }  # fmt: skip
        for axis in (0, 1):
            vector = torch.zeros(loaded.model.config.hidden_size)
            vector[axis] = 1.0
            Direction(vector, **place).save(tmp_path, "direction")
            wanted = pytest.raises(KilledError) if axis == 0 else pytest.raises(RunDirectoryError, match="directions")
            with wanted:
                train_lora(settings, tmp_path / "a", model=loaded, examples=examples(), progress=killing(1))

    @pytest.mark.fault("X344", "adapters", "train_lora(model=...) of a loaded model", "its own name in the run")
    def test_the_model_that_is_given_is_the_one_that_is_named(self, save_tiny, tmp_path) -> None:
        folder = save_tiny("qwen2")
        loaded = load_model(folder, dtype="float32", device="cpu")
        for name, model in (("loaded", loaded), ("named", str(folder))):
            result = train_lora(config(), tmp_path / name, model=model, examples=examples(3))
            assert read_json(result.path / "run.json")["config"]["model"] == str(folder)

    def test_a_model_with_an_adapter(self, save_tiny, tmp_path) -> None:
        base = load_model(save_tiny("qwen2"), dtype="float32", device="cpu")
        result = train_lora(config(), tmp_path / "a", model=base, examples=examples())
        with pytest.raises(ModelError, match="has an adapter already"):
            train_lora(config(), tmp_path / "b", model=load_adapter(base, result.path), examples=examples())

    def test_prompts_that_are_evaluated(self, loaded, tmp_path) -> None:
        sample = Sample("s", "The 1 is", "Joy here now.", "A tree grew tall.", "All was dark then.")
        PromptSet("held", (sample,)).save(tmp_path / "held.jsonl")
        bad = examples()
        bad[0] = TrainingExample("x", "plain", "user: all was dark then. So", "user: all was dark then. So", " ok")
        with pytest.raises(DatasetError, match=r"overlaps evaluation data: 'All was dark then\.' in held"):
            train_lora(config(evaluation=[str(tmp_path / "held.jsonl")]), tmp_path / "a", model=loaded, examples=bad)

    @pytest.mark.parametrize("how", ["cut", "flipped"])
    @pytest.mark.fault("X526", "runs", "the newest checkpoint is damaged", "the training goes on from the one before")
    def test_a_damaged_checkpoint(self, loaded, tmp_path, how) -> None:
        whole = train_lora(config(), tmp_path / "whole", model=loaded, examples=examples())
        with pytest.raises(KilledError):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples(), progress=killing(4))
        folder = tmp_path / "a" / "checkpoints"
        newest = sorted(folder.iterdir())[-1]
        data = newest.read_bytes()
        newest.write_bytes(data[:100] if how == "cut" else data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
        with pytest.warns(LeakmechWarning, match=rf"{newest.name}: damaged .*; it is removed"):
            again = train_lora(config(), tmp_path / "a", model=loaded, examples=examples())
        assert again.to_frame()["loss"].tolist() == pytest.approx(whole.to_frame()["loss"].tolist(), rel=1e-5)

    def test_a_checkpoint_of_another_adapter(self, loaded, tmp_path) -> None:
        with pytest.raises(KilledError):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples(), progress=killing(4))
        path = tmp_path / "a" / "checkpoints" / "step-000003.safetensors"
        save_file({"x": torch.zeros(1)}, path, metadata={"state": '{"step": 3, "evaluations": []}'})
        with pytest.raises(RunDirectoryError, match="another adapter"):
            train_lora(config(), tmp_path / "a", model=loaded, examples=examples())
