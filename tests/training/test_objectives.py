"""Losses against hand computations, and what they leave alone."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from leakmech.core.errors import ConfigError, DirectionError
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.prompts.render import Renderer
from leakmech.training.adapter import adapted, target_modules
from leakmech.training.examples import Collator, TrainingExample
from leakmech.training.kinds import OBJECTIVES
from leakmech.training.objectives import (
    Losses,
    activation_distance,
    divergence,
    negative_log_likelihood,
    squared_projection,
)
from leakmech.training.preventative import PreventativeSteering
from leakmech.training.settings import LoraTrainingConfig

TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def example(
    name: str, kind: str, injection: str, stem: str, completion: str, polarity: str | None = None
) -> TrainingExample:
    prompt = f"<|im_start|>user\n{injection}{stem}{TAIL}"
    reference = f"<|im_start|>user\n{stem}{TAIL}" if kind in ("irrelevant", "teacher") else prompt
    return TrainingExample(name, kind, prompt, reference, completion, polarity=polarity)  # pyright: ignore


EXAMPLES = (
    example("a", "irrelevant", "All is lost. ", "Her job is", " fine.", "negative"),
    example("b", "irrelevant", "What joy! ", "The dog", " barks loudly", "positive"),
    example("c", "relevant", "They fight. ", "The party ended", " badly"),
    example("d", "teacher", "They left. ", "The night was", " calm"),
)


def collator(tokenizer: PreTrainedTokenizerFast, padding: str = "left", max_length: int = 512) -> Collator:
    return Collator(Renderer(tokenizer).token_ids, 0, max_length=max_length, padding=padding)  # pyright: ignore


def direction(site: str = "resid_post", layer: int = 1, **changes: object) -> Direction:
    vector = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    values = {"stream_norm": 2.0, "projections": {"control": 0.5}, "threshold": 0.0} | changes
    return Direction(vector, site, layer, "last_prompt", "mean", "read", **values)  # pyright: ignore


class Adapted:
    """A tiny model with an adapter whose weights are all drawn at random, so that it changes something."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        loaded = load_model(model, tokenizer=tokenizer)
        self.context = adapted(loaded, LoraTrainingConfig.parse({"rank": 2}), target_modules(model))

    def __enter__(self):
        model = self.context.__enter__()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)


@torch.no_grad()
def run_alone(model, tokenizer, text: str):
    """Logits and hidden states of one text, without padding."""
    ids = torch.tensor([Renderer(tokenizer).token_ids(text)])
    output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    return ids[0], output.logits[0].float(), [hidden[0] for hidden in output.hidden_states]


def stream(model, batch, site: str) -> torch.Tensor:
    """The residual stream before or after the last block, on the student's side."""
    seen: list[torch.Tensor] = []
    block = layout_of(model).block(2).block
    if site == "resid_pre":
        handle = block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    else:
        handle = block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    side = batch.student
    model(input_ids=side.input_ids, attention_mask=side.attention_mask, position_ids=side.position_ids, use_cache=False)
    handle.remove()
    return seen[0]


class TestValues:
    def test_negative_log_likelihood_is_the_mean_over_unmasked_tokens(self) -> None:
        logits = torch.log(torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.5, 0.5]]]))
        targets, mask = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[True, True], [True, False]])
        found = negative_log_likelihood(logits[mask], targets[mask], mask)
        assert found.tolist() == pytest.approx([-(math.log(0.5) + math.log(0.1)) / 2, -math.log(0.8)])

    def test_divergence_is_from_base_to_student(self) -> None:
        base, student = torch.log(torch.tensor([[[0.5, 0.5]]])), torch.log(torch.tensor([[[0.9, 0.1]]]))
        expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
        assert divergence(base[0], student[0], torch.tensor([[True]])).tolist() == pytest.approx([expected])

    @pytest.mark.parametrize("measure", ["kl", "total_variation"])
    def test_divergence_and_its_gradient_are_those_of_the_formula(self, measure) -> None:
        generator = torch.Generator().manual_seed(0)
        base, student = torch.randn(2, 41, 7, generator=generator)
        mask = torch.ones(1, 41, dtype=torch.bool)

        def formula(student: torch.Tensor) -> torch.Tensor:
            p, q = base.softmax(-1), student.softmax(-1)
            return ((p * (p / q).log()) if measure == "kl" else (p - q).abs() / 2).sum(-1).mean()

        ours, theirs = (student.clone().requires_grad_() for _ in range(2))
        found = divergence(base, ours, mask, measure)
        (0.7 * found).sum().backward()
        (0.7 * formula(theirs)).backward()
        assert found.item() == pytest.approx(formula(student).item(), rel=1e-5)
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)

    def test_activation_distance_is_relative_to_the_control(self) -> None:
        control, student = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]]), torch.tensor([[[3.0, 5.0], [0.0, 2.0]]])
        found = activation_distance(student, control, torch.tensor([[True, True]]))
        assert found.tolist() == pytest.approx([(1 / 25 + 5 / 1) / 2])

    def test_squared_projection_counts_from_the_set_point(self) -> None:
        hidden, mask = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[True, False]])
        found = squared_projection(hidden, torch.tensor([0.0, 1.0]), mask, set_point=1.0, scale=2.0)
        assert found.tolist() == pytest.approx([(3 / 2) ** 2])


