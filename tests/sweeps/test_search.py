"""Hyperparameter search: spaces, a database that is gone on with, failed trials."""

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from stq.errors import InputError
from stq.sweeps.search import distribution

SEARCH = ("hparams_search=quantizer_lr", "quantizer=lsq", "sweep_name=search")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.1,5)", FloatDistribution(0.1, 5)),
        ("a=tag(log,interval(1e-3,1))", FloatDistribution(1e-3, 1, log=True)),
        ("a=int(interval(1,5))", IntDistribution(1, 5)),
        ("a=range(1,6,2)", IntDistribution(1, 5, step=2)),
        ("a=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("a=lsq,pact", CategoricalDistribution(("lsq", "pact"))),
        ("a=choice(0.1,[2,3])", CategoricalDistribution(("0.1", "[2,3]"))),
    ],
)
def test_space(text, expected):
    assert distribution(OverridesParser.create().parse_override(text)) == expected


@pytest.mark.parametrize("text", ["a=interval(2,1)", "a=tag(log,interval(0.0,1))", "a=range(3,1)"])
def test_no_space(text):
    with pytest.raises(InputError, match="is not a range to search"):
        distribution(OverridesParser.create().parse_override(text))


def study(folder):
    names = optuna.get_all_study_names(f"sqlite:///{folder / 'search.db'}")
    return [optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'search.db'}") for name in names]


def test_search_goes_on(sweep, tmp_path):
    folder = tmp_path / "search"
    status, out, err = sweep(*SEARCH, "hydra.sweeper.trials=2")
    assert status == 0, err
    assert out.startswith("2 jobs")
    (first,) = study(folder)
    values = [trial.value for trial in first.trials]
    asked = first.ask(first.trials[0].distributions)  # as a kill leaves it
    params = asked.params
    status, out, err = sweep(*SEARCH, "hydra.sweeper.trials=4")
    assert status == 0, err
    assert out.startswith("2 trials kept, 2 jobs")
    (again,) = study(folder)
    assert [trial.value for trial in again.trials[:2]] == values
    assert again.trials[2].params == params
    assert {trial.state.name for trial in again.trials} == {"COMPLETE"}
    assert len(again.trials) == 4
    best = OmegaConf.load(folder / "best.yaml")
    assert best.val_top1 == again.best_value
    assert f"optimizer.lr={again.best_params['optimizer.lr']}" in best.overrides
    assert (folder / best.run.rsplit("/", 1)[1] / "result.json").is_file()
    status, out, err = sweep(*SEARCH, "hydra.sweeper.trials=1", "bits=2")  # another task has another study
    assert status == 0, err
    assert out.startswith("1 job,")
    assert len(study(folder)) == 2


def test_failed_trials_are_no_best_trial_and_run_again(sweep, tmp_path):
    status, _, err = sweep(*SEARCH, "hydra.sweeper.trials=2", "quantizer.method=lsqq")
    assert status == 2
    assert err.count("FAILED") == 2
    assert "error: no trial of the search succeeded" in err.splitlines()[-1]
    (first,) = study(tmp_path / "search")
    assert {trial.state.name for trial in first.trials} == {"FAIL"}
    tried = [trial.params for trial in first.trials]
    status, out, _ = sweep(*SEARCH, "hydra.sweeper.trials=2", "quantizer.method=lsqq")
    assert out.startswith("2 jobs")
    (again,) = study(tmp_path / "search")
    assert [trial.params for trial in again.trials[2:]] == tried
