"""Each launcher gives what the serial one gives; a worker that dies ends the sweep with a summary."""

import os
import signal
import subprocess
import time

import pytest

from .conftest import command, results, start

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
    commands = {result["command"] for result in results(tmp_path / "sweep").values()}
    assert commands == {" ".join(["stq-train", *command(tmp_path, f"launcher={launcher}", *GRID)[3:]])}
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 1


WORKERS = {"joblib": "popen_loky", "ray": "ray::_run_job", "submitit_local": "submitit.core._submit"}


def kill_a_worker(process, launcher):
    """Kill the process of a job: a descendant of the sweep's."""
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def descends(pid):
        return pid in parents and (parents[pid] == process.pid or descends(parents[pid]))

    workers = [int(pid) for pid, _, command in rows if WORKERS[launcher] in command]
    os.kill(next(pid for pid in workers if descends(pid)), signal.SIGKILL)


def counted(reports, kills):
    return lambda: sum(path.stat().st_size for path in reports.glob("*.killed")) == kills


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_other_jobs_go_on_where_a_worker_dies(launcher, serial, tmp_path):
    process = start(tmp_path, f"launcher={launcher}", "jobs=2", *GRID)
    wait_for(lambda: list(tmp_path.glob("sweep/.jobs/*.begun")))
    kill_a_worker(process, launcher)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "a worker process was killed, that of resnet8_" in out
    assert "4 jobs done, 0 failed" in out
    assert "Traceback" not in out
    assert tops(tmp_path) == serial


@pytest.mark.slow
def test_a_lost_job_of_submitit_fails_alone_and_runs_the_next_time(serial, tmp_path):
    process = start(tmp_path, "launcher=submitit_local", "jobs=2", *GRID)
    wait_for(lambda: list(tmp_path.glob("sweep/.jobs/*.begun")))
    kill_a_worker(process, "submitit_local")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "3 jobs done, 1 failed" in out
    assert "it ended without a result; its log is" in out.splitlines()[-1]
    process = start(tmp_path, "launcher=submitit_local", "jobs=2", *GRID)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert tops(tmp_path) == serial


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "bits"), [("joblib", [2, 3]), ("ray", [2])])
def test_a_job_that_kills_its_worker_each_time_fails(launcher, bits, tmp_path):
    grid = ("quantizer=lsq", f"bits={','.join(map(str, bits))}", "trainer.max_epochs=100000")
    process = start(tmp_path, f"launcher={launcher}", "jobs=2", *grid)
    reports = tmp_path / "sweep" / ".jobs"
    for kills in range(1, 4):
        wait_for(lambda: len(list(reports.glob("*.begun"))) == len(bits))
        kill_a_worker(process, launcher)
        wait_for(counted(reports, kills * len(bits)))
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"0 jobs done, {len(bits)} failed" in out
    assert "its process was killed 3 times" in out
    assert "Traceback" not in out
