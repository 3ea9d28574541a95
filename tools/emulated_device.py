"""A pytest plugin that trains on a device other than the CPU, on a machine without one.

``python -m pytest -p tools.emulated_device``: every Trainer on the CPU trains on the device ``emulated:0`` instead,
whose memory is that of the process and whose operators are those of the CPU (``tools/emulated_device.cpp``). As on a
GPU, its tensors cannot be mixed with those of the CPU, it has a random generator of its own, and gradients are computed
in a separate thread. With ``EMULATED_WITHOUT_FLOAT64=1`` in the environment it has no float64 either, like Apple's
GPUs. If torch is told to be deterministic, it refuses those of the operators refused by CUDA that the project has met.

It reveals code that mixes devices, draws from the generator of another device or needs float64. It reveals nothing
about the kernels, streams and memory of real devices, and has no fused recurrent cells, no sparse tensors and no
autocast. Tests marked ``on_cpu`` are skipped. A C++ compiler is needed once; the compiled library is kept in the folder
of temporary files.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

NAME = "emulated"
SOURCE = Path(__file__).with_suffix(".cpp")
LACKING = {"bf16-mixed": "no autocast", "lstm]": "no fused recurrent cells", "gru]": "no fused recurrent cells"}
if "EMULATED_WITHOUT_FLOAT64" in os.environ:
    LACKING |= {"64-true": "no float64"}


def built() -> Path:
    """The compiled library, rebuilt when its source or torch's version has changed."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    found = Path(tempfile.gettempdir()) / f"{NAME}_device_{os.getuid()}" / f"{key}.so"
    if not found.exists():
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise RuntimeError("the emulated device needs a C++ compiler: install g++, or name one by CXX")
        found.parent.mkdir(mode=0o700, exist_ok=True)
        part, home = found.with_suffix(f".{os.getpid()}"), Path(torch.__file__).parent
        includes = [f"-I{home / 'include' / further}" for further in ("", "torch/csrc/api/include")]
        flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", *includes]
        linked = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(part), *linked], check=True)
        part.replace(found)
    return found


class Module:
    """The module ``torch.emulated``: one device and its generator."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    set_device = synchronize = staticmethod(lambda device=None: None)
    device = staticmethod(lambda index: nullcontext())
    manual_seed = manual_seed_all = staticmethod(lambda seed: torch.ops.emulated.seed(seed))
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])
    get_rng_state = staticmethod(lambda device=NAME: torch.ops.emulated.rng_state())
    set_rng_state = staticmethod(lambda state, device=NAME: torch.ops.emulated.set_rng_state(state))


class Emulated(Accelerator):
    """The device as a Lightning accelerator."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing: there is nothing to set up."""

    def teardown(self) -> None:
        """Do nothing: nothing is left behind."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """No statistics are kept."""
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> list[int]:
        """There is one device."""
        return [0]

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        """That one device."""
        return [torch.device(NAME, i) for i in devices]

    @staticmethod
    def auto_device_count() -> int:
        """One device."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """The device is always available."""
        return True

    @staticmethod
    def name() -> str:
        """The name by which torch knows the device."""
        return NAME


def register() -> None:
    """Register the device with torch, and make every Trainer on one CPU train on it."""
    torch.ops.load_library(str(built()))
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, Module())
    torch.utils.generate_methods_for_privateuse1_backend()
    made = pl.Trainer.__init__

    @functools.wraps(made)
    def elsewhere(self: pl.Trainer, *args: Any, **options: Any) -> None:
        alone = options.get("devices", 1) in (1, "auto") and options.get("strategy", "auto") == "auto"
        if options.get("accelerator", "auto") in ("cpu", "auto") and alone:
            strategy = SingleDeviceStrategy(device=torch.device(NAME, 0))
            options |= {"accelerator": Emulated(), "devices": 1, "strategy": strategy}
        made(self, *args, **options)

    pl.Trainer.__init__ = elsewhere


register()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that are about the CPU, or need a feature that the device lacks."""
    for item in items:
        mark = item.get_closest_marker("on_cpu")
        why = [mark.args[0]] if mark is not None else [why for word, why in LACKING.items() if word in item.name]
        for reason in why[:1]:
            item.add_marker(pytest.mark.skip(reason=f"on the emulated device: {reason}"))
