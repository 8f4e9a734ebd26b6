"""The methods of a comparison: each is a way to make a scaling curve."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nsopt.descent import is_complete
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.magnitude import rank_filters
from nsopt.pruning.record import Iteration
from nsopt.scaling.curves import uniform_curve
from nsopt.scaling.power_law import PowerLaw
from nsopt.scaling.solve import solve_widths
from nsopt.tuning.schema import Point
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.trained import TrainedNetworks

UNIFORM, MORPHNET, MAGNITUDE, NEURALSCALE = "uniform", "morphnet", "magnitude", "neuralscale"
METHODS = (UNIFORM, MORPHNET, MAGNITUDE, NEURALSCALE)
_MORPHNET_FRACTION = 0.5
_AT_ITERATION = re.compile(rf"{NEURALSCALE}-iter([1-9]\d*)")


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """`names` without repetitions; NsoptError if one is unknown or there is none.

    `neuralscale-iterN` is NeuralScale with the law of descent iteration N.
    """
    for name in names:
        if name not in METHODS and _AT_ITERATION.fullmatch(name) is None:
            raise unknown_name("method", name, METHODS)
    if not names:
        raise NsoptError(f"no methods given: known are {', '.join(METHODS)}")
    return tuple(dict.fromkeys(names))


def follows_law(method: str) -> bool:
    """Whether it is NeuralScale, at its last iteration or at a given one."""
    return method == NEURALSCALE or _AT_ITERATION.fullmatch(method) is not None


def descent_iterations(methods: Sequence[str], settings: StudySettings) -> int:
    """How many iterations of architecture descent these methods need; 0 for none."""
    needed = [int(match[1]) for m in methods if (match := _AT_ITERATION.fullmatch(m))]
    if any(number > settings.search.iterations for number in needed):
        raise NsoptError(
            f"neuralscale-iter{max(needed)} needs --iterations {max(needed)} or more, "
            f"not {settings.search.iterations}"
        )
    if NEURALSCALE in methods:
        return settings.search.iterations
    return max([int(MORPHNET in methods), *needed])


def is_ready(method: str, history: Sequence[Iteration], settings: StudySettings) -> bool:
    """Whether `curve_of` knows the method's curve, or why there will be none."""
    if is_complete(history, settings.search):
        return True
    if method in (UNIFORM, MAGNITUDE):
        return True
    match = _AT_ITERATION.fullmatch(method)
    needed = int(match[1]) if match else 1
    return method != NEURALSCALE and len(history) >= needed


def curve_of(method: str, arch: Architecture, history: Sequence[Iteration]) -> PowerLaw:
    """The one curve of a method that has the same for all seeds. history: of the search."""
    if method == UNIFORM:
        return uniform_curve(arch.base_widths)
    if method == MORPHNET:
        return uniform_curve(history[0].trajectory.at_fraction(_MORPHNET_FRACTION))
    match = _AT_ITERATION.fullmatch(method)
    if match is None:
        return history[-1].law
    if int(match[1]) > len(history):
        raise NsoptError(f"{method}: descent converged after {len(history)} iterations")
    return history[int(match[1]) - 1].law


@dataclass(frozen=True)
class MagnitudePruning:
    """Widths of the magnitude baseline, which depend on a trained network and so on the seed."""

    arch: Architecture
    settings: StudySettings
    networks: TrainedNetworks

    def widths(self, point: Point, progress: Progress) -> tuple[int, ...]:
        """The network pruned until it fits the budget, then scaled to meet it."""
        model = self.networks.get(self.settings.magnitude_training_for(point.seed), progress)
        cost = self.arch.cost(point.metric)
        pruned = rank_filters(self.arch, model).widths_within(cost, point.budget)
        return tuple(solve_widths(uniform_curve(pruned), cost, point.budget).widths.tolist())
