"""The same command again does what is missing, whatever ended the first."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from .conftest import results, start


def test_failed_jobs_are_told_and_only_they_run_again(sweep, tmp_path):
    status, out, err = sweep("quantizer=lsq", "bits=2,9,3")
    folder = tmp_path / "sweep"
    assert status == 1
    assert out.startswith(f"3 jobs, run folders in {folder}")
    assert f"2 jobs done, 1 failed: {folder}" in out
    assert "FAILED resnet8_lsq_w9a9" in err
    assert "failed: " in err.splitlines()[-1]
    assert "bits=9 is not a bit width" in err.splitlines()[-1]
    assert {result["weight_bits"] for result in results(folder).values()} == {2, 3}
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    status, out, _ = sweep("quantizer=lsq", "bits=2,3,4")
    assert status == 0
    assert "3 jobs done, 0 failed" in out
    assert len(results(folder)) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_job_that_another_process_does_is_waited_for(sweep, tmp_path):
    """As the jobs of a sweep that was killed do on Slurm, and joblib's workers for a while."""
    sweep("quantizer=lsq", "bits=2")
    run = next((tmp_path / "sweep").glob("resnet8*"))
    hold = "import sys, time\nfrom pathlib import Path\nfrom stq.storage.run_lock import run_lock\n"
    hold += "with run_lock(Path(sys.argv[1]), wait=False): print(flush=True); time.sleep(6)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE)
    holder.stdout.readline()  # it has the lock
    started = time.monotonic()
    status, _, err = sweep("quantizer=lsq", "bits=2")
    assert status == 0
    assert "being worked on by another process" in err
    assert holder.wait() == 0
    assert time.monotonic() - started > 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["serial", "joblib"])
def test_killed_at_random_moments(launcher, tmp_path):
    grid = [f"launcher={launcher}", "quantizer=lsq,pact", "bits=2,3", "trainer.max_epochs=12", "init=float_baseline"]
    grid.append("init.float.trainer.max_epochs=2")
    moments, done, folder = random.Random(0), {}, tmp_path / "sweep"
    for _ in range(3):
        process = start(tmp_path, *grid)
        time.sleep(moments.uniform(4, 16))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = results(folder)
        assert done.items() <= now.items()  # what was done is not done again
        done = now
    process = start(tmp_path, *grid)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "4 jobs done, 0 failed" in out
    found = results(folder)
    assert done.items() <= found.items()
    assert len(found) == 4
    assert all(run["status"] == "done" for run in found.values())
    assert len(list((tmp_path / "float").glob("*/result.json"))) == 1
