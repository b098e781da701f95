"""Whole runs on the digits, two epochs each."""

import csv
import json
from pathlib import Path

import onnx
import pytest
import torch
from omegaconf import OmegaConf

from stq.cli.evaluate_run import evaluate_run
from stq.cli.export_run import export_run
from stq.deploy.cost import cost
from stq.errors import InputError, TrainingFailed
from stq.results.runs.result_file import KEYS, LATER_KEYS, OPTIONAL_KEYS, read_result
from stq.training import load_run, train
from tests.composed import compose_config, float_run_of


def test_run_folder_holds_what_the_schema_says(finished):
    result, cfg = finished
    folder = Path(cfg.paths.output_dir)
    assert read_result(folder).keys() - result.keys() == {"checksum"}
    assert read_result(folder).items() >= json.loads(json.dumps(result)).items()
    assert result.keys() | {"checksum"} == KEYS.keys() | OPTIONAL_KEYS.keys() | LATER_KEYS.keys()
    assert (result["method"], result["weight_bits"], result["activation_bits"]) == ("double_st", 3, 3)
    assert OmegaConf.load(folder / "config.yaml").quantizer.method == "double_st"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for name in ("train_loss", "train_top1", "val_top1", "lr", "step/layer1.0.conv1", "threshold_max/fc", "zero/conv1"):
        assert any(row[name] for row in rows), name
    assert set(json.loads((folder / "codes.json").read_text())) >= {"conv1", "layer1.0.conv1", "fc"}


def test_result_holds_the_cost_of_one_input_counted_by_hand(finished):
    result, _ = finished
    # conv1, two convolutions in each stage of 4, 8 and 16 channels at 8, 4 and 2 pixels, fc
    outer = 64 * 4 * 9 + 16 * 10
    inner = 64 * 4 * (36 + 36) + 16 * 8 * (36 + 72) + 4 * 16 * (72 + 144)
    assert result["macs"] == outer + inner
    assert result["bops"] == 8 * 8 * outer + 3 * 3 * inner
    assert result["float_bops"] == 32 * 32 * (outer + inner)
    # at the second convolution: the block's input, which its shortcut needs, the convolution's input and its output
    assert result["float_activation_bytes"] == 3 * 4 * (4 * 64)
    # what a layer with gates reads stays as it is until it has been squeezed, its codes of 3 bits beside it
    assert result["activation_bytes"] == result["float_activation_bytes"] + 3 * (4 * 64) // 8
    baseline = read_result(float_run_of(finished[1]))
    assert baseline["bops"] == baseline["float_bops"] == result["float_bops"]


@pytest.mark.parametrize("trouble", ["no static record", "cannot be followed"])
def test_a_cost_that_cannot_be_told_does_not_lose_the_run(trouble, runs, monkeypatch):
    def fails(model, input_size):
        raise RuntimeError("the model's own code")

    if trouble == "cannot be followed":
        monkeypatch.setattr("stq.training.record.cost", fails)
        monkeypatch.setattr("stq.training.record._costs", {})
    settings = ("init=scratch", "trainer.max_epochs=1", "quantizer.settings.inference=dynamic")
    result = train(compose_config(runs, *settings, folder=trouble.replace(" ", "_")))
    assert (result["status"], result["size_bytes"] > 0) == ("done", True)
    unknown = {key for key in OPTIONAL_KEYS if result[key] is None}
    assert unknown == (OPTIONAL_KEYS.keys() if trouble == "cannot be followed" else set())


def test_the_cost_is_counted_once_for_networks_that_cost_the_same(runs, monkeypatch):
    counted = []
    monkeypatch.setattr("stq.training.record.cost", lambda model, size: counted.append(size) or cost(model, size))
    monkeypatch.setattr("stq.training.record._costs", {})
    frozen = "quantizer.settings.inference=static"
    of_jobs = [("seed=0", "bits=2"), ("seed=1", "bits=2"), ("seed=0", "bits=3"), ("seed=0", "bits=2", frozen)]
    found = [
        train(compose_config(runs, "init=scratch", "trainer.max_epochs=0", *job, folder="_".join(job)))
        for job in of_jobs
    ]
    assert len(counted) == 3
    assert found[0]["bops"] == found[1]["bops"] < found[2]["bops"]
    assert found[3]["size_bytes"] < found[0]["size_bytes"]  # without the gates


def test_accuracy_is_that_of_the_selected_checkpoint_counted_by_hand(finished):
    result, cfg = finished
    model, data, _ = load_run(cfg.paths.output_dir)
    with torch.no_grad():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.test_dataloader())
    assert result["test_top1"] == 100 * correct / 450
    assert result["test_top1"] > 20  # ten classes: it has learned something


def test_evaluating_again_agrees_to_the_last_digit(finished, capsys):
    result, cfg = finished
    assert evaluate_run(cfg.paths.output_dir) == {"val_top1": result["val_top1"], "test_top1": result["test_top1"]}
    assert repr(result["test_top1"]) in capsys.readouterr().out


def test_float_baseline_is_trained_once_and_shared(finished, runs):
    result, cfg = finished
    folder = float_run_of(cfg)
    before = (folder / "result.json").stat().st_mtime_ns
    other = train(compose_config(runs, "quantizer=lsq", "bits=2", folder="lsq"))
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert other["float_test_top1"] == result["float_test_top1"] == read_result(folder)["test_top1"]
    assert len(list((runs / "float").glob("*/result.json"))) == 1


