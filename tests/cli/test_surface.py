"""What a user types and sees in Python: names, representations, tables for papers; and the examples of the help."""

from __future__ import annotations

import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import click
import pytest
import typer

import leakmech
from leakmech.cli.app import app
from leakmech.cli.options import HEADINGS, _complete
from leakmech.core.terminal import Terminal
from leakmech.reports.printed import escaped
from leakmech.reports.tables import Table
from leakmech.studies.results import load_result

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


def test_dir_lists_the_public_names_and_imports_none_of_them():
    code = "import sys, leakmech; names = dir(leakmech); print(sorted({'torch', 'pandas'} & set(sys.modules)), *names)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert said.startswith("[] ")
    assert set(leakmech.__all__) <= set(said.split())


def test_every_public_name_is_there_and_in_the_tour_are_only_such():
    assert all(hasattr(leakmech, name) for name in leakmech.__all__)
    assert set(leakmech.__all__) == set(leakmech._HOMES)
    tour = [part.partition("(")[0] for part in (leakmech.__doc__ or "").replace(";", "").split("leakmech.")[1:]]
    called = {name for name in tour if name.isidentifier()}
    assert called <= set(leakmech.__all__)


@pytest.mark.parametrize("kind", ["bench", "diagnose", "mitigate", "train"])
def test_a_result_is_a_line_and_has_a_headline_and_a_table_for_papers(kind):
    result = load_result(RUNS / kind)
    assert repr(result).startswith(type(result).__name__)
    assert "\n" not in repr(result)
    assert "\n" not in result.headline
    page = result.to_latex()
    assert page.count(r"\begin{tabular}") == page.count(r"\end{tabular}") == len(result.tables())


def test_a_benchmark_says_whether_the_model_leaks():
    from leakmech.studies.benchmark.report_facts import verdict

    overall = {"auc_el": 0.64, "auc_el_ci": [0.6, 0.7], "contrast": 0.2, "contrast_ci": [0.1, 0.3]}
    enough = {"n_samples": 6}
    assert verdict({"overall": overall} | enough) == (
        "the model leaks: all pairs 0.64 [0.60, 0.70], 0.5 is none; contrast +0.20 [+0.10, +0.30], 0 is none"
    )
    assert verdict({"overall": overall | {"contrast_ci": [-0.1, 0.3]}} | enough).startswith("not shown: ")
    assert verdict({"overall": overall | {"contrast_ci": [-0.3, -0.1]}} | enough).startswith("the answers move away")
    one_polarity = {"overall": overall | {"contrast": None, "contrast_ci": None}}
    assert verdict(one_polarity | enough).startswith("not shown: contrast needs positive and negative prompts (all ")
    few = verdict({"overall": overall, "n_samples": 2})
    assert few.startswith("not shown: 2 samples are too few to tell (all pairs 0.64 [0.60, 0.70]")
    older = {name: value for name, value in overall.items() if "contrast" not in name}
    assert verdict({"overall": older} | enough).startswith("the model leaks: ")
    assert verdict({"overall": older | {"auc_el_ci": None}}).startswith("not shown: too few samples")


def test_what_means_something_to_latex_is_written_out():
    assert escaped("5 % of a_b & {c} \\d") == r"5 \% of a\_b \& \{c\} \textbackslash{}d"


class TestWidth:
    table = Table(
        "A title", ("name", "one [95 % CI]", "two [95 % CI]"), [("a b", "0.64 [0.60, 0.68]", "0.6 [0.1, 0.9]")]
    )

    def printed(self, width, table=None):
        out = StringIO()
        Terminal(file=out, width=width).print((table or self.table).to_rich())
        return out.getvalue()

    def test_numbers_are_not_folded_and_columns_that_do_not_fit_are_named(self):
        text = self.printed(30)
        assert "0.64 [0.60, 0.68]" in text
        assert "left out, for want of width: two" in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= 30

    def test_a_wide_place_has_all(self):
        assert "left out" not in self.printed(80)

    def test_sentences_are_folded_instead(self):
        table = Table("T", ("name", "answer"), [("a", "word " * 30)])
        lines = self.printed(40, table).splitlines()
        assert max(map(len, lines)) <= 40
        assert sum(line.count("word") for line in lines) == 30

    @pytest.mark.parametrize("kind", ["bench", "diagnose", "mitigate", "train"])
    def test_tables_of_runs_fit_80_columns(self, kind):
        for table in load_result(RUNS / kind).tables():
            assert max(map(len, self.printed(80, table).splitlines())) <= 80


# -- help ------------------------------------------------------------------------------------------------------------


def commands(command, name="leakmech"):
    if getattr(command, "commands", None) is None:
        yield name, command
    for sub, own in (getattr(command, "commands", None) or {}).items():
        yield from commands(own, f"{name} {sub}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_commands_are_listed_under_headings():
    said = subprocess.run([sys.executable, "-m", "leakmech", "-h"], capture_output=True, text=True).stdout
    assert [line[:-1] for line in said.splitlines() if line[:-1] in HEADINGS] == list(HEADINGS)
    assert max(map(len, said.splitlines())) <= 80
    assert "..." not in said.partition("Measure:")[2]
    assert "--install-completion" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_examples_that_can_be_typed(name):
    complete = _complete(COMMANDS[name])
    examples = complete.epilog.splitlines()
    assert examples
    params = complete.get_params(click.Context(complete))
    known = {text for param in params for text in (*param.opts, *param.secondary_opts)}
    for example in examples:
        assert example.startswith(name)
        assert {word for word in shlex.split(example) if word.startswith("-")} <= known
