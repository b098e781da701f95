"""What a user sees after a slip: one sentence on stderr, exit status 2, no traceback."""

import sys

import pytest

from stq.cli import evaluate, export, train


def run(main, monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantizer.weight_settings={per_chanel:true}"], r"error: quantizer.weight_settings lacks an entry"),
        (["experiment=null"], r"error: a configuration group is set to the name of one"),
        (["quantizer=lsqq"], r"error: quantizer=lsqq is not an option (did you mean 'lsq'?)"),
        (["bits=9"], "error: weight_bits=9 is not a bit width: use 1 to 8, or 32 for float"),
        (["bits=0"], "error: weight_bits=0 is not a bit width"),
        (["activation_bits=two"], "error: activation_bits=two is not a bit width"),
        (
            ["trainer.max_epoch=2"],
            "error: there is no setting 'trainer.max_epoch' (did you mean 'trainer.max_epochs'?)",
        ),
        (["quantiser=lsq"], "error: there is no setting 'quantiser' (did you mean 'quantizer'?)"),
        (["bits=2,3"], "error: bits=2,3 has several values: a sweep over them needs -m"),
        (["launcher=jobli"], "error: launcher=jobli is not an option (did you mean 'joblib'?)"),
        (
            ["launcher=slurm", "slurm.partion=gpu"],
            "error: there is no setting 'slurm.partion' (did you mean 'slurm.partition'?)",
        ),
        (["--mulitrun"], "error: there is no option --mulitrun (did you mean '--multirun'?)"),
        (["-m", "quantizer=dorfa"], "error: quantizer=dorfa is not an option (did you mean 'dorefa'?)"),
        (["bits"], "error: 'bits' cannot be read as key=value"),
        (["data=npz"], "error: data.path must be given: data.path=VALUE"),
        (["data=npz", "data.path=absent.npz"], "error: data.path=absent.npz is not a file"),
        (["data=imagenet", "data.path=absent"], "error: data.path=absent is not a folder"),
        (
            ["model.name=resnet81", "init=scratch"],
            "error: model.name=resnet81 is not a timm model (did you mean 'resnet8'?)",
        ),
        (["+model.widht=4", "init=scratch"], "error: model resnet8 does not take these arguments"),
        (["init=checkpoint", "init.path=absent.ckpt"], "error: init.path=absent.ckpt is not a file"),
        (["init.start=scrach"], "error: init.start=scrach is not a starting point (did you mean 'scratch'?)"),
        (
            ["quantizer.first_last_method=lsqq", "init=scratch"],
            "error: there is no quantizer named 'lsqq': did you mean 'lsq'?",
        ),
        (["+quantizer.settings.t_maxx=1", "init=scratch"], "error: quantizer 'double_st' "),
        (["optimizer.opt=sgdd", "init=scratch"], "error: optimizer: "),
        (
            ["callbacks.progressive={0.0:8}", "init=scratch"],
            "error: callbacks.progressive must end at the bits of the run",
        ),
        (["bits=3.0"], "error: weight_bits=3.0 is not a bit width"),
        (["seed=null"], "error: seed=null is not a whole number from 0 to 4294967295"),
        (["trainer.max_epochs=-2"], "error: trainer.max_epochs=-2 is not a whole number from 0 up"),
        (["init.float.optimizer.lr=abc"], "error: init.float.optimizer.lr=abc is not a number from 0 up"),
        (["data.batch_size=abc"], "error: data.batch_size=abc is not a whole number from 1 up"),
        (["loss.label_smoothing=2"], "error: loss.label_smoothing=2 is not a number from 0 to 1"),
        (["loss.distillation_temperature=0"], "error: loss.distillation_temperature=0 is not a number above 0"),
        (["compile=maybe"], "error: compile=maybe is not true or false"),
        (["tags=foo"], "error: tags=foo is not a list such as [a,b]"),
        (["quantizer.skip=fc"], "error: quantizer.skip=fc is not a list"),
        (["+quantizer.layers={conv1:4}"], "error: quantizer.layers={'conv1': 4} is not overrides by path pattern"),
        (
            ["+quantizer.layers.conv1.signed=maybe", "init=scratch"],
            "error: layers.'conv1'.signed=maybe is not true, false or null",
        ),
        (
            ["callbacks.progressive={0.0:8,0.5:a}"],
            "error: callbacks.progressive={0.0: 8, 0.5: 'a'} is not null or bits",
        ),
        (["paths.runs=null"], "error: paths.runs=null is not a path"),
        (["paths.runs=file"], "error: file/"),
        (["paths.float_dir=file"], "error: file/"),
        (["data=npz", "data.path=file"], "error: data.path=file is not an .npz of plain arrays"),
        (["+data.foo=1"], "error: data: ArrayDataModule.__init__() got an unexpected keyword argument 'foo'"),
        (
            ["quantizer.settings.intervals=maybe", "init=scratch"],
            "error: intervals=maybe of quantizer 'double_st' is not true or false",
        ),
        (
            ["quantizer.settings.reduction=null", "init=scratch"],
            "error: reduction=None of quantizer 'double_st' is not a whole number",
        ),
        (["model="], "error: model= is not an option: there are efficientnet_b0"),
        (["logger.name=foo", "init=scratch"], "error: logger.name=foo is not a logger"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_slips(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    status, stderr = run(train.main, monkeypatch, capsys, "trainer.max_epochs=1", "trainer.accelerator=cpu", *arguments)
    assert status == 2
    assert stderr.startswith(message)
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 1


def test_evaluate_needs_a_run_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(evaluate.main, monkeypatch, capsys) == (2, "error: run must be given: run=VALUE")
    status, stderr = run(evaluate.main, monkeypatch, capsys, f"run={tmp_path}")
    assert status == 2
    assert "is not a run folder" in stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=[a,b]"], "run=['a', 'b'] is not a path"),
        (["run=x", "output=5"], "output=5 is not a path, or null"),
        (["run=x", "benchmark=maybe"], "benchmark=maybe is not true or false"),
        (["-m", "run=x,y"], "stq-export takes one run at a time: leave -m out"),
    ],
)
def test_slips_of_an_export(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(export.main, monkeypatch, capsys, *arguments) == (2, f"error: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "config.yaml is not readable"),
        (b"\xff\xfe\x00", "config.yaml is not readable"),
        (b"a: 1\n", "is not the configuration of a run of stq: it has no section 'model'"),
        (b"- 1\n", "is not the configuration of a run of stq"),
    ],
)
def test_a_damaged_configuration_is_told(content, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    status, stderr = run(evaluate.main, monkeypatch, capsys, f"run={tmp_path}")
    assert status == 2
    assert message in stderr
    assert len(stderr.splitlines()) == 1
