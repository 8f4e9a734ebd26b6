"""Rank the units of a trained network, and find which ones stay at given widths.

Magnitude pruning (Li et al., ICLR 2017) ranks the filters of one layer by their L1 norm. To compare
layers, `rank_filters` divides the norm of a filter by the mean of its layer. Filters of smallest
relative norm are pruned first, in any layer.

`rank_by_fit` needs inputs alone, and ranks units by what a fit loses without them: the layers that
read a unit can make up for it as far as the units that stay predict it. So units are removed one
after another, each time the one whose loss is least, and the others take over what they can
(optimal brain surgeon: Hassibi & Stork, NeurIPS 1992; OSSCAR, 2024). For a layer with weights W
(units, outputs) and H, the inverse of the products of its inputs, the loss without unit u is
|W_u|^2 / H_uu. The taps of a kernel count as separate rows, so that H has a row for each unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NoWidthsError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.fitting.least_squares import widen
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.fitting.products import Convolution, Product, find_units, find_units_read
from nsopt.pruning.fitting.watch import ProductCall, ProductWatch
from nsopt.scaling.cost import CostModel, FloatArray, IntArray, width_limits
from nsopt.tracing.originals import copy_model

_OF_COST, _OF_UNITS = 0.05, 0.01  # removed before what units save is counted anew
_LEAST_PRICE = 1e-12  # of a unit that saves nothing
_RIDGE = 1e-4
_NO_VARIANCE = torch.finfo(torch.float32).tiny
_MOST = torch.finfo(torch.float64).max
_ROWS = 65536  # of taps
_NEXT = 1e-6  # by what share a unit that was removed later has a higher score, at least
_REMOVALS = 128  # of a group; of larger groups several units at once


@dataclass(frozen=True, eq=False)
class UnitRanking:
    """Scores of units. Units of low score are removed first, in any layer.

    Layers whose channels are added to each other form a stream and lose the same channels. The
    network that is left then computes what the whole network would with the other channels at zero.

    Attributes:
        scores: per layer, the scores of its units, a tensor (w_l,); equal for all layers of a
            stream.
        streams: per layer, the index of the first layer of its stream.
    """

    scores: tuple[Tensor, ...]
    streams: tuple[int, ...]

    def widths_within(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Return the widths after removing just enough units to cost at most `budget`.

        Every layer keeps the smallest width that it can have.

        Raises:
            NoWidthsError: if the network exceeds the budget even then.
        """
        return self._remove(cost, budget, 1.0, 1.0)

    def widths_per_cost(self, cost: CostModel, budget: float) -> tuple[int, ...]:
        """Return the widths after removing the units of lowest score for what each saves.

        What they save is counted anew whenever the network costs a twentieth less, or has lost a
        hundredth of its units.

        Raises:
            NoWidthsError: if the network exceeds the budget even then.
        """
        left, widths = self, tuple(map(len, self.scores))
        while cost(widths) > budget:
            widths = left.per_cost(cost)._remove(cost, budget, _OF_COST, _OF_UNITS)
            kept = left.pick_strongest(widths)
            scores = [score[units] for score, units in zip(left.scores, kept, strict=True)]
            left = UnitRanking(tuple(scores), self.streams)
        return widths

    def per_cost(self, cost: CostModel) -> "UnitRanking":
        """Return the ranking by score for what a unit of the ranked network costs.

        A unit of a stream leaves all its layers. Its score is a mean over them, and so is its cost.
        """
        prices = np.asarray(cost.marginal(tuple(map(len, self.scores))), np.float64)
        streams = np.array(self.streams)
        prices = np.array([prices[streams == stream].mean() for stream in self.streams])
        prices = np.maximum(prices, _LEAST_PRICE)
        scores = [score / float(price) for score, price in zip(self.scores, prices, strict=True)]
        return UnitRanking(tuple(scores), self.streams)

    def pick_strongest(self, widths: tuple[int, ...]) -> list[Tensor]:
        """Return ascending indices of the at most `widths[l]` units of highest score per layer."""
        return [
            scores.argsort(descending=True, stable=True)[:width].sort().values
            for scores, width in zip(self.scores, widths, strict=True)
        ]

    def _remove(
        self, cost: CostModel, budget: float, of_cost: float, of_units: float
    ) -> tuple[int, ...]:
        """Return the widths after removing at most these shares of the cost and of the units."""
        removals = self._list_removals(width_limits(cost, len(self.scores))[0])
        costs = np.asarray(cost(removals))
        if (costs > budget).all():
            raise NoWidthsError(
                f"no widths fit a budget of {budget:,}: the smallest feasible one is {costs[-1]:,}"
            )
        left = removals.sum(axis=1)  # units that cannot be removed are weak, too
        cheaper = costs <= max(budget, (1 - of_cost) * costs[0])
        enough = cheaper | (left <= (1 - of_units) * left[0])
        return tuple(removals[np.flatnonzero(enough)[0]].tolist())

    def _list_removals(self, narrowest: FloatArray) -> IntArray:
        """Return the widths (N, L) after each removal, weakest units first."""
        start = np.array([len(scores) for scores in self.scores])
        firsts = sorted(set(self.streams))
        stream_of = np.repeat(firsts, start[firsts])
        ranked = torch.cat([self.scores[first] for first in firsts]).argsort(stable=True)
        members = np.array(self.streams)[None] == stream_of[ranked.numpy()][:, None]
        removed = np.cumsum(members, axis=0, dtype=np.int64)
        left: IntArray = start - np.vstack([np.zeros_like(start), removed])
        return left.clip(min=narrowest.astype(np.int64))


