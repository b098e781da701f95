"""What users plug in from the command line and into Lightning: networks, data, callbacks, quantizers."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

import stq
from stq.errors import InputError
from stq.quantization.surgery import input_quantizer, weight_quantizer
from stq.training import QuantizationCallback, load_run, train
from tests.composed import compose_config

QUICK = ("trainer.max_epochs=1", "init=scratch")

MODULE = """
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self, num_classes, depth=1):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(*(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)) for _ in range(depth)))
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).relu().mean((-1, -2)))

class Detector(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x))

class Data(pl.LightningDataModule):
    def __init__(self, size=64):
        super().__init__()
        self.num_classes, self.size = 10, size

    def setup(self, stage=None):
        images, labels = load_digits(return_X_y=True)
        images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
        self.all = TensorDataset(images, torch.tensor(labels))

    def train_dataloader(self):
        return DataLoader(torch.utils.data.Subset(self.all, range(640)), self.size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(torch.utils.data.Subset(self.all, range(640, 900)), 100)

    def test_dataloader(self):
        return DataLoader(torch.utils.data.Subset(self.all, range(900, 1200)), 100)

class Unsaid(Data):
    def __init__(self):
        super().__init__()
        del self.num_classes

class Count(Callback):
    seen = []

    def __init__(self, name):
        self.name = name

    def on_train_epoch_end(self, trainer, module):
        self.seen.append(self.name)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, by a name of its own for each test."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_network_and_data_of_ones_own(mine, tmp_path):
    network = (f"+model._target_={mine}.Net", "+model.depth=2")
    data = ("data=own", f"data._target_={mine}.Data", "+data.size=32")
    cfg = compose_config(
        tmp_path,
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        *network,
        *data,
        "init=scratch",
        quick=False,
    )
    result = train(cfg)
    assert (result["model"], result["data"], result["image_size"], result["steps"]) == ("resnet8", "Data", 8, 20)
    with pytest.raises(InputError, match="say trust="):
        load_run(cfg.paths.output_dir)
    model, data, _ = load_run(cfg.paths.output_dir, trust=[f"{mine}.Net", f"{mine}.Data"])
    assert type(model).__name__ == "Net"
    assert len(model.body) == 2
    assert weight_quantizer(model.body[0][1]).bits == 3
    assert data.size == 32


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data._target_={mine}.Unsaid"], "does not say num_classes"),
        (["data._target_={mine}.Nothing"], "cannot be imported"),
        (["data._target_={mine}.Net"], "data: "),
        (["+model._target_={mine}.Net", "+model.dept=3"], "model: "),
        (["+model._target_={mine}.Detector"], r"the model gives \(4, 4, 4, 4\) for 4 images"),
        (["+callbacks.early_stopping.monitor=val_top1"], "there is no setting 'callbacks.early_stopping'"),
        (["+callbacks.mine._target_={mine}.Net", "+callbacks.mine.num_classes=1"], "is not a Lightning callback"),
        (["+callbacks.mine._target_={mine}.Count"], "callbacks.mine: "),
        (["+optimiser.lr=1"], r"there is no setting 'optimiser' \(did you mean 'optimizer'\?\)"),
        (
            ["+loss.label_smooting=1"],
            r"there is no setting 'loss.label_smooting' \(did you mean 'loss.label_smoothing'",
        ),
        (["+trainer.max_step=1"], r"there is no setting 'trainer.max_step' \(did you mean 'trainer.max_steps'"),
        (["loss=distillation"], "init=scratch has none that was trained"),
        (
            ["callbacks.progressive=8-3@0.95", "trainer.max_epochs=10"],
            "the stage from 0.95 never begins: none of the 10 epochs",
        ),
        (["callbacks.progressive=8-x"], "is not bits by stage"),
        (["quantizer.skip=[nothing]"], "no layer matches 'nothing'"),
        (["quantizer.weight_method=lsqq"], "lsqq"),
        (["scheduler.sched=plateau", "scheduler.warmup_epochs=2"], "sched=plateau takes patience_epochs"),
        (["scheduler.sched=cosin"], "scheduler: "),
    ],
)
def test_slips_are_told_before_the_float_baseline_is_trained(overrides, message, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: pytest.fail("something was trained"))
    start = ("init=scratch",) if "loss=distillation" in overrides else ("init=float_baseline",)
    with pytest.raises(InputError, match=message):
        train(compose_config(tmp_path, *(each.format(mine=mine) for each in overrides), *start))
    assert not list(tmp_path.rglob("checkpoints"))


