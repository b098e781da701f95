"""``stq-benchmark``: time and memory of a training step, quantized beside float, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..errors import InputError
from .argument_parser import Parser

_HELP = """\
Time and memory of a training step of each method beside float, all taking turns in one process.

  stq-benchmark                                   ResNet-20, 64 x 32 pixels, 3 bits
  stq-benchmark resnet18:64:32 resnet18:16:112    networks of timm as NAME:BATCH:PIXELS
  stq-benchmark --methods lsq,pact,torch,brevitas methods; torch and brevitas are their own quantizers, if installed
  stq-benchmark --forms plain,lean,compiled       how our layers compute (the setting kernels=; lean-low: memory=low)
  stq-benchmark --whole                           the whole network through torch.compile besides
"""


def main(arguments: list[str] | None = None) -> None:
    """Exits with status 2 and one sentence where a name is none, or a file cannot be written."""
    given = _arguments(arguments)
    try:
        _run(given)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser("stq-benchmark", description=_HELP)
    parser.add_argument("networks", nargs="*", default=["resnet20:64:32"], help="NAME, or NAME:BATCH:PIXELS")
    parser.add_argument("--methods", default="lsq,double_st", help="separated by commas")
    parser.add_argument(
        "--forms", default="plain,compiled", help="plain, lean, compiled, lean-low, compiled-low; by commas"
    )
    parser.add_argument("--bits", type=int, default=3, choices=range(1, 9), metavar="1-8", help="bit width (3)")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each that count (15)")
    parser.add_argument("--threads", type=int, default=None, help="of the processor; all by default")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="bf16: autocast to bfloat16")
    parser.add_argument("--whole", action="store_true", help="compile whole networks")
    parser.add_argument("--json", type=Path, default=None, help="write what was found here too")
    parser.add_argument("--markdown", type=Path, default=None, help="write the table here too")
    return parser.parse_args(arguments)


def _run(given: argparse.Namespace) -> None:
    networks = [_network(text) for text in given.networks]
    if given.rounds < 1:
        raise InputError(f"--rounds {given.rounds} must be 1 or more")
    import torch

    from ..training.allocator import keep_freed_memory
    from ..training.benchmark.steps import Setting, check, measure
    from ..training.benchmark.table import table
    from ..training.provenance import command, git_commit, hardware, versions

    methods, forms = given.methods.split(","), given.forms.split(",")
    check([name for name, _, _ in networks], methods, forms)
    keep_freed_memory()
    if given.threads:
        torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name, batch, pixels in networks:
        setting = Setting(name, batch, pixels, given.bits, device, given.whole, given.precision)
        print(f"{name}, {batch} x {pixels} pixels ...", file=sys.stderr, flush=True)
        rows += [{**vars(setting), **row} for row in measure(setting, methods, forms, given.rounds)]
    made = {
        "command": command(),
        "hardware": hardware(),
        "git_commit": git_commit(),
        "versions": versions(),
        "rows": rows,
    }
    print(table(made), end="")
    if given.json:
        given.json.write_text(json.dumps(made, indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(table(made))


def _network(text: str) -> tuple[str, int, int]:
    name, *numbers = text.split(":")
    if len(numbers) not in (0, 2) or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise InputError(f"'{text}' is no network to measure: write NAME or NAME:BATCH:PIXELS, as in resnet20:64:32")
    batch, pixels = (int(number) for number in numbers) if numbers else (64, 32)
    return name, batch, pixels


if __name__ == "__main__":
    main()
