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
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.resize import describe_shapes, replace_tensors
from nsopt.pruning.gates import Gate
from nsopt.pruning.layout import positions
from nsopt.scaling.cost import IntArray


class TracedPruned:
    """A traced network that shrinks. network: traced from `model` before anything is cut away.

    Groups whose units cannot be cut one by one keep them all.
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
            [TracedGate(self, path, group) for path in gate_modules(network, group)]
            for group in range(len(network.family.groups))
        ]

    def module(self, path: str) -> nn.Module:
        return self._model.get_submodule(path)

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
        describe_shapes(self._model, self._network.trace.group_sizes)
        optimizer.param_groups[0]["params"] = list(self._model.parameters())
        self.kept, self._left = tuple(kept), after
        for gate in (gate for group in self.gates for gate in group):
            assert isinstance(gate, TracedGate)
            gate.forget()


class TracedGate(Gate):
    """Behind a norm, or behind a product that no norm follows (pruning/gates.py).

    There dE/dz of a channel is <W, dE/dW> + b * dE/db of the slices that make it; that of a unit is
    the sum over its channels, in an order that does not change.
    """

    def __init__(self, pruned: TracedPruned, path: str, group: int) -> None:
        self._pruned = pruned
        self._path = path
        self._group = group
        self._channels: Tensor | None = None
        self._one_each = False

    def forget(self) -> None:
        """Channels have been cut away."""
        self._channels = None

    def gradient(self) -> Tensor:
        module = self._pruned.module(self._path)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        axis = 1 if getattr(module, "transposed", False) else 0
        channels = _inner(weight).movedim(axis, 0)
        channels = channels.reshape(len(channels), -1).sum(dim=1)
        if isinstance(bias, Tensor):
            channels = channels + _inner(bias)
        count = len(self._pruned.kept[self._group])
        if self._channels is None:
            name = f"{self._path}.weight"
            units = self._pruned.unit_of_channel(name, axis, self._group)
            self._channels = torch.from_numpy(_channels_of(units, count)).to(weight.device)
            self._one_each = np.array_equal(units, np.arange(count))
        if self._one_each:
            return channels
        return functional.pad(channels, (0, 1))[self._channels].sum(dim=1)


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


def gate_modules(network: TracedNetwork, group: int) -> list[str]:
    """The modules behind which the units of a group are scored.

    Norms right behind the products that make its channels; products that no norm follows; and
    where norms only come later (behind a concatenation, say), those, as they take all scale out of
    what the products make.
    """
    of_atom, group_of_unit = network.family.units.of_atom, network.family.group_of_unit

    def belongs(atoms: IntArray) -> bool:
        return bool((group_of_unit[of_atom[atoms]] == group).any())

    makers = {p: a for p, a in network.trace.makers.items() if belongs(a)}
    norms = {p: a for p, a in network.trace.norms.items() if belongs(a) and _is_affine(network, p)}
    behind = {
        maker: [norm for norm, seen in norms.items() if np.array_equal(seen, atoms)]
        for maker, atoms in makers.items()
    }
    if norms and not any(behind.values()):
        return list(norms)
    found = [norm for following in behind.values() for norm in following[:1]]
    alone = [m for m, following in behind.items() if not following and _has_weight(network, m)]
    return list(dict.fromkeys(found + alone))


def _is_affine(network: TracedNetwork, path: str) -> bool:
    module = dict(network.template.named_modules()).get(path)
    return isinstance(getattr(module, "weight", None), Tensor)


def _has_weight(network: TracedNetwork, path: str) -> bool:
    return f"{path}.weight" in network.labels


def _inner(parameter: Tensor) -> Tensor:
    """The parameter times its gradient, element by element."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return (parameter * parameter.grad).detach()


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
