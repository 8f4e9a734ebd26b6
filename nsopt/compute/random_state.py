"""Random numbers of torch: from a seed, and from where they were interrupted.

torch has one generator a device for all threads of a process. Whoever draws here has it alone, and
leaves it as it was.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock

import torch

_generators = RLock()


class OwnRandomState:
    """The random numbers of one training among others: as a context, torch draws from them.

    What is drawn follows from `seed` and from what was drawn before inside, whatever other threads
    draw meanwhile; outside nothing changes.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with seeded(seed, device):
            self._state = random_state(device)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Draw from these numbers inside."""
        with _alone(self._device):
            restore_random_state(self._state, self._device)
            try:
                yield
            finally:
                self._state = random_state(self._device)

    def state(self) -> dict[str, torch.Tensor]:
        """What `restore` needs to go on."""
        return self._state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from where `state` was told."""
        self._state = dict(state)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of torch follow from `seed` inside, on the CPU and on `device`; those of other
    devices, and the state outside, are left as they were."""
    with _alone(device):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)
        yield


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """No other thread draws inside, and the state outside is left as it was."""
    with _generators, _reproducible_cudnn():
        before = random_state(device)
        try:
            yield
        finally:
            restore_random_state(before, device)


@contextmanager
def _reproducible_cudnn() -> Iterator[None]:
    """The same kernels every time; other settings of cuDNN, TF32 among them, stay the user's."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's random number generators, for `restore_random_state`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Make random numbers go on from `state`; what it lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], device)
