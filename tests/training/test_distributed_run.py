"""A data-parallel run of two processes: every parameter takes part, one process writes, the record is one."""

import subprocess
import sys

from stq.results.runs.result_file import read_result
from stq.training import load_run


def test_two_processes_train_lsq_plus_whose_offset_takes_no_part_everywhere(tmp_path):
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "quantizer=lsq_plus", "model.width=2", "trainer.max_epochs=1"]
    settings += ["init=scratch", "threads=1", f"paths.runs={tmp_path}", f"hydra.run.dir={tmp_path}/run"]
    command = [sys.executable, "-m", "stq.cli.train", *settings]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "run")
    assert (result["status"], result["steps"]) == ("done", 18)  # batches of 64 shared by two
    assert result["test_top1"] > 5
    load_run(tmp_path / "run")
