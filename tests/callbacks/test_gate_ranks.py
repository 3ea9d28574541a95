"""The gate over ranks: one decision, one set of files, one certificate. Real gloo processes, with a watchdog."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gated import audit, checkpoints, stamped

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).parents[1] / "gated_ranks.py"


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_decide_write_ask_and_certify_as_one(count: int, tmp_path: Path) -> None:
    """Traps 43, 45 and 97: at the second validation the last rank alone says no; at the third the arbiter does."""
    paths = os.pathsep.join([str(SCRIPT.parents[1]), str(SCRIPT.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(count)]
    lines = audit(tmp_path / "kept")
    assert [line["gate"] for line in lines] == ["open", "closed", "closed", "open"]
    assert lines[1]["reason"] == "another rank refused"
    assert lines[2]["arbiter"] == {"open": False, "reason": "not the second time"}
    assert [rank["asked"] for rank in ranks] == [[0, 0, 0], *[[]] * (count - 1)]
    assert ranks[0]["best"] != ""
    for other in ranks[1:]:
        assert ranks[0]["best"] == other["best"]
        assert ranks[0]["memory"]["certificate"] == other["memory"]["certificate"]
        assert ranks[0]["weight"] == other["weight"]
    assert checkpoints(tmp_path / "kept") == [Path(ranks[0]["best"]).name, "last.ckpt"]
    record = stamped(ranks[0]["best"])["certificate"]
    assert record["gate"] == "open"
    counts = record["monitors"][0]["counts_group_actual_predicted"]["sex"]
    assert sum(sum(sum(row) for row in group) for group in counts) == 40, "each rank sees all rows, and none is added"
