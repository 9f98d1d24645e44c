"""Jobs on a real Ray cluster of two nodes on one machine; needs the extra ``leakmech[ray]``."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from leakmech.core.errors import ConfigError
from leakmech.runs.executor import Job, Slot
from leakmech.runs.ray_executor import Cluster, _held, _Maker, refuse_unreachable, run_ray

NEEDS_RAY = "needs Ray: pip install 'leakmech[ray]'"


def _job(folder: Path, name: str, code: str = "") -> Job:
    """A job that does `code` and is done."""
    target = folder / name
    done = (
        f"\nfrom pathlib import Path\nPath({str(target)!r}).mkdir(exist_ok=True)\n"
        + f"Path({str(target / 'summary.json')!r}).write_text('{{}}')"
    )
    words = (sys.executable, "-c", textwrap.dedent(code) + done)
    return Job(name, words, target, folder / f"{name}.log", folder / "claims" / name)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'leakmech\[ray\]'"):
        refuse_unreachable(Cluster())


def test_a_head_that_is_not_there_is_a_line_within_seconds():
    pytest.importorskip("ray", reason=NEEDS_RAY)
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"no Ray head answers at 127.0.0.1:{port}"):
        refuse_unreachable(Cluster(f"127.0.0.1:{port}"))
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match="give local, auto or HOST:PORT"):
        refuse_unreachable(Cluster("somewhere"))


def test_jobs_run_on_two_nodes_failures_stop_none_and_a_killed_node_costs_at_most_its_job(tmp_path):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    slow = f"""
        import os, time
        from pathlib import Path
        Path({str(tmp_path)!r}, f"began-{{os.getpid()}}").touch()
        print(os.environ["OMP_NUM_THREADS"])
        time.sleep(4)
    """
    jobs = [_job(tmp_path, f"j{n}", slow) for n in range(3)]
    jobs.append(_job(tmp_path, "bad", "raise SystemExit('no such model')"))

    def kill() -> None:
        while len(list(tmp_path.glob("began-*"))) < 2:
            time.sleep(0.05)
        nodes.remove_node(second, allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    try:
        found = {own.job.key: own for own in run_ray(jobs, [Slot(1), Slot(1)], Cluster(nodes.address))}
    finally:
        nodes.shutdown()
    assert {key: own.ended for key, own in found.items()} == {"j0": "done", "j1": "done", "j2": "done", "bad": "failed"}
    assert found["bad"].told == "no such model"
    assert {line for n in range(3) for line in (tmp_path / f"j{n}.log").read_text().split()} == {"1"}  # threads
    assert len(list(tmp_path.glob("began-*"))) <= 4  # the node took at most one job with it


def test_a_node_that_does_not_share_the_folder_or_its_locks_gets_no_jobs(tmp_path):
    [job], probe = [_job(tmp_path, "a")], tmp_path / "probe"
    maker = _Maker(Slot(1), False, Path.cwd(), probe)
    assert "is not there (No such file or directory); all nodes need it" in maker.unfit()
    probe.touch()
    assert "locks on" in maker.unfit()  # nobody holds it, so a lock that is taken elsewhere is not seen here
    lost = maker.make(job)
    assert lost is not None
    assert (lost.ended, job.log.exists()) == ("failed", False)
    with _held(tmp_path) as held:
        assert _Maker(Slot(1), False, Path.cwd(), held).unfit() == ""
    assert not held.exists()
    assert "is not there" in _Maker(Slot(1), False, tmp_path / "none", probe).unfit()


def test_what_no_node_has_is_refused(tmp_path):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    with pytest.raises(ConfigError, match="no node of local has 1 CPUs and 64 GPUs"):
        next(run_ray([_job(tmp_path, "a")], [Slot(1)], Cluster(gpus=64)))


def test_a_job_that_another_driver_has_claimed_keeps_no_actor_waiting(tmp_path):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    first, second = _job(tmp_path, "first"), _job(tmp_path, "second")
    first.claim.parent.mkdir()
    with first.claim.open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        found = run_ray([first, second], [Slot(1)], Cluster())
        assert next(found).job.key == "second"
    assert next(found).job.key == "first"
    found.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_the_driver_reaches_the_jobs(tmp_path, how):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    code = f"""
        import signal, sys, time
        from pathlib import Path
        def save(*_):
            Path({str(tmp_path / "saved")!r}).write_text("yes")
            sys.exit(1)
        signal.signal(signal.SIGTERM, save)
        Path({str(tmp_path / "began")!r}).touch()
        time.sleep(60)
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from leakmech.core.errors import InterruptedRunError
        from leakmech.runs.executor import Job, Slot
        from leakmech.runs.interrupt import interruptible
        from leakmech.runs.ray_executor import Cluster, run_ray
        from contextlib import closing
        job = Job("j", (sys.executable, "-c", {textwrap.dedent(code)!r}), Path({str(tmp_path / "j")!r}),
                  Path({str(tmp_path / "j.log")!r}), Path({str(tmp_path / "claims" / "j")!r}))
        try:
            with interruptible("out", lambda: "all is saved", "again"), closing(run_ray([job], [Slot(1)], Cluster())) as own:
                list(own)
        except InterruptedRunError as error:
            sys.exit(str(error))
    """)], stderr=subprocess.PIPE, text=True)  # fmt: skip
    for _ in range(600):
        if (tmp_path / "began").exists():
            break
        time.sleep(0.1)
    os.kill(driver.pid, how)
    told = driver.communicate(timeout=60)[1]
    assert "out: interrupted; all is saved" in told
    assert (tmp_path / "saved").read_text() == "yes"


def test_leaving_early_lets_jobs_save_what_they_have(tmp_path):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    saved = tmp_path / "saved"
    code = f"""
        import signal, sys, time
        from pathlib import Path
        def save(*_):
            Path({str(saved)!r}).write_text("yes")
            sys.exit("runs/a: interrupted; all is saved")
        signal.signal(signal.SIGTERM, save)
        Path({str(tmp_path / "began")!r}).touch()
        time.sleep(60)
    """
    found = run_ray([_job(tmp_path, "a", code), _job(tmp_path, "quick")], [Slot(1), Slot(1)], Cluster())
    assert next(found).job.key == "quick"
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    found.close()
    assert saved.read_text() == "yes"
    assert os.environ.get("RAY_ADDRESS") is None
