"""A trained network for any task, with the user's batches, loss and score.

Searches and scores of widths are Optuna studies, so that the same call continues them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from torch import nn

from nsopt.compression.budgets import Budget
from nsopt.compression.scores import (
    ScoreRunner,
    find_best,
    make_score_family,
    score_as_timed,
    score_laws,
)
from nsopt.compute.checkpoint import weights_checksum
from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.locks import hold_lock
from nsopt.latency.bisection import Widths
from nsopt.latency.runtime import Runtime, are_images, with_batch_size
from nsopt.models.architecture import Architecture
from nsopt.models.inputs import count_examples
from nsopt.models.tracing.trace import trace
from nsopt.progress import Progress
from nsopt.pruning.inherited import TrainedStart, score
from nsopt.pruning.iterations import run_iterations
from nsopt.samplers.candidates import list_prices
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import Iteration
from nsopt.settings import Price
from nsopt.storage import schema, trials
from nsopt.storage.opening import open_storage
from nsopt.storage.provenance import provenance
from nsopt.storage.urls import sqlite_url
from nsopt.study.presets import StudySettings
from nsopt.study.task import resolve_precision, write_latency_once
from nsopt.tasks.supervision import evaluate
from nsopt.tasks.task import Task, TaskSupervision

_STORAGE = "study.db"
FINE_TUNED = "fine-tuned"  # name of the study of fine-tunings


@dataclass(frozen=True, eq=False)
class OwnTask:
    """A trained network, and what is needed to train and score it.

    Attributes:
        arch: the architecture of `model`.
        model: the trained network of base widths, in evaluation mode on the CPU.
        supervision: the user's task on the device.
        settings: settings of the search and of fine-tuning.
        runtime: runs the networks that nsopt times.
        compute: the device, which other processes may share.
        folder: folder of the storage, with a folder of files for each architecture.
        progress: receives steps and messages.
        inputs: a batch with which networks are timed.
    """

    arch: Architecture
    model: nn.Module
    supervision: TaskSupervision
    settings: StudySettings
    runtime: Runtime
    compute: Compute
    folder: Path
    progress: Progress
    inputs: Any

    @property
    def files(self) -> Path:
        """Folder of the checkpoints and networks of this architecture."""
        return self.folder / "".join(c if c.isalnum() else "-" for c in self.arch.name)

    def one_at_a_time(self, result: Path) -> AbstractContextManager[None]:
        """Let one process at a time run the block that makes a result, named by a path."""
        waiting = "waiting for another process that compresses this network in this folder"
        return hold_lock(result, lambda: self.progress.message(waiting))

    @property
    def score_name(self) -> str:
        return self.supervision.task.score_name

    def open_study(self, kind: str) -> Study:
        """Open or create a study of this task. Raises NsoptError if other settings wrote it."""
        study = optuna.create_study(
            study_name=f"{self.arch.name}/{kind}",
            storage=open_storage(sqlite_url(self.folder / _STORAGE)),
            directions=schema.DIRECTIONS if schema.is_search(kind) else schema.DIRECTIONS[:1],
            load_if_exists=True,
        )
        schema.claim_for_own_task(
            study,
            self.supervision.fingerprint()
            | {
                "weights": weights_checksum(self.model),
                "settings": self.settings.model_dump(
                    mode="json", exclude={"training": {"device"}, "search": {"device"}}
                ),
            },
        )
        write_latency_once(study, self.arch.latency)
        return study


def make_own_task(
    model: nn.Module,
    task: Task,
    arch: Architecture | None,
    settings: StudySettings,
    runtime: Runtime,
    folder: Path,
    progress: Progress,
) -> OwnTask:
    """Return the task; trace the model with the task's inputs if `arch` is None.

    Its precision is that of what is stored, or the faster one on this device.

    Raises:
        NsoptError: for a model that cannot be traced.
    """
    if not are_images(task.inputs):
        runtime = with_batch_size(runtime, count_examples(task.inputs))
    if arch is None:
        arch = trace(model, task.inputs)
    stored = [schema.read_own_settings(study) for study in read_own_studies(folder, arch)]
    settings = resolve_precision(settings, stored, arch, task)
    compute = resolve_compute(settings.training.device, settings.training.precision)
    supervision = TaskSupervision(task, compute.device)
    settings = settings.updated(runtime=runtime.name, latency_batch_size=runtime.batch_size)
    return OwnTask(
        arch, model, supervision, settings, runtime, compute, folder, progress, task.inputs
    )


def read_own_studies(folder: Path, arch: Architecture) -> list[Study]:
    """Return the studies of a network that are stored in a folder."""
    if not (folder / _STORAGE).is_file():
        return []
    storage = open_storage(sqlite_url(folder / _STORAGE))
    names = optuna.get_all_study_names(storage)
    mine = [name for name in names if name.startswith(f"{arch.name}/")]
    return [optuna.load_study(study_name=name, storage=storage) for name in mine]


def read_own_scores(task: OwnTask, budget: Budget) -> dict[str, float]:
    """Return the scores at a budget by the `width_key` of their widths."""
    done = trials.read_completed_by_widths(task.open_study(budget.scores_kind))
    return {key: float(trial.values[0]) for key, trial in done.items()}


def choose_law(
    task: OwnTask,
    start: TrainedStart,
    budget: Budget,
    candidates: int,
    solve: Callable[[PowerLaw], Widths],
    solve_as_timed: Callable[[PowerLaw], Widths],
) -> PowerLaw:
    """Run the missing searches, and the missing scores at a budget; return the best law.

    Args:
        solve: returns the widths along one of many laws.
        solve_as_timed: returns the widths along a law, timed if the budget limits milliseconds.

    Raises:
        NoWidthsError: if no law has widths at this budget.
        NsoptError: for the reasons of `search` and `OwnTask.evaluate`.
    """
    searches = {price: _search(task, price) for price in list_prices(budget.metric)}
    family = make_score_family(task.arch, searches, budget)

    compute, supervision = task.compute, task.supervision
    compare = supervision.comparison(task.model, compute)

    def measure(widths: Widths) -> tuple[float, dict[str, Any]]:
        if compare is not None:
            return score(start, widths, supervision, compare, compute).percentage, {}

        def validate(model: nn.Module) -> float:
            return evaluate(supervision.validation(compute), model, compute)

        return score(start, widths, supervision, validate, compute), {}

    runner = ScoreRunner(family, solve, measure, task.compute, task.progress)
    study = task.open_study(budget.scores_kind)
    done = score_laws(study, runner, budget, candidates, task.settings.training.seed)
    score_as_timed(study, runner, solve_as_timed, budget, done)
    return family.law(find_best(done).params)


def _search(task: OwnTask, price: Price) -> Iteration:
    """Return the iteration of a search from the trained network; search unless it is stored.

    If several processes need it, one searches and the others wait.
    """
    study = task.open_study(schema.search_kind(price, "filters"))
    checkpoint = task.files / f"search-{price}.pt"
    with task.one_at_a_time(checkpoint):
        found = trials.read_iterations(study)
        missing = run_iterations(
            task.arch,
            task.supervision,
            task.settings.search.updated(price=price, iterations=1),
            found,
            task.compute,
            task.progress,
            checkpoint=checkpoint,
            start=task.model,
        )
        for iteration in missing:  # at most one; its checkpoint stays until it is stored
            names = task.arch.layer_names
            study.add_trial(trials.search_trial(iteration, 1, names, provenance(task.compute)))
            found = [iteration]
        return found[0]
