"""Cutting units out of a traced network, in the middle of its training.

A trace says which indices of every tensor belong to a unit; with them parameters, buffers and
momentum are sliced alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.layout import layout_of
from nsopt.models.tracing.groups import Group
from nsopt.models.tracing.makers import Makers, Slices
from nsopt.models.tracing.network import FEWEST_SEEN, TracedNetwork
from nsopt.models.tracing.resize import replace_tensors
from nsopt.pruning.gates import Gate
from nsopt.pruning.layout import positions
from nsopt.scaling.cost import IntArray


class TracedPruned:
    """A traced network that shrinks. network: traced from `model` before anything is cut away.

    Groups whose units cannot be cut one by one keep them all; a law is told that their widths
    follow those of the others, by the geometric mean of what is left of them.
    """

    def __init__(self, network: TracedNetwork, model: nn.Module) -> None:
        self._network = network
        self._model = model
        self.kept: tuple[IntArray, ...] = tuple(
            np.arange(group.width) for group in network.family.groups
        )
        self._left = network.indices(list(self.kept))
        self._units = network.family.units
        self.gates: list[list[Gate]] = [
            [Staying(group.width)]
            if group.rigid
            else [TracedGate(self, slices, index) for slices in gates]
            for index, (group, gates) in enumerate(
                zip(network.family.groups, gate_slices(network), strict=True)
            )
        ]

    @property
    def widths(self) -> Sequence[int]:
        groups = self._network.family.groups
        left = [len(units) for units in self.kept]
        share = [n / g.width for n, g in zip(left, groups, strict=True) if not g.rigid]
        mean = float(np.exp(np.mean(np.log(share)))) if share else 1.0
        return [
            max(FEWEST_SEEN, round(g.width * mean)) if g.rigid else n
            for n, g in zip(left, groups, strict=True)
        ]

    def parameter(self, name: str) -> nn.Parameter:
        return self._model.get_parameter(name)

    def unit_of_channel(self, tensor: str, axis: int, group: int) -> IntArray:
        """The unit of a group that each channel left belongs to, as its place in `kept`; -1 for
        channels of other groups."""
        labels = self._network.labels[tensor][axis]
        assert isinstance(labels, np.ndarray)
        left = self._left[tensor][axis]
        units = self._network.family.groups[group].units
        place = np.full(len(self._units.fixed), -1)
        place[units[self.kept[group]]] = np.arange(len(self.kept[group]))
        return np.asarray(place[self._units.of_atom[labels[left]]])

    def shrink(self, kept: Sequence[IntArray], optimizer: torch.optim.SGD) -> None:
        before, after = self._left, self._network.indices(list(kept))
        layout = layout_of(self._model)

        def smaller(name: str, tensor: Tensor) -> Tensor:
            pick = zip(after[name], before[name], strict=True)
            return _smaller(tensor, [positions(new, old) for new, old in pick], optimizer, layout)

        replace_tensors(self._model, smaller)
        self._network.describe(self._model)
        optimizer.param_groups[0]["params"] = list(self._model.parameters())
        self.kept, self._left = tuple(kept), after
        for gate in (gate for group in self.gates for gate in group):
            if isinstance(gate, TracedGate):
                gate.forget()


class Staying(Gate):
    """Of units that cannot be cut one by one: all are worth more than any other."""

    def __init__(self, width: int) -> None:
        self._width = width

    def gradient(self) -> Tensor:
        return torch.full((self._width,), torch.inf)


class TracedGate(Gate):
    """Behind a norm, or behind a product that no norm follows (pruning/gates.py).

    There dE/dz of a channel is <W, dE/dW> + b * dE/db of the slices that make it; that of a unit is
    the sum over its channels, in an order that does not change. slices: of the weight, and of the
    bias if there is one.
    """

    def __init__(self, pruned: TracedPruned, slices: Sequence[Slices], group: int) -> None:
        self._pruned = pruned
        self._slices = slices
        self._group = group
        self._channels: list[Tensor] | None = None

    def forget(self) -> None:
        """Channels have been cut away."""
        self._channels = None

    def gradient(self) -> Tensor:
        parameters = [self._pruned.parameter(name) for name, _ in self._slices]
        if self._channels is None:
            count = len(self._pruned.kept[self._group])
            units = [self._pruned.unit_of_channel(*slices, self._group) for slices in self._slices]
            self._channels = [
                torch.from_numpy(_channels_of(own, count)).to(parameter.device)
                for own, parameter in zip(units, parameters, strict=True)
            ]
        gradients = [
            functional.pad(_inner(parameter, axis), (0, 1))[channels].sum(dim=1)
            for parameter, (_, axis), channels in zip(
                parameters, self._slices, self._channels, strict=True
            )
        ]
        return torch.stack(gradients).sum(dim=0)


def _channels_of(units: IntArray, count: int) -> IntArray:
    """The channels of each unit, (count, most of a unit), filled up with the one behind the last.

    units: of each channel, -1 for none.
    """
    ordered = np.argsort(units, kind="stable")
    own = ordered[units[ordered] >= 0]
    nth = np.arange(len(own)) - np.searchsorted(units[own], units[own])
    channels = np.full((count, nth.max(initial=0) + 1), len(units))
    channels[units[own], nth] = own
    return channels


def gate_slices(network: TracedNetwork) -> list[list[list[Slices]]]:
    """Per group and gate, the parameters behind which units are scored.

    Norms right behind the products that make the channels; products that no norm follows; and
    where norms only come later (behind a concatenation, say), those, as they take all scale out of
    what the products make. Where there is no norm, one may be written by hand: other vectors that
    scale the units are gates, too. Units that no product makes are scored where they are read.
    """
    makers = Makers.of(network)
    return [_gates(network, makers, group) for group in network.family.groups]


def _gates(network: TracedNetwork, makers: Makers, group: Group) -> list[list[Slices]]:
    products, norms = makers.making(group), makers.scaling(group)
    behind = {
        slices: [norm for channels, norm in norms if np.array_equal(channels, made)][:1]
        for made, slices in products
    }
    if norms and not any(behind.values()):
        return [_with_bias(network, norm) for norm in dict.fromkeys(norm for _, norm in norms)]
    found = [norm for following in behind.values() for norm in following]
    found += [slices for slices, following in behind.items() if not following]
    gates = [_with_bias(network, slices) for slices in dict.fromkeys(found)]
    holders = makers.holding(group)
    if not norms:
        counted = {slices for gate in gates for slices in gate}
        gates += [[s] for s in holders if s in makers.vectors and s not in counted]
    return gates or [holders[:1]]


def _with_bias(network: TracedNetwork, slices: Slices) -> list[Slices]:
    """Slices of a weight, and those of the bias beside it."""
    name, _ = slices
    bias = name.removesuffix("weight") + "bias"
    labelled = name.endswith("weight") and isinstance(
        network.labels.get(bias, (None,))[0], np.ndarray
    )
    return [slices, (bias, 0)] if labelled else [slices]


def _inner(parameter: Tensor, axis: int) -> Tensor:
    """The products of slices along an axis with their gradients, (n,)."""
    if parameter.grad is None:
        return parameter.new_zeros(parameter.shape[axis])
    slices = (parameter * parameter.grad).detach().movedim(axis, 0)
    return slices.reshape(len(slices), -1).sum(dim=1)


def _smaller(
    tensor: Tensor,
    places: list[IntArray],
    optimizer: torch.optim.SGD,
    layout: torch.memory_format,
) -> Tensor:
    """A tensor at some places of every dimension; of a parameter, its momentum too."""
    if not isinstance(tensor, nn.Parameter):
        return _picked(tensor, places, layout)
    smaller = nn.Parameter(_picked(tensor.detach(), places, layout), tensor.requires_grad)
    momentum = optimizer.state.pop(tensor, {}).get("momentum_buffer")
    if momentum is not None:
        optimizer.state[smaller] = {"momentum_buffer": _picked(momentum, places, layout)}
    return smaller


def _picked(tensor: Tensor, places: list[IntArray], layout: torch.memory_format) -> Tensor:
    for axis, where in enumerate(places):
        if len(where) < tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.from_numpy(where).to(tensor.device))
    return tensor.clone(memory_format=layout if tensor.ndim == 4 else torch.contiguous_format)
