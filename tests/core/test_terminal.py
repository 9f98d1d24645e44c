"""Nothing that is printed can steer a terminal, is read as markup, or lacks a character of the output's encoding."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table as RichTable
from rich.text import Text

from leakmech.cli.app import main
from leakmech.core.terminal import Terminal, complain, literal, tolerate_encodings
from leakmech.reports.tables import Table

PACKAGE = Path(__file__).parents[2] / "leakmech"
ACTING = "\x1b[31m\x1b]0;owned\x07 \u202egnp.\u2066 \u2028 \ud83d \x9b2J"


def printed(*objects, encoding="utf-8", width=60) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Terminal(file=stream, width=width).print(*objects)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.fault("X500", "hostile", "ESC, CSI, bidi controls, half a pair in a name", "shown in Python's notation")
def test_what_steers_is_shown_in_pythons_notation():
    assert literal(ACTING) == (
        r"\x1b[31m\x1b]0;owned\x07 \u202egnp.\u2066 \u2028 \ud83d \x9b2J"  # each letter by letter
    )
    assert (
        literal("Straße, 東京, سلام\u200cها, 👩\u200d👩\u200d👧\n\tx")
        == "Straße, 東京, سلام\u200cها, 👩\u200d👩\u200d👧\n\tx"
    )
    assert literal(literal(ACTING)) == literal(ACTING)


@pytest.mark.fault("X501", "hostile", "ESC and markup in every place of a table and in a line", "neither acts")
def test_no_place_of_a_table_lets_a_text_act():
    ours = Table(f"[/a]{ACTING}", [f"[red]{ACTING}", "b"], [[f"[/b]{ACTING}", ":smile:"]], [f"[/c]{ACTING}"])
    rich = RichTable(title=f"[/a]{ACTING}")
    rich.add_column(f"[red]{ACTING}")
    rich.add_row(f"[/b]{ACTING}:smile:")
    rich.add_row(Text(f"[/c]{ACTING}"))
    for one in (f"[/a][red][/b][/c]:smile:{ACTING}", ours.to_rich(), rich):
        shown = printed(one, width=200)
        assert [part for part in ("[/a]", "[red]", "[/b]", "[/c]", ":smile:") if part not in shown] == []
        assert {c for c in shown if c in "\x1b\x07\u202e\u2066\u2028\ud83d\x9b"} == set()
        assert r"\x1b[31m" in shown


@pytest.mark.fault("X502", "hostile", "a path longer than the width of a pipe", "stays one line")
def test_a_long_path_is_one_line():
    assert printed(f"run: {'x' * 300}") == f"run: {'x' * 300}\n"


@pytest.mark.fault("X503", "hostile", "a line break in a name that an error tells", "the error stays one line")
def test_a_complaint_is_one_line(capsys):
    complain("leakmech: a\nleakmech: all is well\x1b[A: no such file")
    assert capsys.readouterr().err == "leakmech: a\\nleakmech: all is well\\x1b[A: no such file\n"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        pytest.param(
            "ascii",
            '- - ... x "a" ? ?',
            marks=pytest.mark.fault("R15", "hostile", "output in ASCII", "what is lacking is its nearest, or ?"),
        ),
        pytest.param(
            "latin-1",
            '- - ... × "a" ? ä',
            marks=pytest.mark.fault("R15", "hostile", "output in Latin-1", "what is lacking is its nearest, or ?"),
        ),
        pytest.param(
            "cp1252",
            "– - … × “a” ? ä",
            marks=pytest.mark.fault("X504", "hostile", "output in a code page of Windows", "what it has is kept"),
        ),
    ],
)
def test_what_an_encoding_lacks_has_a_substitute(monkeypatch, encoding, text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    tolerate_encodings()
    console = Terminal(width=60)
    console.print("– − … × “a” 東 ä")
    console.print(Table("t", ["a"], [["b"]]).to_rich())
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)
    assert shown.splitlines()[0] == text
    assert "|a|" in shown  # the frame of the table is plain, not a row of question marks


def cli(*arguments, **environment) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "leakmech", *map(str, arguments)]
    variables = {"PATH": "/usr/bin", "PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, capture_output=True, env=variables, timeout=300)


@pytest.mark.fault("R15", "hostile", "a finished run shown in the C locale", "its table, in ASCII")
def test_a_run_is_shown_in_the_c_locale(run):
    shown = cli("show", run, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"Expression leakage: " in shown.stdout.splitlines()[0]
    assert shown.stdout.isascii()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.fault("R13", "hostile", f"the run directory is {name}", "printed as it is")
        )
        for name in ("runs[/x]", "run[red]")
    ],
)
def test_square_brackets_in_a_path_are_printed(monkeypatch, capsys, run, name):
    monkeypatch.chdir(run.parent)
    Path(name).parent.mkdir(exist_ok=True)  # of runs[/x], which is a folder in a folder
    run.rename(name)
    monkeypatch.setattr(sys, "argv", ["leakmech", "report", name])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"report: {name}/report.html\n"


def test_only_one_module_writes_to_a_terminal():
    """Whoever makes a console of another kind, or prints past it, could be steered by a value or by an encoding."""
    others = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == PACKAGE / "core" / "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            past = name in ("print", "echo", "secho", "Console", "Markup.render", "Text.from_markup", "get_console")
            past |= name.endswith(
                (".echo", ".secho", ".from_markup", "stdout.write", "stderr.write", "console.Console")
            )
            turned_on = isinstance(node, ast.keyword) and node.arg in ("markup", "emoji", "highlight")
            if past or (turned_on and not (isinstance(node.value, ast.Constant) and node.value.value is False)):
                others.append(f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
    assert others == []
