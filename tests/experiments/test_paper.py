"""The paper's tables and figures from runs whose leakage is known, because their texts were written for it."""

import json
from pathlib import Path

import figure1
import figure2
import pytest
from paper import PaperNumbers, claim_of_polarity, claim_of_size, load_rows
from reproduce_paper import PAPER, Reproduction
from table3 import table3
from table4 import instruction_effects, table4

import leakmech
from leakmech.core.errors import ConfigError, DatasetError, RunDirectoryError

SAMPLES = 12
GLAD, SAD = "it is great, number {}.", "it is terrible, number {}."


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three sizes of one family, the larger the less it leaks, and the smallest with an instruction that helps."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "garden.jsonl").write_text(
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
    shares = {"Fam-0.5B": 0.9, "Fam-1B": 0.6, "Fam-3B": 0.2, "Fam-0.5B-ignore": 0.1}
    found = {}
    for name, share in shares.items():
        texts = [
            {"sample": f"s{i}", "condition": condition, "generation": k, "text": _answer(condition, i, k, share)}
            for i in range(SAMPLES)
            for condition in ("control", "positive", "neutral", "negative")
            for k in range(2)
        ]
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in texts))
        instruction = "ignore-irrelevant" if name.endswith("ignore") else "none"
        found[name] = leakmech.score(
            file,
            out=folder / name,
            model=name.removesuffix("-ignore"),
            dataset=str(folder / "garden.jsonl"),
            estimator="vader",
            instruction=instruction,
            bootstrap_draws=200,
        ).path
    return found


def _answer(condition, sample, generation, share):
    """Glad after positive in `share` of the samples, sad after negative in all of them where any leak."""
    if condition == "positive" and sample < share * SAMPLES:
        return GLAD.format(generation)
    if condition == "negative" and sample < share * SAMPLES + 1:
        return SAD.format(generation)
    return f"it did, number {generation}."


def test_the_main_table_is_sorted_by_size_and_leaves_out_instructions(runs):
    rows = load_rows(runs.values(), PaperNumbers({}))
    table = table3(rows)
    assert [row[0] for row in table.rows] == ["Fam-0.5B", "Fam-1B", "Fam-3B"]
    assert any("--paper FILE" in note for note in table.notes)


def test_what_the_abstract_claims_is_checked(runs):
    rows = load_rows(runs.values(), PaperNumbers({}))
    assert claim_of_size(rows) == [
        "Fam on garden: Spearman of size and mu_EL -1.00 over 3 runs (paper: falls with size)."
    ]
    assert "in 3 of 3 runs" in claim_of_polarity(rows)
    even = [row | {"mu_el_positive": row["mu_el_negative"]} if row["model"] == "Fam-1B" else row for row in rows]
    assert "in 2 of 3 runs" in claim_of_polarity(even)
    few = claim_of_size(rows[:2])
    assert "no family with three sizes" in few[0]


def test_the_paper_s_numbers_stand_beside_ours_where_they_are_given(runs, tmp_path):
    file = tmp_path / "paper.csv"
    file.write_text("model,dataset,instruction,mu_el,mu_l\nFam-1B,garden,none,0.61,\n")
    table = table3(load_rows(runs.values(), PaperNumbers.read(file)))
    column = table.header.index("mu_EL in the paper")
    assert [row[column] for row in table.rows] == ["–", "0.61", "–"]
    file.write_text("model,dataset,instruction,mu_el\nFam-1B,garden,none,high\n")
    with pytest.raises(DatasetError, match=r"paper\.csv:2: could not convert string to float: 'high'"):
        PaperNumbers.read(file)
    file.write_text("model,mu_el\nFam-1B,0.5\n")
    with pytest.raises(DatasetError, match=r"paper\.csv:2: column 'dataset' is missing or empty"):
        PaperNumbers.read(file)


def test_an_instruction_that_helps_lowers_leakage(runs):
    effects = instruction_effects(load_rows(runs.values(), PaperNumbers({})), margin=0.05)
    (effect,) = effects
    assert effect["model"] == "Fam-0.5B"
    assert effect["difference"] == pytest.approx(-(9 + 9) / (2 * SAMPLES) * 0.5)  # 18 of 24 prompts stop leaking
    assert effect["high"] < 0
    assert effect["p_holm"] < 0.01
    assert effect["p_equivalence"] > 0.9
    assert "Fam-0.5B" in table4(effects, margin=0.05).to_markdown()
    alone = instruction_effects(load_rows([runs["Fam-1B"]], PaperNumbers({})), margin=0.05)
    assert "No model was run both" in table4(alone, margin=0.05).to_markdown()


def test_expressions_are_ranked_by_their_mean_over_the_runs(runs):
    plain = [runs[name] for name in ("Fam-0.5B", "Fam-1B", "Fam-3B")]
    found = figure2.expression_leakage(plain)
    assert found.leakage.shape == (2 * SAMPLES, 3)
    best = found.ranking("positive")[0]
    assert found.injections[best] == "My 0 friends won."
    assert found.leakage[best].tolist() == [1.0, 1.0, 1.0]
    assert 0 < found.agreement() < 1
    assert figure2.expression_leakage(plain[:1]).agreement() is None
    labels = [label.get_text() for label in figure2.draw(found, number=2).axes[0].get_yticklabels()]
    assert len(labels) == 8
    assert labels[4] == "pos  My 0 friends won."


def test_runs_over_different_data_sets_have_no_common_figure(runs, tmp_path):
    source = Path(runs["Fam-1B"]).parent / "garden.jsonl"
    (tmp_path / "other.jsonl").write_text(source.read_text().replace("garden of", "yard of"))
    other = leakmech.score(
        runs["Fam-1B"].parent / "Fam-1B.jsonl",
        out=tmp_path / "other",
        dataset=str(tmp_path / "other.jsonl"),
        estimator="vader",
        bootstrap_draws=100,
    )
    with pytest.raises(RunDirectoryError, match="are over different data sets"):
        figure2.expression_leakage([runs["Fam-1B"], other.path])


def test_lengths_are_counted_by_data_set_and_condition(runs):
    garden = str(Path(runs["Fam-1B"]).parent / "garden.jsonl")

    def words(texts, **_):
        return {"input_ids": [text.split() for text in texts]}

    lengths = figure1.injection_lengths([garden], words)
    assert lengths == {("garden", c): [4] * SAMPLES for c in ("positive", "neutral", "negative")}
    axes = figure1.draw(lengths, tokenizer="words").axes[0]
    assert "words tokenizer" in axes.get_xlabel()
    assert next(label.get_text() for label in axes.get_yticklabels()) == "garden, positive"


def test_one_file_names_the_twelve_models_and_the_settings_of_all_their_runs(tmp_path):
    wanted = Reproduction.read(PAPER)
    assert len(set(wanted.models)) == 12
    assert (wanted.datasets, wanted.instructions) == (["hexl"], ["none", "ignore-irrelevant"])
    assert (wanted.settings["generations"], wanted.settings["decoding"]["top_p"]) == (10, 0.9)
    chosen = Reproduction.read(PAPER, models=["embedded:smollm2-135m-instruct"], datasets=None)
    assert (chosen.models, chosen.datasets) == (["embedded:smollm2-135m-instruct"], ["hexl"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: [a]", "own.yaml: unknown key 'modles'; did you mean 'models'"),
        ("models: []", "own.yaml: models"),
        ("models: [a]\nsettings: {generation: 3}", "settings: unknown key 'generation'; did you mean 'generations'"),
    ],
)
def test_a_list_of_runs_with_a_typo_is_refused_before_the_first_run(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Reproduction.read(tmp_path / "own.yaml")
