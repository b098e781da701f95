"""trainer=gpu, and what is told of the loader."""

import torch

from stq.training.callbacks.throughput import Throughput
from stq.training.classifier import Classifier
from tests.composed import compose_config

LOSS = {"label_smoothing": 0, "mixup": 0, "cutmix": 0, "distillation_weight": 0, "distillation_temperature": 1}


def test_trainer_gpu_sets_what_a_gpu_computes_fastest(tmp_path):
    cfg = compose_config(tmp_path, "trainer=gpu", "kernels=lean", quick=False)
    assert (cfg.trainer.accelerator, cfg.trainer.precision, cfg.trainer.max_epochs) == ("gpu", "bf16-mixed", 15)
    assert (cfg.compile, cfg.channels_last, cfg.kernels) == (True, True, "lean")  # the command line goes first
    plain = compose_config(tmp_path, quick=False)
    assert (plain.compile, plain.channels_last, plain.kernels) == (False, None, None)


def test_channels_last_changes_the_layout_alone():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    batch = torch.randn(4, 3, 9, 9), torch.arange(4)
    losses = [
        Classifier(model, 8, {}, {}, LOSS, channels_last=wanted).training_step(batch, 0) for wanted in (False, True)
    ]
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*losses)


def test_throughput_is_images_by_seconds(monkeypatch):
    clock = iter(
        [0.0, 3.0, 4.0, 7.0]
    )  # a first batch, which does not count, then one second of waiting and three of work
    monkeypatch.setattr("stq.training.callbacks.throughput.time.perf_counter", lambda: next(clock))
    callback, batch = Throughput(), (torch.zeros(8, 1), torch.zeros(8))
    callback.on_train_epoch_start(None, None)
    for index in range(2):
        callback.on_train_batch_start(None, None, batch, index)
        callback.on_train_batch_end(None, None, None, batch, index)
    text = callback.sentence()
    assert text.startswith("2 images a second in training, 25% of the time waiting for data")
    assert "the loader delivers 8" in text
    assert "data.workers" in text
