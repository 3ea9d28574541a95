"""Benchmarks are run by hand; here they are run at their smallest size, so that they keep up with the package."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALLEST = {
    "fairness": ("--rows", "20000", "--repeats", "1", "--validations", "4", "--skip", "memory"),
    "gate_error": ("--runs", "2", "--power-runs", "2"),
    "overhead": ("--validations", "2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_runs_to_its_end(name: str, tmp_path: Path) -> None:
    program = [sys.executable, str(FOLDER / f"{name}.py"), *SMALLEST[name]]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
