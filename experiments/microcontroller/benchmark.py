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
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from cmsis_layers import write_layers

import stq
import stq.models

HERE = Path(__file__).parent
FLAGS = ("-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-Wall", "-Wextra", "-Werror")
SECTIONS = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "--specs=nosys.specs", "-nostartfiles")
BOARD = ("-M", "mps2-an386", "-cpu", "cortex-m4", "-nographic", "-icount", "shift=0")
INSTRUCTIONS_A_TICK = 40
MEAN, STD = 0.5, 0.25
NETWORKS = {  # name: size of the input, timm's model
    "ResNet-8": ((3, 32, 32), "resnet8"),
    "ResNet-20": ((3, 32, 32), "resnet20"),
    "MobileNetV2-0.35": ((3, 64, 64), "mobilenetv2_035"),
    "MobileNetV3-small-0.50": ((3, 64, 64), "mobilenetv3_small_050"),  # squeeze-and-excitation, hardswish
}


class Variant(NamedTuple):
    """How a network is quantized and written; same_layers: its layers in CMSIS-NN's int8 functions, nothing else."""

    bits: int
    residual_bits: int | None = None
    container: int = 1
    pack: bool = False
    backend: str = "c99"
    float: bool = True
    same_layers: bool = False

    def title(self) -> str:
        """What a table says."""
        if self.same_layers:
            return "8, its layers alone in CMSIS-NN"
        parts = [str(self.bits)]
        parts += [f"sums {self.residual_bits}"] if self.residual_bits else []
        parts += [f"in {self.container}-bit containers"] if self.container > 1 else []
        parts += ["codes packed"] if self.pack else []
        parts += [] if self.float else ["no floats"]
        parts += ["CMSIS-NN multiplies"] if self.backend == "cmsis_nn" else []
        return ", ".join(parts)


def variants(name: str, bits: list[int], cmsis: Path | None) -> list[Variant]:
    """What is measured of a network, in the order of the table."""
    found = []
    for each in bits:
        found.append(Variant(each))
        if each == 3:
            found += [Variant(3, container=4), Variant(3, pack=True), Variant(3, float=False)]
        if each == 3 and "V3" not in name:
            found += [Variant(3, residual_bits=8), Variant(3, residual_bits=8, float=False)]
            found.append(Variant(3, residual_bits=8, pack=True, float=False))
        if each == 8 and cmsis:
            found += [Variant(8, backend="cmsis_nn"), Variant(8, same_layers=True)]
    return found


