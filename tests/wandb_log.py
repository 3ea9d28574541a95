"""The file of a W&B run that was made offline, read without W&B's server.

Blocks of 32 KiB behind a header of seven bytes, each with records: checksum, length and kind (4 + 2 + 1 bytes), then
the record or a part of it; kinds 1 and 4 end one.
"""

import json
import struct
import time
from pathlib import Path
from typing import Any

PATIENCE = 30.0
BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")


def records(file: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = file.read_bytes(), 7, b"", []
    while at + HEADER.size <= len(data):
        room = BLOCK - at % BLOCK
        if room < HEADER.size:
            at += room
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        if at + length > len(data):
            break
        whole += data[at : at + length]
        at += length
        if kind in (1, 4):
            found.append(Record.FromString(whole))
            whole = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of the only run below ``folder``, in the order in which they were logged; it must have been finished."""
    (file,) = folder.rglob("*.wandb")
    return [_row(record.history) for record in _all_of(file) if record.WhichOneof("record_type") == "history"]


def _all_of(file: Path) -> list[Any]:
    # a process of W&B's own writes the file, and may be at it when `finish` has returned
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last:
        found = records(file)
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise TimeoutError(f"the run in {file} was not finished within {PATIENCE} s")


def _row(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:
        *above, last = item.nested_key or [item.key]
        place = row
        for key in above:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return row
