"""Run one trial: time and train a network of its widths, keep the best one, store its numbers.

`nsopt.latency.timer` times networks; here is what a subject needs: its latency model, budgets that
hold as measured, and timings that are stored.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from optuna.exceptions import TrialPruned
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import DeterministicError, NsoptError
from nsopt.latency.budget import MeasuredBudget, Widths
from nsopt.latency.record import LARGEST_SPREAD, Latency
from nsopt.latency.runtime import Runtime, stored_runtime, with_batch_size
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, Metric, counted_costs
from nsopt.scaling.solve import Limits
from nsopt.session.session import Session
from nsopt.session.subject import Subject, list_studies, read_architecture, with_stored_latency
from nsopt.session.workspace import Workspace
from nsopt.settings import BATCH_SIZE
from nsopt.storage import schema, trials
from nsopt.storage.engine import Job, Work
from nsopt.storage.opening import existing_storage, hide_password
from nsopt.storage.studies import StoredTimings, load_studies, only_comparison
from nsopt.storage.trials import Point
from nsopt.tasks.task import Task
from nsopt.training.outcome import Epoch, Outcome

Network = tuple[Study, tuple[int, ...]]


def store_timings(session: Session, study: Study) -> Timer:
    """Return a timer whose timings a study stores; it knows those of all studies."""
    store = StoredTimings(study, lambda: session.studies().values())
    return replace(session.timer, store=store)


def with_latency_if_needed(
    subject: Subject, is_timed: bool, workspace: Workspace, progress: Progress
) -> Subject:
    """Return `subject` with a latency model, if a budget is in milliseconds.

    A stored model has priority, so that budgets keep their meaning. Otherwise it is learned now.
    """
    if not is_timed:
        return subject
    studies = list_studies(subject, workspace)
    arch = with_stored_latency(subject.arch, studies, subject.settings.timed)
    if arch.latency is None:
        compute = resolve_compute(subject.settings.training.device, "fp32")
        arch = Timer(compute, subject.runtime, progress, subject.inputs).learn(arch)
    return replace(subject, arch=arch)


def correct_latency(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float, limits: Limits
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most eight timed networks, whatever machine or
    process needs them. No network is timed again under the same conditions. Raises NoWidthsError if
    no network that was timed is within the budget.
    """
    subject = session.subject
    if not metric.is_timed:
        return subject.arch
    wanted = MeasuredBudget(subject.arch, law, metric, budget, limits)
    return wanted.keeping(store_timings(session, study).find(wanted))


def find_latencies(session: Session, networks: Sequence[Network]) -> list[Latency]:
    """Return the latencies of networks on this device; those that are not known are timed.

    A network has one latency, whichever methods propose it.
    """
    if not networks:
        return []
    arch, known = session.subject.arch, store_timings(session, networks[0][0]).read()
    return [
        known.get(tuple(widths)) or store_timings(session, study).time(arch, widths)
        for study, widths in networks
    ]


def time_unsure(session: Session) -> None:
    """Time networks of a comparison again whose rounds differed much while workers computed."""
    arch, again = session.subject.arch, set[tuple[int, ...]]()
    for trained in _find_trained(session.workspace.storage, session.subject.name):
        timer = store_timings(session, trained.study)
        known = timer.read().get(trained.widths)
        is_wide = known is not None and (known.spread or 0.0) > LARGEST_SPREAD
        if is_wide and trained.widths not in {*again, arch.base_widths}:
            again.add(trained.widths)
            timer.time(arch, trained.widths, again=True)


class Trained(NamedTuple):
    """A network that was trained for a method.

    Attributes:
        study: of the method.
        sizes: the budgets at which its widths were proposed, in words.
    """

    method: str
    study: Study
    widths: tuple[int, ...]
    sizes: tuple[str, ...]


def measure_again(
    url: str,
    progress: Progress,
    *,
    batch_sizes: Sequence[int] | None = None,
    name: str | None = None,
    arch_name: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    runtime: Runtime | None = None,
    task: Task | None = None,
) -> list[tuple[Trained, Latency]]:
    """Time all trained networks of a comparison again, and store the latencies.

    They replace those under the same conditions (device, threads, precision, batch size, version of
    torch). Arguments are the options of `nsopt latency`. Raises NsoptError if nothing is stored.
    """
    storage = existing_storage(url)
    name = name or only_comparison(storage)
    trained = _find_trained(storage, name)
    if not trained:
        raise NsoptError(
            f"no completed trial of {name} at {hide_password(url)}: run its command first"
        )
    study = trained[0].study
    arch = read_architecture(schema.read_task(study), arch_name, task)
    inputs = None if task is None else task.inputs
    settings = schema.read_settings(study)
    if runtime is None:
        runtime = stored_runtime(settings["runtime"], None)
    batch_sizes = batch_sizes or sorted({1, BATCH_SIZE, settings["latency_batch_size"]})
    measured = []
    if threads is not None:
        torch.set_num_threads(threads)
    compute = resolve_compute(device, "fp32")
    progress.start("measuring latency", len(batch_sizes) * len(trained))
    for batch_size in batch_sizes:
        timer = Timer(compute, with_batch_size(runtime, batch_size), progress, inputs)
        timer = replace(timer, store=StoredTimings(study))
        timer.time(arch, arch.base_widths, again=True)
        known = {}
        for network in trained:
            if network.widths not in known:
                is_whole = network.widths == arch.base_widths
                known[network.widths] = timer.time(arch, network.widths, again=not is_whole)
            measured.append((network, known[network.widths]))
            progress.advance()
    return measured


