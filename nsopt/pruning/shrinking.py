"""Cut units out of a network while it trains.

A pruned unit is zero. It costs as much as any other unit and changes nothing: its readers get zeros
and send back no gradient. Without it the network computes the same numbers faster. A trace says
which indices of every tensor belong to a unit. Parameters, buffers and momentum are sliced by these
indices. Parameters become new objects, because autograd remembers the shapes of old ones.
"""

from collections.abc import Callable, Container, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.architecture import Architecture
from nsopt.models.networks import layout_of
from nsopt.pruning.gates import Gate, dot_gradients, make_gate
from nsopt.pruning.streams import Streams, find_positions
from nsopt.scaling.cost import IntArray
from nsopt.tracing.groups import Group
from nsopt.tracing.makers import Makers, Slices
from nsopt.tracing.network import FEWEST_TRACED, TracedNetwork
from nsopt.tracing.originals import replace_tensors, select_indices, tensors_of

_FACTORS = {  # of weights, by the end of their names, with and without a weight or spectral norm
    "weight": [],
    "weight_v": ["weight_g"],
    "weight_orig": [],
    "parametrizations.weight.original": [],
    "parametrizations.weight.original1": ["parametrizations.weight.original0"],
}


class ShrinkingModel:
    """A model whose units are scored and cut while it trains.

    Rigid groups, whose units cannot be removed one by one, keep them all. The record gets widths
    for them as if they shrank like the other groups, by the geometric mean of what is left there.

    Args:
        model: an unpruned network of `arch`.

    Attributes:
        kept: per group, the original units that are left, ascending.
        gates: per group, where units are scored.
    """

    def __init__(self, arch: Architecture, model: nn.Module) -> None:
        self._network = network = arch.retrace(model)
        self._streams = Streams(arch.design, model)
        self.model = model
        self.kept: tuple[IntArray, ...] = tuple(
            np.arange(group.width) for group in network.family.groups
        )
        self._left = network.indices(list(self.kept))
        self._units = network.family.units
        self.gates: list[list[Gate]] = [
            [make_gate(module) for module in group] for group in arch.design.find_gates(model)
        ] or [
            [partial(self.score_rigid, group.width)]
            if group.rigid
            else [TracedGate(self, slices, index) for slices in gates]
            for index, (group, gates) in enumerate(
                zip(network.family.groups, find_gate_slices(network), strict=True)
            )
        ]

    @property
    def widths(self) -> Sequence[int]:
        """The widths that the record gets."""
        groups = self._network.family.groups
        left = [len(units) for units in self.kept]
        share = [n / g.width for n, g in zip(left, groups, strict=True) if not g.rigid]
        mean = float(np.exp(np.mean(np.log(share)))) if share else 1.0
        return [
            max(FEWEST_TRACED, round(g.width * mean)) if g.rigid else n
            for n, g in zip(left, groups, strict=True)
        ]

    def find_units(self, tensor: str, axis: int, group: int) -> IntArray:
        """Return the unit of each remaining channel, as an index into `kept`; -1 for others."""
        labels = self._network.labels[tensor][axis]
        assert isinstance(labels, np.ndarray)
        left = self._left[tensor][axis]
        units = self._network.family.groups[group].units
        place = np.full(len(self._units.fixed), -1)
        place[units[self.kept[group]]] = np.arange(len(self.kept[group]))
        return np.asarray(place[self._units.of_atom[labels[left]]])

    def score_rigid(self, width: int) -> Tensor:
        """Return the scores of units that cannot be removed one by one: they are infinite."""
        return torch.full((width,), torch.inf, device=next(self.model.parameters()).device)

    def shrink(self, kept: Sequence[IntArray], optimizer: torch.optim.SGD) -> None:
        """Cut the model and the optimizer's momentum down to the units `kept`."""
        before, after = self._left, self._find_left(kept)
        layout = layout_of(self.model)

        def shrink(name: str, tensor: Tensor) -> Tensor:
            pairs = zip(after[name], before[name], strict=True)
            indices = [find_positions(new, old) for new, old in pairs]
            memory_format = layout if tensor.ndim == 4 else torch.contiguous_format
            return select_indices(tensor, indices).clone(memory_format=memory_format)

        self._streams.open()
        _forget_tables(self.model, self._network.template, after)
        cut_tensors(self.model, optimizer, shrink)
        self._network.describe(self.model)
        self._streams.select(kept)
        self.kept, self._left = tuple(kept), after

    def _find_left(self, kept: Sequence[IntArray]) -> dict[str, list[IntArray]]:
        """Return which indices of every tensor remain: of convolutions all that they write."""
        left, written = self._network.indices(list(kept)), self._streams.find_written(kept)
        if all(one is other for one, other in zip(written, kept, strict=True)):
            return left
        of_written = self._network.indices(written)
        for path, module in self.model.named_modules():
            if isinstance(module, nn.Conv2d):
                for name, _ in module.named_parameters(path):
                    left[name][0] = of_written[name][0]
        return left


def _forget_tables(model: nn.Module, template: nn.Module, known: Container[str]) -> None:
    """Remove the tables that `forward` made, and will make again."""
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    known_modules = dict(template.named_modules())
    for path, module in model.named_modules():
        before = known_modules[path]._buffers if path in known_modules else {}
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and names[id(buffer)] not in known:
                if name in before:
                    module._buffers[name] = None
                else:
                    delattr(module, name)


