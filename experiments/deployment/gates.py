"""What gates that stay cost a deployed network: python experiments/deployment/gates.py [--rounds N].

For each network, double_st beside double_st_frozen at 3 bits: the packed file's bytes, those of the gates, and
milliseconds on one thread of ONNX Runtime and OpenVINO. All sessions of a network take turns, so that a busy machine
slows all. Weights are random: times do not depend on them.
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
from stq.training.provenance import git_commit, hardware

HERE = Path(__file__).parent
NETWORKS = [("resnet20", 32), ("resnet18", 224), ("mobilenetv2_100", 224)]
METHODS = ("double_st_frozen", "double_st")
RUNNERS = ("onnxruntime", "openvino")
BATCHES = (1, 8)


def measure(name: str, pixels: int, rounds: int) -> list[dict]:
    """The rows of one network, one for each runtime and batch size."""
    sizes, sessions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            settings = {"weight_bits": 3, "activation_bits": 3}
            model = quantized(float_network("timm", name, pixels, 8), pixels, 8, method=method, **settings)
            x = torch.randn(max(BATCHES), 3, pixels, pixels)
            network = stq.freeze(model, x[:1])
            packed = stq.export(network, x, Path(folder) / f"{method}.safetensors", format="packed")
            sizes[method] = stq.cost(model, (3, pixels, pixels)).size_bytes, packed.stat().st_size
            for runner in RUNNERS:
                path = stq.export(network, x, Path(folder) / f"{method}.{runner}.onnx", format=runner)
                sessions[method, runner] = callable_session(path, runner)
        rows = []
        for batch in BATCHES:
            times: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
            for _ in range(rounds + 3):
                for key, session in sessions.items():
                    start = time.perf_counter()
                    session(x[:batch].numpy())
                    times[key].append(time.perf_counter() - start)
            for runner in RUNNERS:
                frozen, kept = (float(np.median(times[method, runner][3:]) * 1e3) for method in METHODS)
                row = {"network": name, "pixels": pixels, "runtime": runtime_version(runner), "batch": batch}
                row |= {"frozen_ms": round(frozen, 2), "kept_ms": round(kept, 2), "times": round(kept / frozen, 2)}
                rows.append(row | {"bytes": sizes["double_st"], "frozen_bytes": sizes["double_st_frozen"]})
    return rows


def table(made: dict) -> str:
    """What docs/shipping/onnx.md shows."""
    heads = (
        "network",
        "runtime",
        "batch",
        "frozen, ms",
        "gates kept, ms",
        "times",
        "counted bytes, of frozen",
        "packed file, of frozen",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in made["rows"]:
        counted, packed = (kept / frozen for kept, frozen in zip(row["bytes"], row["frozen_bytes"], strict=True))
        cells = (f"{row['network']}, {row['pixels']} pixels", row["runtime"], row["batch"], row["frozen_ms"])
        cells += (row["kept_ms"], row["times"], f"{counted:.3f}", f"{packed:.3f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "`python experiments/deployment/gates.py`: 3 bits, first and last layer at 8, one thread, medians of",
    ]
    lines[-1] += f" {made['rounds']} rounds, {made['hardware']}, commit {made['git_commit'][:7]}."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write gates.json and gates.md beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for network in NETWORKS for row in measure(*network, given.rounds)]
    made = {"git_commit": git_commit(), "hardware": hardware(), "rounds": given.rounds, "rows": rows}
    print(table(made))
    (HERE / "gates.json").write_text(json.dumps(made, indent=1) + "\n")
    (HERE / "gates.md").write_text(table(made))


if __name__ == "__main__":
    main()
