"""What Hydra and OmegaConf raise, told in one sentence with the nearest valid name."""

from __future__ import annotations

import re

from omegaconf.errors import OmegaConfBaseException

from ..errors import InputError, TrainingFailed, nearest
from ..storage.durable_files import storage_failure
from .config_folder import is_group, options_of, settings_of


def explain(error: Exception, config_name: str) -> str | None:
    """One sentence for a user's mistake, or None for an error that is not one."""
    from hydra.errors import HydraException

    if isinstance(error, InputError | TrainingFailed):
        return str(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return "a configuration group is set to the name of one of its options, not to null or a number: leave it out"
    if (failure := storage_failure(error)) is not None:
        return str(failure)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used: {error.strerror}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    text = str(error)
    if override := getattr(error, "override", None):
        hint = f"write {override}=VALUE" if re.fullmatch(r"[\w.]+", override) else text.splitlines()[0]
        return f"'{override}' cannot be read as key=value: {hint}"
    if found := re.search(r"Could not find '([^']+)/([^'/]*)'", text):
        group, option = found.groups()
        if group == "hydra/launcher" and option in _EXTRAS:
            return f"this launcher's package is not installed: pip install 'stq[{_EXTRAS[option]}]'"
        options = options_of(group)
        return f"{group}={option} is not an option{nearest(option, options)}: there are {', '.join(options)}"
    if found := re.search(r"Could not override '([^'@]+)'", text):
        key = found.group(1)
        if is_group(key):
            return f"{key} is a group without a default: choose an option with +{key}=OPTION"
        names = list(settings_of(config_name))
        if key in names:
            return (
                f"{key} lacks an entry of those given: see its entries with --help, or add one with +{key}.NAME=VALUE"
            )
        return f"there is no setting '{key}'{nearest(key, names)}; a new one is added with +{key}=VALUE"
    if found := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"{found.group(1)} is a setting already: leave out the + in front of it"
    if found := re.match(r"Ambiguous value for argument '(.+)'", text):
        return f"{found.group(1)} has several values: a sweep over them needs -m"
    if found := re.search(r"[Mm]issing mandatory value: ?([\w.]+)", text):
        return f"{found.group(1)} must be given: {found.group(1)}=VALUE"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return first


_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
