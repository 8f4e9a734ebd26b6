"""The steps of a compression. Each is an Optuna study, so that the same call continues them.

A search starts from the trained network and yields laws. Scores after a few training steps choose
the widths at every budget. The network of these widths and the uniform one inherit the most
important units and are fine-tuned; their scores on validation data can overrule those before.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from optuna.study import Study

from nsopt.compression.budgets import (
    Budget,
    budgets_of,
    check_budgets,
    check_time,
    expand_curve,
    naming,
)
from nsopt.compression.choice import choose_method, find_error, is_near_chance
from nsopt.compression.fine_tuning import KINDS, Widths, fine_tune
from nsopt.compression.fits import Fits
from nsopt.compression.latency import Solver, with_fast_multiple
from nsopt.compression.result import Compressed, Compression
from nsopt.compression.scores import choose_widths, find_trained, has_ended, read_scores
from nsopt.compute.device import place
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import KeptNetwork, load_network
from nsopt.deployment.trained import describe_differences
from nsopt.errors import NsoptError
from nsopt.models.tracing.architecture import keep_rigid
from nsopt.models.tracing.originals import copy_model
from nsopt.progress import Progress
from nsopt.pruning.inherited import SCORE_STEPS
from nsopt.scaling.budget import AskedBudget
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import PARAMS, Metric, counted_costs
from nsopt.session.durations import (
    PlannedWork,
    list_searches,
    plan_training,
    tell_duration,
)
from nsopt.session.searching import clear_finished, list_prices
from nsopt.session.session import Session, start_session, warn_of_batch
from nsopt.session.start import keep_start
from nsopt.session.subject import Subject, list_studies, with_stored_latency
from nsopt.session.timing import find_latencies, store_timings
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.schema import DENSE, SCORED, UNIFORM
from nsopt.storage.trials import Point
from nsopt.storage.urls import hide_password
from nsopt.tasks.classification import are_squashed, outputs_on
from nsopt.tasks.supervise import has_loss

_CALLER = 6  # frames up from a warning to who called nsopt.compress
_FEW = 100  # images that show what kind of numbers a network returns


def run_compression(
    subject: Subject,
    asked: Sequence[AskedBudget],
    candidates: int,
    seeds: int,
    workspace: Workspace,
    progress: Progress,
) -> Compression:
    """Run the missing steps of a compression, and return its networks: see `compress`.

    Raises:
        NoWidthsError: if no widths meet a budget.
        NsoptError: for invalid budgets, if the score is not a number, if other settings wrote the
            storage, or if every training at a budget failed.
    """
    if not subject.settings.training.epochs:
        _warn_of_unused(subject, seeds)
    subject = replace(subject, arch=keep_rigid(subject.arch))
    asked = expand_curve(asked, subject.arch, subject.settings)
    check_budgets(asked, subject.arch, subject.settings)
    with start_session(subject, workspace, progress) as begun:
        _refuse_other_settings(begun)
        _tell_score(begun)
        fits = Fits(begun)
        session, solvers = prepare(begun, asked)
        warn_of_batch(session, [solver.budget.metric for solver in solvers])
        networks = _choose_networks(session, solvers, fits, candidates, seeds)
        keep_start(session.subject, workspace)
        # Workers have fewer threads, with which sums end a little apart: each fits for itself.
        fine_tune(session, networks, fits if workspace.workers == 1 else Fits(session))
        result = _collect(session, [solver.budget for solver in solvers])
        clear_finished(session)
    return result


def _warn_of_unused(subject: Subject, seeds: int) -> None:
    """Warn of what has no effect, or nearly none, without training."""
    if subject.trainer is not None:
        warnings.warn("epochs=0: the trainer of the task is not called", stacklevel=_CALLER)
    if seeds > 1:
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


def prepare(session: Session, asked: Sequence[AskedBudget]) -> tuple[Session, list[Solver]]:
    """Return the session with a latency model and rounding if a budget needs them, and a solver for
    each budget.

    Raises:
        NsoptError: for invalid budgets; most are found before nsopt measures anything.
    """
    subject, timer = session.subject, session.timer
    arch, studies = subject.arch, list_studies(subject, session.workspace)
    is_timed = any(budget.is_timed for budget in asked)
    if is_timed:  # a stored model has priority: budgets keep their meaning
        arch = with_stored_latency(arch, studies, subject.settings.timed)
        if arch.latency is None:
            arch = timer.learn(arch, partial(check_time, asked, arch))
    budgets = budgets_of(asked, arch)
    stored = [schema.read_settings(study) for study in studies]
    settings = with_fast_multiple(subject.settings, budgets, arch, stored, timer)
    session = replace(session, subject=replace(subject, arch=arch, settings=settings))
    if is_timed:
        timer = store_timings(session, session.open_study(UNIFORM))
    return session, [Solver(budget, arch, settings, timer) for budget in budgets]


def _choose_networks(
    session: Session, solvers: Sequence[Solver], fits: Fits, candidates: int, seeds: int
) -> dict[Point, Widths]:
    """Return the widths to fine-tune: the trained network, and at each budget the uniform ones and
    those with the best score; without epochs those that a fit loses least by.

    Raises:
        NoWidthsError: if no widths meet a budget. Uniform ones are solved for all, first.
    """
    arch, settings = session.subject.arch, session.subject.settings
    law, first = uniform_curve(arch.base_widths), settings.training.seed
    uniform = []
    for solver in solvers:
        with naming(solver.budget, settings):
            known = find_trained(session, solver.budget, UNIFORM)
            uniform.append(known or solver.solve(law))
    stored = session.studies()
    new = [
        (solver.budget.metric, widths)
        for solver, widths in zip(solvers, uniform, strict=True)
        if len(_list_scores(stored, solver.budget, UNIFORM)) < seeds
    ]
    if new:
        fits.announce(len(new), seeds)
        tell_duration(session, _list_work(session, new, 0 if fits.lead else candidates, seeds))
    whole = PARAMS.cost(arch)(arch.base_widths)
    networks = {Point(DENSE, PARAMS, whole, first, ratio=1.0): arch.base_widths}
    for solver, widths in zip(solvers, uniform, strict=True):
        budget = solver.budget
        if fits.lead:
            best = find_trained(session, budget)
            if best is None:
                best = widths if has_ended(session, budget) else fits.choose_widths(solver, widths)
        else:
            with naming(budget, settings):
                best = choose_widths(session, solver, candidates)
        for seed in range(first, first + seeds):
            networks[Point(UNIFORM, budget.metric, budget.limit, seed)] = widths
            if best != widths:
                networks[Point(SCORED, budget.metric, budget.limit, seed)] = best
    return networks


def _list_work(
    session: Session, networks: Sequence[tuple[Metric, Widths]], candidates: int, seeds: int
) -> Iterator[PlannedWork]:
    """Yield searches and scores, if there are candidates, and fine-tuning; nothing if a user's
    trainer counts its steps, or without a loss, whose steps cannot be timed before.

    Args:
        networks: uniform widths at each budget, with its metric.
    """
    subject, settings = session.subject, session.subject.settings
    if subject.trainer is not None or not settings.training.epochs or not has_loss(subject.data):
        return
    if candidates:
        prices = [price for metric, _ in networks for price in list_prices(metric)]
        yield from list_searches(session, dict.fromkeys(prices, 1))
        for _, widths in networks:
            yield PlannedWork(
                "scores", candidates * SCORE_STEPS, widths, settings.search.batch_size
            )
    for _, widths in networks:
        work = plan_training(session, settings.training, widths, "fine-tuning")
        yield work._replace(steps=2 * seeds * work.steps)


def _collect(session: Session, budgets: Sequence[Budget]) -> Compression:
    """Return the networks of a compression, and store their table."""
    subject, studies = session.subject, session.studies()
    whole = Budget("100%", PARAMS, PARAMS.cost(subject.arch)(subject.arch.base_widths))
    best = {budget: _find_best(session, studies, budget) for budget in (whole, *budgets)}
    timed = [(studies[network.method], network.widths) for network in best.values()]
    images = subject.validation_images
    dense, *smaller = (
        Compressed(
            budget=budget.word,
            network=network,
            before=read_scores(session, budget).get(network.widths),
            uniform=max(_list_scores(studies, budget, UNIFORM), default=None),
            error=None if images is None else find_error(network.score, images),
            cost=counted_costs(subject.arch, network.widths),
            latency=latency.median_ms,
        )
        for (budget, network), latency in zip(
            best.items(), find_latencies(session, timed), strict=True
        )
    )
    networks = {network.budget: network for network in smaller}
    result = Compression(dense, networks, subject.name, subject.description, session.workspace)
    schema.write_networks(studies[DENSE], result.rows())
    return result


def _find_best(session: Session, studies: Mapping[str, Study], budget: Budget) -> KeptNetwork:
    """Return the network at a budget that `choose_method` names, of its best seed."""
    subject = session.subject
    listed = {method: _list_scores(studies, budget, method) for method in KINDS}
    scores = {method: values for method, values in listed.items() if values}
    if not scores:
        tried = [trial for method in KINDS if method in studies for trial in studies[method].trials]
        reasons = [trials.read_failure(trial) for trial in tried if budget.holds(trial)]
        why = next((f" ({reason})" for reason in reasons if reason), "")
        failure, place = f"no training at {budget.word} succeeded{why}", session.workspace
        if place.temporary:
            raise NsoptError(failure)
        raise NsoptError(f"{failure}: see {hide_password(place.url)}")
    name = choose_method(scores, subject.validation_images)
    best = best_trials(studies[name])[budget.metric.name, budget.limit]
    file = BestNetworks(session.workspace.artifacts).file(studies[name], best)
    return load_network(file, subject.arch)


def _list_scores(studies: Mapping[str, Study], budget: Budget, method: str) -> list[float]:
    done = trials.read_completed(studies.get(method))
    return [trial.values[0] for trial in done if budget.holds(trial)]
