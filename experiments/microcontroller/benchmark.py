"""``make benchmark-c``: flash, RAM and instructions of exported networks on a Cortex-M4, which QEMU counts.

Needs arm-none-eabi-gcc and qemu-system-arm. Networks have random weights: neither sizes nor instructions depend on
them. Written into benchmark.json and benchmark.md of this folder, or of ``--output``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import stq
import stq.models

HERE = Path(__file__).parent
FLAGS = ("-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-Wall", "-Wextra", "-Werror")
SECTIONS = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "--specs=nosys.specs", "-nostartfiles")
BOARD = ("-M", "mps2-an386", "-cpu", "cortex-m4", "-nographic", "-icount", "shift=0")
INSTRUCTIONS_A_TICK = 40
NETWORKS = {  # name: size of the input, timm's model
    "ResNet-8": ((3, 32, 32), "resnet8"),
    "ResNet-20": ((3, 32, 32), "resnet20"),
    "MobileNetV2-0.35": ((3, 64, 64), "mobilenetv2_035"),
    "MobileNetV3-small-0.50": ((3, 64, 64), "mobilenetv3_small_050"),  # squeeze-and-excitation, hardswish
}


def measure(name: str, bits: int, residual_bits: int | None, samples: int) -> dict[str, Any]:
    """Flash and RAM of the linked program, instructions an inference, and predictions against the reference."""
    size, model_name = NETWORKS[name]
    torch.manual_seed(0)
    model = stq.quantize(
        timm.create_model(model_name, num_classes=10).eval(),
        "lsq",
        weight_bits=bits,
        activation_bits=bits,
        residual_bits=residual_bits,
    )
    stq.calibrate(model, torch.randn(8, *size))
    x = torch.randn(samples, *size)
    network, cost = stq.freeze(model.eval(), x), stq.cost(model, size)
    layers = list(network.of("conv", "linear"))
    stored = sum(-(-layer.arrays["weight"].size * layer["weight_bits"] // 8) for layer in layers)
    with tempfile.TemporaryDirectory() as folder:
        stq.export(network, x, Path(folder) / "network.h", format="c")
        (Path(folder) / "input.bin").write_bytes(x.numpy().tobytes())
        shutil.copy(HERE / "start.c", folder)
        script = ("-T", str(HERE / "mps2_an386.ld"))
        sources = ("start.c", "network.c", "-lm", "-o", "network.elf")
        _run(folder, "arm-none-eabi-gcc", *FLAGS, *SECTIONS, *script, *sources)
        text, data, bss = map(int, _run(folder, "arm-none-eabi-size", "network.elf").splitlines()[1].split()[:3])
        semihosting = ("-semihosting-config", "enable=on,target=native")
        printed = _run(folder, "qemu-system-arm", *BOARD, *semihosting, "-kernel", "network.elf")
    rows = np.array([line.split() for line in printed.splitlines() if line.strip()], dtype=int)
    expected = stq.run(network, x).argmax(1).numpy()
    # the counter has 24 bits: a longer run is seen modulo 2^24 ticks
    instructions = INSTRUCTIONS_A_TICK * float(rows[:, 1].mean())
    inputs = 4 * (x[0].numel() + 10)  # the program's own
    return {
        "network": name,
        "bits": bits,
        "residual_bits": residual_bits,
        "macs": cost.macs,
        "weight_bytes": stored,
        "flash": text + data,
        "ram": data + bss - inputs,
        "instructions": round(instructions),
        "per_mac": round(instructions / cost.macs, 3),
        "equal": f"{int((rows[:, 0] == expected).sum())} of {samples}",
    }


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout + done.stderr  # QEMU's semihosting prints on the second


def table(rows: list[dict[str, Any]], facts: dict[str, str]) -> str:
    """Markdown, from what was measured."""
    head = "| network | bits | weights, bytes | flash | RAM | million MACs | instructions a MAC | predictions equal |"
    lines = [f"{facts['compiler']}, {facts['emulator']}, commit {facts['commit']}, {facts['date']}.", "", head]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        bits = str(row["bits"]) if row["residual_bits"] is None else f"{row['bits']}, sums {row['residual_bits']}"
        lines.append(
            f"| {row['network']} | {bits} | {row['weight_bytes']:,} | {row['flash']:,} | {row['ram']:,} "
            f"| {row['macs'] / 1e6:.2f} | {row['per_mac']:.2f} | {row['equal']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="separated by commas")
    parser.add_argument("--bits", default="1,2,3,4,8", help="separated by commas")
    parser.add_argument("--samples", type=int, default=20, help="that are predicted, for each network")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            sys.exit(
                f"{tool} is not installed: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
            )
    rows = []
    for name in arguments.networks.split(","):
        for bits in map(int, arguments.bits.split(",")):
            for residual in (None, 8) if name.startswith("ResNet") and bits == 3 else (None,):
                rows.append(measure(name, bits, residual, arguments.samples))
                print(json.dumps(rows[-1]), flush=True)
    facts = {
        "compiler": _run(".", "arm-none-eabi-gcc", "--version").splitlines()[0] + " " + " ".join(FLAGS[1:4]),
        "emulator": _run(".", "qemu-system-arm", "--version").splitlines()[0],
        "commit": _run(str(HERE), "git", "rev-parse", "--short", "HEAD").strip(),
        "date": date.today().isoformat(),
        "command": "make benchmark-c",
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmark.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    (arguments.output / "benchmark.md").write_text(table(rows, facts))


if __name__ == "__main__":
    main()
