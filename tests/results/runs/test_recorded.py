"""Recorded tables: what is recorded from run folders gives the very report of those folders."""

import importlib.util
import json
from pathlib import Path

import pytest

from stq.cli import report
from stq.errors import InputError
from stq.results.runs.collect import collect
from stq.results.runs.metrics import read_metrics
from tests.made_up_runs import FLOAT, make_run

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
RECORDED = sorted(EXPERIMENTS.rglob("results.jsonl"))


@pytest.fixture(scope="module")
def recorder():
    spec = importlib.util.spec_from_file_location("record", EXPERIMENTS / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(tmp_path) -> Path:
    folder = tmp_path / "runs"
    data = {"data": {"path": "/home/me/data", "name": "digits"}, "paths": {"runs": "/home/me"}}
    for seed in (0, 1):
        for method, lr in (("lsq", 0.1), ("pact", 0.2)):
            command = "stq-train seed=0 data.path=/home/me/data/x.npz paths.runs=/home/me"
            run = make_run(folder / f"{method}{seed}", lr, method=method, seed=seed, test_top1=50 + lr, command=command)
            (run / "config.yaml").write_text(json.dumps({"optimizer": {"lr": lr}} | data))
            (run / "metrics.csv").write_text(f"epoch,val_top1,train_loss\n0,{lr},\n1,0.123456789,3.5\n2,60.5,\n")
        make_run(
            folder / f"float{seed}", 0.1, **FLOAT, seed=seed, float_test_top1=None, command="stq-train quantizer=none"
        )
        (folder / f"float{seed}" / "config.yaml").write_text(json.dumps({"optimizer": {"lr": 0.1}} | data))
    return folder


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
def test_report_of_the_recorded_is_that_of_the_folders(runs, tmp_path, recorder, capsys, form):
    assert recorder.record([runs], tmp_path / "kept") == 6
    printed = []
    for place in (runs, tmp_path / "kept"):
        report.main([str(place), "--format", form])
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1]
    assert "lsq" in printed[0].out


def test_what_a_line_keeps(runs, tmp_path, recorder):
    recorder.record([runs], tmp_path / "kept")
    text = (tmp_path / "kept" / "results.jsonl").read_text()
    assert "/home/me" not in text
    run = next(run for run in collect([tmp_path / "kept"]).done if run.name == "lsq0")
    assert run.result["command"] == "stq-train seed=0 data.path=x.npz"
    assert run.recorded["metrics"] == {"train_loss": [None, 3.5, None], "val_top1": [0.1, 0.12346, 60.5]}
    assert read_metrics(run, ("train_loss",)) == {"train_loss": {1: 3.5}}


def test_recorded_again_a_run_is_replaced_and_others_stay(runs, tmp_path, recorder):
    recorder.record([runs], tmp_path / "kept")
    before = (tmp_path / "kept" / "results.jsonl").read_text()
    recorder.record([runs / "lsq0", runs / "pact1"], tmp_path / "kept")
    assert (tmp_path / "kept" / "results.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda text: text[:-40], "line 6 is not readable as JSON"),
        (
            lambda text: text.replace('"config":', '"configuration":', 1),
            "line 1 is not a recorded run: it has no 'config'",
        ),
        (lambda text: text.replace('"seed":', '"sead":', 1), "line 1 lacks the key 'seed'"),
    ],
)
def test_a_damaged_line_is_named(runs, tmp_path, recorder, spoil, sentence):
    recorder.record([runs], tmp_path / "kept")
    file = tmp_path / "kept" / "results.jsonl"
    file.write_text(spoil(file.read_text()))
    with pytest.raises(InputError, match=sentence):
        collect([file])


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: str(file.parent.relative_to(EXPERIMENTS)))
def test_every_recorded_run_says_how_it_was_made(file):
    found = collect([file])
    assert found.done
    for run in found.done:
        assert run.result["command"].startswith("stq-train")
        assert len(run.result["git_commit"].removesuffix("+")) == 40
        assert run.result["hardware"]
        assert run.settings["optimizer.lr"] > 0
        assert "/home" not in run.result["command"]
