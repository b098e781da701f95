"""Which networks of timm and torchvision export: python experiments/deployment/networks.py [SOURCE NAME PIXELS].

Each is quantized to 4 bits (first and last layer 8), frozen, and written as ONNX and as a packed file; both files
answer 64 inputs of noise and are compared with the model. Without a name the list networks.txt is gone through; what
networks.jsonl holds already is left out, so the command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from settled import float_network, quantized

import stq
from stq.deploy.sessions import callable_session
from stq.training.provenance import git_commit, hardware, versions

HERE = Path(__file__).parent
INPUTS = 64
COMMAND = "python experiments/deployment/networks.py"


def measure(source: str, name: str, pixels: int) -> dict:
    """What became of one network."""
    few = 4 if pixels > 200 else 16
    row: dict = {"source": source, "name": name, "pixels": pixels}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = quantized(float_network(source, name, pixels, few), pixels, few, weight_bits=4, activation_bits=4)
        cost = stq.cost(model, (3, pixels, pixels))
        row["float_share"] = round(cost.float_macs / cost.macs, 4)
        x = torch.randn(INPUTS, 3, pixels, pixels)
        start = time.perf_counter()
        network = stq.freeze(model, x[:1])
        row["freeze_s"] = round(time.perf_counter() - start, 1)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            onnx = stq.export(network, x[:1], Path(folder) / "model.onnx")
            row["onnx_s"] = round(time.perf_counter() - start, 1)
            packed = stq.export(network, x[:1], Path(folder) / "model.safetensors", format="packed")
            loaded, _ = stq.load_packed(packed)
            session = callable_session(onnx, "onnxruntime")
            parts = x.split(few)
            with torch.no_grad():
                expected = np.concatenate([model(part).numpy() for part in parts])
            found = {
                "onnx": np.concatenate([session(part.numpy()) for part in parts]),
                "packed": np.concatenate([stq.run(loaded, part).numpy() for part in parts]),
            }
        for format, scores in found.items():
            row[f"{format}_top1"] = int((scores.argmax(1) == expected.argmax(1)).sum())
            row[f"{format}_difference"] = float(np.abs(scores - expected).max() / np.abs(expected).max())
        agreement = stq.verify(model, network, parts)
        row |= {"codes": agreement.codes, "ties": agreement.ties}
    except (ValueError, RuntimeError) as error:
        row["refused"] = str(error).splitlines()[0]
    return row


def table(rows: list[dict]) -> str:
    """What docs/shipping/networks.md shows."""
    lines = [
        "| network | pixels | ONNX equal | packed equal | codes that differ at ties | MACs in float | freeze, ONNX |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["source"], row["name"])):
        name = f"{row['source']} {row['name']} | {row['pixels']}"
        if "refused" in row:
            lines.append(f"| {name} | {row['refused']} | | | | |")
            continue
        equal = f"{row['onnx_top1']} of {INPUTS} | {row['packed_top1']} of {INPUTS}"
        ties = f"{row['ties']} of {row['codes']:,}"
        lines.append(f"| {name} | {equal} | {ties} | {row['float_share']:.1%} | {row['freeze_s']}, {row['onnx_s']} s |")
    made = rows[-1]
    lines += ["", f"`{COMMAND}`, one thread, {made['hardware']}, commit {made['git_commit'][:7]}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Go through the list, or one network."""
    torch.set_num_threads(1)
    if arguments:
        print(json.dumps(measure(arguments[0], arguments[1], int(arguments[2]))))
        return
    target = HERE / "networks.jsonl"
    done = (
        {json.loads(line)["name"] + json.loads(line)["source"] for line in target.read_text().splitlines()}
        if (target.is_file())
        else set()
    )
    made = {"git_commit": git_commit(), "hardware": hardware(), "versions": versions()}
    for line in (HERE / "networks.txt").read_text().splitlines():
        source, name, pixels = line.split()
        if name + source not in done:
            row = measure(source, name, int(pixels))
            print(row, flush=True)
            with target.open("a") as file:
                file.write(json.dumps(row | made) + "\n")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    (HERE / "networks.md").write_text(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
