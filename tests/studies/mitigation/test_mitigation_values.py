"""Mitigations as values, and benchmark runs under them."""

import json
from contextlib import contextmanager

import pytest
import torch

import leakmech
from leakmech.core.errors import ConfigError, InterruptedRunError, RunDirectoryError
from leakmech.core.store import write_jsonl
from leakmech.datasets.samples import PromptSet, Sample
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.hf_engine import HFEngine
from leakmech.interventions.types import AblateHeads, DampenAttention, Probe, ScaleHeads
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer
from leakmech.prompts.views import NEUTRAL_SENTENCE
from leakmech.runs.directory import stored_settings
from leakmech.studies.benchmark.run import run_benchmark
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.mitigation import Mitigation, bench_under
from leakmech.studies.mitigation.prompting import (
    ORACLE,
    builtin_mitigations,
    contrast_mitigation,
    decoding_mitigations,
    drop_unrelated_text,
    find_mitigation,
    instruction_mitigation,
    rewrite_mitigation,
)
from leakmech.studies.mitigation.reach import out_of_reach

SETTINGS = {
    "dtype": "float32",
    "device": "cpu",
    "generations": 2,
    "decoding": {"max_new_tokens": 10},
    "estimator": "vader",
    "bootstrap_draws": 100,
}


SAMPLES = PromptSet(
    "short",
    (
        Sample(id="a", stem="We are", positive="Joy came.", neutral="It rains.", negative="Woe is me."),
        Sample(id="b", stem="His soup is", positive="I won!", neutral="It is six.", negative="I fell."),
    ),
)


@pytest.fixture
def config(save_tiny, tmp_path):
    SAMPLES.save(tmp_path / "short.jsonl")
    return BenchConfig.parse(
        SETTINGS | {"model": str(save_tiny("llama-gqa")), "dataset": str(tmp_path / "short.jsonl")}
    )


def texts(path):
    rows = map(json.loads, (path / "generations" / "shard-000.jsonl").read_text().splitlines())
    return {(row["sample"], row["condition"], row["generation"]): row["text"] for row in rows}


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_oracle_draws_what_the_control_prompt_would_under_the_injected_prompts_noise(config, tmp_path):
    result = bench_under(ORACLE, config, out=tmp_path / "run")
    assert result.summary["oracle"] is True
    loaded = load_model(config.model, dtype="float32", device="cpu")
    renderer = Renderer(loaded.tokenizer)
    sample = SAMPLES.samples[1]
    control = tuple(renderer.token_ids(renderer.prompt(sample, "control").rendered))
    rows = [Row(f"{sample.id}/positive", i, control) for i in range(2)]
    expected = Decoder(loaded.model, loaded.tokenizer, decoding=config.decoding).decode(rows)
    found = texts(result.path)
    for made in expected:  # the run's rows may end earlier, at their first sentence
        assert made.text.startswith(found[sample.id, "positive", made.generation])


def test_under_greedy_decoding_the_oracle_answers_every_condition_like_control(config, tmp_path):
    greedy = config.model_copy(update={"decoding": type(config.decoding)(temperature=0.0, max_new_tokens=10)})
    found = texts(bench_under(ORACLE, greedy, out=tmp_path / "run").path)
    for (sample, _, _), text in found.items():
        assert text[:8] == found[sample, "control", 0][:8]


def test_a_contrast_of_strength_0_gives_the_run_without_it(config, tmp_path):
    plain = run_benchmark(config, out=tmp_path / "plain")
    off = bench_under(contrast_mitigation("subtract-context", strength=0.0), config, out=tmp_path / "off")
    on = bench_under(contrast_mitigation("subtract-context"), config, out=tmp_path / "on")
    assert texts(off.path) == texts(plain.path) != texts(on.path)
    assert off.summary["overall"] == plain.summary["overall"]
    assert on.summary["contrast"]["strength"] == 1.0
    # A control prompt has no context, so nothing is subtracted; only the constraint acts there.
    assert BenchConfig.parse(stored_settings(on.path)).identity() == on_disk(on.path)["config"]


def on_disk(path):
    return json.loads((path / "run.json").read_text())


def test_a_sentence_that_was_inserted_counts_as_prompt_when_it_is_repeated(config, tmp_path):
    result = bench_under(rewrite_mitigation("neutral-context"), config, out=tmp_path / "run")
    assert on_disk(result.path)["inserted_text"] == NEUTRAL_SENTENCE
    rows = [{**row} for row in result.files.generations()]
    rows[0]["text"] = f"{NEUTRAL_SENTENCE} The sea is wide. It"
    write_jsonl(tmp_path / "run" / "generations" / "shard-000.jsonl", rows)
    again = leakmech.score(result.path, out=tmp_path / "again", bootstrap_draws=100)
    row = again.scores.set_index(["prompt_id", "generation"]).loc[(rows[0]["prompt_id"], rows[0]["generation"])]
    assert row["first_sentence"] == "The sea is wide."


