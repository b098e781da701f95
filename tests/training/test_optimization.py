"""Parameter groups, schedules of bits, annealing, and what identifies a run."""

import pytest
import pytorch_lightning as pl
import timm
import torch

import stq
import stq.models
from stq.errors import InputError
from stq.quantization.parameter_groups import parameter_groups
from stq.results.runs.config_hash import config_hash
from stq.training import train
from stq.training.callbacks.annealing import QuantizerProgress
from stq.training.callbacks.progressive_bits import ProgressiveBits
from stq.training.classifier import Classifier
from stq.training.provenance import command
from tests.composed import compose_config


def quantized(method: str, **settings):
    model = timm.create_model("resnet8", width=4, in_chans=1)
    stq.quantize(model, method, settings=settings, first_last_bits=None)
    stq.calibrate(model, torch.randn(8, 1, 8, 8))
    return model


def test_groups_decay_weights_only_and_pact_clips_by_their_own():
    model = quantized("pact", clip_decay=0.007)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.01, quantizer_lr_factor=0.5)
    where = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters())) == len(where)
    conv = model.layer1[0].conv1
    assert where[id(conv.parametrizations.weight.original)] == (0.1, 0.01)
    assert where[id(conv.input_quantizer.raw_clip)] == (0.05, 0.007)
    assert where[id(model.bn1.weight)] == where[id(model.fc.bias)] == (0.1, 0.0)


def test_attention_and_steps_do_not_decay_and_attention_has_its_own_rate():
    model = quantized("double_st_frozen", attention_lr_factor=5)
    groups = parameter_groups(model, 0.1, 0.01, 2.0)
    where = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    own = list(model.layer1[0].conv1.input_quantizer.parameters())
    assert len(own) == 9  # a step, and two layers of two attention blocks with weight and bias
    assert sorted(where[id(p)] for p in own) == [(0.2, 0.0)] + [(1.0, 0.0)] * 8


def test_progressive_bits_fall_and_spare_layers_with_bits_of_their_own():
    callback = ProgressiveBits({0.0: 8, 0.3: 4, 0.6: 3}, weight_bits=3, activation_bits=4)
    assert [callback.bits_at(part) for part in (0, 0.29, 0.3, 0.6, 0.99)] == [(8, 8), (8, 8), (4, 4), (3, 4), (3, 4)]


@pytest.mark.parametrize("schedule", [{}, {0.5: 3}, {0.0: 8, 1.0: 3}, {0.0: 8}, {0.0: 9, 0.5: 3}])
def test_senseless_schedules_are_refused(schedule):
    with pytest.raises(InputError, match=r"callbacks\.progressive"):
        ProgressiveBits(schedule, 3, 3)


def test_annealing_follows_the_optimizer_steps():
    model = quantized("double_st_frozen", anneal=0.5)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            seen.append(round(module.model.layer1[0].conv1.input_quantizer.mix.item(), 4))

    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 10), batch_size=4
    )
    optimizer = {"opt": "sgd", "lr": 1e-3, "weight_decay": 0.0, "quantizer_lr_factor": 1.0}
    loss = {"mixup": 0, "cutmix": 0, "label_smoothing": 0, "distillation_weight": 0}
    module = Classifier(model, 10, optimizer, {"sched": "cosine"}, loss)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[QuantizerProgress(), Watch()], **quiet)
    trainer.fit(module, data)
    assert seen == [0.0, 0.5, 1.0, 1.0, 1.0]  # steps 0 to 4 of 5 are the parts 0, 1/4, ... of training


def test_hash_follows_what_decides_the_result_and_nothing_else(tmp_path):
    base = compose_config(tmp_path)
    deciding = (
        "bits=2",
        "seed=1",
        "trainer.devices=2",
        "data.eval_batch_size=7",
        "optimizer.lr=0.5",
        "trainer.max_epochs=3",
        "quantizer=lsq",
        "data.crop_padding=0",
    )
    hashes = {config_hash(compose_config(tmp_path, change)) for change in deciding}
    assert len(hashes | {config_hash(base)}) == len(deciding) + 1
    for incidental in (
        "logger=wandb",
        "tags=[a]",
        "threads=1",
        "data.workers=2",
        "paths.runs=x",
        "callbacks.monitor=false",
    ):
        assert config_hash(compose_config(tmp_path / "elsewhere", incidental)) == config_hash(base), incidental


def test_compiled_training_is_that_of_the_model_and_evaluation_is_never_compiled(runs, monkeypatch):
    calls, compiler = [], torch.compile

    def compiled(function):
        inner = compiler(function, backend="eager")
        return lambda images: calls.append(len(images)) or inner(images)

    monkeypatch.setattr(torch, "compile", compiled)
    settings = ["init=scratch", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    eager = train(compose_config(runs, *settings, folder="eager"))
    assert not calls
    result = train(compose_config(runs, *settings, "compile=true", folder="compiled"))
    assert calls == [128] * 3
    assert result["test_top1"] == eager["test_top1"]
    assert result["config_hash"] != eager["config_hash"]


@pytest.mark.parametrize("program", ["/home/me/.venv/bin/stq-train", "/home/me/stq/stq/cli/train.py"])
def test_the_recorded_command_names_the_program_not_its_place(program, monkeypatch):
    monkeypatch.setattr("sys.argv", [program, "-m", "bits=2,3"])
    assert command() == "stq-train -m bits=2,3"
