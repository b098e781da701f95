"""What the wandb workspace and report of a project show, as plain data; needs neither wandb nor a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# where wandb keeps a quantity: the run's configuration, its summary (result.json), or the values logged over time
CONFIG, SUMMARY, LOGGED = "config", "summary", "logged"
METHOD = (CONFIG, "quantizer.method")
# runs that differ in one of these are never averaged; the seed is what is averaged over
GROUPED_BY = (
    (CONFIG, "data.name"),
    (CONFIG, "model.name"),
    (CONFIG, "first_last_bits"),
    METHOD,
    (CONFIG, "weight_bits"),
    (CONFIG, "activation_bits"),
)


@dataclass(frozen=True)
class Panel:
    """One chart: ``kind`` is bars, scatter, lines or parallel; ``quantities`` are (place, name) pairs, for a scatter
    x and y. ``by_layer`` is the beginning of the names of a quantity that is logged for every layer."""

    kind: str
    title: str
    quantities: tuple[tuple[str, str], ...] = ()
    by_layer: str | None = None


@dataclass(frozen=True)
class Section:
    """Panels under one heading, with a sentence on how to read them."""

    title: str
    reading: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A workspace and a report of one wandb project; ``entity`` None is the default one of who is logged in.
    ``group`` restricts both to one sweep."""

    project: str
    entity: str | None
    title: str
    group: str | None
    sections: tuple[Section, ...]


def make_dashboard(project: str, entity: str | None = None, group: str | None = None) -> Dashboard:
    """The dashboard of a project's runs, or of one sweep's where ``group`` names it."""
    title = f"stq: {group}" if group else "stq: methods by bit width"
    return Dashboard(project, entity, title, group, (_accuracy(), _parallel(), _training(), _layers()))


def _accuracy() -> Section:
    top1 = (SUMMARY, "test_top1")
    return Section(
        "Accuracy by method and bits",
        "Test top-1 in percent; a bar is the mean over the seeds of one data set, network, policy, method and bit "
        "width. A sweep over other settings needs a filter on them first: wandb averages over what is not grouped.",
        (
            Panel("bars", "Test top-1 (%), mean over seeds", (top1,)),
            Panel("scatter", "Test top-1 (%) against bits of the activations", ((CONFIG, "activation_bits"), top1)),
            Panel("scatter", "Test top-1 (%) against deployed size (bytes)", ((SUMMARY, "size_bytes"), top1)),
            Panel("scatter", "Test top-1 (%) against its float model's (%)", ((SUMMARY, "float_test_top1"), top1)),
        ),
    )


def _parallel() -> Section:
    names = ("weight_bits", "activation_bits", "first_last_bits", "optimizer.lr", "optimizer.weight_decay", "seed")
    settings = tuple((CONFIG, name) for name in names)
    return Section(
        "Settings and accuracy",
        "One line is one run, or the mean of one group of seeds.",
        (
            Panel(
                "parallel",
                "Parallel coordinates",
                (METHOD, *settings, (SUMMARY, "size_bytes"), (SUMMARY, "test_top1")),
            ),
        ),
    )


def _training() -> Section:
    curves = (("val_top1", "Validation top-1 (%)"), ("train_loss", "Training loss"), ("lr", "Learning rate"))
    return Section(
        "Training",
        "Over epochs.",
        tuple(Panel("lines", title, ((LOGGED, name),)) for name, title in curves),
    )


def _layers() -> Section:
    curves = (
        ("threshold_max", "Largest threshold of each layer (units of its input)"),
        ("threshold_min", "Least threshold of each layer (units of its input)"),
        ("step", "Step of each layer (units of its input)"),
        ("clipped", "Share of clipped codes of each layer"),
        ("zero", "Share of zero codes of each layer"),
        ("gain_max", "Largest attention gain of each layer, relative to its mean"),
        ("gain_min", "Least attention gain of each layer, relative to its mean"),
    )
    return Section(
        "Thresholds over time",
        "Measured on the first validation batch of every epoch, a line for each layer.",
        tuple(Panel("lines", title, by_layer=f"{name}/") for name, title in curves),
    )


def describe(dashboard: Dashboard) -> Iterator[str]:
    """The lines of a dry run: what would be created, and from which quantities."""
    place = f"{dashboard.entity or '(your default entity)'}/{dashboard.project}"
    runs = f"runs of the group '{dashboard.group}'" if dashboard.group else "all runs"
    yield f"workspace and report '{dashboard.title}' in {place}: {runs}, the report those with status 'done'"
    yield f"grouped by {', '.join(name for _, name in GROUPED_BY)}"
    for section in dashboard.sections:
        yield f"\n{section.title}"
        for panel in section.panels:
            what = [f"{where} {name}" for where, name in panel.quantities]
            if panel.by_layer:
                what.append(f"{LOGGED} {panel.by_layer}<layer>")
            over = " over epoch" if panel.kind == "lines" else ""
            yield f"  {panel.kind:<9} {panel.title}\n            {', '.join(what)}{over}"