def test_callbacks_of_ones_own_and_early_stopping(mine, tmp_path):
    counted = __import__(mine).Count.seen
    own = (f"+callbacks.count._target_={mine}.Count", "+callbacks.count.name=yes")
    stop = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=100")
    stop = (stop[0], stop[1], f"+{stop[2]}")
    result = train(compose_config(tmp_path, *stop, *own, "model.width=2", "init=scratch", "trainer.max_epochs=9"))
    assert counted == ["yes"] * 2
    assert (result["epochs"], result["steps"]) == (2, 18)  # as it was, not as it was planned
    plain = train(compose_config(tmp_path, "model.width=2", "init=scratch", "trainer.max_epochs=9", folder="plain"))
    assert plain["identity"] != result["identity"]


def test_an_average_of_weights_begins_anew_with_the_bits(tmp_path):
    settings = ("callbacks=ema", "callbacks.ema.decay=0.9", "callbacks.progressive=8-3", "model.width=4")
    cfg = compose_config(tmp_path, *settings, "init=scratch", "trainer.max_epochs=4")
    result = train(cfg)
    assert (result["weight_bits"], result["activation_bits"]) == (3, 3)
    model, _, _ = load_run(cfg.paths.output_dir)
    assert weight_quantizer(model.layer1[0].conv1).bits == 3
    last = torch.load(Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt")
    average, current = last["state_dict"], last["current_model_state"]
    key = "model.layer1.0.conv1.input_quantizer.raw_step"
    assert average[key] != current[key]
    # an average with steps of 8 bits in it would be far smaller than those of 3
    assert average[key] == pytest.approx(current[key].item(), rel=0.5)


def test_progressive_bits_that_were_not_reached_are_recorded_as_they_are(tmp_path):
    stop = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=100",
    )
    settings = ("callbacks.progressive=8-3", "init=scratch", "model.width=2", "trainer.max_epochs=6")
    cfg = compose_config(tmp_path, *settings, *stop)
    result = train(cfg)
    assert result["epochs"] == 2
    assert (result["weight_bits"], result["activation_bits"]) == (8, 8)
    model, _, _ = load_run(cfg.paths.output_dir)
    assert input_quantizer(model.layer1[0].conv1).bits == 8


def test_stages_follow_the_steps_where_those_are_the_length(tmp_path):
    """9 steps an epoch, 36 in all: 4 bits from 12, so from the third epoch on; 3 from 24, the fourth."""
    settings = ("callbacks.progressive=8-4-3", "init=scratch", "model.width=2", "trainer.max_epochs=-1")
    cfg = compose_config(tmp_path, *settings, "+trainer.max_steps=36")
    bits = []
    from stq.training.classifier import Classifier

    original = Classifier.on_train_epoch_end

    def watch(self):
        bits.append(input_quantizer(self.model.layer1[0].conv1).bits)
        original(self)

    Classifier.on_train_epoch_end = watch
    try:
        result = train(cfg)
    finally:
        Classifier.on_train_epoch_end = original
    assert bits == [8, 8, 4, 3]
    assert (result["weight_bits"], result["epochs"], result["steps"]) == (3, 4, 36)


@pytest.mark.parametrize(
    "settings", [("trainer.max_epochs=0",), ("+trainer.fast_dev_run=true", "trainer.max_epochs=3")]
)
def test_nothing_or_next_to_nothing_trained_is_evaluated(settings, tmp_path):
    result = train(compose_config(tmp_path, *settings, "init=scratch", "model.width=2"))
    assert (result["status"], result["epochs"]) == ("done", 0 if "max_epochs=0" in settings[0] else 1)
    assert result["cut_short"] == (None if "max_epochs=0" in settings[0] else "trainer.fast_dev_run=True")
    load_run(tmp_path / "run")


def test_the_schedule_that_waits_for_a_plateau(tmp_path):
    settings = (
        "scheduler.sched=plateau",
        "+scheduler.patience_epochs=0",
        "+scheduler.decay_rate=0.5",
        "optimizer.lr=1e-6",
    )
    cfg = compose_config(tmp_path, *settings, "init=scratch", "model.width=2", "trainer.max_epochs=4", "quantizer=none")
    assert train(cfg)["status"] == "done"
    import csv

    rates = [float(row["lr"]) for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open()) if row["lr"]]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] < 0.6e-6  # nothing was learned


