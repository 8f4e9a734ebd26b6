"""Use torch's random numbers from a seed, or continue them after an interruption.

torch has one generator per device for all threads of a process. One thread at a time enters these
blocks. They restore the generator at the end.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from nsopt.isolation import GENERATORS


class OwnRandomState:
    """The random numbers of one training: inside `in_use`, torch draws from them.

    They depend only on `seed` and on earlier draws inside `in_use`, not on other threads. Outside,
    torch's random numbers do not change.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with use_seed(seed, device):
            self._state = _read_state(device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Make torch draw from these numbers inside the block."""
        with _isolate(self._device):
            torch.set_rng_state(self._state["cpu"])
            if (kind := self._device.type) != "cpu" and kind in self._state:
                torch.get_device_module(kind).set_rng_state(self._state[kind], self._device)
            try:
                yield
            finally:
                self._state = _read_state(self._device)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state from which `restore` continues."""
        return self._state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a `state`."""
        self._state = dict(state)


@contextmanager
def use_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers inside the block, on the CPU and on `device`.

    Other devices, and the state outside, do not change.
    """
    with _isolate(device):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)
        yield


@contextmanager
def _isolate(device: torch.device) -> Iterator[None]:
    """Let one thread at a time into the block, and restore the random state at its end.

    In it cuDNN chooses the same kernels every time; its other settings, such as TF32, stay.
    """
    cudnn = torch.backends.cudnn
    with keep_random_state(device):
        before = cudnn.benchmark, cudnn.deterministic
        cudnn.benchmark, cudnn.deterministic = False, True
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before


@contextmanager
def keep_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random numbers at the end of the block; one thread at a time enters it."""
    devices = [] if device.type == "cpu" else [device]
    with GENERATORS, torch.random.fork_rng(devices, device_type=device.type):
        yield


def _read_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state
