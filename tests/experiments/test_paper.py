"""The paper's tables and figures beside runs whose leakage is known, because their texts were written for it."""

import json
from pathlib import Path

import expressions
import figure1
import figure2
import pytest
from paper import ModelName, beside, binomial_error, difference_interval, load_rows, paper_rows
from table3 import COLUMNS, SEMANTIC, table3
from table4 import instruction_effects, table4

import leakmech
from leakmech.core.errors import DatasetError, RunDirectoryError

SAMPLES = 12
GLAD, SAD = "it is great, number {}.", "it is terrible, number {}."
BASE = ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B")
SHARES = {"Llama-3.2-1B": 0.9, "Llama-3.2-3B": 0.6, "Llama-3.1-8B": 0.2, "Llama-3.2-1B-Instruct": 0.9, "helped": 0.1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three sizes of one family, the larger the less it leaks, and an Instruct model with an instruction that helps."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "hexl.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "id": f"s{i}",
                    "stem": f"The garden of house {i} looks",
                    "positive": f"My {i} friends won.",
                    "neutral": f"Tram {i} stops here.",
                    "negative": f"My {i} cats died.",
                }
            )
            + "\n"
            for i in range(SAMPLES)
        )
    )
    found = {}
    for name, share in SHARES.items():
        texts = [
            {"sample": f"s{i}", "condition": condition, "generation": k, "text": _answer(condition, i, k, share)}
            for i in range(SAMPLES)
            for condition in ("control", "positive", "neutral", "negative")
            for k in range(2)
        ]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in texts))
        found[name] = leakmech.score(
            file,
            out=folder / name,
            model="meta-llama/Llama-3.2-1B-Instruct" if name == "helped" else name,
            dataset=str(folder / "hexl.jsonl"),
            estimator="vader",
            instruction="paper" if name == "helped" else "none",
            bootstrap_draws=200,
        ).path
    return found


def _answer(condition, sample, generation, share):
    """Glad after positive in `share` of the samples, sad after negative in one more."""
    if condition == "positive" and sample < share * SAMPLES:
        return GLAD.format(generation)
    if condition == "negative" and sample < share * SAMPLES + 1:
        return SAD.format(generation)
    return f"it did, number {generation}."


# -- the paper's numbers -----------------------------------------------------------------------------------------------


def test_every_row_of_both_tables_is_there_with_its_binomial_error():
    rows = paper_rows()
    assert [sum(row["instruction"] == name for row in rows) for name in ("none", "paper")] == [24, 12]
    assert len({(row["model"], row["dataset"], row["instruction"]) for row in rows}) == 36
    assert (round(binomial_error(0.7, 120), 3), round(binomial_error(0.7, 400), 3)) == (0.042, 0.023)
    qwen = next(row for row in rows if (row["model"], row["dataset"]) == ("Qwen2.5-1.5B", "HEXL"))
    assert (qwen["mu_l"], qwen["mu_el"], qwen["w_el"], round(qwen["mu_el_se"], 3)) == (0.79, 0.7, 3.67e-7, 0.042)
    assert all(row["mu_l"] is None and row["mu_l_se"] is None for row in rows if row["instruction"] == "paper")


