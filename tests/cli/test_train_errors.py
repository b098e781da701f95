"""What a user sees after a slip: one sentence on stderr, exit status 2, no traceback."""

import sys

import pytest

from stq.cli import evaluate, train


def run(main, monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantizer.weight_settings={per_chanel:true}"], r"error: quantizer.weight_settings lacks an entry"),
        (["experiment=null"], r"error: a configuration group cannot be set to null"),
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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_slips(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
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
