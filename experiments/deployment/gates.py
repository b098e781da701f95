"""What gates that stay cost a deployed network: python experiments/deployment/gates.py [--rounds N].

For each network, double_st with both stages kept, and with stage one alone (inference=range), beside double_st_frozen
at 3 bits: bytes, and milliseconds on one thread of ONNX Runtime and OpenVINO. All sessions of a network take turns, so
that a busy machine slows all. Weights are random: times do not depend on them.
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
FORMS = {
    "frozen": {"method": "double_st_frozen"},
    "stage one kept": {"method": "double_st", "settings": {"inference": "range"}},
    "both kept": {"method": "double_st"},
}
RUNNERS = ("onnxruntime", "openvino")
BATCHES = (1, 8)


def measure(name: str, pixels: int, rounds: int) -> list[dict]:
    """The rows of one network, one for each runtime and batch size."""
    sizes, sessions = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for form, chosen in FORMS.items():
            settings = {"weight_bits": 3, "activation_bits": 3} | chosen
            model = quantized(float_network("timm", name, pixels, 8), pixels, 8, **settings)
            x = torch.randn(max(BATCHES), 3, pixels, pixels)
            network = stq.freeze(model, x[:1])
            packed = stq.export(network, x, Path(folder) / f"{form}.safetensors", format="packed")
            sizes[form] = stq.cost(model, (3, pixels, pixels)).size_bytes, packed.stat().st_size
            for runner in RUNNERS:
                path = stq.export(network, x, Path(folder) / f"{form}.{runner}.onnx", format=runner)
                sessions[form, runner] = callable_session(path, runner)
        rows = []
        for batch in BATCHES:
            times: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
            for _ in range(rounds + 3):
                for key, session in sessions.items():
                    start = time.perf_counter()
                    session(x[:batch].numpy())
                    times[key].append(time.perf_counter() - start)
            for runner in RUNNERS:
                row = {"network": name, "pixels": pixels, "runtime": runtime_version(runner), "batch": batch}
                row["ms"] = {form: round(float(np.median(times[form, runner][3:]) * 1e3), 2) for form in FORMS}
                rows.append(row | {"bytes": sizes})
    return rows


def table(made: dict) -> str:
    """What docs/shipping/onnx.md shows."""
    first, *kept = FORMS
    heads = ["network", "runtime", "batch", f"{first}, ms"]
    heads += [f"{form}{what}" for form in kept for what in (", ms", ", times", ", bytes (file) of frozen")]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in made["rows"]:
        ms, sizes = row["ms"], row["bytes"]
        cells = [f"{row['network']}, {row['pixels']} pixels", row["runtime"], row["batch"], ms[first]]
        for form in kept:
            counted, packed = (own / least for own, least in zip(sizes[form], sizes[first], strict=True))
            cells += [ms[form], f"{ms[form] / ms[first]:.2f}", f"{counted:.3f} ({packed:.3f})"]
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