def test_a_wrong_line_of_the_paper_s_file_is_named(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("table,model,dataset,mu_l,mu_el,w_el\n3,X-1B,HEXL,,0.5,1e-3\n3,X-1B,HEXL,,high,1e-3\n")
    with pytest.raises(DatasetError, match=r"own\.csv:3: .*could not convert string to float: 'high'"):
        paper_rows(file)
    file.write_text("table,model,dataset,mu_l,mu_el,w_el\n5,X-1B,HEXL,,0.5,1e-3\n")
    with pytest.raises(DatasetError, match=r"own\.csv:2: .*'5'"):
        paper_rows(file)


@pytest.mark.parametrize(
    ("name", "vendor", "size", "kind"),
    [
        ("Llama-3.2-1B-Instruct", "Llama", 1.0, "Instruct"),
        ("Llama-3.1-8B", "Llama", 8.0, "base"),
        ("Qwen2.5-0.5B", "Qwen", 0.5, "base"),
        ("smollm2-135m-instruct", "smollm", 0.135, "Instruct"),
        ("gemma-3-1b-it", "gemma", 1.0, "Instruct"),
        ("llama-gqa-0", "llama", 0.0, "base"),
    ],
)
def test_a_name_says_vendor_size_and_kind(name, vendor, size, kind):
    found = ModelName.of(name)
    assert (found.vendor, found.size, found.kind) == (vendor, size, kind)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_difference_joins_both_errors():
    low, high = difference_interval(0.8, 0.77, 0.84, 0.7, 0.04 / 1.96)
    assert (low, high) == pytest.approx((0.1 - 0.05, 0.1 + 0.0016**0.5 * 2**0.5))


def test_table_3_has_the_paper_s_numbers_ours_and_their_difference(runs):
    rows = beside(load_rows(runs.values()), paper_rows())
    table, semantic = table3(rows)
    assert [row[0] for row in table.rows] == [*BASE, "Llama-3.2-1B-Instruct"]
    first = dict(zip(COLUMNS, table.rows[0], strict=True))
    ours = (11 + 12) / (2 * SAMPLES)  # .9 x 12 samples, rounded up, and one more
    assert first["mu_EL paper ± s.e."] == "0.73 ± 0.041"
    assert first["ours [95 % CI]"].startswith(f"{ours:.2f} [")
    assert first["difference [95 % CI]"].startswith(f"+{ours - 0.73:.2f} [")
    assert first["W_EL p paper"] == "9e-9"
    assert dict(zip(SEMANTIC, semantic.rows[0], strict=True))["mu_L paper ± s.e."] == "0.83 ± 0.028"  # of 180
    row = rows[0]
    assert row["mu_el_difference_high"] - row["mu_el_difference"] > row["mu_el_high"] - row["mu_el"]


def test_a_run_that_the_paper_has_not_stands_without_its_numbers(runs):
    stranger = beside([row | {"model": "other-1B"} for row in load_rows([runs["Llama-3.2-1B"]])], paper_rows())
    table, _ = table3(stranger)
    assert table.notes[0] == "The paper has no number for other-1B."
    cells = dict(zip(COLUMNS, table.rows[0], strict=True))
    assert [cells[name] for name in ("mu_EL paper ± s.e.", "difference [95 % CI]", "W_EL p paper")] == ["–"] * 3


def test_a_run_of_a_version_that_did_not_count_so_is_counted_now(runs, monkeypatch):
    result = leakmech.load_result(runs["Llama-3.2-1B"])
    (counted,) = load_rows([result.path])
    older = type(result)(result.path, {k: v for k, v in result.summary.items() if k != "paper"})
    monkeypatch.setattr(leakmech, "load_result", lambda _: older)
    (found,) = load_rows([result.path])
    assert (found["mu_el"], found["w_el"], found["mu_l"]) == (counted["mu_el"], counted["w_el"], counted["mu_l"])


def test_runs_at_their_checkpoints_own_temperatures_are_of_one_setting(runs, monkeypatch):
    result = leakmech.load_result(runs["Llama-3.2-1B"])
    own = {"decoding": {"temperature": 0.6}, "temperature_from": "model", "prompt_form": "chat"}
    monkeypatch.setattr(leakmech, "load_result", lambda _: type(result)(result.path, result.summary | own))
    (found,) = load_rows([result.path])
    assert (found["setting"], found["temperature"]) == ("T model, chat", 0.6)  # a base model's own form is plain


def test_an_instruction_that_helps_lowers_leakage(runs):
    effects = instruction_effects(beside(load_rows(runs.values()), paper_rows()), margin=0.05)
    (effect,) = effects
    assert effect["model"] == "Llama-3.2-1B-Instruct"
    assert effect["change"] == pytest.approx(-(9 + 9) / (2 * SAMPLES))  # 18 of 24 prompts stop leaking
    assert effect["paper_change"] == pytest.approx(0.69 - 0.73)
    assert effect["change_high"] < 0
    assert effect["p_holm"] < 0.01
    assert effect["p_equivalence"] > 0.9
    assert "Llama-3.2-1B-Instruct" in table4(effects, margin=0.05).to_markdown()
    alone = instruction_effects(beside(load_rows([runs["Llama-3.2-3B"]]), paper_rows()), margin=0.05)
    assert "No model was run both" in table4(alone, margin=0.05).to_markdown()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figure_2_shows_each_class_of_the_smallest_models(runs):
    rows = [row for row in load_rows(runs.values()) if row["instruction"] == "none"]
    own = figure2.smallest(rows)
    assert [row["model"] for row in own] == ["Llama-3.2-1B", "Llama-3.2-1B-Instruct"]
    axes = figure2.draw(own, dataset="HEXL").axes[0]
    heights = [bar.get_height() for bar in axes.patches if bar.get_height()]
    assert heights == pytest.approx([12 / 12, 12 / 12, 11 / 12, 11 / 12])  # negative, positive; neutral is 0 here
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["negative", "neutral", "positive"]


def test_expressions_are_ranked_by_their_mean_over_the_runs(runs):
    plain = [runs[name] for name in BASE]
    found = expressions.expression_leakage(plain)
    assert found.leakage.shape == (2 * SAMPLES, 3)
    best = found.ranking("positive")[0]
    assert found.injections[best] == "My 0 friends won."
    assert found.leakage[best].tolist() == [1.0, 1.0, 1.0]
    assert 0 < found.agreement() < 1
    assert expressions.expression_leakage(plain[:1]).agreement() is None
    labels = [label.get_text() for label in expressions.draw(found, number=2).axes[0].get_yticklabels()]
    assert len(labels) == 8
    assert labels[4] == "pos  My 0 friends won."


def test_runs_over_different_data_sets_have_no_common_figure(runs, tmp_path):
    source = Path(runs["Llama-3.2-3B"]).parent / "hexl.jsonl"
    (tmp_path / "other.jsonl").write_text(source.read_text().replace("garden of", "yard of"))
    other = leakmech.score(
        runs["Llama-3.2-3B"].parent / "Llama-3.2-3B.jsonl",
        out=tmp_path / "other",
        dataset=str(tmp_path / "other.jsonl"),
        estimator="vader",
        bootstrap_draws=100,
    )
    with pytest.raises(RunDirectoryError, match="are over different data sets"):
        expressions.expression_leakage([runs["Llama-3.2-3B"], other.path])


def test_lengths_are_counted_by_data_set_and_condition(runs):
    hexl = str(Path(runs["Llama-3.2-3B"]).parent / "hexl.jsonl")

    def words(texts, **_):
        return {"input_ids": [text.split() for text in texts]}

    lengths = figure1.injection_lengths([hexl], words)
    assert lengths == {("hexl", c): [4] * SAMPLES for c in ("negative", "neutral", "positive")}
    axes = figure1.draw(lengths, tokenizer="words").axes[0]
    assert "words tokenizer" in axes.get_xlabel()
    assert next(label.get_text() for label in axes.get_yticklabels()) == "hexl, negative"


def test_the_paper_s_means_stand_under_their_own_labels(runs):
    wanted = {"hexl": (9.40, 8.48, 9.35), "aexl": (12.70, 15.70, 9.80)}
    for dataset, means in wanted.items():
        classes = ("negative", "neutral", "positive")
        assert tuple(figure1.paper_mean(dataset, name) for name in classes) == means
    assert figure1.paper_mean("hexl-mild", "negative") is None
    lengths = {("aexl", "neutral"): [15, 16], ("own", "neutral"): [3, 4]}
    texts = [text.get_text() for text in figure1.draw(lengths, tokenizer="words").axes[0].texts]
    assert texts == ["mean 15.50, paper 15.70", "mean 3.50"]
