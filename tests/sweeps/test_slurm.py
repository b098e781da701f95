"""Jobs that Slurm ends for good, by a stand-in for Slurm's commands: it loses one job and runs the other."""

import functools
import os
import sys

import pytest

from .conftest import results

# submitit.slurm.slurm.SlurmExecutor._make_submission_command calls `sbatch FILE`, and the file calls srun
COMMANDS = {
    "sbatch": """
        [ -e {folder}/lose ] && id=7 first=1 || id=9 first=0
        echo Submitted batch job $id
        export SLURM_JOB_ID=$id SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$first
        (sleep 1; while [ $SLURM_ARRAY_TASK_ID -lt 2 ]; do
            bash "$1" > {folder}/log 2>&1; SLURM_ARRAY_TASK_ID=$((SLURM_ARRAY_TASK_ID + 1))
        done) >/dev/null 2>&1 &
    """,
    "srun": """
        while [ $1 != {python} ]; do shift; done
        "$@"
    """,
    "squeue": "cat {folder}/queue",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder where a file ``lose`` makes job 0 vanish, and ``queue`` is what squeue prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, lines in COMMANDS.items():
        (folder / name).write_text("#!/bin/bash\n" + lines.format(folder=folder, python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    from stq.sweeps import submit

    monkeypatch.setattr(submit, "QueueWatcher", functools.partial(submit.QueueWatcher, delay_s=1, grace=2))
    return folder


GRID = ("launcher=slurm", "slurm.gpus=0", "slurm.cpus=1", "quantizer=lsq", "bits=2,3")


@pytest.mark.slow
@pytest.mark.parametrize(("queue", "state"), [("7_0|CANCELLED\n7_1|RUNNING\n", "CANCELLED"), ("7_1|RUNNING\n", "gone")])
def test_a_lost_job_fails_alone_and_runs_the_next_time(slurm, sweep, tmp_path, queue, state):
    (slurm / "lose").touch()
    (slurm / "queue").write_text(queue)
    status, out, err = sweep(*GRID)
    assert status == 1
    assert "1 jobs done, 1 failed" in out
    assert "FAILED resnet8_lsq_w2a2" in err
    assert f"it ended without a result ({state})" in err.splitlines()[-1]
    (done,) = results(tmp_path / "sweep").values()
    assert done["weight_bits"] == 3
    (slurm / "lose").unlink()
    (slurm / "queue").write_text("9_0|RUNNING\n9_1|RUNNING\n")
    status, out, err = sweep(*GRID)
    assert status == 0, err
    assert "2 jobs done, 0 failed" in out
    assert {result["weight_bits"] for result in results(tmp_path / "sweep").values()} == {2, 3}


def test_a_job_that_is_queued_again_is_not_lost(monkeypatch):
    from stq.sweeps import submit

    clock = [0.0]
    monkeypatch.setattr(submit.time, "monotonic", lambda: clock[0])
    watcher = submit.QueueWatcher(grace=60)
    watcher.register_job("7_0")
    for time, queue in ((0, "7_0|PREEMPTED"), (40, "7_0|PENDING"), (80, "7_0|RUNNING"), (120, ""), (170, "8|RUNNING")):
        clock[0] = time
        watcher.read_info(queue)
        assert not watcher.is_done("7_0", mode="cache")
    clock[0] = 181
    assert watcher.read_info("")["7_0"] == {"State": "gone"}
    assert watcher.is_done("7_0", mode="cache")
