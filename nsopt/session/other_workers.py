"""Start the other workers of a session, on the same machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nsopt.compute.device import nth_device
from nsopt.data.images import ImageData
from nsopt.latency.runtime import RUNTIMES
from nsopt.session.processes import run_local_workers
from nsopt.session.session import Session


@contextmanager
def run_other_workers(session: Session) -> Iterator[None]:
    """Run a session's other workers beside this process. Each gets its share of the cores."""
    workspace = session.workspace
    if workspace.workers == 1:
        yield
        return
    cores = torch.get_num_threads()
    threads = max(1, cores // workspace.workers)
    same = [
        f"--study={session.subject.name}",
        f"--arch={session.subject.arch.name}",
        f"--data-dir={workspace.data_dir}",
        f"--out={workspace.folder}",
        f"--threads={threads}",
        "--child",
    ]
    if not isinstance(session.subject.data, ImageData):
        same.append(f"--task={session.subject.source.name}")
    if session.subject.runtime.name not in RUNTIMES:
        same.append(f"--measure={session.subject.runtime.name}")
    options = [
        [*same, f"--device={nth_device(session.compute.device, number)}"]
        for number in range(1, workspace.workers)
    ]
    torch.set_num_threads(threads)
    try:
        with run_local_workers(options, workspace.url, session.progress):
            yield
    finally:
        torch.set_num_threads(cores)
