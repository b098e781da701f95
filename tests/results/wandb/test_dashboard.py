"""The dashboard: it shows quantities that runs really have, prints them without wandb, and becomes wandb's objects."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stq.cli import dashboard as cli
from stq.errors import InputError
from stq.results.runs.result_file import KEYS
from stq.results.wandb import workspace as wandb_dashboard
from stq.results.wandb.dashboard import CONFIG, GROUPED_BY, LOGGED, SUMMARY, make_dashboard

PANELS = [panel for section in make_dashboard("p").sections for panel in section.panels]


def test_every_quantity_is_one_that_runs_have():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(Path(__file__).parents[3] / "conf"), version_base="1.3"):
        config = compose("train")
    quantities = {each for panel in PANELS for each in panel.quantities} | set(GROUPED_BY)
    assert quantities
    for place, name in quantities:
        if place == CONFIG:
            assert OmegaConf.select(config, name, default="absent") != "absent", name
        elif place == SUMMARY:
            assert name in KEYS
        else:
            assert (place, name) in {(LOGGED, "val_top1"), (LOGGED, "train_loss"), (LOGGED, "lr")}


def test_layers_are_shown_by_every_quantity_that_the_monitor_logs():
    import torch

    from stq.quantizers import ActivationRecord
    from stq.training.callbacks.monitor import layer_statistics

    gain, shift, scale, offset = torch.ones(1), torch.zeros(1), torch.tensor(0.5), torch.tensor(0.0)
    record = ActivationRecord(2, 0, 3, gain, shift, scale, offset, channel_axis=-3)
    logged = {f"{name}/" for name in layer_statistics(record, torch.linspace(0, 2, 8).reshape(1, 1, 2, 4))}
    assert {panel.by_layer for panel in PANELS if panel.by_layer} == logged


def test_dry_run_needs_neither_wandb_nor_torch():
    code = (
        "import sys; sys.modules['wandb'] = sys.modules['wandb_workspaces'] = None\n"  # importing them fails
        "from stq.cli.dashboard import main; main(['--dry-run', '--project', 'mine', '--group', 'sweep7'])\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "(your default entity)/mine: runs of the group 'sweep7'" in done.stdout
    for panel in PANELS:
        assert panel.title in done.stdout


def test_workspace_holds_the_panels_and_only_the_sweep():
    pytest.importorskip("wandb_workspaces", reason="the extra 'dashboard' is not installed")
    workspace = wandb_dashboard.workspace_of(make_dashboard("p", group='a "quoted" sweep'), "me")
    spec = json.loads(workspace._to_model().model_dump_json(by_alias=True))["spec"]["section"]
    panels = [panel["config"] for section in spec["panelBankConfig"]["sections"] for panel in section["panels"]]
    assert [panel.get("chartTitle") for panel in panels] == [panel.title for panel in PANELS]
    bars = panels[0]
    assert bars["metrics"] == ["summary_metrics.test_top1"]
    parallel = next(panel for panel in panels if panel["chartTitle"] == "Parallel coordinates")
    assert parallel["columns"][0]["accessor"] == "config:quantizer.value.method"
    pattern = next(panel["metricRegex"] for panel in panels if "Largest threshold" in panel["chartTitle"])
    assert re.search(pattern, "threshold_max/layer1.0.conv1")
    assert not re.search(pattern, "threshold_min/layer1.0.conv1")
    assert not re.search(pattern, "other_threshold_max/layer1.0.conv1")
    (filters,) = spec["runSets"][0]["filters"]["filters"]
    assert (filters["key"]["name"], filters["value"]) == ("group", 'a "quoted" sweep')
    grouping = [key["name"].replace(".value", "") for key in spec["runSets"][0]["grouping"]]
    assert grouping == [name for _, name in GROUPED_BY]


def test_report_shows_the_same_panels_of_runs_that_are_done():
    pytest.importorskip("wandb_workspaces", reason="the extra 'dashboard' is not installed")
    report = wandb_dashboard.report_of(make_dashboard("p"), "me")
    grids = [block for block in report.blocks if type(block).__name__ == "PanelGrid"]
    assert [panel.title for grid in grids for panel in grid.panels] == [panel.title for panel in PANELS]
    for grid in grids:
        places = [(panel.layout.x, panel.layout.y) for panel in grid.panels]
        assert len(set(places)) == len(places)
        assert "status" in str(grid.runsets[0].filters)
        assert "done" in str(grid.runsets[0].filters)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InputError, match=r"pip install 'stq\[dashboard\]'"):
        wandb_dashboard.workspace_of(make_dashboard("p"), "me")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--project", "p"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: stq-dashboard needs wandb-workspaces")
