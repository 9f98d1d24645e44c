"""Ctrl-C and SIGTERM at any moment of any command: one line that says how to go on, and exit code 1."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from leakmech.cli.app import main
from leakmech.studies.aexl import run as aexl
from leakmech.studies.benchmark import report, run
from leakmech.studies.lora import merging


def ctrl_c(*_, **__):
    raise KeyboardInterrupt


def sigterm(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("SIGTERM went by")


MOMENTS = {
    "loading": (("bench", "--model", "some model"), run, "load_configured"),
    "the page": (("report", "tests/fixtures/runs/bench"), report, "write_page"),
    "merging": (("merge-lora", "some adapter", "--out", "merged"), merging, "load_model"),
    "reading a corpus": (("data", "build-aexl", "--out", "my data"), aexl, "open_corpus"),
}


@pytest.mark.parametrize("interrupt", [ctrl_c, sigterm])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.fault("R16", "runs", "Ctrl-C or SIGTERM outside of generating and scoring", "one line, exit code 1")
def test_every_command_says_how_to_go_on(moment, interrupt, tmp_path, monkeypatch, capsys):
    words, module, name = MOMENTS[moment]
    monkeypatch.setattr(module, name, interrupt)
    monkeypatch.setattr(sys, "argv", ["leakmech", *words])
    if moment != "the page":
        monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    again = " ".join(f"'{word}'" if " " in word else word for word in words)
    told = capsys.readouterr().err
    assert told == f"leakmech: interrupted; what was finished is saved; continue with: leakmech {again}\n"
    assert signal.getsignal(signal.SIGTERM) is before
