"""The audit file survives a kill at any byte, a full disk, and says what was lost. Law 10."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_lightning.callbacks._gate import audit
from xai_lightning.callbacks._gate.evidence import prove_room

LINES = [{"look": i, "global_step": 10 * i, "name": "größe\n☃"[: 2 + i]} for i in range(1, 5)]
NEW = {"look": 9, "global_step": 90}


def written(path: Path, records: list[dict[str, Any]]) -> bytes:
    for record in records:
        audit.append(path, record)
    return path.read_bytes()


def slow(content: bytes) -> list[dict[str, Any]]:
    """Every line of ``content`` by the letter: each must end, and be an object."""
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode("ascii").split("\n")[:-1]]


def expected(content: bytes, end: int) -> list[dict[str, Any]]:
    """What must be there after a kill at byte ``end``: from the definition, line by line."""
    found, start = [], 0
    for line in content.splitlines(keepends=True):
        if end >= start + len(line) - 1:
            found.append(json.loads(line))
        elif end > start:
            found.append({"event": "repaired", "lost_bytes": end - start})
        start += len(line)
    return found


def test_a_kill_at_any_byte_costs_at_most_the_line_being_written_and_is_told(tmp_path):
    path = tmp_path / "audit.jsonl"
    content = written(path, LINES)
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        audit.append(path, NEW)
        assert slow(path.read_bytes()) == [*expected(content, end), NEW], end


def test_reading_leaves_a_torn_last_line_out_and_changes_nothing(tmp_path):
    path = tmp_path / "audit.jsonl"
    content = written(path, LINES)
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        assert audit.read(path) == [record for record in expected(content, end) if "event" not in record], end
        assert path.read_bytes() == content[:end]


@pytest.mark.parametrize("step", [0, 10, 25, 40, 99])
def test_a_run_resumed_after_a_kill_at_any_byte_goes_on_from_its_step(tmp_path, step):
    path = tmp_path / "audit.jsonl"
    content = written(path, LINES)
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        before = expected(content, end)
        kept = [record for record in before if record.get("global_step", 0) <= step]
        dropped = audit.cut_back(path, step)
        assert dropped == len(before) - len(kept)
        resumed = {"event": "resumed", "global_step": step, "dropped": dropped}
        assert slow(path.read_bytes()) == [*kept, resumed], end


@settings(max_examples=30, deadline=None)
@given(tail=st.binary(max_size=40).filter(lambda tail: b"\n" not in tail), whole=st.integers(0, 4))
def test_no_rubbish_at_the_end_touches_what_stands_before_it(tmp_path_factory, tail, whole):
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    before = written(path, LINES[:whole]) if whole else b""
    path.write_bytes(before + tail)
    audit.append(path, NEW)
    after = path.read_bytes()
    assert after.startswith(before)
    assert len(slow(after)) == whole + 1 + bool(tail)
    assert audit.read(path)[-1] == NEW


def test_a_resume_is_told_even_with_nothing_to_drop_and_without_a_file(tmp_path):
    path = tmp_path / "new" / "audit.jsonl"
    assert audit.read(path) == []
    assert audit.cut_back(path, 7) == 0
    assert audit.cut_back(path, 8) == 0
    resumed = [{"event": "resumed", "global_step": step, "dropped": 0} for step in (7, 8)]
    assert audit.read(path) == resumed


def test_lines_that_are_no_decisions_outlive_a_resume(tmp_path):
    """Among them an earlier resume from a later step, and a line that somebody else wrote."""
    path = tmp_path / "audit.jsonl"
    notes: list[dict[str, Any]] = [{"event": "resumed", "global_step": 500, "dropped": 0}, {"global_step": None}]
    written(path, [*notes, NEW])
    path.write_bytes(path.read_bytes() + b"by hand\n")
    assert audit.cut_back(path, 3) == 1
    *kept, foreign, resumed = path.read_bytes().splitlines()
    assert [json.loads(line) for line in kept] == notes
    assert (foreign, json.loads(resumed)["dropped"]) == (b"by hand", 1)


def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"look": 1}\n[2]\n{"look": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*must be a JSON object; got b'\[2\]"):
        audit.read(path)


def test_a_number_that_json_does_not_know_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "audit.jsonl"
    before = written(path, LINES)
    with pytest.raises(ValueError, match="JSON"):
        audit.append(path, {"value": float("nan")})
    assert path.read_bytes() == before


@pytest.mark.parametrize("act", [lambda p: audit.append(p, NEW), lambda p: audit.cut_back(p, 0)], ids=["append", "cut"])
def test_a_kill_before_the_new_file_takes_its_place_leaves_the_old_one(tmp_path, monkeypatch, act):
    path = tmp_path / "audit.jsonl"
    torn = written(path, LINES)[:-5]
    path.write_bytes(torn)

    def kill(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        act(path)
    assert path.read_bytes() == torn
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_an_error_of_the_caller(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        audit.append(path, NEW)


def test_a_folder_in_the_place_of_the_file_is_an_error_of_the_caller(tmp_path):
    for act in (lambda: audit.append(tmp_path, NEW), lambda: audit.cut_back(tmp_path, 0)):
        with pytest.raises(IsADirectoryError):
            act()


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


LIMITED = """
import resource, sys
from pathlib import Path
from xai_lightning.callbacks._gate import audit
path, act, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    audit.append(path, {"look": 9}) if act == "append" else audit.cut_back(path, 10)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("act", ["append", "cut_back"])
def test_a_disk_that_fills_within_a_line_is_an_error_and_costs_no_line(tmp_path, act):
    path = tmp_path / "audit.jsonl"
    content = written(path, LINES)
    done = run(LIMITED, path, act, len(content) + 4 if act == "append" else 30)
    assert (done.stdout, done.stderr) == ("OSError\n", "")
    assert path.read_bytes() == content + (b'{"lo' if act == "append" else b"")
    audit.append(path, NEW)
    assert [record for record in audit.read(path) if "event" not in record] == [*LINES, NEW]


