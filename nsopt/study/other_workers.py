"""The workers that a session has beside its own process, on the same machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nsopt.compute.device import nth_device
from nsopt.study.processes import local_workers
from nsopt.study.session import Session


@contextmanager
def other_workers(session: Session) -> Iterator[None]:
    """Run the other workers of a session beside this process, each with its share of the cores."""
    workspace = session.workspace
    if workspace.workers == 1:
        yield
        return
    threads = max(1, torch.get_num_threads() // workspace.workers)
    torch.set_num_threads(threads)
    same = [
        f"--study={session.task.name}",
        f"--arch={session.task.arch.name}",
        f"--data-dir={workspace.data_dir}",
        f"--out={workspace.folder}",
        f"--threads={threads}",
        "--child",
    ]
    options = [
        [*same, f"--device={nth_device(session.compute.device, number)}"]
        for number in range(1, workspace.workers)
    ]
    with local_workers(options, workspace.url, session.progress):
        yield