def _find_trained(storage: BaseStorage, name: str) -> list[Trained]:
    """Return the networks that a comparison has trained, by method and widths."""
    trained = list[Trained]()
    for method, study in load_studies(storage, name).items():
        if schema.is_search(method):
            continue
        names, sizes = schema.read_task(study).layer_names, dict[tuple[int, ...], list[str]]()
        for trial in trials.read_completed(study):
            point = trials.read_point(trial)
            if point is not None:
                sizes.setdefault(trials.read_widths(trial, names), []).append(point.size)
        trained += [
            Trained(method, study, widths, tuple(dict.fromkeys(labels)))
            for widths, labels in sizes.items()
        ]
    return trained


@dataclass(frozen=True, eq=False)
class TrialRunner(Work):
    """Runs the trials of a study of trainings.

    The widths of a trial are those with which it was enqueued. Subclasses may propose them, and say
    how a network is trained.
    """

    session: Session

    @property
    def is_timed(self) -> bool:
        """Whether networks are timed."""
        return True

    @property
    def compute(self) -> Compute:
        return self.session.compute

    def point(self, trial: FrozenTrial) -> Point | None:
        return trials.read_point(trial)

    def train(self, point: Point, widths: tuple[int, ...]) -> Outcome:
        """Return the trained network of a point."""
        raise NotImplementedError

    def measure_extrapolation(self, point: Point) -> float | None:
        """Return the factor between a budget and the record of its law; None within the record."""
        return None

    def run(self, trial: Trial) -> tuple[float, float]:
        """Return score and latency. All results become attributes of the trial."""
        point = trials.read_point(trial)
        if point is None:
            raise TrialPruned("the trial has no method, metric, budget and seed")
        names = map(trials.width_parameter, self.session.subject.arch.layer_names)
        widths = tuple(trial.suggest_int(name, 1, trials.LARGEST_WIDTH) for name in names)
        timed = [(trial.study, widths)]
        latency = find_latencies(self.session, timed)[0] if self.is_timed else None
        outcome = self.train(point, widths)
        networks = BestNetworks(self.session.workspace.artifacts)
        networks.keep_if_best(trial, self.make_kept(point, outcome).content)
        self._report(point, outcome)
        columns = self._list_columns(point, outcome, latency)
        trials.write_outcome(trial, columns, _list_epochs(outcome))
        return outcome.score, math.inf if latency is None else latency.median_ms

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        point = trials.read_point(trial)
        self.session.progress.warning(f"{point.label if point else trial.number}: {error}")

    def make_kept(self, point: Point, outcome: Outcome) -> KeptNetwork:
        """Return the network of a point with everything needed to use it."""
        subject = self.session.subject
        data = subject.data
        images = (subject.splits, data.classes) if isinstance(data, ImageData) else ()
        return KeptNetwork.of(subject.arch.name, point, outcome, *images)

    def _report(self, point: Point, outcome: Outcome) -> None:
        about = self.session.subject.description
        test = "" if outcome.test_score is None else f", test {outcome.test_score:.2f}{about.unit}"
        name = about.score_name or "validation"
        self.session.progress.message(
            f"{point.label}: {name} {outcome.score:.2f}{about.unit}{test}, {outcome.seconds:.0f} s"
        )

    def _list_columns(
        self, point: Point, outcome: Outcome, latency: Latency | None
    ) -> dict[str, Any]:
        subject = self.session.subject
        arch = subject.arch
        costs = counted_costs(arch, outcome.widths)
        beyond = self.measure_extrapolation(point)
        if point.metric.is_timed and point.metric != LATENCY:
            costs["cost_latency"] = float(LATENCY.cost(arch)(outcome.widths))
        return costs | {
            "cost": point.metric.cost(arch)(outcome.widths),
            **({} if latency is None else _list_milliseconds(latency)),
            "tau": costs["params"],
            "score": outcome.score,
            "test_score": outcome.test_score,
            "test_score_best_epoch": outcome.test_score_best_epoch,
            "epochs": len(outcome.epochs),
            "seconds": outcome.seconds,
            "feasible": self._is_feasible(point, outcome.widths, latency),
            **({} if beyond is None else {"beyond_record": beyond}),
        }

    def _is_feasible(self, point: Point, widths: Widths, latency: Latency | None) -> bool:
        """Return whether a network is within its budget; its share of the milliseconds of the
        network of base widths is the measured one."""
        arch = self.session.subject.arch
        return all(
            (
                latency.ratio * metric.cost(arch)(arch.base_widths)
                if latency and metric == LATENCY
                else metric.cost(arch)(widths)
            )
            <= limit
            for metric, limit in point.metric.limits_at(point.budget)
        )


def _list_milliseconds(latency: Latency) -> dict[str, float | None]:
    return {
        "latency_ms": latency.median_ms,
        "latency_spread": latency.spread,
    }


def report_points(session: Session, jobs: Iterable[Job]) -> None:
    """Report how many points of these studies have ended, and how many there are."""
    finished = [
        trial
        for job in jobs
        for trial in job.stored
        if trials.read_point(trial) is not None and not trials.needs_retry(trial)
    ]
    session.progress.overall(sum(t.state.is_finished() for t in finished), len(finished))


def _list_epochs(outcome: Outcome) -> dict[str, Any]:
    """Return the numbers of every epoch; nothing for a network that was not trained."""
    if not outcome.epochs or any(map(math.isnan, outcome.losses)):
        return {}
    columns = {
        field.name: [getattr(epoch, field.name) for epoch in outcome.epochs]
        for field in fields(Epoch)
    }
    return {name: values for name, values in columns.items() if None not in values}
