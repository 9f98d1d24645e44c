"""The paper's 36 rows: planned as its tables have them, run on small models, and shown beside its numbers."""

import shutil
import sys

import pytest
import reproduce_paper
from paper import model_name, paper_rows
from reproduce_paper import PAPER, Reproduction, plan_table

from leakmech.core.errors import ConfigError
from leakmech.datasets.samples import load_dataset
from leakmech.models.cost import SHAPES, cost

QUICK = [
    "settings.estimator=vader",
    "settings.encoder=embedded",
    "settings.limit=2",
    "settings.generations=1",
    "settings.bootstrap_draws=100",
    "settings.device=cpu",
    "settings.decoding.max_new_tokens=4",
    "variants={one: {temperature: 1.0}}",
]


def test_the_planned_rows_are_those_of_both_tables():
    plan = Reproduction.read(PAPER)
    first = next(iter(plan.variants))
    rows = [row for row in plan.rows() if row.variant == first]
    planned = [(model_name(row.model), row.dataset, row.instruction) for row in rows]
    assert len(planned) == len(set(planned)) == 36
    assert set(planned) == {(row["model"], row["dataset"], row["instruction"]) for row in paper_rows()}
    assert {row.form for row in rows if row.model.endswith("-Instruct")} == {"chat"}
    assert {row.form for row in rows if not row.model.endswith("-Instruct")} == {"plain"}
    assert [row.instruction for row in rows] == ["none"] * 24 + ["paper"] * 12


def test_settings_are_the_paper_s_and_what_it_leaves_open_is_a_variant():
    plan = Reproduction.read(PAPER)
    rows = list(plan.rows())
    settings = [row.settings("hexl") for row in rows]
    assert {s["cleaning"] for s in settings} == {"paper"}
    assert {s["estimator"] for s in settings} == {"hub:cardiffnlp/twitter-roberta-base-sentiment"}
    one = settings[0]["decoding"]
    assert (one["top_p"], one["top_k"], one["repetition_penalty"], one["max_new_tokens"]) == (0.9, 50, 1.1, 128)
    assert {s["decoding"]["temperature"] for s in settings} == {"model", 1.0}
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["modles=[a]"], "unknown key 'modles'; did you mean 'models'"),
        (["models=[]"], "models"),
        (["settings.generation=3"], "settings: unknown key 'generation'; did you mean 'generations'"),
        (["aexl.sample=3"], "aexl: unknown key 'sample'; did you mean 'samples'"),
        (["variants={a: {temperature: -1}}"], "temperature must be 0"),
        (["settings.limit"], "--set settings.limit: expected KEY=VALUE"),
    ],
)
def test_a_typo_is_refused_before_the_first_run(changes, message):
    with pytest.raises(ConfigError, match=message):
        Reproduction.read(PAPER, changes)


def test_a_dry_run_lists_every_row_with_time_and_memory(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py", "--dry-run"])
    reproduce_paper.main()
    shown = capsys.readouterr().out
    assert sum(line.startswith("| ") and line[2].isdigit() for line in shown.splitlines()) == 36
    assert "ESTIMATE" in shown
    unknown = plan_table(Reproduction.read(PAPER, models=["acme/mystery", "Qwen/Qwen2.5-3B"]))
    assert [list(row[-2:]) for row in unknown.rows][:2] == [["–", "–"]] * 2
    assert float(unknown.rows[2][-2]) > 0


def test_costs_grow_with_the_model_and_weights_are_two_bytes_a_parameter():
    small, large = (cost(SHAPES[name], 240, 3000) for name in ("Llama-3.2-1B", "Llama-3.1-8B"))
    assert small.seconds < large.seconds
    assert large.memory > 2 * 8.03e9
    assert cost(SHAPES["Llama-3.1-8B"], 800, 10_000).seconds > large.seconds


def tiny_folders(save_tiny, tmp_path):
    """Two saved tiny models, one of which is called an Instruct model."""
    tuned = tmp_path / "Tiny-1B-Instruct"
    shutil.move(save_tiny("qwen2"), tuned)
    base = tmp_path / "Tiny-1B"
    shutil.move(save_tiny("llama-gqa", chat=False), base)
    return base, tuned


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["reproduce_paper.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        reproduce_paper.main()
    return ended.value.code


@pytest.mark.long
def test_tiny_models_are_run_and_one_that_cannot_be_loaded_does_not_stop_them(save_tiny, tmp_path, monkeypatch, capsys):
    base, tuned = tiny_folders(save_tiny, tmp_path)
    out = tmp_path / "runs"
    arguments = ["--models", tmp_path / "nothing", base, tuned, "--out", out, "--set", *QUICK, "datasets={HEXL: hexl}"]
    assert run(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    (complaint,) = [line for line in captured.err.splitlines() if line.startswith("reproduce_paper: ")]
    assert "nothing" in complaint
    assert complaint.endswith("(1 runs)")
    for name in ("table3", "table4", "claims"):
        assert (out / f"{name}.csv").exists()
        assert (out / f"{name}.md").read_text() in captured.out
    assert "| Tiny-1B | HEXL | T 1.0 | 1.0 | plain | 2 |" in captured.out
    assert "| Tiny-1B-Instruct | HEXL | T 1.0 | paper |" in captured.out
    for name in ("figure1", "figure2-hexl", "expressions-hexl"):
        assert (out / f"{name}.png").stat().st_size > 0

    again = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert len(again) == 3
    assert run(monkeypatch, *arguments[:1], *arguments[2:]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")} == again


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_beside_two_tiny_ones_with_an_aexl_that_is_built(save_tiny, tmp_path, monkeypatch, capsys):
    models = ["embedded:smollm2-135m-instruct", *tiny_folders(save_tiny, tmp_path)]
    built = ["aexl.corpus=embedded", "aexl.samples=4", "aexl.limit=1000", "aexl.estimator=embedded"]
    out = tmp_path / "runs"
    assert run(monkeypatch, "--models", *models, "--out", out, "--set", *QUICK, *built) == 0
    assert len(load_dataset(str(out / "aexl.jsonl"))) == 4
    shown = capsys.readouterr().out
    assert "| smollm2-135m-instruct | AEXL | T 1.0 | 1.0 | chat | 2 |" in shown
    assert "| smollm2-135m-instruct | HEXL | T 1.0 | paper |" in shown
