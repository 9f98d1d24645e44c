"""Jobs on slots: all run, what fails is told, what another process holds is left, an interruption reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from leakmech.runs.executor import Job, Slot, run_local


def job(folder, name, code):
    code = (
        textwrap.dedent(code)
        + f"\nfrom pathlib import Path\nPath({str(folder / name)!r}).mkdir()\n"
        + (f"Path({str(folder / name / 'summary.json')!r}).write_text('{{}}')")
    )
    words = (sys.executable, "-c", code)
    return Job(name, words, folder / name, folder / f"{name}.log", folder / "claims" / name)


def test_jobs_run_side_by_side_on_their_slots(tmp_path):
    code = f"""
        import os, time
        from pathlib import Path
        print(os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
        Path({str(tmp_path)!r}, os.environ["CUDA_VISIBLE_DEVICES"]).touch()
        while not (Path({str(tmp_path)!r}, "0").exists() and Path({str(tmp_path)!r}, "1").exists()):
            time.sleep(0.05)  # for ever, if they ran one after the other
    """
    jobs = [job(tmp_path, f"j{n}", code) for n in range(4)]
    found = list(run_local(jobs, [Slot(1, "0"), Slot(1, "1")]))
    assert {own.job.key for own in found} == {"j0", "j1", "j2", "j3"}
    assert {own.ended for own in found} == {"done"}
    assert {(tmp_path / f"j{n}.log").read_text().strip() for n in range(4)} == {"1 0", "1 1"}
    again = list(run_local(jobs, [Slot(1)]))
    assert {own.code for own in again} == {None}  # what is done is not started


def test_what_fails_is_told_and_the_others_go_on(tmp_path):
    log = tmp_path / "killed.log"
    log.write_text("an error of an earlier attempt\n")
    jobs = [
        job(tmp_path, "bad", "import sys; print('no such model'); sys.exit(2)"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "empty", "import os; os._exit(0)"),
        job(tmp_path, "stopped", "import sys; print('runs/a: interrupted; all is saved'); sys.exit(1)"),
        job(tmp_path, "good", "pass"),
    ]
    found = {own.job.key: (own.ended, own.told) for own in run_local(jobs, [Slot(1)])}
    assert found == {
        "bad": ("failed", "no such model"),
        "killed": ("failed", "killed by SIGKILL"),
        "empty": ("failed", "ended without a result"),
        "stopped": ("interrupted", "runs/a: interrupted; all is saved"),
        "good": ("done", ""),
    }


def test_what_another_process_has_claimed_is_waited_for_and_made_if_that_dies(tmp_path):
    own = job(tmp_path, "j", "pass")
    own.claim.parent.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import fcntl, time
        file = open({str(own.claim)!r}, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(60)
    """)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        threading.Timer(1.0, holder.kill).start()
        began = time.monotonic()
        [made] = run_local([own], [Slot(1)])
        assert time.monotonic() - began > 0.9
        assert (made.ended, made.code) == ("done", 0)
    finally:
        holder.kill()
        holder.wait()


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
                  Path({str(tmp_path / "j.log")!r}), Path({str(tmp_path / "j.lock")!r}))
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
