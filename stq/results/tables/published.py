"""Numbers that others published, from experiments/published_results.csv: read, matched to a group, never averaged."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError

COLUMNS = (
    "method",
    "dataset",
    "network",
    "variant",
    "w_bits",
    "a_bits",
    "top1",
    "fp_top1",
    "first_last",
    "init",
    "kd",
    "status",
    "source",
)


@dataclass(frozen=True)
class Published:
    """Top-1 accuracies (percent, by bits of weights and activations) of one method in one source; unknown: empty."""

    method: str
    network: str
    float_top1: float | None
    first_last: str
    init: str
    distillation: str
    status: str
    source: str
    top1: dict[tuple[int, int], float]


def published_file() -> Path:
    """The file that comes with stq: in a checkout's experiments folder, inside the package where installed."""
    package = Path(__file__).parents[2]
    inside = package / "published_results.csv"
    return inside if inside.is_file() else package.parent / "experiments" / "published_results.csv"


def read_published(path: Path) -> dict[tuple[str, str], list[Published]]:
    """Published results by normalised data set and network.

    Raises InputError where the file is missing, lacks a column, or a number in it is none.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path} lacks the column '{missing[0]}' of published results")
            lines = [(reader.line_num, {name: (line[name] or "").strip() for name in COLUMNS}) for line in reader]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: no published results to read") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not readable as CSV ({error})") from None
    series: dict[tuple, list[tuple[tuple[int, int], float, str]]] = defaultdict(list)
    for number, line in lines:
        bits = int(_number(path, number, line["w_bits"])), int(_number(path, number, line["a_bits"]))
        entry = bits, _number(path, number, line["top1"]), line["source"]
        float_top1 = _number(path, number, line["fp_top1"]) if line["fp_top1"] else None
        place = normalised(line["dataset"]), normalised(line["network"])
        network = " ".join(filter(None, (line["network"], line["variant"])))
        facts = line["method"], network, float_top1, line["first_last"], line["init"], line["kd"], line["status"]
        series[(*place, *facts, line["source"].split(" (")[0])].append(entry)
    result: dict[tuple[str, str], list[Published]] = defaultdict(list)
    for (data, network_key, *facts, _), entries in series.items():
        for some in _without_conflicts(entries):
            source = "; ".join(dict.fromkeys(source for _, _, source in some))
            result[data, network_key].append(Published(*facts, source, {bits: top1 for bits, top1, _ in some}))
    return result


def normalised(name: str) -> str:
    """``CIFAR-10``, ``hfds/cifar10`` and ``cifar10`` are one; so are ``MobileNetV2`` and timm's ``mobilenetv2_100``,
    whose suffix is a width of 1.00, and a timm name with its weights' tag."""
    plain = name.lower().rpartition("/")[2].partition(".")[0]
    return re.sub(r"[^a-z0-9]", "", plain.removesuffix("_100"))


def _without_conflicts(entries: list) -> list[list]:
    """One source may give two numbers for the same bits (two tables of one name): then they are rows of their own."""
    rows: list[list] = []
    for entry in entries:
        home = next((row for row in rows if entry[0] not in {bits for bits, _, _ in row}), None)
        if home is None:
            rows.append([entry])
        else:
            home.append(entry)
    return rows


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(f"{path}, line {line}: {text!r} is not a bit width or a percentage")
    return value
