"""Share a device with other processes of this machine."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from nsopt.compute.device import Compute, hardware_name
from nsopt.compute.device_lock import DeviceLock
from nsopt.files import cache_folder


@contextmanager
def sharing(compute: Compute) -> Iterator[Compute]:
    """Share the device of `compute` with other nsopt processes of this machine."""
    folder = cache_folder() / "machines"
    with closing(DeviceLock(folder, hardware_name(compute.device))) as lock:
        yield replace(compute, lock=lock)
