"""Runs an exported file with the means of its own world: ONNX Runtime, QONNX's executor, a compiled C program."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ..errors import InputError
from .sessions import compiled_for_openvino
from .targets import target

_QONNX_BATCH = 32  # the executor compares every value with every threshold at once


def predict(path: Path, format: str, x: np.ndarray) -> np.ndarray:
    """The predicted class of each sample of ``x`` (N, ...), float32, by the exported file at ``path``.

    Raises InputError for an unknown format, a missing file, and where what runs the format (onnxruntime, openvino,
    qonnx, gcc) is not installed.
    """
    runners = {"onnxruntime": _onnx, "openvino": _openvino, "qonnx": _qonnx, "packed": _packed, "c": _c}
    runner = runners[target(format).runner]
    if not Path(path).is_file():
        raise InputError(f"{path} is not a file: export a network to it first")
    x = x if x.dtype == np.uint8 else np.asarray(x, np.float32)
    try:
        return runner(Path(path), x)
    except ImportError as error:
        package = "openvino" if error.name == "openvino" else "'stq[deploy]'"
        raise InputError(f"running format='{format}' needs {error.name}: pip install {package}") from error


def _onnx(path: Path, x: np.ndarray) -> np.ndarray:
    from .sessions import session

    return session(path).run(None, {"input": x})[0].argmax(-1)


def _openvino(path: Path, x: np.ndarray) -> np.ndarray:
    return compiled_for_openvino(path)(x)[0].argmax(-1)


def _qonnx(path: Path, x: np.ndarray) -> np.ndarray:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_shapes import InferShapes

    found = []
    for part in np.split(x, range(_QONNX_BATCH, len(x), _QONNX_BATCH)):
        model = ModelWrapper(str(path)).transform(ChangeBatchSize(len(part))).transform(InferShapes())
        found.append(execute_onnx(model, {"input": part})["output"].argmax(-1))
    return np.concatenate(found)


def _packed(path: Path, x: np.ndarray) -> np.ndarray:
    from .integer.inference import run
    from .packed.packed_file import load_packed

    return run(load_packed(path)[0], x).argmax(-1).numpy()


def _c(path: Path, x: np.ndarray) -> np.ndarray:
    from .c.compilers import build

    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        build(path, program)
        done = subprocess.run([program], input=np.ascontiguousarray(x).tobytes(), capture_output=True, check=True)
    return np.array(done.stdout.split(), dtype=np.int64)
