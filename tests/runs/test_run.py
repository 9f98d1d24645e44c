"""Run directories: begun once, continued by the same settings, held by one process, interrupted with one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from leakmech.core.errors import InterruptedRunError, LeakmechWarning, RunDirectoryError
from leakmech.core.store import write_json
from leakmech.runs.directory import SCRIPT, RunRecord, stored_settings
from leakmech.runs.interrupt import interruptible
from leakmech.runs.result import Result
from leakmech.runs.run import Run
from leakmech.runs.settings import Settings


class Counting(Settings):
    """Settings of a run that counts."""

    command: ClassVar[str] = "count"
    kind: ClassVar[str] = "count"

    dataset: str = "numbers.jsonl"
    up_to: int = 3
    device: str = "cpu"


class Growing(Counting):
    """The same, but more may be counted later."""

    grows: ClassVar[Collection[str]] = ("up_to",)


FINGERPRINT = {"weights": "w1"}

HOLDER = """
import sys, time
sys.path.insert(0, {tests!r})
from test_run import Counting, FINGERPRINT
from leakmech.runs.run import Run
with Run.open({path!r}, Counting(), FINGERPRINT) as run:
    print("open", flush=True)
    with run.interruptible(lambda: "2 of 3 numbers are saved"):
        time.sleep({seconds})
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the run in ``tmp_path / "run"``; it is ended when the test is."""
    started = []

    def start(seconds: float = 60):
        script = HOLDER.format(tests=str(Path(__file__).parent), path=str(tmp_path / "run"), seconds=seconds)
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def start(path, settings=None, fingerprint=None, **facts):
    return Run.open(path, settings or Counting(), FINGERPRINT if fingerprint is None else fingerprint, **facts)


class TestOpening:
    def test_the_record_says_what_was_asked_for_and_where_it_ran(self, tmp_path):
        with start(tmp_path / "run", source="a file") as run:
            record = RunRecord.read(run.path)
        assert list(record.values) == [
            "format_version",
            "kind",
            "command",
            "config",
            "fingerprint",
            "source",
            "environment",
        ]
        assert (record.kind, record.command, record.config["up_to"]) == ("count", "count", 3)
        assert record.fingerprint == FINGERPRINT
        assert record.fact("source") == "a file"
        assert record.environment["packages"]["torch"]

    def test_the_same_run_goes_on_and_keeps_its_facts(self, tmp_path):
        with start(tmp_path / "run", batch_size=8):
            pass
        with start(tmp_path / "run", Counting(device="cuda"), batch_size=4) as run:
            assert run.record.fact("batch_size") == 8

    @pytest.mark.parametrize(
        ("settings", "fingerprint", "message"),
        [
            (Counting(up_to=5), FINGERPRINT, r"other settings \(up_to; up_to is 3 there and 5 here\)"),
            (Counting(), {"weights": "w2"}, "holds a run with other weights; choose another --out"),
            (Counting(), {**FINGERPRINT, "adapter": "a"}, "other adapter"),
            (Counting(), {}, "other weights"),
        ],
    )
    def test_another_run_is_refused_and_the_directory_stays_free(self, tmp_path, settings, fingerprint, message):
        with start(tmp_path / "run"):
            pass
        with pytest.raises(RunDirectoryError, match=message):
            start(tmp_path / "run", settings, fingerprint)
        start(tmp_path / "run").close()

    @pytest.mark.fault("X419", "runs", "the file of samples lies elsewhere when a run goes on", "its content counts")
    def test_samples_may_lie_elsewhere(self, tmp_path):
        start(tmp_path / "run").close()
        start(tmp_path / "run", Counting(dataset="elsewhere/numbers.jsonl")).close()
        with pytest.raises(RunDirectoryError, match="dataset"):
            start(tmp_path / "run", Counting(dataset="letters.jsonl"))

    def test_a_setting_that_is_newer_than_the_run_had_its_default(self, tmp_path):
        start(tmp_path / "run").close()
        file = tmp_path / "run" / "run.json"
        record = json.loads(file.read_text())
        del record["config"]["up_to"]
        file.write_text(json.dumps(record))
        start(tmp_path / "run").close()
        with pytest.raises(RunDirectoryError, match="up_to is 3 there and 4 here"):
            Run.check(tmp_path / "run", Counting(up_to=4))

    def test_what_is_no_run_is_left_alone(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "notes.txt").write_text("mine")
        with pytest.raises(RunDirectoryError, match="is a file, not a run directory"):
            Run.check(tmp_path / "file", Counting())
        with pytest.raises(RunDirectoryError, match="is not empty and holds no leakmech run"):
            start(tmp_path / "folder")
        assert [file.name for file in (tmp_path / "folder").iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize("name", ["generations", "summary.json", "cells/a/generations"])
    @pytest.mark.fault(
        "X420", "runs", "a folder or file of a run is a link out of it", "refused; nothing is written there"
    )
    def test_links_out_of_a_run_are_not_followed(self, tmp_path, name):
        (tmp_path / "elsewhere").mkdir()
        start(tmp_path / "run").close()
        link = tmp_path / "run" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunDirectoryError, match=f"{name}: is a link out of the run"):
            start(tmp_path / "run")
        assert list((tmp_path / "elsewhere").iterdir()) == []

    @pytest.mark.fault("X421", "runs", "the run directory itself is a link, and links stay inside of it", "goes on")
    def test_links_inside_of_a_run_and_to_it_are_followed(self, tmp_path):
        start(tmp_path / "big disk").close()
        (tmp_path / "run").symlink_to(tmp_path / "big disk")
        (tmp_path / "run" / "latest").symlink_to("run.json")
        start(tmp_path / "run").close()

    def test_a_check_writes_nothing(self, tmp_path):
        Run.check(tmp_path / "run", Counting())
        assert not (tmp_path / "run").exists()

    def test_a_run_of_another_command_is_refused(self, tmp_path):
        class Listing(Counting):
            command: ClassVar[str] = "list"

        start(tmp_path / "run").close()
        with pytest.raises(RunDirectoryError, match="holds a run of `leakmech count`"):
            Run.check(tmp_path / "run", Listing())
        with pytest.raises(RunDirectoryError, match="holds a run of `leakmech count`"):
            stored_settings(tmp_path / "run", command="list")
        assert stored_settings(tmp_path / "run", command="count")["up_to"] == 3

    def test_a_growing_run_takes_in_more_and_notes_it(self, tmp_path):
        with start(tmp_path / "run", Growing(up_to=2)) as run:
            run.finish({}, result=Result)
        start(tmp_path / "run", Growing(up_to=9)).close()
        assert RunRecord.read(tmp_path / "run").config["up_to"] == 9
        with pytest.raises(RunDirectoryError, match="dataset"):
            Run.check(tmp_path / "run", Growing(dataset="other.jsonl"))


class TestParts:
    def test_a_part_is_made_once_and_read_as_it_was_written(self, tmp_path):
        made = []

        def make():
            made.append(1)
            return {"found": (1, 2)}

        with start(tmp_path / "run") as run:
            assert run.part("one", make) == run.part("one", make) == {"found": [1, 2]}
            assert run.cell("test/base-1234", make) == run.cell("test/base-1234", make) == {"found": [1, 2]}
        assert len(made) == 2
        assert (tmp_path / "run" / "stages" / "one.json").exists()
        assert (tmp_path / "run" / "cells" / "test" / "base-1234" / "cell.json").exists()

    @pytest.mark.parametrize("what", ["value", "table", "arrays", "gone"])
    @pytest.mark.fault(
        "X523", "runs", "a finished stage, or a table or array of it, is changed or gone", "that stage is made again"
    )
    def test_a_part_is_made_again_if_it_or_a_file_of_it_is_damaged(self, tmp_path, what):
        made = []
        with start(tmp_path / "run") as run:

            def make():
                made.append(1)
                run.save_table("numbers", pd.DataFrame({"a": [1, 2]}))
                run.save_arrays("numbers", values=np.arange(3))
                return {"found": 1.5}

            def other():
                made.append(2)
                return {}

            assert run.part("one", make) == {"found": 1.5}
            run.part("two", other)
            stages, table = run.path / "stages", run.path / "tables" / "numbers.csv"
            if what == "value":
                (stages / "one.json").write_text((stages / "one.json").read_text().replace("1.5", "1.6"))
            elif what == "table":
                table.write_text("a\n1\n3\n")
            elif what == "arrays":
                np.savez(stages / "numbers.npz", values=np.arange(1, 4))
            else:
                table.unlink()
            named = {"value": "one.json: damaged", "arrays": "numbers.npz: damaged", "gone": "numbers.csv: missing or"}
            told = named.get(what, "numbers.csv: damaged")
            with pytest.warns(LeakmechWarning, match=rf"{told} .*; it is made again"):
                assert run.part("one", make) == {"found": 1.5}
            assert run.part("two", other) == {}
            assert made == [1, 2, 1]
            assert run.table("numbers")["a"].tolist() == [1, 2]
            assert run.arrays("numbers")["values"].tolist() == [0, 1, 2]

    @pytest.mark.fault("X524", "runs", "the record of what frozen sets were measured for is edited", "refused")
    def test_a_decision_that_was_edited_is_refused(self, tmp_path):
        with start(tmp_path / "run") as run:
            assert run.noted("choice", lambda: {"head": 3}) == run.noted("choice", lambda: {"head": 4}) == {"head": 3}
            file = run.path / "stages" / "choice.json"
            file.write_text(file.read_text().replace("3", "4", 1))
            with pytest.raises(RunDirectoryError, match=r"choice.json: damaged \(it was changed after"):
                run.noted("choice", lambda: {"head": 4})

    def test_parts_of_older_versions_have_no_seal(self, tmp_path):
        with start(tmp_path / "run") as run:
            write_json(run.path / "stages" / "one.json", {"found": 1})
            assert run.part("one", lambda: {"found": 2}) == {"found": 1}

    @pytest.mark.fault("X525", "runs", "a table or summary of a finished run is edited", "a line says so; made again")
    def test_tables_and_summary_of_a_finished_run_are_checked(self, tmp_path):
        def make(run):
            run.part("one", lambda: run.save_table("numbers", pd.DataFrame({"a": [1, 2]})) or {})
            return run.finish({"sum": 3}, result=Result)

        with start(tmp_path / "run") as run:
            result = make(run)
        table, summary = result.path / "tables" / "numbers.csv", result.files.summary_file
        for file, told in ((table, "numbers.csv"), (summary, "summary.json")):
            sound = file.read_text()
            file.write_text(sound.replace("2", "5").replace("3", "4"))
            again = rf"{told}: damaged .*; make it again with: leakmech count"
            if file == table:
                with pytest.raises(RunDirectoryError, match=again):
                    Result.load(result.path).table("numbers")
            else:  # it can be read
                with pytest.warns(LeakmechWarning, match=again):
                    assert Result.load(result.path).summary["sum"] == 4
            with pytest.warns(LeakmechWarning, match=rf"{told}: damaged .*; it is made again"):
                run = start(tmp_path / "run")
            with run, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the part whose table it is
                assert not run.finished
                make(run)
            assert file.read_text() == sound
            assert Result.load(result.path).table("numbers")["a"].tolist() == [1, 2]

    def test_a_part_that_fails_is_made_again(self, tmp_path):
        with start(tmp_path / "run") as run:
            with pytest.raises(ZeroDivisionError):
                run.part("one", lambda: {"found": 1 // 0})
            assert run.part("one", lambda: {"found": 1}) == {"found": 1}

    def test_tables_and_arrays_come_back(self, tmp_path):
        frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
        with start(tmp_path / "run") as run:
            run.save_table("numbers", [frame, frame])
            run.save_arrays("numbers", values=np.arange(3))
            assert run.table("numbers")["a"].tolist() == [1, 2, 1, 2]
            assert run.arrays("numbers")["values"].tolist() == [0, 1, 2]

    def test_a_result_names_its_tables(self, tmp_path):
        with start(tmp_path / "run") as run:
            run.save_table("numbers", pd.DataFrame({"a": [1]}))
            result = run.finish({"total": 6}, {"total_s": 0.123456}, result=Result)
        assert result.table("numbers")["a"].tolist() == [1]
        assert result.summary == {"kind": "count", "format_version": 1, "total": 6, "timing": {"total_s": 0.1235}}
        assert Result.load(result.path).summary == result.summary
        for name in ("number", "../run"):
            with pytest.raises(RunDirectoryError, match="has no table"):
                result.table(name)


class TestUnfinished:
    def test_a_command_or_the_same_call_continues_it(self, tmp_path):
        start(tmp_path / "a b").close()
        with pytest.raises(RunDirectoryError, match=r"is not finished; continue it with: leakmech count --out '.*a b'"):
            Result.load(tmp_path / "a b")
        start(tmp_path / "c", **{SCRIPT: True}).close()
        with pytest.raises(RunDirectoryError, match="is not finished; continue it with: the same call"):
            Result.load(tmp_path / "c")

    def test_an_interruption_says_what_is_saved(self, tmp_path):
        message = rf"run: interrupted; 2 numbers are saved; continue with: leakmech count --out {tmp_path}"
        with (
            start(tmp_path / "run") as run,
            pytest.raises(InterruptedRunError, match=message),
            run.interruptible(lambda: "2 numbers are saved"),
        ):
            raise KeyboardInterrupt
        start(tmp_path / "run").close()

    def test_a_run_inside_a_run_is_reported_once_by_the_outer_one(self, tmp_path):
        with (
            pytest.raises(InterruptedRunError, match=r"^outer: interrupted; 1 cell"),
            interruptible("outer", lambda: "1 cell", "the same call"),
            interruptible("inner", lambda: "4 rows", "the same call"),
        ):
            raise KeyboardInterrupt

    def test_a_block_inside_a_block_of_the_same_run_says_what_is_saved(self):
        with (
            pytest.raises(InterruptedRunError, match=r"^run: interrupted; 4 rows"),
            interruptible("run", lambda: "all that is finished", "the same call"),
            interruptible("run", lambda: "4 rows", "the same call"),
        ):
            raise KeyboardInterrupt

    def test_other_errors_pass(self):
        with pytest.raises(ZeroDivisionError), interruptible("run", lambda: "", "the same call"):
            raise ZeroDivisionError

    def test_sigterm_is_like_ctrl_c_and_its_handler_goes(self):
        def terminated():
            with interruptible("run", lambda: "nothing", "the same call"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)

        with pytest.raises(InterruptedRunError, match="run: interrupted; nothing; continue with: the same call"):
            terminated()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_a_program_keeps_its_own_handler(self):
        received = []
        before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        try:
            with interruptible("run", lambda: "", "the same call"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert received == [1]

    def test_in_another_thread_no_handler_is_installed(self):
        found = []

        def work():
            with interruptible("run", lambda: "", "the same call"):
                found.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [signal.SIG_DFL]


class TestLock:
    @pytest.mark.fault("R01", "runs", "two processes on one run directory", "the second is told which process holds it")
    def test_a_second_process_is_refused_with_owner_and_age(self, tmp_path, holder):
        process = holder()
        expected = rf"in use by process {process.pid} on .+ \(count\), for \d+ seconds; wait for it, end it, or choose"
        for attempt in (lambda: Run.check(tmp_path / "run", Counting()), lambda: start(tmp_path / "run")):
            with pytest.raises(RunDirectoryError, match=expected) as refused:
                attempt()
            assert "\n" not in str(refused.value)
        assert process.poll() is None

    @pytest.mark.fault("X417", "runs", "the process that holds a run is killed", "the next one goes on")
    def test_the_lock_of_a_killed_process_is_taken_over(self, tmp_path, holder):
        process = holder()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "run" / ".lock").exists()
        Run.check(tmp_path / "run", Counting())
        with start(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == os.getpid()
        assert not (tmp_path / "run" / ".lock").exists()

    @pytest.mark.fault("R16", "runs", "SIGTERM inside of a run", "the message; the directory is free")
    def test_sigterm_ends_a_process_with_the_message_and_frees_the_directory(self, tmp_path, holder):
        process = holder()
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "interrupted; 2 of 3 numbers are saved; continue with: leakmech count --out" in said
        assert not (tmp_path / "run" / ".lock").exists()
        start(tmp_path / "run").close()

    def test_one_process_does_not_open_a_run_twice(self, tmp_path):
        with start(tmp_path / "run"), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} "):
            start(tmp_path / "run")

    @pytest.mark.fault("X418", "runs", "two processes read a finished run", "both may")
    def test_a_finished_run_is_read_by_any_number_of_processes(self, tmp_path):
        with start(tmp_path / "run") as run:
            run.finish({}, result=Result)
        with start(tmp_path / "run") as one, start(tmp_path / "run") as other:
            assert one.finished
            assert other.finished

    def test_other_processes_of_one_training_need_no_lock(self, tmp_path):
        with start(tmp_path / "run"):
            Run.check(tmp_path / "run", Counting(), lock=False)
            start(tmp_path / "run", lock=False).close()
            assert (tmp_path / "run" / ".lock").exists()
