"""The schema of trials in Optuna storage: a point, set by enqueueing, and an outcome."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from optuna.distributions import IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import Field, FiniteFloat, PlainSerializer, PlainValidator

from nsopt.scaling.metric import METRICS, PARAMS, Metric, get_metric
from nsopt.scaling.record import Iteration
from nsopt.storage import internals, schema
from nsopt.storage.schema import Attribute, damage, read

LARGEST_WIDTH = 2**16
BUDGET = "budget"
_Number = int | float
_Score = int | FiniteFloat
_Width = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
OUTCOME_COLUMNS: dict[str, Any] = {  # with their types
    "method": str,
    "ratio": _Number,
    "metric": str,
    "budget": Annotated[_Number, Field(gt=0)],
    "seed": int,
    "cost": _Number,
    "params": int,
    "macs": int,
    "latency_ms": _Number,
    "latency_spread": _Number,
    "tau": _Number,
    "score": _Score,
    "test_score": _Score,
    "test_score_best_epoch": _Score,
    "epochs": int,
    "seconds": _Number,
    "feasible": bool,
    "beyond_record": _Number,
    "binding": str,
    "cost_latency": _Number,
}
_COST, _WIDTH = "cost", "width_"
_Iteration = Annotated[
    Iteration, PlainValidator(Iteration.from_dict), PlainSerializer(Iteration.to_dict)
]
_ITERATION = Attribute[Iteration]("iteration", _Iteration)
_ITERATION_NUMBER = "iteration_number"
_CURVES = Attribute[dict[str, list[float]]]("curves_per_epoch", dict[str, list[_Number]])
_ERROR = Attribute[str]("error", str)
_WORKER = Attribute[str]("worker", str)
_LOCATION = Attribute[str]("network_at", str)
_PROVENANCE = Attribute[str]("provenance", str)
_EPOCHS = Attribute[int]("pretrain_epochs", int)
_INDEX = Attribute[int]("index", int)
read_failure, read_worker, read_location = _ERROR.read, _WORKER.read, _LOCATION.read
read_budget = Attribute[float | str](BUDGET, _Number | str).read  # as a trial was enqueued


@dataclass(frozen=True)
class Point:
    """What one trial runs: a method at a budget, with a seed.

    Attributes:
        metric: what the budget limits.
        budget: the limit, in the unit of the metric.
        ratio: width ratio from which the budget follows; None if the user gave the budget.
    """

    method: str
    metric: Metric
    budget: int | float
    seed: int
    ratio: float | None = field(default=None, compare=False)

    @property
    def size(self) -> str:
        return size_label(self.budget, self.metric, self.ratio)

    @property
    def label(self) -> str:
        return f"{self.method} {self.size} seed {self.seed}"

    @property
    def attributes(self) -> dict[str, Any]:
        return {**vars(self), "metric": self.metric.name}


@dataclass(frozen=True)
class TuningPoint:
    """What one trial of a tuning study runs.

    Attributes:
        pretrain_epochs: P, or None.
        index: index of the trial among those whose parameters are sampled, or None.
    """

    seed: int
    pretrain_epochs: int | None = None
    index: int | None = None


def width_parameter(layer_name: str) -> str:
    return f"{_WIDTH}{layer_name}"


def size_label(budget: float, metric: Metric, ratio: float | None) -> str:
    """Format a budget, such as `600,000 params`.

    With a ratio the result is `0.25x`, or `0.25x MACs` if the metric is not parameters.
    """
    if ratio is None:
        return metric.show(budget)
    return f"{ratio:g}x" if metric == PARAMS else f"{ratio:g}x {metric.noun}"


def enqueue_point(
    study: Study, point: Point | TuningPoint, parameters: Mapping[str, float] | None = None
) -> None:
    """Enqueue a trial that runs `point`, with fixed `parameters` if given."""
    values = point.attributes if isinstance(point, Point) else asdict(point)
    attributes = {name: value for name, value in values.items() if value is not None}
    parameters = dict(parameters or {})
    if isinstance(point, TuningPoint) and point.pretrain_epochs is not None:
        parameters = {_EPOCHS.name: point.pretrain_epochs}
    study.enqueue_trial(parameters, user_attrs=attributes)


def read_point(trial: FrozenTrial | Trial) -> Point | None:
    """Return the point of a trial; None if it was enqueued without a point.

    Raises:
        NsoptError: if the point is damaged, or if this version of nsopt does not know the metric.
    """
    names = ("method", "metric", "budget", "seed", "ratio")
    method, metric, budget, seed, ratio = (_read_column(trial, name) for name in names)
    if None in (method, metric, budget, seed):
        return None
    with damage(trial, "metric"):
        return Point(method, get_metric(metric), budget, seed, ratio)


def _read_column(trial: FrozenTrial | Trial, name: str) -> Any:
    return read(trial, name, OUTCOME_COLUMNS[name] | None)


def is_in_other_unit(trial: FrozenTrial, metric: str | None) -> bool:
    """Return whether the budget of a trial is in another metric; attributes of users are none."""
    given = trial.user_attrs.get("metric")
    return isinstance(given, str) and (given in METRICS or "=" in given) and given != metric


def is_width(parameter: str) -> bool:
    return parameter.startswith(_WIDTH)


def write_missing(study: Study, trial: FrozenTrial, numbers: Mapping[str, Any]) -> None:
    """Write the columns that a trial does not have, also to `trial`; a budget in words becomes a
    number."""
    for name, value in numbers.items():
        given = trial.user_attrs.get(name)
        if value is not None and (given is None or (name == BUDGET and isinstance(given, str))):
            internals.write_attribute(study, trial, name, value)
            trial.set_user_attr(name, value)


def write_cost(study: Study, trial: FrozenTrial, numbers: Mapping[str, Any]) -> None:
    """Write `budget`, `cost` and other columns; the excess over the budget becomes a constraint."""
    write_missing(study, trial, numbers)
    excess = (numbers[_COST] - numbers[BUDGET]) / numbers[BUDGET]
    internals.write_constraint(study, trial, BUDGET, excess)


def write_limits(
    study: Study, trial: FrozenTrial, limits: Mapping[str, tuple[float, float]], binding: str | None
) -> None:
    """Write the budgets of a trial that limit one network at once; each becomes a constraint.

    Args:
        limits: by metric, the budget and the cost of the trial's network.
        binding: name of the metric whose budget stops the network, or None.
    """
    for name, (budget, cost) in limits.items():
        internals.write_attribute(study, trial, f"{BUDGET}_{name}", budget)
        if f"{_COST}_{name}" not in trial.user_attrs:  # as predicted, before it was corrected
            internals.write_attribute(study, trial, f"{_COST}_{name}", cost)
        internals.write_constraint(study, trial, f"{BUDGET}_{name}", (cost - budget) / budget)
    if binding is not None:
        internals.write_attribute(study, trial, "binding", binding)


def read_widths(trial: FrozenTrial, layer_names: Sequence[str]) -> tuple[int, ...]:
    """Return the widths of a trial, in forward order."""
    names = [width_parameter(name) for name in layer_names]
    return tuple(read(trial, name, _Width, trial.params) for name in names)


def write_run(trial: Trial, provenance: Mapping[str, str]) -> None:
    """Write which process runs a trial, `HOST:PROCESS`, and its provenance.

    A retry overwrites both. The provenance of the study is that of its first process.
    """
    _WORKER.write(trial, f"{platform.node()}:{os.getpid()}")
    _PROVENANCE.write(trial, _format_provenance(provenance))


def write_location(trial: Trial, folder: Path) -> None:
    """Write where the network of a trial is stored, `HOST:FOLDER`."""
    _LOCATION.write(trial, f"{platform.node()}:{folder.resolve()}")


def read_all_provenance(study: Study) -> dict[str, str]:
    """Return the provenance of a study, and the different provenance of trials as text."""
    provenance = schema.read_provenance(study)
    texts = map(_PROVENANCE.read, study.get_trials(deepcopy=False))
    others = sorted({text for text in texts if text} - {_format_provenance(provenance)})
    return provenance | ({"other trials": "; ".join(others)} if others else {})


def _format_provenance(provenance: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in provenance.items())


def write_outcome(
    trial: Trial, numbers: Mapping[str, Any], curves: Mapping[str, Sequence[float]]
) -> None:
    """Write a running trial's outcome: flat values, and lists with one value per epoch."""
    for name, value in numbers.items():
        if value is not None:
            trial.set_user_attr(name, value)
    if curves:
        _CURVES.write(trial, {name: list(values) for name, values in curves.items()})


