"""Where the configuration lies, and how its mistakes are told: one sentence, the nearest valid name, exit status 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError, TrainingFailed, nearest
from ..results.config_hash import config_hash
from .sweep import go_on_without_a_worker, run_in_sweep, summarize_sweep

_RESOLVERS = {
    "config_hash": lambda *, _root_: config_hash(_root_)[:8],  # names a sweep's run folders by their content
    "cores": lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "threads_each": lambda jobs: max(1, _RESOLVERS["cores"]() // max(1, int(jobs))),
    "minutes": lambda hours: round(60 * float(hours)),
}
for _name, _resolver in _RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)


_MULTIRUN = ("-m", "--multirun")


def config_folder() -> str:
    """The folder ``conf``: at the top of a checkout, inside the package where it was installed from a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


class Job:
    """A Hydra task whose mistakes are kept for the command line to tell, and whose place in a sweep is reported.

    An object and not a closure, so that launchers can send it to other processes, which import this module with it.
    """

    def __init__(self, task: Callable[[DictConfig], object]):
        update_wrapper(self, task)
        self.mistakes: list[Exception] = []
        self.command = list(sys.argv)

    def __call__(self, cfg: DictConfig) -> object:
        """Run the task; a user's mistake is kept, and in a sweep so is every failure."""
        sys.argv = self.command  # results record it, and a worker of Submitit or Ray has another
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_in_sweep(self.__wrapped__, cfg)
        try:
            return self.__wrapped__(cfg)
        except (InputError, TrainingFailed, OmegaConfBaseException, OSError) as error:  # told later: Hydra says more
            self.mistakes.append(error)
            return None


def application(task: Callable[[DictConfig], object], config_name: str, sweeps: bool = True) -> Callable[[], None]:
    """The command line of a Hydra task: a user's mistake ends it with one sentence on stderr and exit status 2.

    sweeps: whether the task takes -m. A sweep with failed jobs names them at its end and exits with status 1. Other
    errors keep their traceback, and so do all where the user sets HYDRA_FULL_ERROR=1.
    """

    def run() -> None:
        job = Job(task)
        try:
            with _hydra_raises() as wanted:
                sys.argv[1:] = arguments = _flags_first(sys.argv[1:])
                if not sweeps and arguments[:1] and arguments[0] in _MULTIRUN:
                    raise InputError(f"stq-{config_name} takes one run at a time: leave {arguments[0]} out")
                main = hydra.main(config_path=config_folder(), config_name=config_name, version_base="1.3")(job)
                go_on_without_a_worker(main)
            if job.mistakes:
                raise job.mistakes[0]
            if failed := summarize_sweep():
                raise SystemExit(min(failed, 1))
        except KeyboardInterrupt:
            print(
                "interrupted: the same command with the same folder goes on from the last checkpoint", file=sys.stderr
            )
            raise SystemExit(130) from None
        except Exception as error:
            message = explain(error, config_name)
            if wanted or message is None:
                if summarize_sweep() and not wanted:  # the launcher gave up
                    reason = str(error).strip().splitlines()[0]
                    raise SystemExit(f"error: the sweep was cut short ({type(error).__name__}): {reason}") from None
                raise
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2) from None

    return run


def _flags_first(arguments: list[str]) -> list[str]:
    """Hydra's parser wants all overrides together, -m before or after them. Raises InputError for an unknown flag."""
    from hydra._internal.utils import get_args_parser

    known = list(get_args_parser()._option_string_actions)
    for flag in (argument.split("=")[0] for argument in arguments if argument.startswith("-")):
        if not any(name.startswith(flag) for name in known):
            raise InputError(f"there is no option {flag}{nearest(flag, known)}: see --help")
    multirun = [argument for argument in arguments if argument in _MULTIRUN]
    return multirun + [argument for argument in arguments if argument not in multirun]


@contextmanager
def _hydra_raises() -> Iterator[bool]:
    """Let Hydra raise its errors instead of printing them; gives whether the user asked for tracebacks.

    The second variable tells the processes that this one starts that it was not the user who asked.
    """
    before = {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "STQ_ONE_SENTENCE")}
    os.environ.update(HYDRA_FULL_ERROR="1", STQ_ONE_SENTENCE="1")
    try:
        yield before["HYDRA_FULL_ERROR"] == "1" and before["STQ_ONE_SENTENCE"] is None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def explain(error: Exception, config_name: str) -> str | None:
    """One sentence for a user's mistake, or None for an error that is not one."""
    from hydra.errors import HydraException

    if isinstance(error, InputError | TrainingFailed):
        return str(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return "a configuration group is set to the name of one of its options, not to null or a number: leave it out"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    if override := getattr(error, "override", None):
        return f"'{override}' cannot be read as key=value: {text.splitlines()[0]}"
    if found := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
        group, option = found.groups()
        if group == "hydra/launcher" and option in _EXTRAS:
            return f"this launcher's package is not installed: pip install 'stq[{_EXTRAS[option]}]'"
        options = _options(group)
        return f"{group}={option} is not an option{nearest(option, options)}: there are {', '.join(options)}"
    if found := re.search(r"Could not override '([^'@]+)'", text):
        key = found.group(1)
        if _is_group(key):
            return f"{key} is a group without a default: choose an option with +{key}=OPTION"
        keys = list(_keys(config_name))
        if key in keys:
            return (
                f"{key} lacks an entry of those given: see its entries with --help, or add one with +{key}.NAME=VALUE"
            )
        return f"there is no setting '{key}'{nearest(key, keys)}; a new one is added with +{key}=VALUE"
    if found := re.match(r"Ambiguous value for argument '(.+)'", text):
        return f"{found.group(1)} has several values: a sweep over them needs -m"
    if found := re.search(r"[Mm]issing mandatory value: ?([\w.]+)", text):
        return f"{found.group(1)} must be given: {found.group(1)}=VALUE"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return first


_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def _options(group: str) -> list[str]:
    files = (Path(config_folder()) / group).glob("*.yaml")
    return sorted(file.stem for file in files if file.stem != "base")


def _is_group(name: str) -> bool:
    return (Path(config_folder()) / name).is_dir()


def _keys(config_name: str) -> Iterator[str]:
    """All settings of the default configuration and of the options chosen, by their dotted path, and the groups."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import initialize_config_dir

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key}"
            child = None if node._get_node(key)._is_missing() else node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, f"{prefix}{key}.")

    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    chosen = [f"{group}={option}" for group, _, option in pairs if _is_group(group) and option in _options(group)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        yield from walk(compose(config_name, overrides=chosen), "")