class TestOnModels:
    @pytest.mark.parametrize(("padding", "measure"), [("left", "kl"), ("right", "kl"), ("right", "total_variation")])
    def test_every_objective_equals_a_computation_on_single_rows(
        self, tiny_model, chat_tokenizer, padding, measure
    ) -> None:
        weights = dict.fromkeys(OBJECTIVES, 1.0)
        losses = Losses(weights, layers=[0, 2], directions=[direction()], set_point="control", divergence=measure)
        batching = collator(chat_tokenizer, padding)
        batch = batching.batch([batching.encode(one) for one in EXAMPLES])
        with Adapted(tiny_model, chat_tokenizer) as model:
            with torch.no_grad(), losses.rows(model, batch) as found:
                pass
            expected = {name: [] for name in OBJECTIVES}
            for one in EXAMPLES:
                for name, value in self.by_hand(model, chat_tokenizer, one, measure).items():
                    expected[name].append(value)
        for name, values in expected.items():
            assert found[name].tolist() == pytest.approx(values, rel=2e-4, abs=1e-6), name

    def by_hand(self, model, tokenizer, one: TrainingExample, measure: str) -> dict[str, float]:
        ids, logits, hidden = run_alone(model, tokenizer, one.prompt + one.completion)
        with model.disable_adapter():
            own, base, control = run_alone(model, tokenizer, one.reference + one.completion)
        n = len(Renderer(tokenizer).token_ids(one.completion))
        wanted, given = base[-n - 1 : -1].log_softmax(-1), logits[-n - 1 : -1].log_softmax(-1)
        parts = wanted.exp() * (wanted - given) if measure == "kl" else (wanted.exp() - given.exp()).abs() / 2
        apart = float(parts.sum(-1).mean())
        shared = 0
        while shared < min(len(ids), len(own)) and ids[-shared - 1] == own[-shared - 1]:
            shared += 1
        h, c = hidden[1][-shared:], control[1][-shared:]  # after layer 0; after the last one comes the final norm
        h2, c2 = self.last_layer(model, ids)[-shared:], self.last_layer(model, own, base=True)[-shared:]
        distances = [float(((x - y).square().sum(-1) / y.square().sum(-1)).mean()) for x, y in ((h, c), (h2, c2))]
        told = float(-given[torch.arange(n), ids[-n:]].mean())
        on_both = {"contrastive": apart, "activation_contrastive": sum(distances) / 2, "sft": told}
        if one.kind == "teacher":
            return {"teacher": apart} | on_both
        if one.kind != "irrelevant":
            return {"anchor": apart} | on_both
        projections = hidden[2][-shared:] @ direction().vector
        return on_both | {
            "consistency_sft": told,
            "distillation": apart,
            "activation_consistency": sum(distances) / 2,
            "direction_penalty": float(((projections - 0.5) / 2.0).square().mean()),
        }

    def last_layer(self, model, ids, *, base: bool = False):
        layout = layout_of(model)
        recorder = recording(layout, sites=["resid_post"], layers=[2], pick=lambda x: x)
        with recorder as recorded, torch.no_grad(), model.disable_adapter() if base else nullcontext():
            model(input_ids=ids[None], use_cache=False)
        return recorded["resid_post", 2][0]

    def test_gradients_reach_the_adapter_only(self, make_tiny, chat_tokenizer) -> None:
        base = make_tiny("qwen2")
        batching = collator(chat_tokenizer)
        batch = batching.batch([batching.encode(one) for one in EXAMPLES])
        with Adapted(base, chat_tokenizer) as model:
            with Losses({"contrastive": 1.0, "consistency_sft": 0.5}).rows(model, batch) as values:
                Losses({"contrastive": 1.0, "consistency_sft": 0.5}).total(values, 3).backward()
            with_gradient = {
                name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
            }
            adapter = {name for name, p in model.named_parameters() if "lora_" in name}
        assert with_gradient == adapter

    def test_the_activation_loss_is_zero_where_student_and_base_agree(self, make_tiny, chat_tokenizer) -> None:
        same = TrainingExample("s", "irrelevant", EXAMPLES[0].prompt, EXAMPLES[0].prompt, " fine.")
        batching = collator(chat_tokenizer)
        loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
        names = target_modules(loaded.model)
        with adapted(loaded, LoraTrainingConfig.parse({"rank": 2}), names) as model:
            losses = Losses({"activation_consistency": 1.0, "distillation": 1.0})
            with losses.rows(model, batching.batch([batching.encode(same)])) as values:
                assert values["activation_consistency"].item() == 0
                assert values["distillation"].item() == pytest.approx(0, abs=1e-7)

    @pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
    def test_steering_pushes_irrelevant_suffixes_by_polarity_and_is_gone_afterwards(
        self, make_tiny, chat_tokenizer, site
    ) -> None:
        batching = collator(chat_tokenizer)
        batch = batching.batch([batching.encode(one) for one in EXAMPLES])
        steering = PreventativeSteering(direction(site, 2), strength=3.0)
        with Adapted(make_tiny("llama-gqa"), chat_tokenizer) as model, torch.no_grad():
            before = stream(model, batch, site)
            with steering.applied(model, batch):
                pushed = stream(model, batch, site)
            after = stream(model, batch, site)
        assert torch.equal(before, after)
        moved = (pushed - before) @ direction().vector
        for row, sign in enumerate((-1.0, 1.0, 0.0)):
            own = moved[row][batch.student.attention_mask[row].bool()]
            n_suffix = int(batch.suffix_mask[row].sum()) if sign else 0
            assert own[len(own) - n_suffix :].tolist() == pytest.approx([sign * 3.0 * 2.0] * n_suffix, rel=1e-3)
            assert own[: len(own) - n_suffix].abs().max() < 1e-4

    def test_examples_that_name_a_sign_are_steered_by_it_whatever_their_kind(self, make_tiny, chat_tokenizer) -> None:
        signs = (0.0, 1.0, -2.0)
        examples = [
            TrainingExample(f"s{sign}", "completion", f"It is{TAIL}", f"It is{TAIL}", " so", sign=sign)
            for sign in signs
        ]
        batching = collator(chat_tokenizer)
        batch = batching.batch([batching.encode(one) for one in examples])
        with Adapted(make_tiny("llama-gqa"), chat_tokenizer) as model, torch.no_grad():
            before = stream(model, batch, "resid_post")
            with PreventativeSteering(direction("resid_post", 2), strength=3.0).applied(model, batch):
                pushed = stream(model, batch, "resid_post")
        moved = ((pushed - before) @ direction().vector).mean(dim=1)
        assert moved.tolist() == pytest.approx([sign * 6.0 for sign in signs], rel=1e-3, abs=1e-4)

    def test_a_foreign_completion_is_only_learned_word_for_word(self, make_tiny, chat_tokenizer) -> None:
        own = TrainingExample("x", "completion", f"It is{TAIL}", f"It is{TAIL}", " so")
        batch = collator(chat_tokenizer).batch([collator(chat_tokenizer).encode(own)])
        with Adapted(make_tiny("llama-gqa"), chat_tokenizer) as model:
            weights = {"sft": 1.0, "contrastive": 1.0, "activation_contrastive": 1.0, "anchor": 1.0}
            with Losses(weights).rows(model, batch) as values:
                assert set(values) == {"sft"}

    def test_the_base_model_is_not_steered(self, make_tiny, chat_tokenizer) -> None:
        batching = collator(chat_tokenizer)
        batch = batching.batch([batching.encode(one) for one in EXAMPLES])
        steering = PreventativeSteering(direction(), strength=3.0)
        seen = []
        with Adapted(make_tiny("llama-gqa"), chat_tokenizer) as model, torch.no_grad():
            handle = layout_of(model).unembedding.register_forward_hook(
                lambda _, args, __: seen.append(args[0].clone())
            )
            for chosen in (None, steering):
                with Losses({"contrastive": 1.0}, steering=chosen).rows(model, batch):
                    pass
            handle.remove()
        base, student, same_base, steered = seen
        assert torch.equal(base, same_base)
        assert not torch.allclose(student, steered, atol=1e-2)

    def test_a_direction_inside_a_block_cannot_steer(self) -> None:
        with pytest.raises(DirectionError, match="resid_pre or resid_post"):
            PreventativeSteering(direction("mlp_out"), 1.0)

    def test_objectives_without_weight_or_direction_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="none has a weight"):
            Losses({"anchor": 0.0})
        with pytest.raises(ConfigError, match="did you mean 'anchor'"):
            Losses({"ancor": 1.0})
        with pytest.raises(ConfigError, match="needs directions"):
            Losses({"direction_penalty": 1.0})
