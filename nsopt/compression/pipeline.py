"""The steps of a compression. What each found is stored, so that the same call continues.

1. Units of the trained network are ranked (`Fits.rankings`).
2. At every budget a few candidates are fitted to it and compared with it (`choose_widths`).
3. The best is fitted fully: from here on there are results.
4. It is trained from its fitted weights, and the next one if their agreements do not differ.
5. The best by the validation stays; weights of the fit may be these.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from nsopt.compression.budgets import (
    Solver,
    budgets_of,
    check_budgets,
    expand_curve,
    with_fast_multiple,
)
from nsopt.compression.candidates import choose_widths
from nsopt.compression.fine_tuning import KINDS, FineTuning, fine_tune
from nsopt.compression.fits import Fits
from nsopt.compression.result import Compressed, Compression
from nsopt.compute.device import place
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import describe_differences, load_network
from nsopt.errors import NsoptError
from nsopt.latency.budget import Widths
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import PARAMS, Budget, Limit, Metric, counted_costs
from nsopt.session.runner import find_latencies, store_timings, with_latency_if_needed
from nsopt.session.searching import PlannedWork, clear_finished, plan_training, tell_duration
from nsopt.session.session import Session, keep_start, start_session, warn_of_batch
from nsopt.session.subject import Subject, list_studies
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.opening import hide_password
from nsopt.storage.schema import DENSE
from nsopt.storage.trials import Point
from nsopt.tasks.accuracy import find_error, is_near_chance
from nsopt.tasks.classification import are_squashed, outputs_on
from nsopt.tasks.supervise import has_loss
from nsopt.tracing.originals import copy_model

_CALLER = 6  # frames up from a warning to who called nsopt.compress
_FEW = 100  # images that show what kind of numbers a network returns


def run_compression(
    subject: Subject,
    asked: Sequence[Budget],
    workspace: Workspace,
    progress: Progress,
) -> Compression:
    """Run the missing steps of a compression, and return its networks: see `compress`.

    An interruption while networks train ends it with the best weights so far.

    Raises:
        NoWidthsError: if no widths meet a budget.
        NsoptError: for invalid budgets, if the score is not a number, if other settings wrote the
            storage, or if every training at a budget failed.
    """
    if not subject.settings.training.epochs:
        _warn_of_unused(subject)
    subject = replace(subject, arch=subject.arch.with_rigid_kept())
    asked = expand_curve(asked, subject.arch, subject.settings)
    check_budgets(asked, subject.arch, subject.settings)
    begun = start_session(subject, workspace, progress)
    _refuse_other_settings(begun)
    _tell_score(begun)
    session, solvers = prepare(begun, asked)
    runner, budgets = FineTuning(session, Fits(session)), [s.budget for s in solvers]
    warn_of_batch(session, [budget.metric for budget in budgets])
    networks = _choose_networks(runner.fits, solvers)
    keep_start(session.subject, workspace)
    _fit_chosen(runner, networks)
    try:
        fine_tune(runner, networks)
    except KeyboardInterrupt:
        if not session.subject.settings.training.epochs:
            raise
        progress.warning("interrupted: the best weights so far follow; the same call continues")
        return _collect(runner, budgets, networks, interrupted=True)
    result = _collect(runner, budgets, networks)
    clear_finished(session)
    return result


def _warn_of_unused(subject: Subject) -> None:
    """Warn of what has no effect, or nearly none, without training."""
    if subject.trainer is not None:
        warnings.warn("epochs=0: the trainer of the task is not called", stacklevel=_CALLER)
    if subject.settings.seeds > 1:
        warnings.warn(
            "epochs=0: networks of several seeds differ only in the inputs to which they are "
            "fitted: one seed is enough",
            stacklevel=_CALLER,
        )


def _refuse_other_settings(session: Session) -> None:
    """Raise NsoptError before any work if other settings wrote the storage."""
    subject, workspace = session.subject, session.workspace
    stored = [schema.read_settings(study) for study in list_studies(subject, workspace)]
    settings = with_fast_multiple(subject.settings, [], subject.arch, stored, session.timer)
    replace(subject, settings=settings).stored_studies(workspace)


def _tell_score(session: Session) -> None:
    """Report first how good the trained network is: a wrong normalisation shows there."""
    subject, value = session.subject, read_score(session.subject, session.workspace)
    if value is None:
        value = session.validate(trained := copy_model(session.trained))
        arch, state = subject.arch, trained.state_dict()
        if changed := describe_differences(arch, arch.base_widths, state):
            raise NsoptError(
                f"{arch.name} changes the shapes of its state_dict when it runs: {changed}; give "
                "register_buffer such a table with persistent=False"
            )
    if not isinstance(subject.data, ImageData):
        session.progress.message(f"the trained network: {subject.data.score_name} {value:g}")
        return
    _warn_of_sigmoid(session)
    classes, images = len(subject.data.classes), len(subject.splits.validation)
    text = f"the trained network is right for {value:.1f} % of the {images:,} validation images"
    if not is_near_chance(value, classes, images):
        session.progress.message(text)
        return
    session.progress.warning(
        f"{text}, and guessing for {100 / classes:.1f} %: are these its trained weights, and are "
        "mean= and std= those of its training?"
    )


def _warn_of_sigmoid(session: Session) -> None:
    """Warn if the trained network returns numbers between 0 and 1 that are no probabilities."""
    splits, compute = session.subject.splits, session.compute
    few = splits.validation.take(range(min(_FEW, len(splits.validation))))
    model = place(copy_model(session.trained), compute.device, session.subject.arch.layout)
    outputs = outputs_on(few, model.eval(), splits, compute)
    if are_squashed(outputs):
        session.progress.warning(
            "the outputs of the trained network lie between 0 and 1, as after Sigmoid, and nsopt "
            "takes them as logits, which loses accuracy: give the network without that last layer, "
            "or an nsopt.Task with a loss of its outputs"
        )


def read_score(subject: Subject, workspace: Workspace) -> float | None:
    """Return the stored score of the trained network on the same validation data."""
    study = workspace.studies(subject.name).get(DENSE)
    done = trials.read_completed(study)
    if study is None or not done:
        return None
    stored = schema.read_settings(study)
    asked = subject.settings.start, subject.identity["data"]
    return float(done[0].values[0]) if (stored["start"], stored["data"]) == asked else None


def prepare(session: Session, asked: Sequence[Budget]) -> tuple[Session, list[Solver]]:
    """Return the session with a latency model and rounding if a budget needs them, and a solver for
    each budget.

    Raises:
        NsoptError: for a budget that the base network meets.
    """
    timer, workspace = session.timer, session.workspace
    is_timed = any(budget.is_timed for budget in asked)
    subject = with_latency_if_needed(session.subject, is_timed, workspace, session.progress)
    arch, budgets = subject.arch, budgets_of(asked, subject.arch)
    stored = [schema.read_settings(study) for study in list_studies(subject, workspace)]
    settings = with_fast_multiple(subject.settings, budgets, arch, stored, timer)
    session = replace(session, subject=replace(subject, settings=settings))
    if is_timed:
        timer = store_timings(session, session.open_study(DENSE))
    return session, [Solver(budget, arch, settings, timer) for budget in budgets]


def _choose_networks(fits: Fits, solvers: Sequence[Solver]) -> dict[Point, Widths]:
    """Return the widths to train: of the trained network, and at each budget the best candidates.

    Raises:
        NoWidthsError: if no widths meet a budget. Uniform ones are solved for all, first.
    """
    session = fits.session
    arch, first = session.subject.arch, _first_seed(session)
    stored = session.studies().get(DENSE)
    known = {
        solver: [] if stored is None else _read_candidates(stored, solver.budget)
        for solver in solvers
    }
    if not all(known.values()):
        _ = fits.compare  # inputs and distances that nothing can use end here, before the storage
    dense = session.open_study(DENSE)
    law = uniform_curve(arch.base_widths)
    uniform = {solver: solver.solve(law) for solver in solvers if not known[solver]}
    if uniform:
        tell_duration(session, _list_work(session, list(uniform.values())))
    for solver, widths in uniform.items():
        known[solver] = choose_widths(fits, solver, widths)
        metric, limit = _key(solver.budget)
        schema.write_candidates(dense, metric.name, limit, known[solver])
    whole = PARAMS.cost(arch)(arch.base_widths)
    networks = {Point(DENSE, PARAMS, whole, first, ratio=1.0): arch.base_widths}
    for solver, candidates in known.items():
        metric, limit = solver.budget.metric, solver.budget.limit
        for candidate in candidates:
            last = first + session.subject.settings.seeds if candidate.trained else first
            for seed in range(first, last):
                networks[Point(candidate.name, metric, limit, seed)] = candidate.widths
    return networks


def _fit_chosen(runner: FineTuning, networks: Mapping[Point, Widths]) -> None:
    """Fit the networks that are not trained yet: from here on there are results."""
    first, studies = _first_seed(runner.session), runner.session.studies()
    for point, widths in networks.items():
        completed = trials.read_completed(studies.get(point.method))
        done = {trials.read_point(trial) for trial in completed}
        if point.method != DENSE and point.seed == first and point not in done:
            runner.fits.fit(point, widths)


def _read_candidates(dense: Study, budget: Budget) -> Sequence[schema.StoredCandidate]:
    return schema.read_candidates(dense, budget.metric.name, budget.limit)


def _first_seed(session: Session) -> int:
    return session.subject.settings.training.seed


def _list_work(session: Session, uniform: Sequence[Widths]) -> Iterator[PlannedWork]:
    """Yield the trainings; nothing if a user's trainer counts its steps, or without a loss, whose
    steps cannot be timed before.

    Args:
        uniform: uniform widths at each budget.
    """
    subject, training = session.subject, session.subject.settings.training
    if subject.trainer is not None or not training.epochs or not has_loss(subject.data):
        return
    for widths in uniform:
        work = plan_training(session, training, widths, "training, after the fits")
        yield work._replace(steps=subject.settings.seeds * work.steps)


def _collect(
    runner: FineTuning,
    budgets: Sequence[Budget],
    networks: Mapping[Point, Widths],
    interrupted: bool = False,
) -> Compression:
    """Return the networks of a compression, and store their table."""
    session, arch = runner.session, runner.session.subject.arch
    whole = Budget("100%", (Limit(PARAMS, PARAMS.cost(arch)(arch.base_widths)),))
    studies = session.studies()
    dense, *smaller = (
        _find_best(runner, studies, budget, networks, interrupted) for budget in (whole, *budgets)
    )
    if runner.is_timed:
        timed = [(studies[found.network.method], found.widths) for found in (dense, *smaller)]
        times = [latency.median_ms for latency in find_latencies(session, timed)]
        dense, *smaller = (
            replace(found, latency=ms) for found, ms in zip((dense, *smaller), times, strict=True)
        )
    named = {found.budget: found for found in smaller}
    about = session.subject.description
    result = Compression(dense, named, session.subject.name, about, session.workspace)
    schema.write_networks(studies[DENSE], result.rows())
    return result


def _find_best(
    runner: FineTuning,
    studies: Mapping[str, Study],
    budget: Budget,
    networks: Mapping[Point, Widths],
    interrupted: bool,
) -> Compressed:
    """Return the network at a budget whose study has the best mean score, of its best seed; after
    an interruption perhaps a training so far, or a fit."""
    session, subject = runner.session, runner.session.subject
    scores = {kind: _list_scores(studies.get(kind), budget) for kind in KINDS}
    if any(scores.values()):
        kind = max(KINDS, key=lambda kind: np.mean(scores[kind] or -math.inf))
        trial = best_trials(studies[kind])[budget.metric.name, budget.limit]
        file = BestNetworks(session.workspace.artifacts).file(studies[kind], trial)
        epochs = planned = int(trials.read_outcome(trial)["epochs"])
        network = load_network(file, subject.arch)
    elif interrupted:
        points = [point for point in networks if (point.metric, point.budget) == _key(budget)]
        point = max(points, key=lambda point: _score_so_far(runner, point))
        widths = networks[point]
        if stop := runner.stopped.get(point):
            outcome, epochs, planned = stop.outcome, len(stop.outcome.epochs), stop.planned
        else:
            is_dense = point.method == DENSE
            outcome = session.evaluate_start() if is_dense else runner.score_fit(point, widths)
            epochs, planned = 0, 0 if is_dense else subject.settings.training.epochs
        network = runner.make_kept(point, outcome)
    else:
        raise NsoptError(_explain_failure(session, studies, budget))
    images = subject.validation_images
    known = {c.name: c.agreement for c in _read_candidates(studies[DENSE], budget)}
    return Compressed(
        budget=budget.word,
        network=network,
        agreement=known.get(network.method),
        error=None if images is None else find_error(network.score, images),
        cost=counted_costs(subject.arch, network.widths),
        latency=None,
        epochs=epochs,
        planned=planned,
    )


def _score_so_far(runner: FineTuning, point: Point) -> float:
    """Return the best score of an interrupted training; of one that has not begun the lowest."""
    stop = runner.stopped.get(point)
    return -math.inf if stop is None else stop.outcome.score


def _key(budget: Budget) -> tuple[Metric, float]:
    return budget.metric, budget.limit


def _list_scores(study: Study | None, budget: Budget) -> list[float]:
    return [trial.values[0] for trial in trials.read_completed(study) if _is_at(trial, budget)]


def _is_at(trial: FrozenTrial, budget: Budget) -> bool:
    point = trials.read_point(trial)
    return point is not None and (point.metric, point.budget) == _key(budget)


def _explain_failure(session: Session, studies: Mapping[str, Study], budget: Budget) -> str:
    tried = [trial for kind in KINDS if kind in studies for trial in studies[kind].trials]
    reasons = [trials.read_failure(trial) for trial in tried if _is_at(trial, budget)]
    why = next((f" ({reason})" for reason in reasons if reason), "")
    failure, place = f"no training at {budget.word} succeeded{why}", session.workspace
    return failure if place.temporary else f"{failure}: see {hide_password(place.url)}"
