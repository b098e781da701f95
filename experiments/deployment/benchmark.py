"""Times of deployed networks beside float, in one run: python experiments/deployment/benchmark.py [--rounds N].

For each network and target: how many of 64 predictions equal the model's, the file's bytes, milliseconds for one
image on one thread, and how many times faster than float in the same runtime. All sessions of a network take turns,
so that a busy machine slows all. Weights are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from settled import float_network, quantized

import stq
from stq.deploy.sessions import callable_session, runtime_version
from stq.deploy.targets import TARGETS
from stq.training.provenance import git_commit, hardware

# (network, pixels, weight and activation bits, residual bits)
NETWORKS = [
    ("resnet18", 224, 3, None),
    ("resnet18", 224, 8, None),
    ("resnet18", 224, 8, 8),
    ("mobilenetv2_100", 224, 8, None),
    ("mobilenetv2_100", 224, 8, 8),
    ("resnet50", 224, 4, None),
]
FILES = ("onnxruntime", "qdq", "openvino")


def static(float_file: Path, path: Path, x: torch.Tensor) -> Path:
    """ONNX Runtime's own static quantization of the float network, calibrated on the same images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"input": image[None].numpy()} for image in x[:8]])

        def get_next(self):
            return next(self.left, None)

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(float_file, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return path


def measure(name: str, pixels: int, bits: int, residual: int | None, rounds: int) -> list[dict]:
    """The rows of one network."""
    settings = {"weight_bits": bits, "activation_bits": bits, "residual_bits": residual}
    model = quantized(float_network("timm", name, pixels, 8), pixels, 8, **settings)
    x = torch.randn(64, 3, pixels, pixels)
    network = stq.freeze(model, x[:1])
    with torch.no_grad():
        expected = np.concatenate([model(part).argmax(1).numpy() for part in x.split(8)])
    with tempfile.TemporaryDirectory() as folder:
        full = stq.export(stq.freeze(model, x[:1], quantized=False), x, Path(folder) / "float.onnx")
        files = {target: stq.export(network, x, Path(folder) / f"{target}.onnx", format=target) for target in FILES}
        files["ort static"] = static(full, Path(folder) / "static.onnx", x)
        runners = {target: TARGETS[target].runner for target in FILES} | {"ort static": "onnxruntime"}
        sessions = {target: callable_session(path, runners[target]) for target, path in files.items()}
        baselines = {f"float {runner}": callable_session(full, runner) for runner in ("onnxruntime", "openvino")}
        rows = []
        for target, session in sessions.items():
            found = np.concatenate([session(part.numpy()).argmax(1) for part in x.split(8)])
            equal = None if target == "ort static" else int((found == expected).sum())
            size = files[target].stat().st_size
            rows.append({"target": target, "equal": equal, "bytes": size, "float_bytes": full.stat().st_size})
        times = {key: [] for key in (*sessions, *baselines)}
        for _ in range(rounds + 3):
            for key, session in (*sessions.items(), *baselines.items()):
                start = time.perf_counter()
                session(x[:1].numpy())
                times[key].append(time.perf_counter() - start)
    ms = {key: float(np.median(values[3:]) * 1e3) for key, values in times.items()}
    for row in rows:
        row |= {
            "ms": round(ms[row["target"]], 2),
            "times_float": round(ms["float " + runners[row["target"]]] / ms[row["target"]], 2),
        }
        row |= {"network": name, "pixels": pixels, "bits": bits, "residual_bits": residual}
        row |= {
            "runtime": runtime_version(runners[row["target"]]),
            "float_ms": round(ms["float " + runners[row["target"]]], 2),
        }
    return rows


def table(made: dict) -> str:
    """What docs/shipping/qdq.md shows."""
    lines = ["| network | bits | sums | target | predictions equal | bytes, of float | ms | times faster than float |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in made["rows"]:
        equal = "" if row["equal"] is None else f"{row['equal']} of 64"
        size = f"{row['bytes']:,}, {row['bytes'] / row['float_bytes']:.2f}"
        sums = f"{row['residual_bits']} bits" if row["residual_bits"] else "float"
        cells = (row["network"], row["bits"], sums, row["target"], equal, size, row["ms"], row["times_float"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    runtimes = ", ".join(sorted({row["runtime"] for row in made["rows"]}))
    lines += [
        "",
        f"`make benchmark-deploy`: one image of 224 pixels, one thread, {runtimes}, float32, {made['hardware']}, ",
    ]
    lines[-1] += f"commit {made['git_commit'][:7]}. `ort static` is ONNX Runtime's own static quantization, 8 bits."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write benchmark.json and benchmark.md beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", help="one network of the list")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        if given.only in (None, network[0]):
            rows += measure(*network, given.rounds)
    made = {"git_commit": git_commit(), "hardware": hardware(), "rounds": given.rounds, "rows": rows}
    print(table(made))
    if given.only is None:
        (Path(__file__).parent / "benchmark.json").write_text(json.dumps(made, indent=1) + "\n")
        (Path(__file__).parent / "benchmark.md").write_text(table(made))


if __name__ == "__main__":
    main()
