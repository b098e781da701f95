"""Export of a finished run: the file, the comparison with the trained model on the whole test set, the latency."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..deploy.benchmark import time_both
from ..deploy.cost import cost
from ..deploy.export import SUFFIXES, export
from ..deploy.integer.freeze import freeze
from ..deploy.predict import predict
from ..deploy.verify import verify
from ..errors import InputError
from ..quantization.surgery import quantized_layers
from ..training import load_run
from ..training.silence_lightning import quieten


def export_run(
    run: str | Path, format: str, output: str | Path | None = None, latency: bool = False, trust: Sequence[str] = ()
) -> Path:
    """Export a run folder's selected checkpoint, compare it with the model on the test set, and print what was found.

    output: the file; by default ``export/model`` with the format's ending, in the run folder. latency: also time the
    ONNX file beside the float network. trust: as ``load_run`` takes it. Raises InputError for a folder that is no run,
    or what cannot be exported.
    """
    if format not in SUFFIXES:
        raise InputError(f"format={format} is unknown: there are {', '.join(SUFFIXES)}")
    if latency and format != "onnx":
        raise InputError(f"benchmark=true times format=onnx in ONNX Runtime; format={format} has no such timing")
    quieten()
    model, data, _ = load_run(run, trust)
    if not any(True for _ in quantized_layers(model)):
        raise InputError(f"run={run} is a float run: there are no integers to export")
    model = model.cpu().eval()
    data.setup("test")
    batches = [batch[0] for batch in data.test_dataloader()]
    network, size = freeze(model), tuple(batches[0].shape[1:])
    path = export(network, batches[0], output or Path(run) / "export" / f"model{SUFFIXES[format]}", format)
    print(f"file       {path}, {path.stat().st_size:,} bytes")
    print(cost(model, size))
    print(f"integers   {verify(model, network, batches)}")
    print(f"{format:10} {_compared(model, path, format, batches)}")
    if getattr(data, "mean", None) is not None:
        print(f"input      {size}, float32, pixels / 255 less {_shown(data.mean)}, divided by {_shown(data.std)}")
    if latency:
        with tempfile.TemporaryDirectory() as folder:
            full = export(freeze(model, quantized=False), batches[0], Path(folder) / "float.onnx")
            print(f"latency    {time_both(full, path, size)}")
    return path


@torch.no_grad()
def _compared(model: torch.nn.Module, path: Path, format: str, batches: list[torch.Tensor]) -> str:
    """How many of the file's predictions equal the trained model's."""
    inputs = torch.cat(batches)
    expected = torch.cat([model(part).argmax(-1) for part in inputs.split(500)]).numpy()
    try:
        found = np.concatenate([predict(path, format, part.numpy()) for part in inputs.split(5000)])
    except InputError as error:
        return f"not compared: {error}"
    return f"{int((found == expected).sum())} of {len(expected)} predictions of the file equal the trained model's"


def _shown(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
