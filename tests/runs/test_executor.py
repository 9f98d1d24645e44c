"""Jobs on slots: all run, what fails is told, what another process holds is left, an interruption reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from leakmech.runs.executor import Job, Slot, run_local
from leakmech.runs.lock import DirectoryLock


def job(folder, name, code):
    return Job(name, (sys.executable, "-c", textwrap.dedent(code)), folder / name, folder / f"{name}.log")


def test_jobs_run_side_by_side_on_their_slots(tmp_path):
    code = """
        import os, time
        print(os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
        time.sleep(0.6)
    """
    jobs = [job(tmp_path, f"j{n}", code) for n in range(4)]
    began = time.monotonic()
    found = list(run_local(jobs, [Slot(1, "0"), Slot(1, "1")]))
    assert time.monotonic() - began < 4 * 0.6 + 1
    assert {own.job.key for own in found} == {"j0", "j1", "j2", "j3"}
    assert {own.ended for own in found} == {"done"}
    assert {(tmp_path / f"j{n}.log").read_text().strip() for n in range(4)} == {"1 0", "1 1"}


def test_what_fails_is_told_and_the_others_go_on(tmp_path):
    bad = job(tmp_path, "bad", "import sys; print('no such model'); sys.exit(2)")
    found = list(run_local([bad, job(tmp_path, "good", "pass")], [Slot(1)]))
    assert [(own.job.key, own.ended, own.code, own.told) for own in found] == [
        ("bad", "failed", 2, "no such model"), ("good", "done", 0, ""),
    ]  # fmt: skip


def test_what_another_process_holds_is_left_to_it(tmp_path):
    held = DirectoryLock.acquire(tmp_path / "j0", "bench")
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from leakmech.runs.lock import DirectoryLock
        DirectoryLock.acquire(Path({str(tmp_path / "j1")!r}), "bench")
        print("held", flush=True)
        time.sleep(60)
    """)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        [own] = run_local([job(tmp_path, "j1", "pass")], [Slot(1)])
        assert own.ended == "busy"
    finally:
        holder.kill()
        held.release()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_reaches_the_jobs_which_save_what_they_have(tmp_path, how):
    code = f"""
        import signal, sys, time
        from pathlib import Path
        def save(*_):
            Path({str(tmp_path / "saved")!r}).write_text("yes")
            sys.exit(1)
        signal.signal(signal.SIGTERM, save)
        Path({str(tmp_path / "began")!r}).write_text("yes")
        time.sleep(60)
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from leakmech.runs.executor import Job, Slot, run_local
        from leakmech.runs.interrupt import sigterm_interrupts
        job = Job("j", (sys.executable, "-c", {textwrap.dedent(code)!r}), Path({str(tmp_path / "j")!r}),
                  Path({str(tmp_path / "j.log")!r}))
        with sigterm_interrupts():
            list(run_local([job], [Slot(1)]))
    """)], stderr=subprocess.DEVNULL)  # fmt: skip
    for _ in range(300):
        if (tmp_path / "began").exists():
            break
        time.sleep(0.1)
    os.kill(driver.pid, how)
    assert driver.wait(30) != 0
    assert (tmp_path / "saved").read_text() == "yes"
