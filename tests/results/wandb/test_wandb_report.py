"""A report in wandb, offline: the artifact holds the files that --output writes, the table the numbers of ours."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from stq.cli import report
from stq.results.wandb.mode import default_mode
from tests.made_up_runs import FLOAT, make_run
from tests.wandb_files import records

pytest.importorskip("wandb")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("data", "cache", "config"):
        monkeypatch.setenv(f"WANDB_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    for method, accuracy in (("lsq", 80.0), ("double_st", 82.0)):
        for seed in range(2):
            make_run(tmp_path / "runs" / f"{method}{seed}", lr=0.1, method=method, seed=seed, test_top1=accuracy + seed)
    make_run(tmp_path / "runs" / "float", **FLOAT | {"float_test_top1": None, "test_top1": 95.0})
    return tmp_path / "runs"


def test_files_are_an_artifact_and_our_numbers_a_table(runs, tmp_path, capsys):
    out = tmp_path / "out"
    report.main([str(runs), "--format", "csv", "--output", str(out), "--wandb", "me/sums"])
    text, err = capsys.readouterr()
    content = list(records(tmp_path))
    (run,) = (r.run for r in content if r.WhichOneof("record_type") == "run")
    assert (run.entity, run.project, run.job_type) == ("me", "sums", "report")
    (end,) = (r.exit for r in content if r.WhichOneof("record_type") == "exit")
    assert end.exit_code == 0
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert f"wandb sync {folder}" in err

    logged = [
        r.request.log_artifact.artifact for r in content if r.request.WhichOneof("request_type") == "log_artifact"
    ]
    logged += [r.artifact for r in content if r.WhichOneof("record_type") == "artifact"]
    (artifact,) = [each for each in logged if each.type == "report"]
    assert artifact.name == "report-digits_resnet8_400_fl8"
    files = {item.path: Path(item.local_path) for item in artifact.manifest.contents}
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files.keys() == written > {"report.md", "report.tex", "report.csv", "report.html"}
    assert {name.split("_")[-1] for name in files if name.startswith("figures")} == {
        *("bits.svg", "bits.pdf", "size.svg", "size.pdf")
    }
    for name, path in files.items():
        assert path.read_bytes() == (out / name).read_bytes()

    (file,) = folder.rglob("*.table.json")
    table = json.loads(file.read_text())
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    expected = [line for line in csv.DictReader(io.StringIO(text)) if line["kind"] in ("ours", "float")]
    assert [line["row"] for line in shown] == ["float baseline (recorded)", "float baseline", "double_st", "lsq"]
    for ours, theirs in zip(shown, expected, strict=True):
        assert {key: "" if value is None else str(value) for key, value in ours.items()} == {
            key: theirs[key] for key in ours
        }
    assert shown[2]["top1_mean"] == 82.5
    assert shown[2]["size_bytes"] == 100


def test_nothing_but_wandbs_files_is_left_without_output(runs, tmp_path, capsys):
    before = {path.name for path in tmp_path.iterdir()}
    report.main([str(runs), "--wandb", "sums"])
    assert {path.name for path in tmp_path.iterdir()} - before <= {"wandb", "data", "cache", "config"}
    assert "logged to wandb" in capsys.readouterr().err


def test_without_wandb_one_sentence_says_what_to_install(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit) as stop:
        report.main([str(runs), "--wandb", "sums"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err == "error: --wandb needs the package wandb: pip install wandb\n"


def test_a_project_that_wandb_refuses_is_one_sentence(runs, capsys):
    with pytest.raises(SystemExit):
        report.main([str(runs), "--wandb", "no#such:name"])
    err = capsys.readouterr().err
    assert err.startswith("error: wandb did not take the report: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("mode", "key", "expected"), [("offline", "k", "offline"), ("", "k", "online")])
def test_mode_is_what_the_environment_says(mode, key, expected, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", key)
    assert default_mode() == expected
