"""How numbers are written in every table: two decimals, a true minus, a dash for what is not known."""

from __future__ import annotations

from ..runs.run import Run
from ..tables.costs import CostLine
from ..tables.groups import Bits
from ..tables.report_table import Comparison, Entry, Sheet

DASH = "–"


def bits_name(bits: Bits) -> str:
    """``3/3``: weights, then activations."""
    return f"{bits[0]}/{bits[1]}"


def accuracy(mean: float | None, spread: float | None) -> str:
    """``91.23 ± 0.45`` in percent, without the spread where it is not known."""
    if mean is None:
        return DASH
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def signed(value: float | None) -> str:
    """A difference with its sign, ``−0.40``; what rounds to nothing has none."""
    if value is None:
        return DASH
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def same_n(sheet: Sheet) -> int | None:
    """The number of seeds, if it is the same in every cell of ours: then the caption says it, not each cell."""
    counts = {len(entry.seeds) for line in sheet.ours for entry in line.entries.values()}
    return counts.pop() if len(counts) == 1 else None


def caption(sheet: Sheet) -> str:
    """What the cells hold, with the number of seeds."""
    n = same_n(sheet)
    seeds = f"{n} seed{'s' if n > 1 else ''}" if n else "n seeds"
    marked = any(entry.best for line in sheet.ours for entry in line.entries.values())
    best = " The best of ours in each column is in bold." if marked else ""
    spread = "accuracy of the one seed" if n == 1 else f"mean ± sample standard deviation over {seeds}"
    return (
        f"Test top-1 in percent at weight/activation bits: {spread}; in brackets the difference to the float "
        f"baseline that each run started from in percentage points{'' if n else ', and n'}.{best}"
    )


def details(entry: Entry, n: int | None = None) -> str:
    """``−0.40, n = 3``; without n where ``n`` says that all cells have that many, and for published numbers."""
    parts = [signed(entry.gap)] if entry.gap is not None else []
    parts += [f"n = {len(entry.seeds)}"] if entry.seeds and n is None else []
    return ", ".join(parts)


def first_last(policy: str) -> str:
    """``8 bits`` or ``float``; ``?`` where a source does not say."""
    if not policy:
        return "?"
    return "float" if policy in ("32", "fp32") else f"{policy} bits" if policy.isdigit() else policy


def float_lines(sheet: Sheet) -> list[str]:
    """``float baseline: 99.48 ± 0.13 (n = 3)``."""
    lines = []
    for line in sheet.floats:
        entry = line.entries[32, 32]
        lines.append(f"{line.label}: {accuracy(entry.mean, entry.spread)} ({details(entry)})")
    return lines


def comparison_cells(item: Comparison) -> list[str]:
    """Bits, what is compared, n, difference, interval, p, corrected p."""
    what = f"{item.row} against {item.reference}"
    if item.paired is None:
        return [bits_name(item.bits), what, "<2", DASH, "fewer than two seeds match", DASH, DASH]
    result = item.paired
    interval = f"[{signed(result.low)}, {signed(result.high)}]"
    return [
        bits_name(item.bits),
        what,
        str(result.n),
        signed(result.mean),
        interval if result.p is not None else "none: all differences equal",
        _probability(result.p),
        _probability(item.corrected),
    ]


COMPARISON_HEADINGS = ("bits", "compared", "n", "difference", "95 % interval", "p", "p (Holm)")


_UNITS = (("size, KiB", 1024), ("MACs, 10⁶", 1e6), ("bit operations, 10⁶", 1e6), ("activation peak, KiB", 1024))


def epoch_table(sheet: Sheet) -> list[list[str]]:
    """The headings and a row for each line of ``sheet.epochs``."""
    rows = [["network", "bits", f"epoch at {sheet.epochs[0].reference}'s last", "by epoch"]]
    for line in sheet.epochs:
        by_epoch = " ".join(f"{value:.1f}" for value in line.validation)
        rows.append([line.row, bits_name(line.bits), str(line.reached or "none"), by_epoch])
    return rows


def cost_table(sheet: Sheet) -> list[list[str]]:
    """The headings and a row for each line of ``sheet.costs``; a quantity that none of them has is no column."""
    shown = [i for i in range(len(_UNITS)) if any(line.cost[i] is not None for line in sheet.costs)]
    rows = [["network", "bits", *(_UNITS[i][0] for i in shown)]]
    for line in sheet.costs:
        rows.append([_sharing(line, sheet), bits_name(line.bits), *(_cost(line, i) for i in shown)])
    return rows


def _sharing(line: CostLine, sheet: Sheet, most: int = 6) -> str:
    """The rows by name, or their number where they are many and all that there are at these bits."""
    everyone = sum(line.bits in ours.entries for ours in sheet.ours)
    if len(line.rows) == everyone > most:
        return f"all {everyone} rows"
    return ", ".join(line.rows)


def _cost(line: CostLine, index: int) -> str:
    value, ratio = line.cost[index], line.ratios[index]
    if value is None:
        return DASH
    value /= _UNITS[index][1]
    text = f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
    return text if ratio is None or line.cost == line.in_float or index == 1 else f"{text} ({ratio:.2f}×)"


def one_line(text: str) -> str:
    """Line ends as spaces, what else is not printed (marks that turn the reading direction, ...) as escapes."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def failure(run: Run) -> str:
    """A run that is in no table, in one line: what it was, why it is not."""
    facts = run.result
    bits = f"{facts['weight_bits']}/{facts['activation_bits']} bits"
    cut = facts.get("cut_short")
    reason = f"cut short by {cut}" if cut and facts["status"] == "done" else facts["error"] or "no reason recorded"
    return one_line(f"{run.name} ({run.method}, {bits}, seed {facts['seed']}): {reason}")


def _probability(p: float | None) -> str:
    if p is None:
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"