def measure(name: str, variant: Variant, samples: int, cmsis: Path | None) -> dict[str, Any]:
    """Flash and RAM of the linked program, instructions an inference, and predictions against the reference."""
    size, model_name = NETWORKS[name]
    torch.manual_seed(0)
    model = stq.quantize(
        timm.create_model(model_name, num_classes=10).eval(),
        "lsq",
        weight_bits=variant.bits,
        activation_bits=variant.bits,
        residual_bits=variant.residual_bits,
    )
    stq.calibrate(model, torch.randn(8, *size))
    pixels = torch.randint(256, (samples, *size), dtype=torch.uint8)
    x = (pixels / 255 - MEAN) / STD
    network, cost = stq.freeze(model.eval(), x), stq.cost(model, size)
    layers = list(network.of("conv", "linear"))
    stored = sum(-(-layer.arrays["weight"].size * layer["weight_bits"] // 8) for layer in layers)
    with tempfile.TemporaryDirectory() as folder:
        if variant.same_layers:
            write_layers(network, size, Path(folder))
        else:
            options = {key: getattr(variant, key) for key in ("backend", "container", "pack", "float")}
            stq.export(
                network, x, Path(folder) / "network.h", format="c", about=stq.About(mean=(MEAN,), std=(STD,)), **options
            )
        (Path(folder) / "input.bin").write_bytes(pixels.numpy().tobytes())
        for each in ("start.c", "host.c"):
            shutil.copy(HERE / each, folder)
        library: list[str] = []
        if variant.same_layers or variant.backend == "cmsis_nn":
            library = ["-Wno-error", f"-isystem{cmsis / 'Include'}"]
            library += map(str, sorted((cmsis / "Source").rglob("*_s8*.c")))
            library += map(str, (cmsis / "Source/NNSupportFunctions").glob("arm_q7_to_q15*.c"))
        script = ("-T", str(HERE / "mps2_an386.ld"))
        score = f"-DSCORE={'float' if variant.float else 'int32_t'}"
        sources = (score, "network.c", *library, "-lm")
        _run(folder, "arm-none-eabi-gcc", *FLAGS, *SECTIONS, *script, "start.c", *sources, "-o", "network.elf")
        text, data, bss = map(int, _run(folder, "arm-none-eabi-size", "network.elf").splitlines()[1].split()[:3])
        semihosting = ("-semihosting-config", "enable=on,target=native")
        printed = _run(folder, "qemu-system-arm", *BOARD, *semihosting, "-kernel", "network.elf")
        _run(folder, "gcc", *FLAGS[:2], "-ffunction-sections", "-Wl,--gc-sections", "host.c", *sources, "-o", "host")
        here = np.array([line.split() for line in _run(folder, "./host").splitlines()], dtype=int)
    rows = np.array([line.split() for line in printed.splitlines() if line.strip()], dtype=int)
    expected = stq.run(network, x).argmax(1).numpy()
    # the counter has 24 bits: a longer run is seen modulo 2^24 ticks
    instructions = INSTRUCTIONS_A_TICK * float(rows[:, 1].mean())
    inputs = x[0].numel() + 4 * 10  # the program's own
    equal = [f"{int((found[:, 0] == expected).sum())} of {samples}" for found in (rows, here)]
    return {
        "network": name,
        "variant": variant.title(),
        **variant._asdict(),
        "macs": cost.macs,
        "weight_bytes": stored,
        "flash": text + data,
        "ram": None if variant.same_layers else data + bss - inputs,
        "instructions": round(instructions),
        "per_mac": round(instructions / cost.macs, 3),
        "nanoseconds_per_mac_here": round(float(np.median(here[:, 1])) / cost.macs, 3),
        "equal": None if variant.same_layers else equal[0],
        "equal_here": None if variant.same_layers else equal[1],
    }


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout + done.stderr  # QEMU's semihosting prints on the second


def table(rows: list[dict[str, Any]], facts: dict[str, str]) -> str:
    """Markdown, from what was measured."""
    said = ("compiler", "emulator", "library", "host", "commit", "date")
    lines = [", ".join(facts[key] for key in said if facts[key]) + ".", ""]
    lines.append(
        "| network | bits | weights, bytes | flash | RAM | million MACs | instructions a MAC | ns a MAC, x86 "
        "| predictions equal |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        ram = "" if row["ram"] is None else f"{row['ram']:,}"
        lines.append(
            f"| {row['network']} | {row['variant']} | {row['weight_bytes']:,} | {row['flash']:,} | {ram} "
            f"| {row['macs'] / 1e6:.2f} | {row['per_mac']:.2f} | {row['nanoseconds_per_mac_here']:.2f} "
            f"| {row['equal'] or ''} |"
        )
    return "\n".join(lines) + "\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "this machine")


def _library(cmsis: Path) -> str:
    """The version of CMSIS-NN, as its header says it."""
    text = (cmsis / "Include/arm_nnfunctions.h").read_text(errors="replace")
    version = next((line.split()[-1] for line in text.splitlines() if "$Revision" in line), "")
    revision = next((line.split("V.")[1].strip() for line in text.splitlines() if "$Revision:" in line), version)
    return f"CMSIS-NN (arm_nnfunctions.h {revision})"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="separated by commas")
    parser.add_argument("--bits", default="1,2,3,4,8", help="separated by commas")
    parser.add_argument("--samples", type=int, default=20, help="that are predicted, for each network")
    parser.add_argument("--cmsis-nn", type=Path, help="a checkout of CMSIS-NN, to measure its functions beside")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            sys.exit(
                f"{tool} is not installed: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
            )
    cmsis = arguments.cmsis_nn and arguments.cmsis_nn.resolve()
    if cmsis and not (cmsis / "Include/arm_nnfunctions.h").is_file():
        sys.exit(f"--cmsis-nn={cmsis} is no checkout of CMSIS-NN: Include/arm_nnfunctions.h is not there")
    rows = []
    for name in arguments.networks.split(","):
        for variant in variants(name, list(map(int, arguments.bits.split(","))), cmsis):
            rows.append(measure(name, variant, arguments.samples, cmsis))
            print(json.dumps(rows[-1]), flush=True)
    facts = {
        "compiler": _run(".", "arm-none-eabi-gcc", "--version").splitlines()[0] + " " + " ".join(FLAGS[1:4]),
        "emulator": _run(".", "qemu-system-arm", "--version").splitlines()[0],
        "library": _library(cmsis) if cmsis else "",
        "host": f"gcc {_run('.', 'gcc', '-dumpversion').strip()} -O2 on {_processor()}, one thread",
        "commit": _run(str(HERE), "git", "rev-parse", "--short", "HEAD").strip(),
        "date": date.today().isoformat(),
        "command": "make benchmark-c" + (" CMSIS_NN=PATH" if cmsis else ""),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmark.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    (arguments.output / "benchmark.md").write_text(table(rows, facts))


if __name__ == "__main__":
    main()
