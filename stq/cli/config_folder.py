"""Where the configuration lies, and which groups, options and settings it has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from omegaconf import DictConfig


def config_folder() -> str:
    """The folder ``conf``: at the top of a checkout, inside the package where it was installed from a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def offer_plugins() -> None:
    """Let ``quantizer=NAME`` choose the quantizer that another package offers under the entry point of that name."""
    from hydra.core.config_store import ConfigStore

    for point in entry_points(group="stq.quantizers"):
        if not any((folder / "quantizer" / f"{point.name}.yaml").is_file() for folder in _folders()):
            node = {"defaults": ["base"], "method": point.name}
            ConfigStore.instance().store(group="quantizer", name=point.name, node=node)


def options_of(group: str) -> list[str]:
    """Names that a group can be set to."""
    names = {file.stem for folder in _folders() for file in (folder / group).glob("*.yaml")} - {"base"}
    return sorted(
        names | ({point.name for point in entry_points(group="stq.quantizers")} if group == "quantizer" else set())
    )


def is_group(name: str) -> bool:
    """Whether ``name`` is a folder of options."""
    return any((folder / name).is_dir() for folder in _folders())


def _folders() -> list[Path]:
    """Ours, and the user's of ``--config-dir``."""
    found, arguments = [Path(config_folder())], sys.argv[1:]
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, given, value = flag.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(Path(value if given else following))
    return found


def settings_of(config_name: str) -> Iterator[str]:
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
    chosen = [f"{group}={option}" for group, _, option in pairs if is_group(group) and option in options_of(group)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        yield from walk(compose(config_name, overrides=chosen), "")