def join_streams(own: list[Tensor], streams: tuple[int, ...]) -> UnitRanking:
    """Return the ranking by the mean score over the layers of a stream.

    Args:
        own: per layer, the scores of its units.
        streams: see `UnitRanking`.
    """
    scores = []
    for first in streams:
        members = [s for s, stream in zip(own, streams, strict=True) if stream == first]
        scores.append(torch.stack(members).mean(dim=0))
    return UnitRanking(tuple(scores), streams)


def rank_filters(arch: Architecture, model: nn.Module) -> UnitRanking:
    """Rank the filters of a trained `model` by relative norm, averaged over a stream's layers."""
    return join_streams(arch.filter_norms(model), arch.streams)


@dataclass(eq=False)
class Reader:
    """A product that reads units, and what its fit would lose without some of them.

    Attributes:
        inverse: inverse of the products of its inputs, (U, U).
        weights: of each unit, (U, taps * outputs).
    """

    inverse: Tensor
    weights: Tensor

    def losses(self) -> Tensor:
        """Return what is lost without each unit, (U,)."""
        return self.weights.square().sum(1) / self.inverse.diagonal()

    def remove(self, units: Tensor) -> None:
        """Remove units; the weights of the others change such that the outputs change least."""
        columns = self.inverse[:, units]
        share = torch.linalg.solve(columns[units], torch.cat([columns.T, self.weights[units]], 1))
        split = len(self.inverse)
        self.inverse = self.inverse - columns @ share[:, :split]
        self.weights = self.weights - columns @ share[:, split:]
        self.inverse[units, units] = 1


def rank_by_fit(
    arch: Architecture, model: nn.Module, inputs: Inputs, progress: Progress, seed: int = 0
) -> UnitRanking:
    """Rank the units of a trained network by what a fit loses without them.

    Args:
        model: a trained network of base widths; it does not change.
        inputs: what it runs on.
        seed: of the rows that are used.

    Returns:
        The ranking. Scores are errors of layers' outputs, relative to their variance, so that those
        of different layers can be compared.
    """
    progress.start("units ranked", len(inputs) + len(arch.base_widths))
    model = copy_model(model).eval()
    sums = _sum_products(arch, model, inputs, seed, progress)
    norms, scores = arch.filter_norms(model), []
    for group, width in enumerate(arch.base_widths):
        readers = [product.reader() for product in sums if product.group == group]
        score = _remove_all(readers, width) if readers else norms[group] / width
        scores.append(torch.full_like(score, torch.inf) if arch.rigid[group] else score)
        progress.advance(arch.layer_names[group])
    return join_streams(scores, arch.streams)


