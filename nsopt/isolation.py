"""Run public functions apart from what their caller has set for torch and for random numbers."""

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from nsopt.settings import checked

P = ParamSpec("P")
R = TypeVar("R")
HostState = tuple[Any, Any]
GENERATORS = RLock()  # whose numbers one thread at a time replaces


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function check its arguments (`checked`), and run it apart from its caller.

    Inside it torch records gradients, outside inference mode and autocast. Random numbers of torch,
    Python and NumPy continue afterwards, also after an error, as if it had not been called.
    """
    inner = checked(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad(), _leave_autocast(), _keep_numbers():
            return inner(*args, **kwargs)

    return call


def host_state() -> HostState:
    """Return the state of Python's and of NumPy's random numbers, for `restore_host_state`."""
    return random.getstate(), np.random.get_state()


def restore_host_state(state: HostState) -> None:
    """Continue the random numbers of Python and of NumPy from `state`."""
    random.setstate(state[0])
    np.random.set_state(state[1])


@contextmanager
def _leave_autocast() -> Iterator[None]:
    """Turn autocast off inside the block, also its count: torch keeps weights in bfloat16, which
    training changes, until the outermost block ends."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as off:
        for kind in {"cpu", accelerator.type if accelerator else "cpu"}:
            off.enter_context(torch.autocast(kind, enabled=False))
        outer = 1
        while torch.autocast_decrement_nesting():
            outer += 1
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            for _ in range(outer):
                torch.autocast_increment_nesting()


@contextmanager
def _keep_numbers() -> Iterator[None]:
    """Restore random numbers after a long block. Other threads may draw meanwhile."""
    with GENERATORS:
        before, host = torch.get_rng_state(), host_state()
        devices, modules = _list_devices(), torch.get_device_module
        states = [modules(device).get_rng_state(device) for device in devices]
    try:
        yield
    finally:
        with GENERATORS:
            torch.set_rng_state(before)
            restore_host_state(host)
            for device, state in zip(devices, states, strict=True):
                modules(device).set_rng_state(state, device)


def _list_devices() -> list[torch.device]:
    """Return the accelerators that have random numbers already."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    if not kind or not getattr(torch.get_device_module(kind), "is_initialized", lambda: True)():
        return []
    return [torch.device(kind.type, i) for i in range(torch.accelerator.device_count())]
