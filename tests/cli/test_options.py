"""Options made from settings: all that there ever were, their help, and what they are laid over."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, UsageError
from leakmech.runs.options import options_of
from leakmech.runs.reproduce import reproduction
from leakmech.studies.aexl.settings import AexlSettings
from leakmech.studies.annotation.settings import ExportConfig
from leakmech.studies.benchmark.settings import BenchConfig, CompareConfig, ScoreConfig
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.mitigation.settings import MitigateConfig
from leakmech.studies.persona_leakage.settings import PersonaLeakageConfig
from leakmech.training.settings import LoraTrainingConfig

# Written down before options were made from settings: scripts use them.
OLD_OPTIONS = {
    "bench": "--adapter --arrangement --batch-size --cleaning --contrast --contrast-strength --dataset --device "
    "--dtype --encoder --estimator --first-sentence-stop --fold --full-length --generations --hooks --instruction "
    "--intervention --limit --max-new-tokens --model --no-report --out --prompt-form --prompt-rewrite --report "
    "--revision --seed --system --temperature config",
    "score": "--allow-missing --arrangement --cleaning --column --config --dataset --device --encoder --estimator "
    "--instruction --limit --model --no-report --out --report --seed source",
    "show": "run",
    "samples": "--generation --number --sample -n run",
    "report": "run",
    "diagnose": "--adapter --batch-size --dataset --device --dtype --exact-samples --fit --limit --model --out --seed "
    "--target --target-layer --tune config",
    "directions": "--dataset --device --dtype --fit --kind --layers --methods --model --out --seed --tune",
    "attribute": "--dataset --device --direction --dtype --limit --method --model --out --seed --side --steps --top",
    "mitigate": "--adapter --batch-size --dataset --device --diagnosis --dtype --families --generations "
    "--intervention --limit --model --out --seed config",
    "compare": "--all-pairs --alpha --any-estimator --baseline --cleaning --margin --out --seed",
    "power": "--against --alpha --effect --generations --run --samples --shared",
    "doctor": "",
    "train-lora": "--device --dtype --epochs --examples --model --out --rank --seed config",
    "merge-lora": "--base --dtype --out adapter",
    "data check": "--estimator --no-relevant --relevant --tokenizer file",
    "data build-aexl": "--corpus --encoder --estimator --fit --group-column --limit --m --match-length --max-overlap "
    "--max-similarity --max-stem-words --max-words --min-confidence --min-stem-neutral --min-stem-words --min-words "
    "--n --no-match-length --no-personal-data-filter --no-profanity-filter --no-standalone-filter --out "
    "--personal-data-filter --profanity-filter --revision --samples --seed --sentences --split --standalone-filter "
    "--stem-end --stem-pool --stem-source --subset --text-column --tokenizer --tune",
    "data fetch-archive": "--sdist",
    "annotate export": "--annotators --n --out --seed run",
    "annotate import": "--seed folder sheets",
}
SETTINGS = {
    "bench": BenchConfig,
    "score": ScoreConfig,
    "diagnose": DiagnoseConfig,
    "mitigate": MitigateConfig,
    "train-lora": LoraTrainingConfig,
    "data build-aexl": AexlSettings,
    "compare": CompareConfig,
    "annotate export": ExportConfig,
}


def help_of(command: str) -> str:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", OLD_OPTIONS)
def test_every_option_there_ever_was_is_there(command) -> None:
    text = help_of(command)
    found = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)) | set(re.findall(r"\w+", text.splitlines()[0]))
    assert set(OLD_OPTIONS[command].split()) <= found


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_can_be_reached_and_no_two_options_share_a_name(command) -> None:
    options, text = options_of(SETTINGS[command]), help_of(command)
    assert {option.path[0] for option in options} == set(SETTINGS[command].model_fields)
    names = [name for option in options for name in option.names]
    assert len(names) == len(set(names))
    assert all(name in text for name in names)


def test_help_groups_options_and_shows_defaults() -> None:
    sections = re.split(r"\n\n(?=[A-Z][\w ]+:\n)", help_of("bench"))
    by_heading = {section.partition(":")[0]: " ".join(section.split()) for section in sections}
    assert "--model TEXT" in by_heading["Model"]
    assert (
        "--temperature NUMBER|model sampling temperature; 0 is greedy, model is the checkpoint's own [default: 1.0]"
        in " ".join(by_heading["Decoding"].split())
    )
    assert "[default: hooks]" in by_heading["Benchmark"]
    assert "bootstrap resamples of every interval [default: 10000]" in by_heading["Seed and statistics"]
    assert "--fit TEXT" in help_of("diagnose")
    assert "[required]" in help_of("diagnose")


def test_listing_commands_and_options_needs_no_torch() -> None:
    code = (
        "import sys, leakmech.cli.app; assert 'pydantic' not in sys.modules\n"
        "from leakmech.runs.options import options_of\n"
        "from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig\n"
        "from leakmech.studies.diagnosis.settings import DiagnoseConfig\n"
        "from leakmech.studies.mitigation.settings import MitigateConfig\n"
        "from leakmech.training.settings import LoraTrainingConfig\n"
        "[options_of(one) for one in (BenchConfig, ScoreConfig, DiagnoseConfig, MitigateConfig, LoraTrainingConfig)]\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- what a command is given -----------------------------------------------------------------------------------------

FUNCTIONS = {
    "bench": "leakmech.studies.benchmark.run.bench",
    "score": "leakmech.studies.benchmark.rescoring.score",
    "diagnose": "leakmech.studies.diagnosis.run.diagnose",
    "mitigate": "leakmech.studies.mitigation.run.mitigate",
    "train-lora": "leakmech.studies.lora.run.train_lora",
    "data build-aexl": "leakmech.studies.aexl.run.build_aexl",
}


class _NothingFinished:
    def as_it_was(self) -> None:
        return None


class _CapturedError(Exception):
    pass


@pytest.fixture
def settings_of(monkeypatch):
    """The settings that a command line leads to, without running anything."""

    def settings_of(*words):
        command = " ".join(words[:2]) if words[0] == "data" else words[0]
        caught = {}

        def capture(*values, **given):
            caught["values"], caught["given"] = values, given
            raise _CapturedError

        monkeypatch.setattr(FUNCTIONS[command], capture)
        monkeypatch.setattr("leakmech.studies.benchmark.reopen.finished_run", lambda *_: None)
        monkeypatch.setattr("leakmech.studies.benchmark.reopen.Rescoring.of", lambda *_, **__: _NothingFinished())
        monkeypatch.setattr("leakmech.cli.options.Given.refuse_mistakes", lambda *_, **__: None)  # names are made up
        outcome = CliRunner().invoke(app, [str(word) for word in words])
        if not isinstance(outcome.exception, _CapturedError):
            raise outcome.exception or AssertionError(outcome.output)
        if command == "train-lora":
            return caught["values"][0]
        for name in ("out", "progress", "interim", "say", "columns"):
            caught["given"].pop(name, None)
        return SETTINGS[command].parse(caught["given"])

    return settings_of


def write_run(path, config, **facts):
    head = {"format_version": 1, "kind": config.kind, "command": config.command, "fingerprint": {}}
    path.mkdir(exist_ok=True)
    (path / "run.json").write_text(json.dumps(head | {"config": config.identity()} | facts))
    return path


STORED = {
    "bench": {"model": "m", "limit": 3, "decoding": {"top_k": 7}, "contrast": "toward-neutral", "system": None},
    "score": {"model": "m", "estimator": "vader", "allow_missing": True, "limit": 2},
    "diagnose": {"model": "m", "fit": "f.jsonl", "methods": ["pca"], "top": 3},
    "mitigate": {"diagnosis": "d", "adapters": ["a", "b"], "margins": {"kl": 0.2}, "families": ["f"]},
    "train-lora": {
        "examples_file": "e.jsonl", "layers": [1, 2], "targets": ["q_proj"], "objectives": {"anchor": 2.0},
        "tune": {"leakage": "t.jsonl"},
    },
}  # fmt: skip


@pytest.mark.parametrize("command", STORED)
def test_naming_a_run_is_enough_to_continue_it(command, settings_of, tmp_path) -> None:
    config = SETTINGS[command].parse(STORED[command])
    run = write_run(tmp_path / "run", config)
    assert settings_of(command, "--out", run).identity() == config.identity()


def test_options_go_over_the_file_and_the_file_over_the_run(settings_of, tmp_path) -> None:
    run = write_run(tmp_path / "run", BenchConfig.parse({"limit": 3, "seed": 3, "decoding": {"top_k": 3}}))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"limit": 4, "generations": 4}))
    found = settings_of("bench", tmp_path / "c.yaml", "--generations", "5", "--temperature", "0", "--out", run)
    assert (found.seed, found.limit, found.generations) == (3, 4, 5)
    assert (found.decoding.top_k, found.decoding.temperature) == (3, 0)


def test_a_rule_of_decoding_is_named_and_adjusted(settings_of, tmp_path) -> None:
    found = settings_of("bench", "--contrast", "subtract-context", "--contrast-strength", "2")
    assert (found.contrast.method, found.contrast.strength) == ("subtract-context", 2.0)
    (tmp_path / "c.yaml").write_text("contrast: toward-neutral\n")
    adjusted = settings_of("bench", tmp_path / "c.yaml", "--contrast-strength", "0.5")
    assert (adjusted.contrast.reference, adjusted.contrast.strength) == ("neutral-context", 0.5)
    assert settings_of("bench", tmp_path / "c.yaml", "--contrast", "none").contrast is None
    with pytest.raises(ConfigError, match="--contrast-strength: of which rule"):
        settings_of("bench", "--contrast-strength", "2")


@pytest.mark.fault("X327", "hints", "a value that is called none, where no value is not possible", "--instruction none")
def test_none_is_a_value_where_a_setting_has_one_of_that_name(settings_of) -> None:
    assert settings_of("bench", "--instruction", "none").instruction == "none"
    shares = {option.names[0]: option for option in options_of(PersonaLeakageConfig)}["--contrast"]
    assert shares.read("none") == "none"
    assert settings_of("bench", "--system", "none").system is None
    with pytest.raises(ConfigError, match="temperature"):
        settings_of("bench", "--temperature", "none")


def test_a_comparison_takes_in_more_adapters_and_other_families(settings_of, tmp_path) -> None:
    run = write_run(tmp_path / "run", MitigateConfig.parse({"diagnosis": "d", "adapters": ["a"], "families": ["x"]}))
    found = settings_of("mitigate", "--adapter", "b", "--adapter", "a", "--families", "y, z", "--out", run)
    assert found.adapters == ("a", "b")
    assert found.families == ("y", "z")
    assert settings_of("mitigate", "--adapter", "b", "--margin", "kl=0.3").margins == {"kl": 0.3}


def test_groups_of_training_settings_are_options_too(settings_of, tmp_path) -> None:
    words = "--examples-file e --objectives-anchor 2 --objectives-consistency-sft 0 --layers 1,2 --targets q_proj,"
    found = settings_of("train-lora", *words.split(), "--tune-leakage", "t", "--max-new-tokens", "9", "--out", tmp_path)
    assert found.objectives.model_dump(exclude_defaults=True) == {"anchor": 2.0}
    assert (found.layers, found.targets, found.tune.leakage) == ((1, 2), ("q_proj",), "t")
    assert found.decoding.max_new_tokens == 9
    assert settings_of("train-lora", "--examples-file", "e", "--clear-pairs", "--out", tmp_path).clear_pairs is not None


def test_naming_a_data_set_is_enough_to_build_it_again(settings_of, tmp_path) -> None:
    config = AexlSettings.parse({"samples": 7, "fit": 2, "corpus_split": "dev", "match_length": False})
    (tmp_path / "aexl.json").write_text(json.dumps({"settings": config.identity()}))
    assert settings_of("data", "build-aexl", "--out", tmp_path / "aexl.jsonl") == config
    (tmp_path / "c.yaml").write_text("samples: 5\nlimit: 50\n")
    other = settings_of(
        "data", "build-aexl", tmp_path / "c.yaml", "--split", "x", "--samples", "4", "--out", tmp_path / "b"
    )
    assert (other.samples, other.limit, other.corpus_split, other.m) == (4, 50, "x", 6)


@pytest.mark.parametrize("command", ["bench", "diagnose", "mitigate", "train-lora"])
def test_an_unknown_key_of_a_file_is_named_with_the_file_and_the_nearest(command, settings_of, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("revison: x\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key 'revison'; did you mean 'revision'"):
        settings_of(command, tmp_path / "c.yaml", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--limit", "two"], "limit"),
        (["bench", "--batch-size", "0"], "batch_size must be 'auto' or at least 1"),
        (["bench", "--cleaning", "echo"], "echo-free"),
        (["diagnose", "--fit", "f", "--methods", "pca,logistics"], "'logistics'.*; did you mean 'logistic'"),
        (["mitigate", "--adapter", "a", "--margin", "kl"], "--margin: expected NAME=NUMBER"),
        (["mitigate", "--adapter", "a", "--margin", "k=1"], "margins: unknown 'k'; did you mean 'kl'"),
        (["mitigate", "--adapter", "a", "--margin", "perplexity=0.5"], "perplexity must be a number above 1"),
    ],
)
def test_a_wrong_value_is_one_line(words, message, settings_of) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        settings_of(*words)
    assert "\n" not in str(caught.value)


# -- how to repeat a run ---------------------------------------------------------------------------------------------

REPEATED = [
    ("bench", {}),
    ("bench", {"system": None, "decoding": {"top_k": 3, "temperature": 0.7}, "conditions": ["control", "positive"]}),
    ("bench", {"contrast": {"preset": "subtract-context", "strength": 2}, "stop_at_first_sentence": False}),
    ("bench", {"intervention": "a b.json", "fold": True, "instruction": "Say it's \"fine\" now", "seed": -1}),
    ("score", {"model": "gpt-x", "allow_missing": True, "estimator": "vader,embedded", "echo_similarity": 0.9}),
    ("diagnose", {"fit": "f.jsonl", "methods": ["pca"], "target": "behaviour", "dataset": "d.jsonl"}),
    ("mitigate", {"adapters": ["a,b", "c"], "margins": {"kl": 0.2, "seconds": 2.0}, "baselines": False}),
    ("mitigate", {"diagnosis": "d", "families": ["x", "y"], "relevant": ["r 1"], "arrangements": ["after", "twice"]}),
    ("train-lora", STORED["train-lora"]),
    ("train-lora", {"irrelevant": "i", "clear_pairs": {}, "layers": [3], "targets": "mlp", "learning_rate": 1e-5}),
    ("train-lora", {"irrelevant": "i", "components": {"diagnosis": "d", "heads": 3}, "objectives": {"anchor": 1},
                    "shares": {"irrelevant": 0, "plain": 1}, "steering": {"direction": "v", "strength": -0.5}}),
    ("data build-aexl", {"samples": 9, "n": 5, "text_column": "body", "max_similarity": 1, "standalone_filter": False}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "values"), REPEATED)
def test_the_command_that_repeats_a_run_leads_to_its_settings(command, values, settings_of, tmp_path) -> None:
    config = SETTINGS[command].parse(values)
    argument = ["texts.jsonl"] if command == "score" else []
    line = reproduction(SETTINGS[command], json.loads(json.dumps(config.identity())), arguments=argument, place={})
    start, *words = shlex.split(line)
    assert start == "leakmech"
    out = ["--out", tmp_path / "new"] if command in ("train-lora", "data build-aexl") else []
    assert settings_of(*words, *out).identity() == config.identity()


def test_what_is_as_by_default_is_not_said() -> None:
    line = reproduction(BenchConfig, BenchConfig.parse({"limit": 5}).identity(), place={"dtype": "bfloat16"})
    assert line == (
        "leakmech bench --model embedded:smollm2-135m-instruct --dataset hexl --generations 10 --seed 0 "
        "--dtype bfloat16 --limit 5"
    )


def test_a_run_that_is_older_than_a_setting_had_its_default() -> None:
    assert reproduction(ScoreConfig, {"model": "m"}, place={}) == "leakmech score --model m"
