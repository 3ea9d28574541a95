"""What a process holds beside the model: switches of torch, numpy, matplotlib and Python that watching must leave."""

import decimal
import gc
import locale
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

# loggers that come later belong to modules that are imported later
LOGGERS = ("", *logging.root.manager.loggerDict)


def modes() -> dict[str, Any]:
    """What decides how the next operation of torch is carried out, and whether it is recorded."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast's cache": torch.is_autocast_cache_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "stacks": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "stance": None if dynamo is None else (dynamo._stance.stance, dynamo._stance.backend),
    }


def _backends() -> dict[str, Any]:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return {
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "attention": (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        "mkldnn": torch._C._get_mkldnn_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
    }


def _autograd() -> dict[str, Any]:
    modules, optimizers = vars(torch.nn.modules.module), vars(sys.modules["torch.optim.optimizer"])
    tables = {k: len(v) for k, v in (modules | optimizers).items() if k.startswith("_global") and hasattr(v, "__len__")}
    return {
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "multithreading": torch._C._is_multithreading_enabled(),
        "global hooks": tables,
        "warn always": torch.is_warn_always_enabled(),
    }


def _compiler() -> dict[str, Any]:
    """Settings of torch.compile, and how much was compiled since it was last reset."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return {}
    return {
        "compiler's settings": dynamo.config.get_config_copy(),
        # reasons name functions by their addresses
        "compilations": {
            kind: sorted((re.sub("0x[0-9a-f]+", "", str(what)), number) for what, number in count.items())
            for kind, count in dynamo.utils.counters.items()
        },
    }


def _named(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))


def _signals() -> dict[str, str]:
    # torch sets its handler for SIGCHLD once per process, with the first worker, and Lightning takes it back
    return {s.name: _named(signal.getsignal(s)) for s in signal.Signals if s != signal.SIGCHLD}


def _logging() -> dict[str, Any]:
    loggers = {name: logging.getLogger(name) for name in LOGGERS}
    found = {n: (x.level, len(x.handlers), len(x.filters), x.disabled, x.propagate) for n, x in loggers.items()}
    return {**found, "all": logging.root.manager.disable}


def _threads() -> list[str]:
    # those that feed a loader's workers end by themselves, some time after it
    names = (re.sub(r"\d+", "", thread.name) for thread in threading.enumerate())
    return sorted(name for name in names if "QueueFeeder" not in name)


def _python() -> dict[str, Any]:
    hooks = sys.excepthook, threading.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile()
    return {
        "warnings": [str(entry) for entry in warnings.filters],
        "logging": _logging(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "signals": _signals(),
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.get_debug(), len(gc.callbacks)),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval()),
        "streams": (id(sys.stdout), id(sys.stderr), id(sys.stdin)),
        "python's hooks": [_named(hook) for hook in hooks],
        "path": tuple(sys.path),
        "folder": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "decimal": decimal.getcontext().prec,
        "threads": _threads(),
        "processes": len(multiprocessing.active_children()),
    }


def surroundings() -> dict[str, Any]:
    """Everything beside the model, by name; two calls are equal if nothing was changed in between."""
    return {
        **modes(),
        **_backends(),
        **_autograd(),
        **_compiler(),
        **_python(),
        "numpy's printing": str(np.get_printoptions()),
        "numpy's errors": np.geterr(),
        "torch's printing": str(torch._tensor_str.PRINT_OPTS),
        # `dict` asks no backend to be chosen
        "matplotlib": {key: str(dict.__getitem__(mpl.rcParams, key)) for key in mpl.rcParams},
        "figures": plt.get_fignums(),
    }
