"""A traced module as an architecture: a family of networks indexed by widths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError, unknown_name
from nsopt.models.activations import PeakActivations
from nsopt.models.architecture import read_widths, relative_norms, require_latency, shapes_of
from nsopt.models.layout import best_layout
from nsopt.models.tracing import probe
from nsopt.models.tracing.buffers import fill_buffers
from nsopt.models.tracing.cost import LimitedCost, Size, TracedCost
from nsopt.models.tracing.groups import Group
from nsopt.models.tracing.initialise import InitialisationLaw
from nsopt.models.tracing.labels import Atoms
from nsopt.models.tracing.makers import Makers
from nsopt.models.tracing.network import FEWEST_SEEN, TracedNetwork
from nsopt.models.tracing.originals import original_weight, start_norms
from nsopt.models.tracing.run import tensors_of
from nsopt.scaling.bytes import COUNTED_IN_BYTES, ByteCost
from nsopt.scaling.cost import CostModel

PRODUCERS = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True, eq=False)
class TracedArchitecture:
    """A traced module as a function of the widths of its L groups of channels.

    layer_names: of the groups, each by the module that first makes its channels; base_widths: in
    units; input_shape: of one example; num_classes: the last size of the output; capped: groups
    that cannot grow, refused: those that cannot change at all, both by name with the reason;
    init: draws first values into a network, None for the law told from the module itself; latency:
    its cost model in milliseconds, if one was learned.
    """

    name: str
    network: TracedNetwork
    layer_names: tuple[str, ...]
    capped: dict[str, str]
    refused: dict[str, str]
    init: Callable[[nn.Module], None] | None = None
    latency: CostModel | None = None

    @property
    def base_widths(self) -> tuple[int, ...]:
        return self.network.family.widths

    @property
    def channels_per_unit(self) -> tuple[int, ...]:
        """Of the module that first makes them."""
        return tuple(g.per_dimension[min(g.per_dimension)] for g in self.network.family.groups)

    @cached_property
    def narrowest(self) -> tuple[int, ...]:
        return tuple(probe.narrowest(self.network).tolist())

    @cached_property
    def layout(self) -> torch.memory_format:
        return best_layout(self.network.template, self.network.run.examples)

    @property
    def streams(self) -> tuple[int, ...]:
        """Each group alone: what is added to each other is one."""
        return tuple(range(len(self.base_widths)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.network.run.examples[0].shape[1:])

    @property
    def num_classes(self) -> int:
        return self.network.outputs[0][-1]

    def check_widths(self, widths: Sequence[int]) -> tuple[int, ...]:
        """`widths` as a tuple of ints; NsoptError if they cannot be those of a network."""
        checked = read_widths(self, widths)
        for name, width, base in zip(self.layer_names, checked, self.base_widths, strict=True):
            if width > base and name in self.capped:
                raise NsoptError(f"the width of {name} cannot exceed {base}: {self.capped[name]}")
        if any(w < probe.smaller(base) for w, base in zip(checked, self.base_widths, strict=True)):
            self._check_narrow(checked)
        return checked

    def _check_narrow(self, widths: Sequence[int]) -> None:
        for name, width, least in zip(self.layer_names, widths, self.narrowest, strict=True):
            if width < least:
                raise NsoptError(
                    f"the width of {name} cannot be below {least}: the network does not run there, "
                    "or its channels join differently"
                )

    def build(self, widths: Sequence[int]) -> nn.Module:
        """A freshly initialised network. NsoptError for widths that it cannot have."""
        w = np.array(self.check_widths(widths), np.int64)
        model = self.network.empty(w)
        fill_buffers(model, self.network, widths)
        if self.init is not None:
            self.init(model)
        else:
            self._law.draw(model)
        start_norms(model)
        return model

    def shapes(self, widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Of all tensors in the state of `build(widths)`, which is not built."""
        model = self.network.empty(np.array(self.check_widths(widths), np.int64), "meta")
        return shapes_of(model.state_dict())

    def prune(self, model: nn.Module, kept: Sequence[Sequence[int]]) -> nn.Module:
        """A copy of `model`, a network of base widths, with the kept units of each group.

        kept: per group, ascending indices. What is left computes as if the others were zero, where
        `explain` does not call the group inexact.
        """
        if len(kept) != len(self.base_widths):
            raise NsoptError(f"{self.name} has {len(self.base_widths)} groups, got {len(kept)}")
        return self.network.cut(model, [np.asarray(indices, np.int64) for indices in kept])

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        """Per group, the relative L1 norms of what makes each unit, their mean."""
        network = self.network.at(model)
        makers, result = Makers.of(network), []
        for group in network.family.groups:
            of_unit, counted = torch.zeros(2, len(network.family.units.fixed), dtype=torch.float64)
            for name, axis in makers.first(group):
                label = network.labels[name][axis]
                assert isinstance(label, np.ndarray)
                units = torch.from_numpy(network.family.units.of_atom[label])
                norms = relative_norms(model.get_parameter(name), axis)
                of_unit.index_add_(0, units, norms)
                counted.index_add_(0, units, torch.ones_like(norms))
            result.append((of_unit / counted.clamp(min=1))[torch.from_numpy(group.units)])
        return result

    def inherit(self, model: nn.Module, kept: Sequence[Tensor], widths: Sequence[int]) -> nn.Module:
        """A network of `widths` that starts from the kept units of a trained `model`.

        Tensors of units that cannot be cut one by one start anew where their width differs.
        """
        started = self.build(widths).to(next(model.parameters()).device)
        source = self.network.at(model).indices([k.cpu().numpy() for k in kept])
        target = self.network.at(started).indices([np.arange(len(k)) for k in kept])
        tensors, values = tensors_of(started), tensors_of(model)
        with torch.no_grad():
            for name, picked in source.items():
                if values[name].ndim == 0:
                    tensors[name].copy_(values[name])
                elif [len(axis) for axis in picked] == [len(axis) for axis in target[name]]:
                    tensors[name][_grid(target[name])] = values[name][_grid(picked)]
        return started

    def with_latency(self, latency: CostModel) -> Self:
        return replace(self, latency=latency)

    def cost(self, metric: str) -> LimitedCost:
        """Exact cost model for `params`, `macs` (of one example), `flash` or `memory` (bytes
        of the weights, or of the activations at their peak); for `latency`, what it has."""
        if metric == "latency":
            return self._limited(require_latency(self.name, self.latency))
        if metric in COUNTED_IN_BYTES:
            numbers, each = COUNTED_IN_BYTES[metric]
            limited = self.cost(numbers)
            return replace(limited, cost=ByteCost(metric, limited.cost, each))
        network, layers = self.network, len(self.base_widths)
        if metric == "params":
            index = {(d.tensor, d.axis): i for i, d in enumerate(network.family.dimensions)}
            factors, constants = network.family.factors, network.family.constants
            terms: list[tuple[int, list[Size]]] = []
            for name, parameter in network.template.named_parameters():
                axes = [index[name, axis] for axis, n in enumerate(parameter.shape) if n > 1]
                scale = int(parameter.numel() > 0)
                terms.append((scale, [(factors[i], int(constants[i])) for i in axes]))
            return self._limited(TracedCost.of(metric, terms, layers))
        if metric == "activations":
            return replace(self._limited(self._activations), find_narrowest=self._seen)
        if metric == "macs":
            products, examples = network.products
            count = network.family.count
            terms = [(p.factor, [count(atoms) for atoms in p.dimensions]) for p in products]
            return self._limited(TracedCost.of(metric, terms, layers, examples))
        raise unknown_name("metric", metric, ("params", "macs"))

    def channels(self, widths: Sequence[int]) -> dict[str, int]:
        """The channels that each group's module makes in a network of these widths."""
        w = np.array(self.check_widths(widths), np.int64)
        sizes = self.network.family.sizes(w)
        return {
            name: int(sizes[min(group.per_dimension)])
            for name, group in zip(self.layer_names, self.network.family.groups, strict=True)
        }

    def summary(self) -> str:
        """One line: how many widths there are, and which modules keep theirs."""
        fixed = dict.fromkeys([*self.refused, *self._fixed()])
        kept = f"fixed: {', '.join(fixed)}" if fixed else "nothing is fixed"
        return f"{self.name}: {len(self.base_widths)} widths can change, {kept}"

    def explain(self) -> str:
        """What can be scaled, what cannot, and why."""
        lines = [f"{self.name}: {len(self.base_widths)} widths"]
        for name, group in zip(self.layer_names, self.network.family.groups, strict=True):
            lines.append(f"  {name}: {self._description(name, group)}")
        lines += [f"  fixed: {name}: {reason}" for name, reason in self.refused.items()]
        lines += [f"  fixed: {name}: {reason}" for name, reason in self._fixed().items()]
        return "\n".join(lines)

    def _description(self, name: str, group: Group) -> str:
        channels = next(iter(group.per_dimension.values()))
        parts = [f"{group.width} units" + (f" of {channels} channels" if channels > 1 else "")]
        if group.rigid:
            parts.append("cannot be cut one by one")
        if not group.exact:
            parts.append("removing one is not the same as setting it to zero")
        if name in self.capped:
            parts.append(f"cannot grow: {self.capped[name]}")
        return ", ".join(parts)

    def _fixed(self) -> dict[str, str]:
        """Modules whose outputs keep their number, but for kernels, with the reasons."""
        network, reasons = self.network, {}
        names = {id(tensor): name for name, tensor in tensors_of(network.template).items()}
        for path, module in network.template.named_modules():
            weight = original_weight(module)
            if not isinstance(module, PRODUCERS) or weight is None:
                continue
            label = network.labels[names[id(weight)]][output_axis(module)]
            if not isinstance(label, np.ndarray):
                continue
            units = network.family.units.of_atom[label]
            if (network.family.group_of_unit[units] >= 0).all():
                continue
            used = id(weight) in network.trace.read
            found = _reasons(network, units) if used else ["is never used"]
            reasons[path] = "; ".join(found)
        return reasons

    def _limited(self, cost: CostModel) -> LimitedCost:
        named = zip(self.layer_names, self.base_widths, strict=True)
        widest = np.array([base if name in self.capped else np.inf for name, base in named])
        return LimitedCost(cost, widest, lambda: self.narrowest)

    @cached_property
    def _activations(self) -> PeakActivations:
        halved = np.maximum(self._seen(), np.array(self.base_widths) // 2)
        return self.network.activations(halved)

    def _seen(self) -> tuple[int, ...]:
        """The narrowest widths whose networks make the same buffers: copies of a single unit may
        vanish."""
        return tuple(max(FEWEST_SEEN, width) for width in self.narrowest)

    @cached_property
    def _law(self) -> InitialisationLaw:
        return InitialisationLaw.of(self.network.template)


def _reasons(network: TracedNetwork, units: Atoms) -> list[str]:
    """Why units have to stay."""
    of_atom = network.family.units.of_atom
    return sorted(
        {
            f"{frozen.reason} in {frozen.module}"
            for frozen in network.trace.frozen
            if np.isin(of_atom[frozen.atoms], units).any()
        }
    )


def _grid(indices: Sequence[Atoms]) -> tuple[Tensor, ...]:
    """For indexing every dimension by its own indices."""
    return tuple(torch.from_numpy(axis) for axis in np.ix_(*indices))


def output_axis(module: nn.Module) -> int:
    return 1 if getattr(module, "transposed", False) else 0
