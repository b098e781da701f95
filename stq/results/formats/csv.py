"""Numbers for other programs: one line for each cell, each published number, each comparison and each failed run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from ..tables.costs import DEPLOYED, FLOAT_NETWORK
from ..tables.report_table import Sheet

COLUMNS = (
    "kind",  # ours, float, published, comparison (top1 is then a difference), failed, cut short
    "group",
    "row",
    "weight_bits",
    "activation_bits",
    "first_last",
    "top1_mean",  # percent
    "top1_sd",  # sample standard deviation, percentage points
    "n",
    "seeds",
    "float_top1",  # percent, the float model that this one is held against
    "difference",  # to float, or of the comparison; percentage points
    "low",
    "high",
    "p",
    "p_holm",
    "best",
    *DEPLOYED,
    "reference",
    "source",
    "remarks",
)


def render(sheets, apart) -> str:
    """Full precision; an empty field is what is not known."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for sheet in sheets:
        writer.writerows(lines(sheet))
    for run in (run for _, runs in apart for run in runs):
        result = run.result
        facts = {key: result[key] for key in ("weight_bits", "activation_bits")}
        kind = "failed" if result["status"] == "failed" else "cut short"
        why = {"row": run.method, "seeds": result["seed"], "remarks": result["error"] or result.get("cut_short")}
        writer.writerow({"kind": kind, "group": f"{result['data']}, {result['model']}"} | facts | why)
    return out.getvalue()


def lines(sheet: Sheet) -> Iterator[dict]:
    """The lines of a sheet by column; a column that says nothing of a line is not in it."""
    costs = {}
    for line in sheet.costs:
        kind = "float" if line.rows == (FLOAT_NETWORK,) else "ours"
        costs |= {(kind, row, line.bits): line.cost for row in line.rows}
    for kind, members in (("float", sheet.floats), ("ours", sheet.ours), ("published", sheet.published)):
        for line in members:
            for bits, entry in line.entries.items():
                cost = costs.get((kind, FLOAT_NETWORK if kind == "float" else line.label, bits), ())
                yield _place(kind, sheet, line.label, bits) | {
                    "first_last": line.first_last,
                    "top1_mean": entry.mean,
                    "top1_sd": entry.spread,
                    "n": len(entry.seeds) or None,
                    "seeds": " ".join(map(str, entry.seeds)),
                    "float_top1": line.float_mean,
                    "difference": entry.gap,
                    "best": int(entry.best) if kind == "ours" else None,
                    **dict(zip(DEPLOYED, cost, strict=False)),
                    "source": line.source,
                    "remarks": line.remarks,
                }
    for item in sheet.comparisons:
        result = item.paired
        numbers = {"n": result.n, "difference": result.mean, "low": result.low, "high": result.high} if result else {}
        numbers |= {"p": result.p if result else None, "p_holm": item.corrected, "reference": item.reference}
        yield _place("comparison", sheet, item.row, item.bits) | numbers


def _place(kind: str, sheet: Sheet, row: str, bits) -> dict:
    return {"kind": kind, "group": sheet.title, "row": row, "weight_bits": bits[0], "activation_bits": bits[1]}
