"""Load or join a stored study, on any machine: its network, its data and its settings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study

from nsopt.data.images import ImageData
from nsopt.data.registry import load_source
from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.latency.runtime import stored_runtime
from nsopt.progress import Progress
from nsopt.session.presets import StudySettings
from nsopt.session.session import Session, start_session, with_start
from nsopt.session.subject import Subject, read_architecture, with_stored_latency
from nsopt.session.workspace import Workspace
from nsopt.storage import schema
from nsopt.storage.opening import hide_password
from nsopt.storage.studies import comparisons, load_studies
from nsopt.tasks.supervise import import_given_task
from nsopt.tasks.task import Task


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
) -> Session:
    """Return the session of the stored subject `name`. Arguments are the options of `nsopt worker`.

    Raises NsoptError if there is nothing to join.
    """
    study = _choose_study(name, workspace)
    given = import_given_task(task)
    subject = load_subject(study, data, workspace.data_dir, arch_name, measure, given)
    session = start_session(with_start(subject, workspace), workspace, progress, device)
    if threads is not None:
        torch.set_num_threads(threads)
    return session


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


def load_subject(
    study: Study,
    data: str | None,
    data_dir: Path,
    arch_name: str | None,
    measure: str | None = None,
    task: Task | None = None,
) -> Subject:
    """Return the subject of a stored study.

    Args:
        data: where its images are on this machine; None for where the study was started.
        arch_name, measure: the names of its architecture and of what times it, if the user gave
            them (`stored_architecture`, `stored_runtime`).
        task: its task, if it is not of images. A storage keeps only what identifies a task.

    Raises:
        NsoptError: if the network or the data differ from those of the study, or if a trainer
            that is missing here trains it.
    """
    stored = schema.read_task(study)
    if (task is None) != (stored.classes is not None):
        raise NsoptError(
            f"{study.study_name} is of images: leave task= out"
            if task
            else f"{study.study_name} is of a task of yours: give its function as task="
        )
    settings = _read_settings(study)
    arch = read_architecture(stored, arch_name, task)
    arch = with_stored_latency(arch, [study], settings.timed)
    if (arch.layer_names, arch.base_widths) != (stored.layer_names, stored.base_widths):
        raise NsoptError(f"{stored.arch} is another network here than in {study.study_name}")
    runtime = stored_runtime(settings.timed.runtime, measure, settings.latency_batch_size)
    if task is None:
        images = _read_images(study, data, data_dir)
        subject = Subject(arch, images, settings, runtime=runtime)
    else:
        task = replace(task, name=stored.data, source=schema.read_source(study))
        subject = Subject(arch, task, settings, runtime=runtime)
    _check_data(study, subject.source, subject.fingerprint)
    trainer = schema.read_settings(study)["data"].get("trainer")
    if trainer is not None and subject.trainer is None:
        raise NsoptError(
            f"{study.study_name} is trained by {trainer}: give a task that names this trainer, or "
            "leave the training to the process that was given it"
        )
    return subject


def load_images(study: Study, data: str | None, data_dir: Path) -> ImageData:
    """Return the images of a stored study, under the name that they have there.

    Raises:
        NsoptError: if they differ from those of the study.
    """
    images = _read_images(study, data, data_dir)
    splits = images.split(_read_settings(study).training.val_fraction)
    _check_data(study, images.source or schema.read_source(study), splits.fingerprint)
    return images


def _read_images(study: Study, data: str | None, data_dir: Path) -> ImageData:
    if schema.read_task(study).classes is None:
        raise NsoptError(f"{study.study_name} is of a task of yours: give its function as task=")
    source = schema.read_source(study)
    source = replace(source, name=data or source.name)
    return replace(load_source(source, data_dir), name=schema.read_task(study).data)


def _check_data(study: Study, source: Source, fingerprint: Mapping[str, Any]) -> None:
    """Raise NsoptError for other data. Functions that a task lacks here are not compared."""
    stored = schema.read_settings(study)["data"]
    if any(stored.get(name, value) != value for name, value in fingerprint.items()):
        raise NsoptError(f"{source.name} differs here from the data of {study.study_name}")


def _read_settings(study: Study) -> StudySettings:
    stored = schema.read_settings(study)
    known = {name: stored[name] for name in stored.keys() & StudySettings.model_fields.keys()}
    try:
        return StudySettings(**known)
    except NsoptError as error:
        raise NsoptError(
            f"{study.study_name} was written by another version of nsopt ({error}): use that "
            "version, or start again with another out= or storage="
        ) from None