ENDLESS = """
import sys
from pathlib import Path
from xai_lightning.callbacks._gate import audit
path = Path(sys.argv[1])
look = len(audit.read(path))
while True:
    look += 1
    audit.append(path, {"look": look, "global_step": look, "long": "x" * 50_000})
"""


@pytest.mark.slow
def test_processes_that_are_killed_while_they_write_lose_no_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    for _ in range(5):
        before = len(audit.read(path))
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)])
        deadline = time.monotonic() + 30
        while len(audit.read(path)) < before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert len(audit.read(path)) >= before + 20
    audit.append(path, NEW)
    assert len(slow(path.read_bytes())) == len(audit.read(path))


def test_a_repair_keeps_the_rights_of_the_file_and_where_a_link_leads(tmp_path):
    home, link = tmp_path / "home.jsonl", tmp_path / "link.jsonl"
    home.write_bytes(b'{"look": 1}\n{"lo')
    home.chmod(0o640)
    link.symlink_to(home)
    audit.append(link, NEW)
    assert link.is_symlink()
    assert home.stat().st_mode & 0o777 == 0o640
    assert audit.read(home) == [{"look": 1}, {"event": "repaired", "lost_bytes": 4}, NEW]


def test_a_cut_too_leaves_a_link_where_it_leads(tmp_path):
    home, link = tmp_path / "home.jsonl", tmp_path / "link.jsonl"
    home.write_bytes(b'{"look": 1, "global_step": 9}\n')
    link.symlink_to(home)
    assert audit.cut_back(link, 3) == 1
    assert link.is_symlink()
    assert audit.read(home) == [{"event": "resumed", "global_step": 3, "dropped": 1}]


def test_to_prove_that_there_is_room_changes_nothing(tmp_path):
    """Law 10: a proof that stayed would be taken for what a kill left of a line."""
    path = tmp_path / "below" / "gate_audit.jsonl"
    prove_room(path)
    assert path.read_bytes() == b""
    audit.append(path, NEW)
    before = path.read_bytes()
    prove_room(path)
    assert path.read_bytes() == before


def test_folders_whose_names_differ_behind_a_point_have_side_files_of_their_own(tmp_path):
    from xai_lightning.callbacks._gate.files import verdict_path

    names = ["val=0.51", "val=0.52", "epoch=1.ckpt"]
    assert [verdict_path(tmp_path / name).name for name in names] == [
        "val=0.51.verdict.json",
        "val=0.52.verdict.json",
        "epoch=1.verdict.json",
    ]


def test_the_hash_of_a_folder_sees_names_and_where_a_part_ends(tmp_path):
    from xai_lightning.callbacks._gate.evidence import sha256

    def folder(name, **parts):
        path = tmp_path / name
        path.mkdir()
        for part, text in parts.items():
            (path / part).write_text(text)
        return sha256(path)

    hashes = [folder("a", x="12", y="3"), folder("b", x="1", y="23"), folder("c", x="12", z="3")]
    # what one part holds must not read like the next
    hashes += [folder("e", x="1", y="2"), folder("f", x="1y\0" + "2")]
    assert len(set(hashes)) == 5
    assert folder("d", x="12", y="3") == hashes[0]
