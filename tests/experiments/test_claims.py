"""The seven claims: what the paper's own printed numbers say of them, and that groups are not mixed."""

import pytest
from claims import checks, claims_table, falls_with_size
from paper import paper_rows

ROWS = paper_rows()


def of(claim, rows=ROWS):
    return {check.group: check for check in checks(rows) if check.claim == claim}


def test_every_printed_leakage_is_above_half_and_certain():
    assert {group: check.holds for group, check in of(1).items()} == {"HEXL": True, "AEXL": True}


def test_seven_of_eight_series_fall_with_size_and_llama_base_on_hexl_does_not():
    found = of(2)
    assert len(found) == 8
    assert [group for group, check in found.items() if not check.holds] == ["Llama base, HEXL"]
    assert found["Llama base, HEXL"].says.startswith("1B 0.73, 3B 0.75, 8B 0.74; +0.01")
    # the largest fall, 14 points, not the 16 of the paper's text
    assert min(check.value for check in found.values()) == pytest.approx(-0.14)
    assert found["Llama Instruct, AEXL"].value == pytest.approx(-0.14)


def test_a_series_of_two_sizes_or_of_base_and_instruct_mixed_is_no_series():
    two = [row for row in ROWS if row["model"] in ("Llama-3.2-1B", "Llama-3.2-3B", "Llama-3.1-8B-Instruct")]
    assert falls_with_size(row for row in two if row["instruction"] == "none" and row["dataset"] == "HEXL") == []


def test_qwen_leaks_less_than_llama_for_base_models_on_hexl_and_more_on_aexl():
    found = {group: check.value for group, check in of(3).items()}
    assert found == pytest.approx(
        {
            "Qwen 1.5B - Llama 1B base, HEXL": -0.03,
            "Qwen 3B - Llama 3B base, HEXL": -0.07,
            "Qwen 1.5B - Llama 1B Instruct, HEXL": 0.0,
            "Qwen 3B - Llama 3B Instruct, HEXL": 0.0,
            "Qwen 1.5B - Llama 1B base, AEXL": 0.07,
            "Qwen 3B - Llama 3B base, AEXL": 0.07,
            "Qwen 1.5B - Llama 1B Instruct, AEXL": -0.05,
            "Qwen 3B - Llama 3B Instruct, AEXL": -0.03,
        }
    )
    assert [check.holds for check in of(3).values()].count(True) == 4


def test_instruct_minus_base_has_the_signs_of_the_tables():
    found = of(4)
    sizes = {"Llama": ("1B", "3B", "8B"), "Qwen": ("0.5B", "1.5B", "3B")}
    changes = {
        (vendor, dataset): [round(found[f"{vendor} {size}, {dataset}"].value, 2) for size in own]
        for vendor, own in sizes.items()
        for dataset in ("HEXL", "AEXL")
    }
    assert changes == {
        ("Llama", "HEXL"): [0.0, -0.08, -0.09],
        ("Qwen", "HEXL"): [0.03, 0.03, -0.01],
        ("Llama", "AEXL"): [0.14, 0.08, 0.05],
        ("Qwen", "AEXL"): [0.06, 0.02, -0.02],
    }
    assert (found["Llama 3B, HEXL"].holds, found["Qwen 0.5B, HEXL"].holds, found["Qwen 3B, AEXL"].holds) == (1, 0, 0)
    assert "1.4 s.e." in found["Llama 3B, HEXL"].says  # .08 over the root of .0395^2 + .0429^2


def test_the_paper_prints_no_leakage_by_class_and_ours_is_checked_by_kind():
    assert of(5) == {}
    classes = {"Llama-3.2-1B": (0.8, 0.6), "Llama-3.2-3B": (0.7, 0.6), "Llama-3.2-1B-Instruct": (0.6, 0.65)}
    rows = [
        row | dict(zip(("mu_el_negative", "mu_el_positive"), classes[row["model"]], strict=True))
        for row in ROWS
        if row["model"] in classes and row["dataset"] == "HEXL"
    ]
    found = of(5, rows)
    assert {group: round(check.value, 3) for group, check in found.items()} == {
        "negative - positive, base, HEXL": 0.15,
        "negative - positive, Instruct, HEXL": -0.05,
        "base more than Instruct, HEXL": 0.2,
    }
    assert [check.holds for check in found.values()] == [True, False, True]


def test_the_instruction_changes_little_on_average_and_not_in_one_direction():
    found = of(6)
    assert (round(found["HEXL"].value, 3), round(found["AEXL"].value, 3)) == (-0.007, 0.027)
    assert found["HEXL"].says == "mean -0.007 (-0.05 to +0.04), lower in 2 of 6"
    assert found["AEXL"].says == "mean +0.027 (-0.02 to +0.11), lower in 2 of 6"
    assert found["HEXL"].holds
    helped = [row | {"mu_el": row["mu_el"] - 0.2 * (row["instruction"] == "paper")} for row in ROWS]
    assert not of(6, helped)["HEXL"].holds


def test_semantic_and_expression_leakage_go_together_on_aexl_only():
    found = of(7)
    assert {group: round(check.value, 2) for group, check in found.items()} == {"HEXL": 0.29, "AEXL": 0.92}
    assert (found["HEXL"].holds, found["AEXL"].holds) == (False, True)


def test_ours_stand_beside_the_paper_s_setting_by_setting():
    first = [row | {"setting": "T 1.0"} for row in ROWS]
    second = [row | {"setting": "T 0.6"} for row in ROWS if row["dataset"] == "HEXL"]
    table, rows = claims_table(first + second, ROWS)
    assert list(table.header) == ["claim", "group", "paper", "ours, T 1.0", "ours, T 0.6"]
    assert all(row["paper"] == row["ours, T 1.0"] for row in rows)
    assert {row["ours, T 0.6"] for row in rows if "AEXL" in row["group"]} == {"–"}
    assert "claim 2 holds in 7 of 8" in table.notes[0]
