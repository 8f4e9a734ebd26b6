"""Join a study that another process started, on any machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from optuna.study import Study

from nsopt.errors import NsoptError
from nsopt.progress import Progress
from nsopt.session.session import Session, start_session
from nsopt.session.start import with_start
from nsopt.session.stored import load_subject
from nsopt.session.workspace import Workspace
from nsopt.storage import schema
from nsopt.storage.studies import comparisons, load_studies
from nsopt.storage.urls import hide_password
from nsopt.tasks.imported import import_given_task


@contextmanager
def join_session(
    name: str,
    workspace: Workspace,
    progress: Progress,
    *,
    data: str | None = None,
    arch_name: str | None = None,
    measure: str | None = None,
    task: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Iterator[Session]:
    """Yield the session of a stored subject.

    Args:
        name: ARCH-DATA-PRESET.
        data, arch_name, measure: see `load_subject`.
        task: the name of the function that returns its task, if it is not of images.
        threads: number of CPU threads; None for torch's own.

    Raises:
        NsoptError: if there is nothing to join.
    """
    study = _choose_study(name, workspace)
    given = import_given_task(task)
    subject = load_subject(study, data, workspace.data_dir, arch_name, measure, given)
    with start_session(with_start(subject, workspace), workspace, progress, device) as session:
        if threads is not None:
            torch.set_num_threads(threads)
        yield session


def _choose_study(name: str, workspace: Workspace) -> Study:
    """Return one of the comparison's studies, which all have the same settings."""
    if schema.is_tuning(name):
        raise NsoptError(f"{name} is a tuning: to share it, run the same nsopt tune command again")
    if not workspace.has_storage:
        raise NsoptError(
            f"nothing is stored at {hide_password(workspace.url)}: start a study first, or wait "
            "for the end of its search"
        )
    studies = load_studies(workspace.storage, name)
    ready = [s for m, s in studies.items() if not schema.is_search(m) and schema.read_settings(s)]
    if not ready and studies:
        raise NsoptError(
            f"of {name} only the search is stored at {hide_password(workspace.url)}: start its "
            "study first, or wait until that has begun to train"
        )
    if not ready:
        known = ", ".join(comparisons(workspace.storage)) or "none"
        raise NsoptError(
            f"no study {name!r} to work on at {hide_password(workspace.url)}: stored are {known}"
        )
    return ready[0]