def _remove_all(readers: Sequence[Reader], width: int) -> Tensor:
    """Return what is lost with each unit, in the order of removals, float64 (width,)."""
    scores = torch.zeros(width, dtype=torch.float64)
    left = torch.ones(width, dtype=torch.bool)
    worst = 0.0
    while left.any():
        losses = torch.stack([reader.losses().cpu() for reader in readers]).sum(0)
        losses = losses.nan_to_num(nan=_MOST, posinf=_MOST)  # each is below those removed
        losses[~left] = torch.inf
        count = min(int(left.sum()), max(1, width // _REMOVALS))
        units = losses.topk(count, largest=False).indices
        worst = min(_MOST, max(worst * (1 + _NEXT), float(losses[units].max())))
        place = torch.arange(count, dtype=torch.float64) / count
        scores[units] = worst * (1 + _NEXT * place)
        left[units] = False
        for reader in readers:
            reader.remove(units.to(reader.inverse.device))
    return scores


@dataclass(eq=False)
class _Sums:
    """Sums over the rows of one product, for the units of one group that it reads.

    Attributes:
        weights: of each unit, (U, taps * outputs).
        shift: subtracted from its inputs, (U, 1): their mean in the first call. Else inputs that
            hardly vary, as those of a gate, would leave mere rounding errors.
        gram: products of its inputs, (U, U), summed over rows, averaged over taps.
        total: its inputs, (U,), likewise.
        outputs, squares: its outputs and their squares, (outputs,), summed over rows.
        rows: how many rows.
    """

    group: int
    weights: Tensor
    shift: Tensor
    gram: Tensor
    total: Tensor
    outputs: Tensor
    squares: Tensor
    rows: int = 0

    def reader(self) -> Reader:
        mean = self.total / self.rows
        gram = self.gram / self.rows - mean[:, None] * mean
        gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
        spread = self.squares / self.rows - (self.outputs / self.rows).square()
        variance = float(spread.sum())
        scale = variance**-0.5 if variance > _NO_VARIANCE else 0.0  # then nothing can be lost
        return Reader(torch.linalg.inv(gram), self.weights * scale)


def _sum_products(
    arch: Architecture, model: nn.Module, inputs: Inputs, seed: int, progress: Progress
) -> list[_Sums]:
    """Return sums for every product that reads units, and each group of these."""
    sums: dict[tuple[str, int], _Sums] = {}
    units = find_units(arch, model)
    read: dict[str, list[tuple[int, Tensor]]] = {}  # by product
    generator = torch.Generator().manual_seed(seed)
    per_batch = -(-_ROWS // len(inputs))

    def choose(key: str, nth: int, product: Product, result: Tensor) -> Tensor:
        examples, count = product.count_places(result)
        taps = product.weight[0, 0].numel() if isinstance(product, Convolution) else 1
        rows = min(count, max(1, per_batch // (examples * taps)))
        places = torch.randint(max(1, count), (examples, rows), generator=generator)
        return places.to(result.device)

    def add(call: ProductCall) -> None:
        rows, name = call.inputs, call.key.partition("[")[0]
        if len(rows) > 1 or rows.shape[2] < 2:  # depthwise: it reads its own unit
            return
        if call.key not in read:
            pairs = find_units_read(call.product, call.whole, units[name], arch.base_widths)
            read[call.key] = [(group, columns.to(rows.device)) for group, columns in pairs]
        for group, columns in read[call.key]:
            _add(sums, group, columns, call)

    for batch in range(len(inputs)):
        watch = ProductWatch(model, choose, takes_inputs=True, consume=add)
        watch.run(inputs.call(model, batch), inputs.batches[batch])
        progress.advance()
    return list(sums.values())


def _add(
    sums: dict[tuple[str, int], _Sums], group: int, columns: Tensor, call: ProductCall
) -> None:
    """Add the rows of one call, and of it the units of one group, whose inputs are `columns`."""
    rows = call.inputs[0][:, columns].float()  # (N, U, taps)
    if (call.key, group) not in sums:
        weights = widen(call.product.matrix(call.product.weight.detach())[0][columns].flatten(1))
        zeros = weights.new_zeros(len(columns) + 1, len(columns))
        none = widen(call.outputs[0] * 0)
        shift = rows.mean((0, 2))[:, None]
        known = zeros[1:], zeros[0], none, none.clone()
        sums[call.key, group] = _Sums(group, weights, shift, *known)
    group_sums = sums[call.key, group]
    flat = (rows - group_sums.shift).transpose(1, 2).flatten(0, 1)
    group_sums.gram += widen(flat.T @ flat) / columns.shape[1]
    group_sums.total += widen(flat.sum(0)) / columns.shape[1]
    outputs = widen(call.outputs)
    group_sums.outputs += outputs.sum(0)
    group_sums.squares += outputs.square().sum(0)
    group_sums.rows += len(rows)
