"""Which run this is: its settings, what its data hold, and what the files hold that its settings name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...storage.content_hash import HashCache, digest, file_digest, file_stamp
from ...storage.durable_files import write_text_durably
from .config_hash import LOCATED, config_hash, covered, first_difference, flat, in_order
from .legacy_hash import legacy_hash
from .result_file import DamagedResult, read_result
from .run import read_yaml

log = logging.getLogger(__name__)

FILE_NAME = "identity.json"


@dataclass(frozen=True)
class Identity:
    """identity: 16 hexadecimal digits for everything below. config_hash: of the settings, with paths by their names.

    data_fingerprint: of the data's content. files: by dotted setting, the hash of the file that it names.
    """

    identity: str
    config_hash: str
    data_fingerprint: str
    files: dict[str, str]


def identify(config: Mapping[str, Any], data_fingerprint: str, cache: HashCache) -> Identity:
    """The identity of a run. The same data and files in another place are the same run."""
    files = named_files(config, cache)
    known = {*files, *(key for key in LOCATED if key.startswith("data."))}  # by their content
    settings = in_order(covered(config, without=tuple(known)))
    whole = digest(settings, data_fingerprint, files)[:16]
    return Identity(whole, config_hash(config), data_fingerprint, files)


def named_files(config: Mapping[str, Any], cache: HashCache) -> dict[str, str]:
    """The hash of each existing file that a setting names, by dotted key; the data are known by their fingerprint."""
    found = {}
    for key, value in flat(covered(config)).items():
        looks_like_one = isinstance(value, str) and (key in LOCATED or os.sep in value or Path(value).suffix != "")
        if not looks_like_one or key.startswith("data."):
            continue
        path = Path(value)
        if path.is_file():
            found[key] = cache.of(file_stamp(path), lambda path=path: file_digest(path))
    return found


def write_identity(folder: Path, identity: Identity) -> None:
    """Into a run folder, before training, so that an interrupted run is known by it."""
    write_text_durably(folder / FILE_NAME, json.dumps(asdict(identity), indent=2) + "\n")


def read_identity(folder: Path) -> Identity | None:
    """Of a run folder; None where an older stq wrote it, or where it is damaged, which is told."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return Identity(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        log.warning("%s is damaged: the run is known by its configuration and its result", path)
        return None


def recorded_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the data that a run was trained on; None where nothing tells."""
    kept = read_identity(folder)
    if kept is not None:
        return kept.data_fingerprint
    return read_result(folder).get("data_fingerprint") if (folder / "result.json").is_file() else None


def finished_result(folder: Path, identity: Identity, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a run folder that is done, None where there is none or where its run goes on.

    Raises InputError if the folder holds another run, finished or not: one with other settings, data or files. A folder
    of an older stq is known by its config.yaml.
    """
    if not folder.is_dir():
        return None
    try:
        result = read_result(folder) if (folder / "result.json").is_file() else None
    except DamagedResult as error:
        log.warning("%s; the run goes on from its last checkpoint", error)
        result = None
    _refuse_another(folder, identity, config, result)
    return result if result is not None and result["status"] == "done" else None


def config_of(folder: Path) -> dict[str, Any]:
    """A run's config.yaml; empty where it is missing or damaged."""
    try:
        return read_yaml(folder / "config.yaml")
    except InputError:
        return {}


def _refuse_another(
    folder: Path, identity: Identity, config: Mapping[str, Any], result: Mapping[str, Any] | None
) -> None:
    kept = read_identity(folder)
    theirs = config_of(folder)
    found = (result or {}).get("identity") or (kept.identity if kept else None)
    if found is None and not theirs:
        if result is not None and result["config_hash"] != legacy_hash(config):  # nothing but an older result
            raise InputError(f"{folder} holds another run ({result['config_hash']}): choose a new folder")
        return
    same = found == identity.identity if found is not None else config_hash(theirs) == identity.config_hash
    if same:
        return
    state = "holds another run" if result is not None else "holds an interrupted run with other settings"
    why = first_difference(config, theirs) if theirs else None
    if why is None and kept is not None and kept.data_fingerprint != identity.data_fingerprint:
        why = "its data were others, or have changed since"
    if why is None and kept is not None and kept.files != identity.files:
        changed = sorted({key for key, _ in kept.files.items() ^ identity.files.items()})[0]
        why = f"the file that {changed} names was another, or has changed since"
    raise InputError(
        f"{folder} {state} ({why or 'its record is another'}): choose a new folder, or give the same settings"
    )