class Segmenter(pl.LightningModule):
    """A module of the user's: no classifier, a loss of its own, logging in its step."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(8, 2, 1))
        self.held = None

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.net(batch["image"]), batch["mask"])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val", nn.functional.cross_entropy(self.net(batch["image"]), batch["mask"]))

    def configure_optimizers(self):
        self.held = {id(parameter) for parameter in self.parameters()}
        return torch.optim.SGD(self.parameters(), lr=0.05)


def segments(count=8):
    items = [{"image": torch.randn(3, 6, 6), "mask": torch.randint(2, (6, 6))} for _ in range(count)]
    return torch.utils.data.DataLoader(items, batch_size=4)


@pytest.mark.parametrize("averaged", [False, True])
def test_any_lightning_module_is_quantized_calibrated_and_annealed(averaged, tmp_path):
    module = Segmenter()
    callbacks = [QuantizationCallback("double_st_frozen", attribute="net", weight_bits=2, activation_bits=2)]
    callbacks += [EMAWeightAveraging(decay=0.5)] if averaged else []
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        enable_model_summary=False,
    )
    trainer.fit(module, segments(), segments())
    quantizer = input_quantizer(module.net[3])
    assert (quantizer.bits, quantizer.calibrated) == (2, True)
    assert averaged or quantizer.mix == 1  # annealed to the end
    assert id(quantizer.raw_step) in module.held  # its optimizer trains the steps
    path = trainer.checkpoint_callback.best_model_path
    again = Segmenter()
    other = pl.Trainer(
        max_epochs=3,
        callbacks=[QuantizationCallback("double_st_frozen", attribute="net", weight_bits=2, activation_bits=2)],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    if not averaged:
        other.fit(again, segments(), segments(), ckpt_path=path)
        assert other.global_step == 6
    with pytest.raises(ValueError, match="has no module 'backbone': there are net"):
        QuantizationCallback("lsq", attribute="backbone").setup(trainer, module, "fit")


def test_a_quantizer_of_another_package_is_found_by_the_name_of_its_entry_point(tmp_path):
    package = tmp_path / "site"
    (package / "theirs-1.0.dist-info").mkdir(parents=True)
    (package / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "theirs-1.0.dist-info" / "entry_points.txt").write_text("[stq.quantizers]\nmine = theirs\n")
    (package / "theirs.py").write_text(
        textwrap.dedent(
            """
        import torch, stq

        @stq.register_quantizer("mine", weights="lsq")
        class Mine(stq.ActivationQuantizer):
            def __init__(self, *, share: float = 1.0, **common):
                super().__init__(**common)
                self.share = share
                self.register_buffer("step", torch.ones(()))

            def initialize(self, x):
                self.step.copy_(self.share * x.abs().max() / self.high)

            def fake_quantize(self, x):
                return self.step * self.round(x / self.step)

            def record(self):
                return self.make_record(1 / self.step, torch.zeros_like(self.step), self.step)
        """
        )
    )
    (tmp_path / "groups" / "optimizer").mkdir(parents=True)
    (tmp_path / "groups" / "optimizer" / "slow.yaml").write_text("defaults: [sgd]\nlr: 0.001\n")
    code = f"import sys; sys.path.insert(0, {str(package)!r}); from stq.cli.train import main; main()"
    settings = ["init=scratch", "model.width=2", "trainer.max_epochs=1", "trainer.accelerator=cpu", "threads=1"]

    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-c", code, *arguments, *settings], capture_output=True, text=True, cwd=tmp_path
        )

    done = start(
        "quantizer=mine",
        "+quantizer.settings.share=0.5",
        f"--config-dir={tmp_path}/groups",
        "optimizer=slow",
        "hydra.run.dir=run",
    )
    assert done.returncode == 0, done.stderr
    from stq.results.runs.result_file import read_result

    result = read_result(tmp_path / "run")
    assert (result["method"], result["config"]["quantizer"]["settings"]["share"]) == ("mine", 0.5)
    assert result["config"]["optimizer"]["lr"] == 0.001
    wrong = start("quantizer=mien", f"--config-dir={tmp_path}/groups")
    assert wrong.returncode == 2
    assert "quantizer=mien is not an option (did you mean 'mine'?)" in wrong.stderr
    wrong = start("optimizer=slwo", f"--config-dir={tmp_path}/groups")
    assert "optimizer=slwo is not an option (did you mean 'slow'?)" in wrong.stderr
    assert stq.list_quantizers("mine") == []
