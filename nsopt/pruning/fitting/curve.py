"""Networks at any budget without training, and the curve of their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nsopt.arguments import checked
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.tracing.trace import trace
from nsopt.progress import Progress, Silent
from nsopt.pruning.fitting.fit import Fitted, fit_network
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.pruning.ranking import UnitRanking
from nsopt.scaling.cost import CostModel

SHARES = tuple(round(0.1 * i, 1) for i in range(1, 11))
Score = Callable[[nn.Module], float]


@checked
def fit(
    model: nn.Module,
    widths: Sequence[int],
    inputs: Any,
    arch: Architecture | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> nn.Module:
    """Return a smaller copy of a trained network, fitted to it without training or labels.

    It keeps the units that the others predict least. Then it fits every layer by least squares to
    what the same layer of the trained network computes, in forward order.

    Args:
        model: a trained network; it does not change.
        widths: the width of each group of layers, at most those of `arch.base_widths`.
        inputs: a tensor of examples, or batches of inputs: tensors, tuples of arguments, dicts of
            keyword arguments, or pairs of one of these and targets, which are ignored. Some
            hundred examples are enough; more than 1,024 are not used.
        arch: the architecture of `model`; by default nsopt traces it.
        seed: of the random places in images and sequences to which layers are fitted.
        progress: receives steps, and a message about layers that cannot be fitted.

    Returns:
        The smaller network, in evaluation mode.

    Raises:
        NsoptError: for invalid widths or inputs.

    Examples:
        >>> arch = nsopt.trace(model, images[:2])
        >>> half = nsopt.fit(model, [width // 2 for width in arch.base_widths], images)
    """
    arch, given = _prepare(model, inputs, arch)
    checked = check_widths(arch, widths)
    progress = progress or Silent()
    ranking = rank_by_fit(arch, model, given, progress, seed)
    kept = ranking.pick_strongest(checked)
    return fit_network(arch, model, kept, given, seed=seed, progress=progress).model


def check_widths(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    """Return `widths` as a tuple. Raises NsoptError for widths that a fit cannot reach."""
    checked = arch.check_widths(widths)
    for name, width, base, rigid in zip(
        arch.layer_names, checked, arch.base_widths, arch.rigid, strict=True
    ):
        if width > base:
            raise NsoptError(f"{name} has {base} units, not {width}: give at most its own width")
        if rigid and width < base:
            raise NsoptError(
                f"the units of {name} cannot be removed one by one: leave its width at {base}"
            )
    return checked


def widths_by_fit(
    arch: Architecture, ranking: UnitRanking, cost: CostModel, budget: float
) -> tuple[int, ...]:
    """Return the widths at a budget that lose least per cost.

    Args:
        arch: the architecture.
        ranking: by `rank_by_fit`.
        cost: what the budget limits.
        budget: the limit.

    Raises:
        NoWidthsError: if no widths meet the budget.
    """
    base = np.array(arch.base_widths)
    prices = np.maximum(np.asarray(cost.marginal(base), np.float64), 1e-12)
    scores = [s / float(price) for s, price in zip(ranking.scores, prices, strict=True)]
    return UnitRanking(tuple(scores), ranking.streams).widths_within(cost, budget)


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """A network at a budget.

    Attributes:
        share: the budget, as a share of the cost of the trained network.
        cost: its cost.
        widths: its widths.
        score: its score.
        fitted: the network; None for the trained one.
    """

    share: float
    cost: float
    widths: tuple[int, ...]
    score: float
    fitted: Fitted | None


def fit_curve(
    arch: Architecture,
    model: nn.Module,
    inputs: Inputs,
    score: Score | None = None,
    metric: str = "macs",
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Return the scores of networks at several budgets, from the smallest, without training.

    Args:
        arch: the architecture of `model`.
        model: a trained network of base widths.
        inputs: what the networks run on.
        score: takes a network in evaluation mode; higher is better. By default the agreement with
            the trained network (`Agreement`).
        metric: what the budgets limit.
        shares: the budgets, as shares of the cost of the trained network. Budgets that no widths
            meet are left out; at 1 the trained network itself is scored.
        seed: see `fit_network`.
        progress: receives steps.
    """
    progress = progress or Silent()
    score = score or Agreement(model, inputs)
    ranking = rank_by_fit(arch, model, inputs, progress, seed)
    cost, points = arch.cost(metric), []
    whole = float(cost(np.array(arch.base_widths)))
    for share in sorted(shares):
        fitted, widths = None, arch.base_widths
        if share < 1:
            try:
                widths = widths_by_fit(arch, ranking, cost, share * whole)
            except NoWidthsError:
                continue
            kept = ranking.pick_strongest(widths)
            fitted = fit_network(arch, model, kept, inputs, seed=seed, progress=progress)
        network = model if fitted is None else fitted.model
        points.append(
            CurvePoint(share, float(cost(np.array(widths))), widths, score(network), fitted)
        )
    return points


class Agreement:
    """Scores networks by how much of the trained network's outputs they explain (%).

    100 for equal outputs; 0 for outputs that are as far from them as their mean over all examples
    is. Calling it returns the score of a network in evaluation mode.

    Args:
        model: the trained network.
        inputs: what the networks run on; better others than those of the fit.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._inputs = inputs
        self._wanted = self._run(model)
        means = [wanted.mean(0, keepdim=True) for wanted in self._wanted]
        self._squares = [
            max(float((wanted - mean).square().sum()), 1e-30)
            for wanted, mean in zip(self._wanted, means, strict=True)
        ]

    def __call__(self, model: nn.Module) -> float:
        shares = [
            float((found - wanted).square().sum()) / square
            for found, wanted, square in zip(
                self._run(model), self._wanted, self._squares, strict=True
            )
        ]
        return 100 * max(0.0, 1 - sum(shares) / len(shares))

    def _run(self, model: nn.Module) -> list[Tensor]:
        """Return the outputs for all examples, a matrix for each output of the network."""
        rows: list[list[Tensor]] = []
        training = model.training
        model.eval()
        with torch.no_grad():
            for number in range(len(self._inputs)):
                leaves = tree_leaves(self._inputs.call(model, number)())
                floating = [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
                rows.append([t.flatten(1).float().cpu() for t in floating if t.ndim])
        model.train(training)
        return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def _prepare(
    model: nn.Module, inputs: Any, arch: Architecture | None
) -> tuple[Architecture, Inputs]:
    """Return the architecture of a network, and its inputs."""
    given = Inputs(inputs, arguments=1 if arch is None else _count_arguments(arch))
    return arch or trace(model, _first_two(given.batches[0])), given


def _first_two(batch: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor[:2], batch)


def _count_arguments(arch: Architecture) -> int:
    network = getattr(arch, "network", None)
    return 1 if network is None else len(network.run.inputs)
