"""`nsopt worker`: take part in a comparison that another process has started."""

from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import torch
from optuna.storages import BaseStorage
from optuna.study import Study

from nsopt.console import console, live_progress
from nsopt.data.registry import load_source
from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.progress import Progress
from nsopt.training.checkpoint import remove_checkpoints
from nsopt.training.device import Compute, resolve_compute
from nsopt.tuning import schema
from nsopt.tuning.artifacts import BestWeights
from nsopt.tuning.comparison import sharing
from nsopt.tuning.objective import Runner
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.storage import (
    ARTIFACTS,
    load_studies,
    open_storage,
    shown,
    storage_errors,
    storage_exists,
)
from nsopt.tuning.trained import TrainedNetworks
from nsopt.tuning.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Joining:
    """The options of `nsopt worker`. parent: the process that started it, if one did."""

    storage: str
    study: str
    data: str | None
    data_dir: Path
    device: str
    threads: int | None
    out: Path | None
    parent: int | None


def run_worker(joining: Joining) -> None:
    """Run what waits until nothing is left. Raises NsoptError if there is nothing to join."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    if not storage_exists(joining.storage):
        raise NsoptError(f"nothing is stored at {joining.storage}: start a study first")
    with storage_errors(joining.storage), live_progress() as progress:
        storage = open_storage(joining.storage)
        study = _any_study(storage, joining)
        settings = _settings(study)
        with sharing(resolve_compute(joining.device, settings.training.precision)) as compute:
            if joining.threads is not None:
                torch.set_num_threads(joining.threads)
            runner = _runner(joining, study, settings, compute, progress)
            done = Worker(storage, joining.study, runner, joining.parent).work()
    if joining.parent is None:
        remove_checkpoints(runner.checkpoints)
        console.print(f"{done} trainings of {joining.study} were run here", highlight=False)


def _runner(
    joining: Joining, study: Study, settings: StudySettings, compute: Compute, progress: Progress
) -> Runner:
    """What runs trials of `study` here; NsoptError if the images here are others."""
    subject, source = schema.read_subject(study), schema.read_source(study)
    source = replace(source, name=joining.data or source.name)
    splits = load_source(source, joining.data_dir).split(settings.training.val_fraction)
    if splits.fingerprint() != schema.read_settings(study)["data"]:
        raise NsoptError(f"{source.name} differs here from the images of {joining.study}")
    splits = splits.to(compute.device)
    arch = get_architecture(subject.arch, subject.classes, subject.image_size, subject.channels)
    folder = joining.out or Path("runs") / joining.study
    checkpoints, weights = folder / "checkpoints", BestWeights(arch, folder / ARTIFACTS)
    networks = TrainedNetworks(arch, splits, compute, checkpoints)
    return Runner(arch, splits, compute, settings, networks, checkpoints, weights, progress)


def _any_study(storage: BaseStorage, joining: Joining) -> Study:
    """One of the comparison's, all of which have the same settings."""
    studies = load_studies(storage, joining.study)
    ready = [s for m, s in studies.items() if m != schema.SEARCH and schema.read_settings(s)]
    if not ready:
        names = sorted({name.rsplit("/", 1)[0] for name in optuna.get_all_study_names(storage)})
        raise NsoptError(
            f"no study {joining.study!r} to work on at {shown(joining.storage)}: "
            f"stored are {', '.join(names) or 'none'}"
        )
    return ready[0]


def _settings(study: Study) -> StudySettings:
    stored = schema.read_settings(study)
    return StudySettings.model_validate({k: v for k, v in stored.items() if k != "data"})
