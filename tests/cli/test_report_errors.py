"""A report is right or it is one sentence on standard error; failed runs are told, not averaged."""

import json
import subprocess
import sys

import pytest

from stq.cli import report
from tests.made_up_runs import make_run


def missing(folder):
    folder.rmdir()


def half_written(folder):
    path = make_run(folder / "a") / "result.json"
    path.write_text(path.read_text()[:150])


def a_key_less(folder):
    path = make_run(folder / "a") / "result.json"
    result = json.loads(path.read_text())
    del result["seed"]
    path.write_text(json.dumps(result))


def other_schema(folder):
    make_run(folder / "a")
    make_run(folder / "b", seed=1, schema_version=2)


def other_json(folder):
    (folder / "result.json").write_text("[1, 2]")


def foreign(folder):
    (folder / "result.json").write_text('{"loss": 1}')


def twice(folder):
    make_run(folder / "a", config_hash="same")
    make_run(folder / "again", config_hash="same", test_top1=51.0)


def without_settings(folder):
    make_run(folder / "a", test_top1=10.0)
    make_run(folder / "b", test_top1=90.0)


def all_failed(folder):
    make_run(folder / "a", status="failed", error="out of memory", test_top1=None)


def broken_config(folder):
    (make_run(folder / "a") / "config.yaml").write_text("optimizer: [1")


CASES = {
    missing: "does not exist",
    lambda folder: None: "no run there",
    half_written: "not readable as JSON",
    a_key_less: "lacks the key 'seed'",
    other_schema: "has schema version 2, this stq reads version 1",
    other_json: "holds a JSON list, not an object",
    foreign: "it has no schema version",
    twice: "two runs of the same configuration and seed differ",
    without_settings: "no config.yaml beside them says which",
    all_failed: "runs failed, a with: out of memory",
    broken_config: "config.yaml is not readable as YAML",
    lambda folder: make_run(folder / "a", test_top1=float("nan")): "'test_top1' is nan",
    lambda folder: make_run(folder / "a", test_top1="90"): "'test_top1' is '90'",
    lambda folder: make_run(folder / "a", seed=None): "'seed' is None",
    lambda folder: make_run(folder / "a", seed=True): "'seed' is True",
    lambda folder: make_run(folder / "a", test_top1=100.5): "'test_top1' is 100.5, not a percentage",
    lambda folder: make_run(folder / "a", size_bytes=-1): "'size_bytes' is -1",
    lambda folder: make_run(folder / "a", bops="many"): "'bops' is 'many', not a number or null",
    lambda folder: make_run(folder / "a", status="going on"): "neither 'done' nor 'failed'",
}


@pytest.mark.parametrize(("make", "sentence"), CASES.items(), ids=CASES.values())
def test_one_sentence_and_no_table(tmp_path, capsys, make, sentence):
    folder = tmp_path / "runs"
    folder.mkdir()
    make(folder)
    with pytest.raises(SystemExit) as stop:
        report.main([str(folder)])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_run_found_twice_is_used_once_and_told(tmp_path, capsys):
    make_run(tmp_path / "a", config_hash="same")
    report.main([str(tmp_path)])
    alone, _ = capsys.readouterr()
    make_run(tmp_path / "copy", config_hash="same")
    report.main([str(tmp_path)])
    both, err = capsys.readouterr()
    assert both == alone
    assert err.count("is used once") == 1
    make_run(tmp_path / "again", config_hash="same", started="2026-11-27T00:00:00+00:00")
    report.main([str(tmp_path)])
    both, err = capsys.readouterr()
    assert both == alone
    assert "two runs of the same configuration and seed, with the same result: it is used once" in err


def test_unknown_row_is_answered_with_the_nearest(tmp_path, capsys):
    make_run(tmp_path / "a", method="double_st")
    with pytest.raises(SystemExit):
        report.main([str(tmp_path), "--against", "double_ts"])
    assert "did you mean 'double_st'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "latx"], "--format latx is not an option (did you mean 'latex'?): there are terminal, markdown,"),
        (["--fromat=latex"], "there is no option --fromat (did you mean '--format'?)"),
        (["--against"], "--against: expected one argument"),
    ],
)
def test_misspelt_options(tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path), *arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
def test_failed_runs_are_listed_apart_with_their_reason(tmp_path, capsys, form):
    make_run(tmp_path / "good", test_top1=80.0)
    make_run(tmp_path / "bad", seed=1, status="failed", error="the loss became nan", test_top1=None)
    report.main([str(tmp_path), "--format", form])
    out, err = capsys.readouterr()
    assert "the loss became nan" in out
    assert "80.0" in out
    assert "1 failed" in err
    if form == "csv":
        (line,) = [line for line in out.splitlines() if "the loss became nan" in line]
        assert line.startswith("failed,")


def test_hidden_folders_and_a_folder_named_twice_do_not_count(tmp_path, capsys):
    make_run(tmp_path / "a", test_top1=80.0)
    make_run(tmp_path / ".trash" / "b", seed=1, test_top1=10.0)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    report.main([str(tmp_path), str(tmp_path / "a"), str(tmp_path / "link"), "--format", "csv"])
    assert ",80.0,,1,0," in capsys.readouterr().out  # mean, no deviation, n, seeds


def test_runs_without_a_result_are_told(tmp_path, capsys):
    make_run(tmp_path / "a")
    (tmp_path / "going_on").mkdir()
    (tmp_path / "going_on" / "config.yaml").write_text("seed: 1\n")
    report.main([str(tmp_path)])
    assert "1 runs without a result yet" in capsys.readouterr().err


def test_reporting_imports_no_training_code(tmp_path):
    make_run(tmp_path / "a", lr=0.1)
    code = (
        "import sys; from stq.cli.report import main; main(sys.argv[1:])\n"
        "heavy = {'torch', 'pytorch_lightning', 'timm', 'hydra', 'wandb'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