def read_outcome(trial: FrozenTrial, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Return the values of `OUTCOME_COLUMNS` in a trial; None for missing ones.

    Raises NsoptError if one is damaged, or if one of the `needed` ones is missing.
    """
    found = {name: read(trial, name, OUTCOME_COLUMNS[name]) for name in needed}
    return {name: _read_column(trial, name) for name in OUTCOME_COLUMNS} | found


def read_completed(study: Study | None) -> list[FrozenTrial]:
    """Return the completed trials of a study, if any. They are no copies: do not change them."""
    return [] if study is None else study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def read_curves(trial: FrozenTrial) -> dict[str, list[float]]:
    """Return training loss, validation and test accuracy per epoch."""
    curves = _CURVES.read(trial) or {}
    with damage(trial, _CURVES.name):
        list(zip(*curves.values(), strict=True))
    return curves


def write_failure(study: Study, trial: FrozenTrial, error: Exception) -> None:
    """Write why a trial failed. A trial with such a reason is not retried."""
    internals.write_attribute(study, trial, _ERROR.name, str(error))


def write_duplicate(study: Study, trial: FrozenTrial, original: FrozenTrial) -> None:
    """Write that a trial has the same point as an earlier one."""
    internals.write_attribute(study, trial, "duplicate_of", original.number)


def needs_retry(trial: FrozenTrial) -> bool:
    """Return whether a trial failed, but for no reason for which it would fail again."""
    return trial.state == TrialState.FAIL and read_failure(trial) is None


def search_trial(
    iteration: Iteration, number: int, layer_names: Sequence[str], provenance: Mapping[str, str]
) -> FrozenTrial:
    """Return a completed trial for one iteration of descent. `number` starts at 1."""
    lowest_r2 = float(iteration.law.r2.min())
    names = [width_parameter(name) for name in layer_names]
    return create_trial(
        state=TrialState.COMPLETE,
        values=[lowest_r2, iteration.seconds],
        params=dict(zip(names, iteration.widths, strict=True)),
        distributions={name: IntDistribution(1, LARGEST_WIDTH) for name in names},
        user_attrs={
            "method": schema.SEARCH,
            _ITERATION_NUMBER: number,
            "seconds": iteration.seconds,
            "rows": len(iteration.record.tau),
            "lowest_r2": lowest_r2,
            _PROVENANCE.name: _format_provenance(provenance),
            _ITERATION.name: iteration.to_dict(),
        },
    )


def read_iterations(study: Study | None) -> list[Iteration]:
    """Return the iterations of a search in order; if two processes searched, the first ones."""
    by_number = dict[int, Iteration]()
    for trial in study.get_trials(deepcopy=False) if study else ():
        iteration = _ITERATION.read(trial)
        if iteration is not None:
            by_number.setdefault(read(trial, _ITERATION_NUMBER, int), iteration)
    return [by_number[number] for number in sorted(by_number)]


def read_seed(trial: FrozenTrial | Trial) -> int:
    seed: int = read(trial, "seed", int)
    return seed


def is_of_tuning(trial: FrozenTrial) -> bool:
    """Return whether nsopt enqueued a trial of a tuning study."""
    return "seed" in trial.user_attrs


def read_tuning_point(trial: FrozenTrial) -> TuningPoint:
    return TuningPoint(read_seed(trial), _EPOCHS.read(trial), _INDEX.read(trial))
