"""Reads the file that wandb writes for an offline run."""

import struct
from collections.abc import Iterator
from pathlib import Path


def messages(data: bytes) -> Iterator[bytes]:
    """The messages of a .wandb file: LevelDB's log format behind a header of 7 bytes, in blocks of 32 KiB."""
    message, position = b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield message
            message = b""


def records(folder: Path) -> Iterator:
    """What wandb wrote into the one offline run under a run folder."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for message in messages(file.read_bytes()):
        yield wandb_internal_pb2.Record.FromString(message)
