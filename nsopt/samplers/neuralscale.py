"""An Optuna sampler that proposes a network's widths at a budget, from a law."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.models.architecture import Architecture
from nsopt.scaling.algorithm3 import SgdFit
from nsopt.scaling.cost import CostFunction, JointCost, Widths, width_limits
from nsopt.scaling.law import PowerLaw, ScalingLaw
from nsopt.scaling.metric import get_metric
from nsopt.scaling.solve import WidthFit, solve_widths
from nsopt.settings import checked
from nsopt.storage import internals, trials

Fit = WidthFit | SgdFit
Solver = Callable[..., Fit]  # of a law, a cost and a budget
_NARROWER, _WIDER = 32, 8  # default range of widths, in factors of the base widths


@checked
def suggest_widths(
    trial: BaseTrial,
    arch: Architecture,
    low: int | Widths | None = None,
    high: int | Widths | None = None,
    log: bool = True,
    step: int = 1,
) -> tuple[int, ...]:
    """Suggest one integer parameter `width_<layer name>` per searched layer.

    Args:
        trial: a running trial, or a FixedTrial.
        arch: the network, with L searched layers.
        low: smallest widths, for all layers or one each (L,); by default a 32nd of the base widths,
            or the narrowest that the network can have. The range must contain the law's widths.
        high: largest widths, for all layers or one each; by default eight times the base widths, or
            the widest that the network can have.
        log: whether other samplers propose on a logarithmic scale, for `step=1` only.
        step: between widths, such as 8 with a sampler whose solver rounds to 8.

    Returns:
        L widths, for `arch.build` or `nsopt.train`.

    Examples:
        >>> def objective(trial):
        ...     widths = nsopt.suggest_widths(trial, arch)
        ...     return nsopt.train(arch, widths, data, settings).val_accuracy
    """
    base = np.array(arch.base_widths)
    narrowest = -(-np.array(arch.narrowest) // step)
    least = np.maximum(base // _NARROWER // step, narrowest) * step
    lowest = least if low is None else low
    widest = width_limits(arch.cost("params"), len(base))[1]
    most = np.minimum(base * _WIDER, widest).astype(int)
    highest = np.maximum(most // step * step, least) if high is None else high
    try:
        ranges = np.broadcast_arrays(lowest, highest, base)[:2]
    except ValueError:
        raise NsoptError(f"low and high must be one number, or {len(base)} of them") from None
    if step < 1 or (ranges[0] < 1).any() or (ranges[0] > ranges[1]).any():
        raise NsoptError("low and step must be at least 1, and low at most high")
    return tuple(
        trial.suggest_int(
            trials.width_parameter(name), int(least), int(most), log=log and step == 1, step=step
        )
        for name, least, most in zip(arch.layer_names, *ranges, strict=True)
    )


class NeuralScaleSampler(BaseSampler):
    """An Optuna sampler that proposes the widths of a law at each trial's budget.

    A trial enqueued with a user attribute `budget`, a number or words, gets the widths for that
    budget; other trials take `budgets` in turn. All other parameters go to `independent_sampler`;
    a `GridSampler` runs each of its points at every budget.

    With the first width `budget` and `metric` become user attributes, so that a trial that is
    retried keeps its budget. When a trial ends, so does `cost`, and the excess over the budget
    becomes a constraint. Widths that were all enqueued get the smallest of `budgets` that holds
    them. If the budget is outside the record to which the law was fitted, `beyond_record` says how
    far, and a UserWarning says so before.

    Several budgets at once are `"params=250k,macs=20M"` in place of `cost`. Each has its own
    constraint, and the attribute `binding` names the one that stops the network. A trial's budget
    is then a share of all of them, by default 1.

    Args:
        law: a fitted law, or any other such as `uniform_curve(base_widths)`.
        cost: the name of a metric, as in commands; or maps widths to a cost, as
            `arch.cost("params")` does.
        network: the architecture, which a metric's name needs; or the names of its L layers in
            order. The parameters are called `width_<layer name>`.
        budgets: for trials without a `budget` of their own: a number or several, or words such as
            "600k" and "5ms", which are read as in commands.
        independent_sampler: for parameters other than widths; TPE by default.
        seed: of the default `independent_sampler` and of `spread`.
        spread: standard deviation of a random shift of every layer's log-width, new for each trial.
            The shifted law is solved for the same budget. The shift depends only on `seed` and the
            number of the trial, or of the first one that it retries.
        solver: gives the widths of a law at a cost and a budget: `solve_widths`, which never
            exceeds a budget. `functools.partial(nsopt.solve_widths, multiple_of=8)` sets its
            options; `nsopt.solve_widths_sgd` is the paper's Algorithm 3.

    Raises:
        NsoptError: for invalid arguments, or if no widths meet one of `budgets`.

    Examples:
        >>> sampler = nsopt.NeuralScaleSampler(law, "params", arch, budgets="100k,300k")
        >>> study = optuna.create_study(direction="maximize", sampler=sampler)
        >>> study.optimize(objective, n_trials=4)  # it calls nsopt.suggest_widths(trial, arch)
    """

    @checked
    def __init__(
        self,
        law: ScalingLaw,
        cost: str | CostFunction,
        network: Architecture | Sequence[str],
        budgets: Sequence[float | str] | str | float = (),
        independent_sampler: BaseSampler | None = None,
        seed: int | None = None,
        spread: float = 0.0,
        solver: Solver = solve_widths,
    ) -> None:
        self._law, self._cost, self._solver = law, _read_cost(cost, network), solver
        names = network if isinstance(network, Sequence) else network.layer_names
        if len(names) != law.layers:
            raise NsoptError(
                f"{len(names)} layer names for a law of {law.layers} layers: give the law of this "
                "network"
            )
        if not 0 <= spread < math.inf:
            raise NsoptError(f"spread must be a number of at least 0, got {spread}")
        if spread and not isinstance(law, PowerLaw):
            raise NsoptError("spread is for power laws: leave it out")
        self._metric: str | None = getattr(self._cost, "metric", None)
        self._parameters = tuple(trials.width_parameter(name) for name in names)
        self._independent = independent_sampler or TPESampler(seed=seed, multivariate=False)
        self._spread = spread
        self._entropy = np.random.SeedSequence(seed).entropy
        self._solved: dict[float, Fit] = {}
        self._proposed: dict[tuple[str, int], Fit] = {}  # of running trials
        words = budgets.split(",") if isinstance(budgets, str) else budgets
        if isinstance(words, np.ndarray):
            words = words.tolist()
        if not isinstance(words, Sequence):
            words = (words,)
        if not words and isinstance(self._cost, JointCost):
            words = (1,)
        self._budgets = tuple(self._read_budget(word) for word in words)
        for budget in self._budgets:
            self.propose(budget)
        self._independent = internals.with_budgets(self._independent, self._budgets)

    def __repr__(self) -> str:
        budgets = ", ".join(f"{budget:,}" for budget in self._budgets) or "of the trials"
        around = f", spread={self._spread:g}" if self._spread else ""
        layers, metric = len(self._parameters), self._metric or "cost"
        return f"NeuralScaleSampler({layers} layers, budgets in {metric}: {budgets}{around})"

    def _read_budget(self, word: float | str) -> float:
        if not isinstance(word, str):
            return word
        if self._metric is None:
            raise NsoptError(f"the cost has no unit: give the budget {word!r} as a number")
        return get_metric(self._metric).read(word.strip())

    def propose(self, budget: float) -> tuple[int, ...]:
        """Return the widths at a budget, solved once. Raises NsoptError if none fit it."""
        return tuple(self._solve_once(budget).widths.tolist())

    def _solve_once(self, budget: float) -> Fit:
        if budget not in self._solved:
            self._solved[budget] = self._solve(self._law, budget)
        return self._solved[budget]

    def _solve(self, law: ScalingLaw, budget: float) -> Fit:
        fit = self._solver(law, self._cost, budget)
        if isinstance(fit, SgdFit) and fit.diverged:
            raise NoWidthsError("Algorithm 3 diverges: try a smaller eta")
        return fit

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what the independent sampler samples jointly; widths are proposed one by one."""
        joint = self._independent.infer_relative_search_space(study, trial)
        return {name: range_ for name, range_ in joint.items() if name not in self._parameters}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample with the independent sampler: jointly if it can, else one by one."""
        values = self._independent.sample_relative(study, trial, search_space)
        for name, range_ in search_space.items():
            if name not in values:
                values[name] = self.sample_independent(study, trial, name, range_)
        return values

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the law's width at the trial's budget, or sample another parameter.

        Raises:
            NsoptError: for a layer that is not in the law, without a budget, or if the range does
                not contain the law's width.
        """
        if param_name not in self._parameters:
            if trials.is_width(param_name):
                raise NsoptError(
                    f"{param_name} is not a layer of this law, which has "
                    f"{', '.join(self._parameters)}: give the sampler this network's law"
                )
            return self._independent.sample_independent(
                study, trial, param_name, param_distribution
            )
        budget = self._find_budget(study, trial)
        key = (study.study_name, trial.number)
        if key not in self._proposed:
            self._proposed[key] = self._propose_for(trial, budget)
            trials.write_missing(study, trial, {"budget": budget, "metric": self._metric})
        width = int(self._proposed[key].widths[self._parameters.index(param_name)])
        if not _can_be(param_distribution, width):
            raise NsoptError(
                f"{param_name} must be able to be {width}, the law's width at a budget of "
                f"{budget:,}: give suggest_widths another low or high, or widen "
                f"{param_distribution}"
            )
        return width

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._proposed.pop((study.study_name, trial.number), None)  # of another storage
        self._independent.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._independent.after_trial(study, trial, state, values)
        fit = self._proposed.pop((study.study_name, trial.number), None)
        has_all = all(name in trial.params for name in self._parameters)
        if not has_all or trials.is_in_other_unit(trial, self._metric):
            return
        widths = [trial.params[name] for name in self._parameters]
        law, cost = self._law, self._cost(widths)
        budget = self._find_own_budget(trial)
        if budget is None:  # the sampler was asked for no width
            budget = self._choose_budget(tuple(widths), cost)
        if budget is None:
            return
        beyond = law.beyond(self._cost, budget) if isinstance(law, PowerLaw) else None
        numbers = {"budget": budget, "metric": self._metric, "cost": cost}
        trials.write_cost(study, trial, numbers | {"beyond_record": beyond})
        if isinstance(self._cost, JointCost):
            binding = None
            if isinstance(fit, WidthFit) and fit.widths.tolist() == widths:
                binding = fit.binding
            trials.write_limits(
                study,
                trial,
                self._cost.budgets_and_costs(widths, budget),
                None if binding is None else self._cost.names[binding],
            )

    def reseed_rng(self) -> None:
        self._independent.reseed_rng()

    def _propose_for(self, trial: FrozenTrial, budget: float) -> Fit:
        """Return the proposal for a trial, shifted at random if there is a spread."""
        if not (self._spread and isinstance(self._law, PowerLaw)):
            return self._solve_once(budget)
        generator = np.random.default_rng(
            np.random.SeedSequence(self._entropy, spawn_key=(internals.first_number(trial),))
        )
        shift = generator.normal(scale=self._spread, size=len(self._parameters))
        moved = PowerLaw(np.exp(shift), np.zeros_like(shift), np.ones_like(shift)) * self._law
        return self._solve(moved, budget)

    def _find_own_budget(self, trial: FrozenTrial) -> float | None:
        own = trials.read_budget(trial)
        return None if own is None else self._read_budget(own)

    def _find_budget(self, study: Study, trial: FrozenTrial) -> float:
        """Return the budget of a trial whose widths are asked for."""
        if trials.is_in_other_unit(trial, self._metric):
            raise NsoptError(
                f"trial {trial.number} has a budget in another metric than {self._metric}: give "
                "the sampler the metric in the trial's attributes"
            )
        own = self._find_own_budget(trial)
        if own is None:
            own = internals.read_grid(self._independent, study, trial)
        if own is None and not self._budgets:
            raise NsoptError("no budget for these widths: give the sampler budgets=[...]")
        turn = internals.first_number(trial)
        return self._budgets[turn % len(self._budgets)] if own is None else own

    def _choose_budget(self, widths: tuple[int, ...], cost: float) -> float | None:
        """Return the smallest of the budgets whose widths these are or that holds them; the largest
        if none does, None without budgets."""
        fits = [b for b in self._budgets if cost <= b or self.propose(b) == widths]
        return min(fits, default=max(self._budgets, default=None))


def _read_cost(cost: str | CostFunction, network: Architecture | Sequence[str]) -> CostFunction:
    """Return what maps widths to a cost; a metric's name needs the network."""
    if isinstance(cost, str):
        if isinstance(network, Sequence):
            raise NsoptError(f"cost={cost!r} needs the network: give arch for arch.layer_names")
        return get_metric(cost).cost(network)
    if not callable(cost):
        raise NsoptError(
            f"cost must map widths to a cost, as arch.cost('params') does: {shorten(cost)}"
        )
    return cost


def _can_be(distribution: BaseDistribution, width: int) -> bool:
    return isinstance(distribution, IntDistribution) and (
        width in range(distribution.low, distribution.high + 1, distribution.step)
    )
