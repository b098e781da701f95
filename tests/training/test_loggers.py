"""wandb, offline: one run for each job, closed when the job ends or fails."""

import json

import pytest
import wandb

from stq.errors import TrainingFailed
from stq.training import train
from tests.composed import compose_config
from tests.wandb_files import records


def test_each_job_is_a_wandb_run_of_its_own(runs, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    common = ("logger=wandb", "init=scratch", "trainer.max_epochs=1", "logger.group=mine", "tags=[a,b]")
    result = train(compose_config(runs, *common, "quantizer=lsq", folder="wandb_good"))
    assert wandb.run is None
    with pytest.raises(TrainingFailed):
        train(compose_config(runs, *common, "quantizer=pact", "optimizer.lr=1e30", folder="wandb_bad"))
    assert wandb.run is None
    found = {}
    for name in ("wandb_good", "wandb_bad"):
        content = list(records(runs / name))
        (run,) = (r.run for r in content if r.WhichOneof("record_type") == "run")
        (end,) = (r.exit for r in content if r.WhichOneof("record_type") == "exit")
        summary = {
            (item.key or item.nested_key[0]): json.loads(item.value_json)
            for r in content
            if r.WhichOneof("record_type") == "summary"
            for item in r.summary.update
        }
        found[name] = (run, end.exit_code, summary)
        assert (run.run_group, run.display_name, list(run.tags)) == ("mine", name, ["a", "b"])
    good, bad = found["wandb_good"], found["wandb_bad"]
    assert good[0].run_id != bad[0].run_id
    assert (good[0].job_type, bad[0].job_type) == ("lsq", "pact")
    assert (good[1], bad[1]) == (0, 1)
    assert good[2]["test_top1"] == pytest.approx(result["test_top1"])
    assert "lower the learning rate" in bad[2]["error"]
