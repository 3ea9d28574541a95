"""What `surroundings` compares can be seen to change."""

import decimal
import gc
import importlib
import locale
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from surroundings import surroundings


@contextmanager
def other(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Within, ``value`` stands where ``put`` puts it; afterwards what ``get`` gave before."""
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def attribute(owner: Any, name: str, value: Any) -> AbstractContextManager[None]:
    return other(lambda: getattr(owner, name), lambda x: setattr(owner, name, x), value)


class Mode(TorchFunctionMode):
    """Calls what it was asked to call."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


@contextmanager
def figure() -> Iterator[None]:
    made = plt.figure()
    yield
    plt.close(made)


@contextmanager
def thread() -> Iterator[None]:
    stop = threading.Event()
    running = threading.Thread(target=stop.wait, name="stray")
    running.start()
    yield
    stop.set()
    running.join()


@contextmanager
def process() -> Iterator[None]:
    stray = torch.multiprocessing.get_context("fork").Process(target=signal.pause)
    stray.start()
    yield
    stray.kill()
    stray.join()


@contextmanager
def global_hook() -> Iterator[None]:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    yield
    handle.remove()


@contextmanager
def variable() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRAY", "1")
        yield


@contextmanager
def filtered() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


CHANGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad mode": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "autocast's cache": lambda: other(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled, False),
    "default dtype": lambda: other(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default device": lambda: torch.device("meta"),
    "stacks": Mode,
    "stance": lambda: torch.compiler.set_stance("force_eager"),
    "deterministic": lambda: other(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "cudnn": lambda: torch.backends.cudnn.flags(enabled=False, benchmark=True),
    "attention": lambda: other(torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, False),
    "mkldnn": lambda: other(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False),
    "matmul precision": lambda: other(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    "threads of torch": lambda: other(torch.get_num_threads, torch.set_num_threads, 2),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "multithreading": lambda: torch.autograd.set_multithreading_enabled(False),
    "global hooks": global_hook,
    "warn always": lambda: other(torch.is_warn_always_enabled, torch.set_warn_always, True),
    "compiler's settings": lambda: attribute(torch._dynamo.config, "suppress_errors", True),
    "compilations": lambda: attribute(torch._dynamo.utils, "counters", {"frames": {"total": 1}}),
    "warnings": filtered,
    "logging": lambda: attribute(logging.getLogger(), "disabled", True),
    "environment": lambda: other(
        dict, lambda x: os.environ.update(x) if x else os.environ.pop("STRAY"), {"STRAY": "1"}
    ),
    "signals": lambda: other(
        lambda: signal.getsignal(signal.SIGUSR1), lambda x: signal.signal(signal.SIGUSR1, x), lambda *args: None
    ),
    "garbage": lambda: other(gc.get_threshold, lambda x: gc.set_threshold(*x), (9, 9, 9)),
    "limits": lambda: other(sys.getrecursionlimit, sys.setrecursionlimit, 5000),
    "streams": lambda: attribute(sys, "stdout", sys.__stderr__),
    "python's hooks": lambda: attribute(sys, "excepthook", lambda *args: None),
    "path": lambda: attribute(sys, "path", [*sys.path, "stray"]),
    "folder": lambda: other(Path.cwd, os.chdir, "/"),
    "locale": lambda: other(
        lambda: locale.setlocale(locale.LC_ALL), lambda x: locale.setlocale(locale.LC_ALL, x), "C.UTF-8"
    ),
    "decimal": lambda: decimal.localcontext(prec=5),
    "threads": thread,
    "processes": process,
    "numpy's printing": lambda: np.printoptions(precision=2),
    "numpy's errors": lambda: np.errstate(over="ignore"),
    "torch's printing": lambda: attribute(torch._tensor_str.PRINT_OPTS, "precision", 2),
    "matplotlib": lambda: plt.rc_context({"font.size": 3.0}),
    "figures": figure,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_surroundings_is_seen(name):
    """And once it is taken back, nothing is."""
    importlib.import_module("torch._dynamo")
    plt.switch_backend("agg")
    before = surroundings()
    assert before.keys() == CHANGES.keys()
    with CHANGES[name]():
        assert surroundings()[name] != before[name]
    assert surroundings() == before
