"""Devices and cores that several processes of a machine share."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import torch

from nsopt.compute.device import Compute, hardware_name, nth_device
from nsopt.compute.device_lock import DeviceLock
from nsopt.data.cache import cache_folder
from nsopt.experiments.processes import local_workers
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress


@contextmanager
def sharing(compute: Compute) -> Iterator[Compute]:
    """`compute`, shared with other processes of this machine."""
    folder = cache_folder() / "machines"
    with closing(DeviceLock(folder, hardware_name(compute.device))) as lock:
        yield replace(compute, lock=lock)


@contextmanager
def other_workers(
    study: str, arch: str, workspace: Workspace, compute: Compute, progress: Progress
) -> Iterator[None]:
    """The workers beside this process, with an equal share of the cores each.

    arch: the name of the architecture, as the user gave it.
    """
    if workspace.workers == 1:
        yield
        return
    threads = max(1, torch.get_num_threads() // workspace.workers)
    torch.set_num_threads(threads)
    same = [
        f"--study={study}",
        f"--arch={arch}",
        f"--data-dir={workspace.data_dir}",
        f"--out={workspace.folder}",
        f"--threads={threads}",
        "--child",
    ]
    options = [
        [*same, f"--device={nth_device(compute.device, number)}"]
        for number in range(1, workspace.workers)
    ]
    with local_workers(options, workspace.url, progress):
        yield
