"""Batch norm's statistics taken anew, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import stq
from stq.errors import InputError
from stq.training import load_run, train
from stq.training.callbacks.batch_norm import reestimate
from tests.composed import compose_config


def test_statistics_are_the_mean_over_batches_behind_fixed_thresholds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    stq.quantize(model, "double_st_frozen", weight_bits=3, activation_bits=3, first_last_bits=None)
    images = torch.randn(3, 16, 3, 8, 8)
    stq.calibrate(model, images[0])
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = reestimate(model, images)
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {f"{layer}.{name}" for layer in "14" for name in ("running_mean", "running_var")} | {
        f"{layer}.num_batches_tracked" for layer in "14" if before[f"{layer}.num_batches_tracked"] != 3
    }
    assert not any(module.training for module in model.modules())
    assert (first.momentum, second.momentum) == (0.1, 0.1)
    with torch.no_grad():
        reaching = [model[0](batch) for batch in images]
        normed = [nn.functional.batch_norm(x, None, None, first.weight, first.bias, training=True) for x in reaching]
        behind = [model[3](model[2](x)) for x in normed]
    for layer, values in ((first, reaching), (second, behind)):
        values = np.stack([x.numpy() for x in values]).astype(np.float64)
        np.testing.assert_allclose(layer.running_mean, values.mean((1, 3, 4)).mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(layer.running_var, values.var((1, 3, 4), ddof=1).mean(0), rtol=1e-4)


def test_a_run_saves_and_is_selected_by_them(runs):
    settings = ("init=scratch", "trainer.max_epochs=1", "quantizer=lsq")
    results, counts = [], []
    for number, batches in enumerate(("null", "2")):
        cfg = compose_config(
            runs, *settings, f"callbacks.reestimate_batch_norm={batches}", folder=f"batch_norm_{number}"
        )
        results.append(train(cfg))
        model, _, _ = load_run(Path(cfg.paths.output_dir))
        counts.append(int(model.bn1.num_batches_tracked))
    assert counts[1] == 2 < counts[0]
    assert results[0]["config_hash"] != results[1]["config_hash"]


@pytest.mark.parametrize("batches", ["0", "1.5", "true", "many"])
def test_a_number_of_batches_that_is_none_is_said(batches, runs):
    cfg = compose_config(runs, "init=scratch", f"callbacks.reestimate_batch_norm={batches}", folder=f"bn_{batches}")
    with pytest.raises(InputError, match="1 or more, or null"):
        train(cfg)
