"""Export of a finished run: the file, the comparison with the trained model on the whole test set, the latency."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from ..deploy.about import About
from ..deploy.benchmark import time_both
from ..deploy.c.compilers import object_size
from ..deploy.cost import cost
from ..deploy.export import export
from ..deploy.integer.freeze import freeze
from ..deploy.integer.saturation import may_saturate
from ..deploy.predict import predict
from ..deploy.targets import target
from ..deploy.verify import verify
from ..errors import InputError
from ..quantization.surgery import quantized_layers
from ..results.runs.result_file import FILE_NAME, read_result
from ..training import load_run
from ..training.silence_lightning import quieten


def export_run(
    run: str | Path,
    format: str,
    output: str | Path | None = None,
    latency: bool = False,
    trust: Sequence[str] = (),
    pixels: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Export a run folder's selected checkpoint, compare it with the model on the test set, and print what was found.

    output: the file; by default ``export/model`` with the format's ending, in the run folder. latency: also time the
    ONNX file beside the float network. trust: as ``load_run`` takes it. pixels: the file takes uint8 images. options:
    of the target, sizes as 262144 or 256k.

    Raises InputError for a folder that is no run, or what cannot be exported.
    """
    suffix, runner = target(format).suffix, target(format).runner
    if latency and runner not in ("onnxruntime", "openvino"):
        raise InputError(f"benchmark=true times ONNX Runtime and OpenVINO; format={format} has no such timing")
    if pixels and format in ("c", "packed"):
        raise InputError(f"pixels=true is of the ONNX formats; format={format} takes prepared images (C also pixels)")
    chosen = {key: _bytes(key, value) if key in ("flash", "ram") else value for key, value in (options or {}).items()}
    quieten()
    model, data, _ = load_run(run, trust)
    if not any(True for _ in quantized_layers(model)):
        raise InputError(f"run={run} is a float run: there are no integers to export")
    model = model.cpu().eval()
    data.setup("test")
    batches = [batch[0] for batch in data.test_dataloader()]
    network, size = freeze(model, batches[0]), tuple(batches[0].shape[1:])
    about = about_run(Path(run), data, pixels)
    path = export(network, batches[0], output or Path(run) / "export" / f"model{suffix}", format, about, **chosen)
    print(f"file       {path}, {path.stat().st_size:,} bytes")
    print(cost(model, size))
    if format == "c":
        source = path.with_suffix(".c")
        print(f"source     {source}, {source.stat().st_size:,} bytes")
        print(f"object     {object_size(path)}")
    print(f"integers   {verify(model, network, batches)}")
    if format in ("qdq", "openvino") and (large := may_saturate(network)):
        print(
            f"kernels    without VNNI may saturate in {len(large)} layers with large 8-bit weights, such as {large[0]}"
        )
    print(f"{format:10} {_compared(model, path, format, batches, about, pixels or chosen.get('float') is False)}")
    if getattr(data, "mean", None) is not None:
        print(f"input      {size}, float32, pixels / 255 less {_shown(data.mean)}, divided by {_shown(data.std)}")
    if latency:
        with tempfile.TemporaryDirectory() as folder:
            full = export(freeze(model, batches[0], quantized=False), batches[0], Path(folder) / "float.onnx")
            print(f"latency    {time_both(full, path, size, runner)}")
    return path


def _bytes(name: str, given: str | int) -> int:
    """262144, or 256k."""
    text = str(given).lower().removesuffix("b")
    unit = {"k": 1024, "m": 1024**2}.get(text[-1:], 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdigit():
        raise InputError(f"c.{name}={given} is not a size: use bytes, or as in 256k and 2M")
    return int(digits) * unit


def _recorded(run: Path) -> Mapping[str, Any]:
    """The run's result.json; nothing for a run that has none yet."""
    return read_result(run) if (run / FILE_NAME).is_file() else {}


def about_run(run: Path, data: pl.LightningDataModule, pixels: bool = False) -> About:
    """What a file says of a run; pixels: whether it takes uint8 images."""
    result = _recorded(run)
    keys = ("method", "weight_method", "weight_bits", "activation_bits", "first_last_bits", "model", "data", "seed")
    keys += ("git_commit", "config_hash", "checksum", "test_top1", "config")
    facts = {key: result[key] for key in keys if result.get(key) is not None}
    facts["run_checksum"] = facts.pop("checksum", None)
    names = getattr(data, "class_names", None) or ()
    return About(getattr(data, "mean", None), getattr(data, "std", None), names, pixels, facts)


@torch.no_grad()
def _compared(
    model: torch.nn.Module, path: Path, format: str, batches: list[torch.Tensor], about: About, pixels: bool
) -> str:
    """How many of the file's predictions equal the trained model's; pixels: whether the file takes uint8 images."""
    inputs = torch.cat(batches)
    expected = torch.cat([model(part).argmax(-1) for part in inputs.split(500)]).numpy()
    try:
        given = inputs
        if pixels:
            mean, std = (torch.tensor(each).reshape(-1, 1, 1) for each in (about.mean, about.std))
            given = ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        found = np.concatenate([predict(path, format, part.numpy()) for part in given.split(5000)])
    except InputError as error:
        return f"not compared: {error}"
    equal = int((found == expected).sum())
    told = f"{equal} of {len(expected)} predictions of the file equal the trained model's"
    if equal < len(expected) and format in ("qdq", "openvino", "tensorrt"):
        told += " (the runtime rounds by itself: it divides by steps, and may round biases to products of scales)"
    return told


def _shown(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