def test_an_interrupted_rewriting_goes_on_and_ends_up_the_same(config, tmp_path, monkeypatch):
    config = config.model_copy(update={"batch_size": 1, "limit": 1})
    self_rewrite = rewrite_mitigation("self")
    expected = bench_under(self_rewrite, config, out=tmp_path / "a")
    complete, calls = HFEngine.complete, []

    def interrupted(*arguments, **keywords):
        for ended in complete(*arguments, **keywords):
            yield ended
            calls.append(len(ended))
            if sum(calls) >= 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(HFEngine, "complete", interrupted)
    with pytest.raises(InterruptedRunError, match="0 of 10 generations are saved"):
        bench_under(self_rewrite, config, out=tmp_path / "b")
    monkeypatch.undo()
    before = lines(tmp_path / "b" / "rewrites.jsonl")
    assert len(before) == 2
    with (tmp_path / "b" / "rewrites.jsonl").open("a") as file:
        file.write('{"prompt_id": "hexl')
    resumed = leakmech.bench(out=tmp_path / "b", **stored_settings(tmp_path / "b") | {"batch_size": 1, "device": "cpu"})
    assert lines(tmp_path / "b" / "rewrites.jsonl")[: len(before)] == before
    assert resumed.summary["rewrites"] == expected.summary["rewrites"]
    assert texts(resumed.path) == texts(expected.path)
    prompts = lines(tmp_path / "b" / "prompts.jsonl")
    assert all(row["rewritten"] in row["rendered"] and row["rewrite_status"] for row in prompts)


def test_a_directory_of_another_rewriting_or_rule_is_refused_by_name(config, tmp_path):
    run_benchmark(config, out=tmp_path / "run")
    for mitigation, field in ((ORACLE, "prompt_rewrite"), (contrast_mitigation("placebo"), "contrast")):
        with pytest.raises(RunDirectoryError, match=field):
            bench_under(mitigation, config, out=tmp_path / "run")


def test_a_hook_acts_while_the_benchmark_runs_and_is_part_of_the_runs_identity(config, tmp_path):
    @contextmanager
    def halved(model):
        handle = model.model.layers[1].register_forward_hook(lambda _, __, output: output * 0.5)
        try:
            yield
        finally:
            handle.remove()

    loaded = load_model(config.model, dtype="float32", device="cpu")
    hooked = Mitigation("halved", "intervention", hook=halved, hook_version="1")
    changed = bench_under(hooked, config, model=loaded, out=tmp_path / "hooked")
    plain = run_benchmark(config, out=tmp_path / "plain")
    assert texts(changed.path) != texts(plain.path)
    assert not loaded.model.model.layers[1]._forward_hooks
    with pytest.raises(RunDirectoryError, match="mitigation"):
        bench_under(
            Mitigation("halved", "intervention", hook=halved, hook_version="2"),
            config,
            model=loaded,
            out=tmp_path / "hooked",
        )
    with pytest.raises(RunDirectoryError, match="mitigation"):
        run_benchmark(config.model_copy(), model=loaded.model, tokenizer=loaded.tokenizer, out=tmp_path / "hooked")
    with pytest.raises(ConfigError, match="which a file cannot hold"):
        hooked.to_dict()


def test_every_builtin_mitigation_survives_json_and_configures_a_run():
    base = BenchConfig.parse({})
    for name, mitigation in builtin_mitigations().items():
        again = Mitigation.from_dict(json.loads(json.dumps(mitigation.to_dict())))
        assert again == mitigation
        assert again.name == name
        assert again.configure(base).identity() != base.identity()
        assert mitigation.told == mitigation.configure(base).told
        assert mitigation.oracle == (mitigation.kind == "oracle") == (mitigation.told == "boundary")
    assert [m.name for m in decoding_mitigations() if m.oracle] == ["oracle-control-prompt", "contrast-toward-control"]
    names = [m.name for m in decoding_mitigations(strengths=(0.5, 1.0))]
    assert len(names) == len(set(names)) == 17
    assert not any("system" in name for name in builtin_mitigations(system_role=False))


