"""A Hydra task as a command line: a user's mistake ends it with one sentence on stderr and exit status 2."""

from __future__ import annotations

import os
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
from ..results.runs.config_hash import config_hash
from ..results.runs.legacy_hash import legacy_hash
from ..sweeps.job import run_in_sweep
from ..sweeps.progress import go_on_without_a_worker, summarize_sweep
from .config_folder import config_folder, offer_plugins
from .explain import explain
from .help_text import print_help

_RESOLVERS = {
    "config_hash": lambda *, _root_: _short_hash(_root_),  # names a sweep's run folders by their content
    "run_folder": lambda run, new: new if run in (None, "None", "null") else run,
    "cores": lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "threads_each": lambda jobs: max(1, _RESOLVERS["cores"]() // max(1, int(jobs))),
    "minutes": lambda hours: round(60 * float(hours)),
}
for _name, _resolver in _RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True)


def _short_hash(root: DictConfig) -> str:
    """Eight digits; those that an older stq gave where a folder of this sweep has them in its name."""
    older = legacy_hash(root)[:8]
    folder = Path(str(OmegaConf.select(root, "paths.runs")), str(OmegaConf.select(root, "sweep_name")))
    return older if any(folder.glob(f"*_{older}")) else config_hash(root)[:8]


_MULTIRUN = ("-m", "--multirun")


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
                offer_plugins()
                sys.argv[1:] = arguments = _flags_first(sys.argv[1:])
                if not sweeps and arguments[:1] and arguments[0] in _MULTIRUN:
                    raise InputError(f"stq-{config_name} takes one run at a time: leave {arguments[0]} out")
                if arguments[:1] in (["--help"], ["-h"]):
                    return print_help(config_name, arguments[1:])
                main = hydra.main(config_path=config_folder(), config_name=config_name, version_base="1.3")(job)
                go_on_without_a_worker(main)
            if job.mistakes:
                raise job.mistakes[0]
            if failed := summarize_sweep():
                raise SystemExit(min(failed, 1))
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt as interruption:
            told = str(interruption) or "interrupted: the same command goes on from the last checkpoints"
            print(told, file=sys.stderr)
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
    """Hydra's parser wants all overrides together, behind the flags. Raises InputError for an unknown flag."""
    from hydra._internal.utils import get_args_parser

    actions = get_args_parser()._option_string_actions
    flags, overrides, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            # a network of the user's takes the place of whatever network the configuration has
            overrides.append(f"++{argument}" if argument.startswith("model._target_=") else argument)
            continue
        flag, given, _ = argument.partition("=")
        meant = [name for name in actions if name.startswith(flag)]
        if not meant:
            raise InputError(f"there is no option {flag}{nearest(flag, actions)}: see --help")
        flags.append(argument)
        if actions[meant[0]].nargs != 0 and not given and rest:  # its value stands behind it
            flags.append(rest.pop(0))
    multirun = [flag for flag in flags if flag in _MULTIRUN]
    return [*multirun, *(flag for flag in flags if flag not in multirun), *overrides]


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
