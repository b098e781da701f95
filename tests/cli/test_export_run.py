import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import stq.training
from stq.cli.export_run import export_run
from tests.small_networks import small_network


@pytest.fixture
def run_folder(trained, digits, monkeypatch, tmp_path):
    """A run folder as stq.training.load_run would open it."""
    loader = DataLoader(TensorDataset(digits[2], digits[3]), 200)
    data = SimpleNamespace(setup=lambda stage: None, test_dataloader=lambda: loader, mean=[0.3], std=[0.4])
    monkeypatch.setattr("stq.cli.export_run.load_run", lambda run, trust: (trained(3), data, None))
    return tmp_path


@pytest.mark.parametrize(
    ("format", "module", "name"),
    [
        ("onnx", "onnxruntime", "model.onnx"),
        ("onnxruntime", "onnxruntime", "model.onnx"),
        ("qdq", "onnxruntime", "model.qdq.onnx"),
        ("openvino", "openvino", "model.openvino.onnx"),
        ("finn", "qonnx", "model.finn.onnx"),
        ("qonnx", "qonnx", "model.qonnx.onnx"),
        ("packed", "safetensors", "model.safetensors"),
        ("c", "numpy", "model.h"),
    ],
)
def test_file_is_compared_on_the_whole_test_set(run_folder, capsys, format, module, name):
    pytest.importorskip(module)
    path = export_run(run_folder, format)
    assert path == run_folder / "export" / name
    assert path.stat().st_size > 500
    printed = capsys.readouterr().out
    assert "500 of 500 predictions equal; 0 of 968,000 codes differ" in printed
    assert "500 of 500 predictions of the file equal" in printed
    assert "less 0.3, divided by 0.4" in printed


def test_disagreement_is_printed(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("stq.cli.export_run.predict", lambda path, format, x: torch.zeros(len(x)).numpy())
    export_run(run_folder, "packed")
    printed = capsys.readouterr().out
    found = int(printed.split("packed     ")[1].split(" of 500")[0])
    assert found < 100


def test_latency_needs_onnx_and_a_float_run_has_no_integers(run_folder, monkeypatch):
    with pytest.raises(stq.errors.InputError, match="benchmark=true times ONNX Runtime and OpenVINO; format=c"):
        export_run(run_folder, "c", latency=True)
    monkeypatch.setattr("stq.cli.export_run.load_run", lambda run, trust: (small_network(), None, None))
    with pytest.raises(stq.errors.InputError, match="float run"):
        export_run(run_folder, "onnx")


def test_command_line_tells_mistakes_in_one_sentence(tmp_path):
    for arguments, message in (
        ([f"run={tmp_path}", "format=onx"], "format='onx' is unknown"),
        ([f"run={tmp_path}", "benchmrk=true"], "did you mean 'benchmark'?"),
    ):
        command = [sys.executable, "-m", "stq.cli.export", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
