"""A stranger's run folder runs no code: every place that is instantiated, by every command that opens one."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from stq.cli import evaluate, export, report, train
from stq.training import load_run
from stq.training import train as train_run
from tests.composed import compose_config

OPENERS = {"evaluate": (evaluate, ["run={run}"]), "export": (export, ["run={run}", "format=packed"])}
OPENERS |= {"resume": (train, ["run={run}"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    train_run(compose_config(runs, "model.width=2", "init=scratch", "trainer.max_epochs=1"))
    return runs / "run"


def put(config: dict, key: str, value) -> None:
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[last] = value


SHELL = {"_target_": "os.system", "command": "touch sprung"}
ATTACKS = {
    "the data are a shell": ("data", SHELL),
    "the source is a shell": ("data.source", SHELL),
    "a known package leads to a shell": (
        "data.source",
        {"_target_": "torchvision.datasets.utils.os.system", "command": "touch sprung"},
    ),
    "our own package leads to a shell": (
        "data.source",
        {"_target_": "stq.data.arrays.pl.os.system", "command": "touch sprung"},
    ),
    "python's own": ("data.source", {"_target_": "builtins.eval", "_args_": ["open('sprung', 'w')"]}),
    "a path into the checkpoint's class": ("data", {"_target_": "pathlib.Path.touch", "self": "sprung"}),
    "an argument is a shell": ("data.batch_size", SHELL),
    "an argument of a list is a shell": ("data.transforms", [SHELL]),
    "deep below": ("data.a.b.c", SHELL),
    "the model is a shell": ("model._target_", "os.system"),
    "an argument of the model is a shell": ("model.act", SHELL),
    "a callback is a shell": ("callbacks.mine", SHELL),
    "a callback's argument is a shell": (
        "callbacks.early",
        {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": SHELL},
    ),
    "the logger is a shell": ("logger.mine", SHELL),
    "the trainer is a shell": ("trainer.plugins", SHELL),
    "the optimizer is a shell": ("optimizer.params", SHELL),
    "a setting of the quantizer is a shell": ("quantizer.settings.t_max", SHELL),
    "a partial": ("data.source", {"_target_": "os.system", "_partial_": True, "command": "touch sprung"}),
    "a target that is a mapping": ("data._target_", {"_target_": "os.system", "command": "touch sprung"}),
    "a target that is a list": ("data._target_", ["os.system"]),
    "positional arguments": ("data._args_", ["x"]),
    "a resolver": ("data.name", "${oc.env:HOME}"),
    "a resolver that is a decoder": ("seed", "${oc.decode:'1'}"),
    "an interpolation into another place": ("data.source._target_", "${variables.target}"),
}


@pytest.fixture
def opened(folder, tmp_path, monkeypatch, capsys):
    """``opened(command, key, value)``: exit status and stderr of a command on a copy of a run with one entry more."""

    def run(command: str, key: str, value) -> tuple[int, str, Path]:
        copy = tmp_path / "strange"
        shutil.copytree(folder, copy)
        if command == "resume":
            (copy / "result.json").unlink()
        config = yaml.safe_load((copy / "config.yaml").read_text())
        put(config, key, value)
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        main, arguments = OPENERS[command]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["stq", *(each.format(run=copy) for each in arguments)])
        with pytest.raises(SystemExit) as stop:
            main.main()
        return stop.value.code, capsys.readouterr().err.strip(), copy

    return run


@pytest.mark.parametrize("command", OPENERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_run_folder_is_run(attack, command, opened, tmp_path):
    key, value = ATTACKS[attack]
    status, err, copy = opened(command, key, value)
    assert status == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert key.split(".")[0] in err
    assert not (tmp_path / "sprung").exists()
    assert not (copy / "sprung").exists()


def test_trust_allows_exactly_what_it_names(folder, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        "from stq.data import ArrayDataModule\nfrom stq.data.sources import digits\n"
        "class Data(ArrayDataModule):\n    def __init__(self):\n        super().__init__('digits', digits())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"] = {"_target_": "stranger.Data"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError, match=r"is not run without your leave; if you know that code, say trust=stranger\.Data"
    ):
        load_run(copy)
    with pytest.raises(ValueError, match="not run without your leave"):
        load_run(copy, trust=["stranger"])
    _, data, _ = load_run(copy, trust=["stranger.Data"])
    assert type(data).__name__ == "Data"


ODD = {
    "half a surrogate pair": ('"tags": []', '"tags": ["\\ud800"]', "half of a surrogate pair"),
    "a huge whole number": ('"seed": 0', f'"seed": {10**400}', "a number beyond all measure"),
    "more digits than python reads": ('"seed": 0', f'"seed": {"1" * 5000}', "not readable as JSON"),
    "a number where a name should be": ('"method": "lsq"', '"method": 3', "'method' is 3, not a string"),
    "an object where a number should be": ('"seed": 0', '"seed": {}', "'seed' is {}, not a number"),
    "deep nesting": ('"tags": []', f'"tags": {"[" * 100_000}{"]" * 100_000}', "not readable as JSON"),
    "infinity": ('"test_top1": 50.0', '"test_top1": Infinity', "'test_top1' is inf, not a percentage"),
    "a list for the versions": ('"versions": {}', '"versions": [1]', "'versions' is [1], not a object or null"),
}


@pytest.mark.parametrize("oddity", ODD)
def test_odd_json_is_one_sentence(oddity, tmp_path, capsys):
    from tests.made_up_runs import make_run

    old, new, sentence = ODD[oddity]
    path = make_run(tmp_path / "a") / "result.json"
    result = json.loads(path.read_text())
    result.pop("checksum")
    text = json.dumps(result)
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path)])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
