"""Share a device with other processes of this machine."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from nsopt.compute.device import Compute, hardware_name
from nsopt.compute.device_lock import DeviceLock
from nsopt.files import cache_folder
from nsopt.progress import Progress, Silent


@contextmanager
def sharing(compute: Compute, progress: Progress | None = None) -> Iterator[Compute]:
    """Share the device of `compute` with other nsopt processes of this machine.

    Args:
        progress: receives a warning when this process waits for the measurement of another one.
    """
    folder = cache_folder() / "machines"
    tell = (progress or Silent()).warning
    with closing(DeviceLock(folder, hardware_name(compute.device), tell)) as lock:
        yield replace(compute, lock=lock)