def test_settings_of_decoding_are_merged_and_others_are_not_overwritten():
    base = BenchConfig.parse({"decoding": {"max_new_tokens": 9}, "instruction": "same-topic"})
    cooler = Mitigation("cool", "decoding", {"decoding": {"temperature": 0.5}}).configure(base)
    assert (cooler.decoding.temperature, cooler.decoding.max_new_tokens) == (0.5, 9)
    with pytest.raises(ConfigError, match="sets instruction, which the run sets to 'same-topic' already"):
        instruction_mitigation("self-reminder").configure(base)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mitigation("m", "instructions"), "did you mean 'instruction'"),
        (lambda: Mitigation("m", "rewrite", {"prompt_rewrit": "self"}), "did you mean 'prompt_rewrite'"),
        (lambda: Mitigation("m", "rewrite", {"prompt_rewrite": "control"}), "its kind must be 'oracle'"),
        (lambda: Mitigation("m", "intervention", hook=lambda model: model), "hook_version"),
        (lambda: Mitigation("m", "decoding", told="layuot"), "did you mean 'layout'"),
        (lambda: Mitigation("m", "oracle"), "told the boundary or the condition"),
        (lambda: Mitigation("m", "rewrite", {"prompt_rewrite": "last-sentence"}), "but a part is told the layout"),
        (
            lambda: Mitigation("m", "intervention", interventions=(DampenAttention(["L0H0"]),), told="layout"),
            "told layout, but a part is told the boundary",
        ),
        (lambda: find_mitigation("rewrite-selff"), "did you mean 'rewrite-self'"),
        (lambda: contrast_mitigation("placeboo"), "did you mean 'placebo'"),
        (lambda: Mitigation.from_dict({"format_version": 9}), "format version 9"),
        (lambda: Mitigation.from_dict({"format_version": 1, "sets": {}}), "did you mean 'settings'"),
    ],
)  # fmt: skip
def test_bad_mitigations_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_a_file_holds_decides_what_a_mitigation_is(tmp_path):
    adapter = Mitigation("a", "adapter", {"adapter": str(tmp_path)})
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"one")
    before = adapter.identity
    (tmp_path / "README.md").write_text("a card")
    assert adapter.identity == before
    (tmp_path / "adapter_model.safetensors").write_bytes(b"two")
    assert adapter.identity != before


def at(position, **fields):
    return ScaleHeads(["L0H0"], scales=0.0, positions=position, **fields)


def gate(position):
    return Probe(vector=torch.tensor([1.0, 0.0]), layer=0, threshold=0.0, position=position)


@pytest.mark.parametrize(
    ("edit", "told", "missed"),
    [
        (at("all"), "nothing", ()),
        (at("last_prompt"), "nothing", ()),
        (at("all", condition=gate("last_prompt")), "nothing", ()),
        (at("stem"), "boundary", ("perplexity_ratio", "capability", "retention_requests")),
        (at("all", condition=gate("stem")), "boundary", ("perplexity_ratio", "capability", "retention_requests")),
        (DampenAttention(["L0H0"]), "boundary", ("kl", "perplexity_ratio", "capability", "retention_requests")),
        (
            DampenAttention(["L0H0"], condition=gate("stem")),
            "boundary",
            ("kl", "perplexity_ratio", "capability", "retention_requests"),
        ),
        (
            AblateHeads(["L0H0"], method="mean", values={"all": torch.ones(1, 2), "injection": torch.ones(1, 2)}),
            "boundary",
            (),
        ),
    ],
)
def test_what_reads_the_injection_or_the_stem_must_say_so_and_has_no_side_effect_without_them(edit, told, missed):
    assert edit.told == told
    if told != "nothing":
        with pytest.raises(ConfigError, match="says that it is told nothing, but a part is told the boundary"):
            Mitigation("m", "intervention", interventions=(edit,))
    mitigation = Mitigation("m", "intervention", interventions=(edit,), told=told)
    assert mitigation.claimed == (told == "nothing")
    assert out_of_reach(mitigation) == missed


def test_a_file_of_interventions_is_told_what_its_edits_are(tmp_path):
    path = str(leakmech.save_interventions(DampenAttention(["L0H0"]), tmp_path / "edit.json"))
    with pytest.raises(ConfigError, match="a part is told the boundary"):
        Mitigation("m", "intervention", {"intervention": path})
    found = Mitigation("m", "intervention", {"intervention": path}, told="boundary")
    assert out_of_reach(found) == ("kl", "perplexity_ratio", "capability", "retention_requests")


def test_prompts_and_decoding_have_no_likelihood_of_their_own_and_instructions_stand_before_no_neutral_text():
    everything = ("kl", "perplexity_ratio", "capability", "retention_requests")
    assert out_of_reach(rewrite_mitigation("last-sentence")) == everything
    assert out_of_reach(contrast_mitigation("toward-neutral")) == everything
    assert out_of_reach(instruction_mitigation("paper")) == ("perplexity_ratio",)
    assert out_of_reach(Mitigation("a", "adapter", {"adapter": "folder"})) == ()


def test_a_file_of_an_earlier_version_is_told_what_its_parts_are():
    old = {key: value for key, value in rewrite_mitigation("last-sentence").to_dict().items() if key != "told"}
    assert Mitigation.from_dict(old).told == "layout"


def test_only_text_that_is_similar_to_the_request_is_completed(config, tmp_path):
    """The shipped encoder: what drops everything completes the stem, what drops nothing the whole prompt."""
    for threshold, status in ((1.0, {"rewritten"}), (-1.0, {"unchanged"})):
        result = bench_under(drop_unrelated_text(threshold), config, out=tmp_path / f"run{threshold:g}")
        prompts = [row for row in lines(result.path / "prompts.jsonl") if row["condition"] != "control"]
        assert {row["rewrite_status"] for row in prompts} == status
        assert not result.summary.get("oracle")
        assert "rewriting_encoder" in on_disk(result.path)["fingerprint"]
