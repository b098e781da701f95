"""Starting points: what the network holds before the first step."""

from pathlib import Path

import pytest
import timm
import torch

import stq
from stq.errors import InputError
from stq.results.runs.result_file import read_result
from stq.training import train
from stq.training.build import build_backbone, build_data
from stq.training.initial_weights import float_config, float_folder, read_state, start_from
from tests.composed import compose_config, float_run_of


def state_of(path) -> dict[str, torch.Tensor]:
    return read_state(Path(path) / "checkpoints" / "best.ckpt")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_float_baseline_brings_the_weights_of_the_float_run(finished):
    result, cfg = finished
    start = start_from(cfg, build_data(cfg), train)
    assert same(start.model.state_dict(), state_of(float_run_of(cfg)))
    assert start.float_test_top1 == result["float_test_top1"]


def test_float_and_quantized_checkpoints_bring_their_float_weights(finished, runs):
    _, cfg = finished
    folder = Path(cfg.paths.output_dir)
    own = compose_config(runs, "init=checkpoint", f"init.path={folder}/checkpoints/best.ckpt")
    start = start_from(own, build_data(own), train)
    trained = state_of(folder)
    assert torch.equal(start.model.layer1[0].conv1.weight, trained["layer1.0.conv1.parametrizations.weight.original"])
    assert torch.equal(start.model.conv1.weight, trained["conv1.parametrizations.weight.original"])
    assert same(start.quantized_state, trained)


def test_gates_go_on_from_the_float_baseline_that_has_them(tmp_path):
    gates = ("quantizer=double_st_dynamic", "init=gated_float_baseline", "init.float.trainer.max_epochs=1")
    cfg = compose_config(tmp_path, *gates, "trainer.max_epochs=0", folder="gated")
    result = train(cfg)
    float_cfg = float_config(cfg)
    assert float_cfg.quantizer.method == "float_gates"
    before = state_of(float_folder(float_cfg, build_data(float_cfg)))
    after = state_of(cfg.paths.output_dir)
    learned = [key for key in before if "_gate." in key]
    assert learned
    assert all(torch.equal(before[key], after[key]) for key in learned)
    assert any(before[key].abs().max() > 0 for key in learned if key.endswith("2.weight"))
    assert result["float_test_top1"] == read_result(float_folder(float_cfg, build_data(float_cfg)))["test_top1"]

    other = compose_config(
        tmp_path,
        "quantizer=double_st_dynamic",
        "quantizer.settings.range_gate=channel",
        "init=checkpoint",
        f"init.path={float_folder(float_cfg, build_data(float_cfg))}/checkpoints/best.ckpt",
        folder="other_gates",
    )
    with pytest.raises(InputError, match="has other gates"):
        train(other)
    own = stq.quantize(build_backbone(cfg, build_data(cfg)), "double_st_dynamic")
    stq.load_float(own, before)
    assert all(torch.equal(own.state_dict()[key], before[key]) for key in learned)


@pytest.mark.parametrize("method", ["lsq", "none"])
def test_gates_that_a_float_baseline_learns_are_not_thrown_away(method, tmp_path):
    bits = ("bits=32",) if method == "none" else ()
    cfg = compose_config(tmp_path, f"quantizer={method}", *bits, "init=gated_float_baseline", folder="lost")
    with pytest.raises(InputError, match=f"has gates, and quantizer={method} has none: start from one without"):
        train(cfg)
    assert not list(tmp_path.glob("**/best.ckpt"))


@pytest.mark.parametrize("tag", ["a1_in1k", "tv_in1k"])
def test_pretrained_weights_come_through_timm(tag, tmp_path, runs, caplog):
    donor = timm.create_model("test_resnet", num_classes=1000, in_chans=3)
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    cfg = compose_config(
        runs,
        "model=timm",
        "model.name=test_resnet",
        f"+model.pretrained_cfg_overlay.file={tmp_path}/weights.pth",
        f"+model.pretrained_cfg_overlay.tag={tag}",
        "init=pretrained",
        quick=False,
    )
    start = start_from(cfg, build_data(cfg), train)
    assert ("lose much when quantized" in caplog.text) is (tag == "a1_in1k")
    assert start.model.get_classifier().out_features == 10  # a new classifier for ten digits
    gray = donor.conv1[0].weight.sum(1, keepdim=True)  # timm folds three colours into one channel by the sum
    assert torch.allclose(start.model.conv1[0].weight, gray)
    assert torch.equal(start.model.layer1[0].conv1.weight, donor.layer1[0].conv1.weight)


def test_a_checkpoint_of_another_network_is_refused(finished, runs, tmp_path):
    _, cfg = finished
    best = Path(cfg.paths.output_dir) / "checkpoints" / "best.ckpt"
    wider = compose_config(runs, "model.width=8", "init=checkpoint", f"init.path={best}")
    with pytest.raises(InputError, match="is the checkpoint of another network"):
        start_from(wider, build_data(wider), train)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged, not a checkpoint that can be read"):
        read_state(broken)


def test_a_checkpoint_cannot_execute_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(InputError, match="without executing code"):
        read_state(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_scratch_depends_on_the_seed_only(runs):
    def first(seed):
        import pytorch_lightning as pl

        cfg = compose_config(runs, "init=scratch", f"seed={seed}")
        pl.seed_everything(cfg.seed, verbose=False)
        return start_from(cfg, build_data(cfg), train).model.conv1.weight

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
