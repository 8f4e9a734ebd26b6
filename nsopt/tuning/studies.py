"""The Optuna studies of a comparison: made once, continued by the same settings only."""

from collections.abc import Sequence

import optuna
from optuna.distributions import IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.descent import descend
from nsopt.progress import Progress
from nsopt.pruning.record import Iteration
from nsopt.training.device import describe_device, resolve_compute
from nsopt.training.machine import Machine
from nsopt.tuning import schema
from nsopt.tuning.methods import descent_iterations
from nsopt.tuning.provenance import provenance
from nsopt.tuning.request import Comparison
from nsopt.tuning.sampler import LARGEST_WIDTH
from nsopt.tuning.settings import check_settings
from nsopt.tuning.storage import load_studies, storage_exists


def existing_studies(comparison: Comparison) -> dict[str, Study]:
    """What the storage already holds of this comparison, by method; writes nothing.

    NsoptError if it was written by other settings.
    """
    if not storage_exists(comparison.storage):
        return {}
    studies = load_studies(comparison.opened_storage, comparison.prefix)
    for study in studies.values():
        if schema.read_settings(study):
            check_settings(study.study_name, comparison.identity, schema.read_settings(study))
    return studies


def open_study(comparison: Comparison, method: str) -> Study:
    """The study of `method`, made if it is not there yet."""
    searching = method == schema.SEARCH
    study = optuna.create_study(
        study_name=comparison.study_name(method),
        storage=comparison.opened_storage,
        directions=schema.DIRECTIONS,
        load_if_exists=True,
    )
    if not schema.read_settings(study):
        compute = resolve_compute(
            comparison.settings.training.device, comparison.settings.training.precision
        )
        schema.write_identity(
            study,
            comparison.subject,
            comparison.source,
            comparison.identity,
            provenance(describe_device(compute.device), "bf16" if compute.bf16 else "fp32"),
            schema.SEARCH_METRIC_NAMES if searching else schema.METRIC_NAMES,
        )
    return study


def continue_search(
    comparison: Comparison,
    stored: Study | None,
    progress: Progress,
    machine: Machine | None = None,
) -> list[Iteration]:
    """The iterations of architecture descent that the methods need: those stored in its study,
    then the missing ones.

    An iteration is written when it has ended, as one completed trial: an error or an interruption
    leaves the storage as it was. Within an iteration, a checkpoint is what the same command goes
    on from. machine: what the search shares with other processes.
    """
    iterations = descent_iterations(comparison.methods, comparison.settings)
    if not iterations:
        return []
    settings = comparison.settings.search.updated(iterations=iterations)
    history = schema.read_iterations(stored) if stored else []
    checkpoint = comparison.checkpoints / "search.pt"
    for iteration in descend(
        comparison.arch, comparison.data, settings, list(history), progress, checkpoint, machine
    ):
        history.append(iteration)
        study = open_study(comparison, schema.SEARCH)
        study.add_trial(_search_trial(comparison, iteration, len(history)))
        progress.message(
            f"search iteration {len(history)}: {len(iteration.record.tau)} rows, "
            f"r2 {iteration.law.r2.min():.3f} at least, {iteration.seconds:.0f} s"
        )
    return history[:iterations]


def _search_trial(comparison: Comparison, iteration: Iteration, number: int) -> FrozenTrial:
    names = [schema.width_parameter(name) for name in comparison.arch.layer_names]
    return optuna.create_trial(
        state=TrialState.COMPLETE,
        values=[float(iteration.law.r2.min()), iteration.seconds],
        params=dict(zip(names, iteration.widths, strict=True)),
        distributions={name: IntDistribution(1, LARGEST_WIDTH) for name in names},
        user_attrs=schema.iteration_attributes(iteration, number),
    )


def missing_points(study: Study | None, points: Sequence[schema.Point]) -> list[schema.Point]:
    """Points without a trial that is done, running or waiting.

    A trial that failed for a stored reason is done: it would fail again.
    """
    settled = set()
    for trial in study.get_trials(deepcopy=False) if study else []:
        if trial.state != TrialState.FAIL or schema.ERROR in trial.user_attrs:
            settled.add(schema.read_point(trial))
    return [point for point in points if point not in settled]
