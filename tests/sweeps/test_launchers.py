"""Each launcher gives what the serial one gives; a worker that dies ends the sweep with a summary."""

import os
import signal
import subprocess
import time

import pytest

from .conftest import results, start

GRID = ["quantizer=lsq,pact", "bits=2,3", "init=float_baseline", "init.float.trainer.max_epochs=1"]


def tops(runs) -> dict[str, float]:
    return {key: result["test_top1"] for key, result in results(runs / "sweep").items()}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    runs = tmp_path_factory.mktemp("serial")
    assert start(runs, *GRID).wait(300) == 0
    return tops(runs)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_equal_results(launcher, serial, tmp_path):
    process = start(tmp_path, f"launcher={launcher}", *GRID)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "[4/4, " in out
    assert "4 jobs done, 0 failed" in out
    assert len(serial) == 4
    assert tops(tmp_path) == serial
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 1


def kill_a_worker(process):
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    workers = [line.split() for line in listed.splitlines() if "popen_loky" in line]
    os.kill(next(int(pid) for pid, parent, *_ in workers if int(parent) == process.pid), signal.SIGKILL)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_other_jobs_go_on_where_a_worker_dies(serial, tmp_path):
    process = start(tmp_path, "launcher=joblib", "jobs=2", *GRID)
    wait_for(lambda: list(tmp_path.glob("sweep/.jobs/*.begun")))
    kill_a_worker(process)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "a worker process was killed: going on" in out
    assert "4 jobs done, 0 failed" in out
    assert tops(tmp_path) == serial


@pytest.mark.slow
def test_a_job_that_kills_its_worker_each_time_fails(tmp_path):
    process = start(tmp_path, "launcher=joblib", "jobs=2", "quantizer=lsq", "bits=2,3", "trainer.max_epochs=100000")
    for _ in range(3):
        wait_for(lambda: list(tmp_path.glob("sweep/.jobs/*.begun")))
        kill_a_worker(process)
        wait_for(lambda: not list(tmp_path.glob("sweep/.jobs/*.begun")))
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "0 jobs done, 2 failed" in out
    assert "its process was killed 3 times" in out
    assert "Traceback" not in out
