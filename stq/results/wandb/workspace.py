"""A dashboard as the workspace and report objects of wandb-workspaces; saving them needs a network and a key."""

from __future__ import annotations

import re
from typing import Any

from ...errors import InputError
from .dashboard import CONFIG, GROUPED_BY, SUMMARY, Dashboard, Panel

_WIDTH, _HEIGHT = 12, 8  # a report's grid is 24 wide, so two panels a row; the library moves them apart


def save(dashboard: Dashboard) -> tuple[str, str]:
    """Create the workspace and the report (a draft); gives their addresses.

    Raises InputError where wandb-workspaces is missing, nobody is logged in, or wandb refuses.
    """
    _library()
    import wandb

    try:
        entity = dashboard.entity or wandb.Api().default_entity
        workspace = workspace_of(dashboard, entity)
        workspace.save()
        report = report_of(dashboard, entity)
        report.save(draft=True)
    except wandb.errors.UsageError as error:
        raise InputError(f"wandb: {_sentence(error)} (--dry-run needs no key)") from error
    except Exception as error:  # wandb-workspaces passes on whatever its HTTP libraries raise
        raise InputError(f"wandb did not take the dashboard: {_sentence(error)}") from error
    return workspace.url, report.url


def workspace_of(dashboard: Dashboard, entity: str) -> Any:
    """The workspace as an object of wandb-workspaces, not yet saved."""
    ws, _ = _library()
    sections = [
        ws.Section(name=section.title, panels=[_panel(panel) for panel in section.panels], is_open=True)
        for section in dashboard.sections
    ]
    runs = ws.RunsetSettings(
        filters=[ws.Metric("Group") == dashboard.group] if dashboard.group else [],
        groupby=[ws.Config(name) for _, name in GROUPED_BY],
    )
    return ws.Workspace(
        entity=entity, project=dashboard.project, name=dashboard.title, sections=sections, runset_settings=runs
    )


def report_of(dashboard: Dashboard, entity: str) -> Any:
    """The report as an object of wandb-workspaces, not yet saved; only runs that are done."""
    ws, wr = _library()
    filters = [ws.Summary("status") == "done"]
    if dashboard.group:
        filters.append(ws.Metric("Group") == dashboard.group)
    groupby = [f"config.{name}" for _, name in GROUPED_BY]
    blocks = [wr.TableOfContents()]
    for section in dashboard.sections:
        panels = [_panel(panel) for panel in section.panels]
        for panel in panels:
            panel.layout = wr.Layout(w=_WIDTH, h=_HEIGHT)
        runs = wr.Runset(
            entity=entity, project=dashboard.project, name="runs that are done", filters=filters, groupby=groupby
        )
        blocks += [wr.H2(section.title), wr.P(section.reading), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(entity=entity, project=dashboard.project, title=dashboard.title, blocks=blocks, width="fluid")


def _panel(panel: Panel) -> Any:
    _, wr = _library()
    quantities = [_quantity(*each) for each in panel.quantities]
    if panel.kind == "bars":
        return wr.BarPlot(title=panel.title, metrics=quantities, orientation="h")
    if panel.kind == "scatter":
        return wr.ScatterPlot(title=panel.title, x=quantities[0], y=quantities[1])
    if panel.kind == "parallel":
        columns = [wr.ParallelCoordinatesPlotColumn(metric=each) for each in quantities]
        return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns)
    if panel.by_layer:
        return wr.LinePlot(title=panel.title, x="epoch", metric_regex=f"^{re.escape(panel.by_layer)}.*")
    return wr.LinePlot(title=panel.title, x="epoch", y=quantities)


def _quantity(place: str, name: str) -> Any:
    _, wr = _library()
    return {CONFIG: wr.Config, SUMMARY: wr.SummaryMetric}.get(place, wr.Metric)(name)


def _library() -> tuple[Any, Any]:
    """The modules of workspaces and of reports. Raises InputError where wandb-workspaces is not installed."""
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        raise InputError(
            "stq-dashboard needs wandb-workspaces: pip install 'stq[dashboard]' (--dry-run goes without)"
        ) from error
    return workspaces, reports


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
