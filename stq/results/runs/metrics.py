"""What runs wrote while they trained: metrics.csv by epoch, codes.json by layer."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from typing import Any

from ...errors import InputError
from .run import Run

Series = dict[int, float]  # by epoch


def read_metrics(run: Run, wanted: tuple[str, ...]) -> dict[str, Series]:
    """The last finite value of each epoch of the columns that are called or begin with one of ``wanted``.

    Of a recorded run, what its summary holds; nothing where there is no metrics.csv. Raises InputError where that is
    cut off or not a table by epoch. Its last lines, which evaluate the selected checkpoint after training, are not of
    an epoch and left out.
    """
    if run.recorded is not None:
        kept = {name: values for name, values in run.recorded["metrics"].items() if name.startswith(wanted)}
        return {name: {i: v for i, v in enumerate(values) if v is not None} for name, values in kept.items()}
    path = run.companion("metrics.csv")
    series: dict[str, Series] = defaultdict(dict)
    try:
        with path.open(newline="") as file:
            lines = csv.reader(file)
            names = next(lines, [])
            if "epoch" not in names:
                raise InputError(f"{path} has no column 'epoch'")
            epoch_at, columns = names.index("epoch"), [i for i, name in enumerate(names) if name.startswith(wanted)]
            for line in lines:
                if len(line) != len(names):
                    raise InputError(f"{path}, line {lines.line_num} is cut off: was the writer interrupted?")
                epoch = int(float(line[epoch_at]))
                for i in columns if epoch < run.result["epochs"] else ():
                    if line[i] and math.isfinite(value := float(line[i])):
                        series[names[i]][epoch] = value
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not readable as metrics ({error})") from None
    return dict(series)


def by_layer(metrics: dict[str, Series], quantity: str) -> dict[str, Series]:
    """The columns ``quantity/<layer path>``, by layer in the order of the columns."""
    prefix = f"{quantity}/"
    return {name.removeprefix(prefix): series for name, series in metrics.items() if name.startswith(prefix)}


def read_codes(run: Run) -> dict[str, dict[str, Any]]:
    """Histogram of codes and thresholds by layer from codes.json; nothing where there is none.

    Raises InputError where it is broken: not JSON, or a layer without as many shares as codes.
    """
    path = run.companion("codes.json")
    if path is None:
        return {}
    try:
        layers = json.loads(path.read_text())
        for layer, facts in layers.items():
            if len(facts["codes"]) != len(facts["share"]) or any(len(level) != 3 for level in facts["thresholds"]):
                raise InputError(f"{path}: layer {layer} has not one share for each code")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not readable as codes by layer ({error})") from None
    return layers