def test_finished_run_is_not_trained_again_and_its_folder_not_overwritten(finished, runs):
    result, cfg = finished
    log = Path(cfg.paths.output_dir) / "metrics.csv"
    before = log.stat().st_mtime_ns
    assert train(cfg)["started"] == result["started"]
    assert log.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another run"):
        train(compose_config(runs, "bits=4"))


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_run_resumes_and_ends_as_if_it_had_not_been(workers, finished, runs, monkeypatch):
    from stq.training.classifier import Classifier

    epochs, power = [], {"fails": True}
    original = Classifier.training_step

    def step(self, batch, index):
        epochs.append(self.current_epoch)
        if self.current_epoch == 1 and power["fails"]:
            raise RuntimeError("the power went")
        return original(self, batch, index)

    settings = ("quantizer=double_st_frozen", "data.crop_padding=1", "loss.mixup=0.2", f"data.workers={workers}")
    train(compose_config(runs, *settings, folder=f"undisturbed{workers}"))
    monkeypatch.setattr(Classifier, "training_step", step)
    cfg = compose_config(runs, *settings, folder=f"resumed{workers}")
    with pytest.raises(RuntimeError, match="the power went"):
        train(cfg)
    assert read_result(Path(cfg.paths.output_dir))["error"] == "RuntimeError: the power went"
    assert set(epochs) == {0, 1}
    epochs.clear()
    power["fails"] = False
    assert train(cfg)["status"] == "done"
    assert set(epochs) == {1}  # the first epoch was not trained again
    names = f"resumed{workers}", f"undisturbed{workers}"
    ends = [torch.load(runs / name / "checkpoints/last.ckpt") for name in names]
    for name, tensor in ends[0]["state_dict"].items():  # order, crops and mixup of the second epoch were the same
        assert torch.equal(tensor, ends[1]["state_dict"][name]), name


def test_diverging_run_fails_with_its_reason(runs):
    cfg = compose_config(runs, "init=scratch", "optimizer.lr=1e30", "quantizer=none", folder="diverged")
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        train(cfg)
    assert "lower the learning rate" in read_result(Path(cfg.paths.output_dir))["error"]


def test_integer_sums_train_are_evaluated_and_exported(runs, capsys):
    settings = ("quantizer=lsq", "init=scratch", "weight_bits=4", "activation_bits=8", "residual_bits=8", "target=qdq")
    result = train(compose_config(runs, *settings, "trainer.max_epochs=1", "kernels=lean", folder="sums"))
    model, _, _ = load_run(runs / "sums")
    shared = model.layer1.get_submodule("0").residual.get_submodule("1").input_quantizer
    assert shared.calibrated
    assert shared.bits == 8
    path = export_run(runs / "sums", "qdq")
    printed = capsys.readouterr().out
    assert "450 of 450 predictions equal" in printed
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert said["stq.method"] == "lsq"
    assert said["stq.config_hash"] == result["config_hash"]
    assert json.loads(said["stq.config"])["residual_bits"] == 8


def test_low_memory_is_the_same_run(runs):
    settings = ("quantizer=double_st", "init=scratch", "trainer.max_epochs=1", "kernels=lean")
    usual = train(compose_config(runs, *settings, folder="usual"))
    low = train(compose_config(runs, *settings, "memory=low", folder="low"))
    assert all(low[key] == usual[key] for key in ("config_hash", "val_top1", "test_top1"))
    states = [torch.load(runs / name / "checkpoints/last.ckpt")["state_dict"] for name in ("usual", "low")]
    assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in states), strict=True))
    with pytest.raises(InputError, match="leave one of them out"):
        train(compose_config(runs, *settings, "memory=low", "compile=true", folder="both"))


def test_every_option_at_once_trains(runs):
    result = train(
        compose_config(
            runs,
            "quantizer=st",
            "loss=distillation",
            "loss.mixup=0.2",
            "loss.label_smoothing=0.1",
            "callbacks.progressive={0.0:8,0.5:3}",
            "optimizer=adamw",
            "optimizer.quantizer_lr_factor=0.1",
            "scheduler.warmup_epochs=1",
            "trainer.precision=bf16-mixed",
            "weight_bits=3",
            "activation_bits=4",
            "quantizer.weight_method=dorefa",
            "logger=tensorboard",
            folder="everything",
        )
    )
    model, _, _ = load_run(runs / "everything")
    assert (result["weight_bits"], result["activation_bits"], result["weight_method"]) == (3, 4, "dorefa")
    assert (model.layer1[0].conv1.input_quantizer.bits, model.conv1.input_quantizer.bits) == (4, 8)
    assert any((runs / "everything" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lower_precision_trains_and_evaluates_the_same_again(precision, runs):
    settings = ("init=scratch", "trainer.max_epochs=1", f"trainer.precision={precision}")
    cfg = compose_config(runs, *settings, folder=precision)
    result = train(cfg)
    assert (Path(cfg.paths.output_dir) / "codes.json").is_file()
    assert evaluate_run(cfg.paths.output_dir)["test_top1"] == result["test_top1"]