def cut_tensors(
    model: nn.Module, optimizer: torch.optim.SGD, cut: Callable[[str, Tensor], Tensor]
) -> None:
    """Replace buffers, parameters and their momentum by what `cut` leaves of them, by name."""

    def shrink(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return cut(name, tensor)
        smaller = nn.Parameter(cut(name, tensor.detach()), tensor.requires_grad)
        momentum = optimizer.state.pop(tensor, {}).get("momentum_buffer")
        if momentum is not None:
            optimizer.state[smaller] = {"momentum_buffer": cut(name, momentum)}
        return smaller

    replace_tensors(model, shrink)
    optimizer.param_groups[0]["params"] = list(model.parameters())


class TracedGate:
    """A gate behind a norm, or behind a product without a norm (pruning/gates.py).

    dE/dz of a channel is <W, dE/dW> + b * dE/db over the slices that make it. That of a unit is the
    sum over its channels, always in the same order.

    Args:
        slices: of the weight, and of the bias if there is one.
    """

    def __init__(self, pruned: ShrinkingModel, slices: Sequence[Slices], group: int) -> None:
        self._pruned = pruned
        self._slices = slices
        self._group = group
        self._kept: Sequence[IntArray] = ()  # for which the channels below are known
        self._channels: list[Tensor] = []

    def __call__(self) -> Tensor:
        parameters = [self._pruned.model.get_parameter(name) for name, _ in self._slices]
        if self._kept is not self._pruned.kept:
            self._kept = self._pruned.kept
            count = len(self._kept[self._group])
            units = [self._pruned.find_units(*slices, self._group) for slices in self._slices]
            self._channels = [
                torch.from_numpy(_list_channels(owners, count)).to(parameter.device)
                for owners, parameter in zip(units, parameters, strict=True)
            ]
        gradients = [
            functional.pad(dot_gradients(parameter, axis), (0, 1))[channels].sum(dim=1)
            for parameter, (_, axis), channels in zip(
                parameters, self._slices, self._channels, strict=True
            )
        ]
        return torch.stack(gradients).sum(dim=0)


def _list_channels(units: IntArray, count: int) -> IntArray:
    """Return the channels of each unit, (count, most of a unit), padded with len(units).

    Args:
        units: the unit of each channel, -1 for none.
        count: number of units.
    """
    ordered = np.argsort(units, kind="stable")
    owned = ordered[units[ordered] >= 0]
    nth = np.arange(len(owned)) - np.searchsorted(units[owned], units[owned])
    channels = np.full((count, nth.max(initial=0) + 1), len(units))
    channels[units[owned], nth] = owned
    return channels


def find_gate_slices(network: TracedNetwork) -> list[list[list[Slices]]]:
    """Return, per group and gate, the parameters behind which units are scored.

    These are the norms right behind the products that make the channels, and products without a
    norm. If norms only follow later, such as behind a concatenation, these norms score, because
    they cancel the scale of the products. If there is no norm, other vectors that scale the units
    are gates too: a norm may be written by hand. Units that no product makes are scored where they
    are read, and so are those behind a norm without a scale, which leaves products no gradient
    along their own values.
    """
    makers = Makers.of(network)
    return [_find_gates(network, makers, group) for group in network.family.groups]


def _find_gates(network: TracedNetwork, makers: Makers, group: Group) -> list[list[Slices]]:
    products, norms = (makers.find_made(group, kind) for kind in (makers.products, makers.norms))
    behind = {
        slices: [norm for channels, norm in norms if np.array_equal(channels, made)][:1]
        for made, slices in products
    }
    if norms and not any(behind.values()):
        return [_add_bias(network, norm) for norm in dict.fromkeys(norm for _, norm in norms)]
    holders = makers.find_holders(group)
    open_ends = [slices for slices, following in behind.items() if not following]
    readers = [s for s in holders if s not in behind and s not in makers.vectors]
    hidden = [s for channels, s in products if s in open_ends and makers.is_plain(channels)]
    gated = [norm for following in behind.values() for norm in following]
    gated += [slices for slices in open_ends if not (readers and slices in hidden)]
    gates = [_add_bias(network, slices) for slices in dict.fromkeys(gated)]
    gates += [[slices] for slices in readers] if hidden else []
    if not gates:  # convolutions in groups are no products
        biased = [_add_bias(network, slices) for slices in holders[:1]]
        gates = [slices for slices in biased if len(slices) > 1 and set(slices) <= set(holders)]
    if not norms:
        counted = {slices for gate in gates for slices in gate}
        gates += [[s] for s in holders if s in makers.vectors and s not in counted]
    return gates or [holders[:1]]


def _add_bias(network: TracedNetwork, slices: Slices) -> list[Slices]:
    """Return the slices of a weight, of its factors in a weight norm and of its bias, if any."""
    name, axis = slices
    kind = next((kind for kind in _FACTORS if name.endswith(kind)), None)
    if kind is None:
        return [slices]
    path, factors = name.removesuffix(kind), _FACTORS[kind]
    others = [*((path + factor, axis) for factor in factors), (f"{path}bias", 0)]
    return [slices, *(other for other in others if _is_labelled(network, *other))]


def _is_labelled(network: TracedNetwork, name: str, axis: int) -> bool:
    labels = network.labels.get(name, ())
    return axis < len(labels) and isinstance(labels[axis], np.ndarray)
