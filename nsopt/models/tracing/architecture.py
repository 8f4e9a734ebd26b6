"""A traced module as an architecture: a family of networks indexed by widths."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.isolation import public
from nsopt.models.architecture import (
    Architecture,
    Kept,
    build_to_fill,
    check_room,
    read_kept,
    read_widths,
    relative_norms,
    require_latency,
    shapes_of,
)
from nsopt.models.inputs import tensors_in
from nsopt.models.layout import best_layout
from nsopt.models.sizes import LimitedCost, Term, sum_products
from nsopt.models.tracing import probe
from nsopt.models.tracing.buffers import fill_buffers
from nsopt.models.tracing.fixed import find_fixed
from nsopt.models.tracing.groups import Group
from nsopt.models.tracing.initialise import draw_parameters
from nsopt.models.tracing.labels import Atoms, Labels, Product, Trace, TraceError, UnknownError
from nsopt.models.tracing.makers import Makers
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.originals import start_norms, unwrapped
from nsopt.models.tracing.resize import copy_with_tensors
from nsopt.models.tracing.run import tensors_of
from nsopt.scaling.cost import Channels, CostModel, Widths, unknown_metric

_ALIKE = 0.05  # difference of shares of MACs that needs no word


@dataclass(frozen=True, eq=False)
class TracedArchitecture:
    """The `Architecture` of a traced module: its networks have L groups of units, a width for each.

    Attributes:
        name: the name in messages and studies.
        network: the traced network.
        layer_names: names of the groups, after the first modules that make their channels.
        capped: by name, why a group cannot grow.
        refused: by name, why a group cannot change at all.
        trained: names of the parameters that a new network initialises. It copies all others.
        latency: cost model in milliseconds, or None before `nsopt.with_latency`.
    """

    name: str
    network: TracedNetwork
    layer_names: tuple[str, ...]
    capped: dict[str, str]
    refused: dict[str, str]
    trained: tuple[str, ...]
    latency: CostModel | None = None

    def __repr__(self) -> str:
        return f"TracedArchitecture(name={self.name!r}, base_widths={self.base_widths})"

    @property
    def base_widths(self) -> tuple[int, ...]:
        """The widths of the traced module, in units."""
        return self.network.family.widths

    @property
    def channels_per_unit(self) -> tuple[int, ...]:
        """Per group, how many channels a unit has in the first module that makes them."""
        return tuple(g.per_dimension[min(g.per_dimension)] for g in self.network.family.groups)

    @cached_property
    @public
    def narrowest(self) -> tuple[int, ...]:
        """The smallest widths at which networks run, found by trying."""
        return tuple(probe.find_narrowest(self.network).tolist())

    @property
    def rigid(self) -> tuple[bool, ...]:
        return tuple(group.rigid for group in self.network.family.groups)

    @property
    def template(self) -> nn.Module:
        return self.network.template

    @property
    def written(self) -> Collection[tuple[str, str]]:
        return self.network.trace.written

    @property
    def evaluates_only(self) -> bool:
        return self.network.trace.failed is not None

    @property
    def conditional(self) -> Mapping[str, tuple[Channels, Channels]]:
        return {}

    @cached_property
    def layout(self) -> torch.memory_format:
        return best_layout(self.network.template, self.network.run.inputs)

    @property
    def streams(self) -> tuple[int, ...]:
        """Each group has its own stream, because channels that are added form one group already."""
        return tuple(range(len(self.base_widths)))

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(tensors_in(self.network.run.inputs)[0].shape[1:])

    @property
    def num_classes(self) -> int:
        """The last size of the first output; 1 if that is a single number, such as a loss."""
        return (1, *self.network.outputs[0])[-1]

    def check_widths(self, widths: Widths) -> tuple[int, ...]:
        checked = read_widths(self, widths)
        for name, width, base in zip(self.layer_names, checked, self.base_widths, strict=True):
            if width > base and name in self.capped:
                raise NsoptError(f"the width of {name} cannot exceed {base}: {self.capped[name]}")
        tried = map(probe.shrink_width, self.base_widths)
        if all(width >= least for width, least in zip(checked, tried, strict=True)):
            return checked
        for name, width, least in zip(self.layer_names, checked, self.narrowest, strict=True):
            if width < least:
                raise NsoptError(
                    f"the width of {name} cannot be below {least}: with fewer units the network "
                    "does not run, or combines its channels in another way"
                )
        return checked

    def build(self, widths: Widths) -> nn.Module:
        w = np.array(self.check_widths(widths), np.int64)
        model = self.network.build_empty(w)
        fill_buffers(model, self.network, w.tolist(), self.trained)
        draw_parameters(model, self.network.template, self.trained)
        start_norms(model)
        return model

    def shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        model = self.network.build_empty(np.array(self.check_widths(widths), np.int64), "meta")
        return shapes_of(model.state_dict())

    @public
    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        """See `Architecture`.

        It computes the same as `model` with the other units set to zero, except in groups for which
        `explain` says otherwise. Raises NsoptError, too, for widths at which
        the network combines channels in another way.
        """
        network = self.network.retrace(model := unwrapped(model))
        chosen = read_kept(self, network.family.widths, kept)
        if 1 in map(len, chosen):  # a trace does not follow single units
            with suppress(UnknownError):  # the code may decide by values that are not known
                network.check_widths(np.array([len(units) for units in chosen]))
        self._check_copy(model)
        smaller = network.cut(model, chosen)
        self.network.retrace(smaller)
        return smaller

    def _check_copy(self, model: nn.Module) -> None:
        """Raise NsoptError if a copy of `model` computes with its tensors."""
        copied = copy_with_tensors(model, lambda _, t: torch.empty_like(t, device="cpu"))
        unlabelled: dict[str, Labels] = {n: (None,) * t.ndim for n, t in tensors_of(copied).items()}
        with suppress(TraceError):
            run = replace(self.network.run, modes=(False,))
            run(copied, Trace(), unlabelled, same=lambda *_: True)

    def filter_norms(self, model: nn.Module) -> list[Tensor]:
        """See `Architecture`; norms are averaged over all slices that make a unit."""
        network = self.network.retrace(model := unwrapped(model))
        makers, result = Makers.of(network), []
        for group in network.family.groups:
            of_unit, counted = torch.zeros(2, len(network.family.units.fixed), dtype=torch.float64)
            for name, axis in makers.find_first(group):
                label = network.labels[name][axis]
                assert isinstance(label, np.ndarray)
                units = torch.from_numpy(network.family.units.of_atom[label])
                norms = relative_norms(model.get_parameter(name), axis)
                of_unit.index_add_(0, units, norms)
                counted.index_add_(0, units, torch.ones_like(norms))
            result.append((of_unit / counted.clamp(min=1))[torch.from_numpy(group.units)])
        return result

    @public
    def inherit(self, model: nn.Module, kept: Kept, widths: Widths) -> nn.Module:
        """See `Architecture`. Tensors of rigid groups whose widths change are newly initialised.

        Raises NsoptError for invalid indices or widths, or a network of another family.
        """
        network = self.network.retrace(model := unwrapped(model))
        chosen = read_kept(self, network.family.widths, kept)
        check_room(self, chosen, self.check_widths(widths))
        started = build_to_fill(self, widths).to(next(model.parameters()).device)
        source = network.indices(chosen)
        target = self.network.retrace(started).indices([np.arange(len(k)) for k in chosen])
        tensors, values = tensors_of(started), tensors_of(model)
        with torch.no_grad():
            for name, picked in source.items():
                if values[name].ndim == 0:
                    tensors[name].copy_(values[name])
                elif [len(axis) for axis in picked] == [len(axis) for axis in target[name]]:
                    tensors[name][_make_grid(target[name])] = values[name][_make_grid(picked)]
        return started

    def with_latency(self, latency: CostModel | None) -> Self:
        """Return a copy with a cost model for `latency`. It keeps the `narrowest` already found."""
        copy = replace(self, latency=latency)
        vars(copy).update({**vars(self), "narrowest": self.narrowest, "latency": latency})
        return copy

    @public
    def cost(self, metric: str) -> LimitedCost:
        """Return the cost model for a metric, with the limits of the widths.

        Raises NsoptError for an unknown metric, or if nsopt cannot count it for this network.
        """
        if metric == "latency":
            return self._limit(require_latency(self.name, self.latency))
        network, layers = self.network, len(self.base_widths)
        if metric == "params":
            index = network.family.dimension_indices
            factors, constants = network.family.factors, network.family.constants
            terms: list[Term] = []
            for name, parameter in network.template.named_parameters():
                axes = [index[name, axis] for axis, n in enumerate(parameter.shape) if n > 1]
                scale = int(parameter.numel() > 0)
                terms.append((scale, [(factors[i], int(constants[i])) for i in axes]))
            return self._limit(sum_products(metric, terms, layers))
        if metric == "macs":
            products, examples = network.products
            return self._limit(sum_products(metric, self._size(products), layers, examples))
        raise unknown_metric(metric)

    @cached_property
    @public
    def batch_doubt(self) -> str:
        """One line if the example input takes other MACs than its number of examples times those
        of one, else "": the first dimension of the inputs may be no batch."""
        count, (one, examples) = self.network.run.count, self.network.products
        base, runs = self.base_widths, (self.network.trace.products, one)
        several, single = (int(sum_products("macs", self._size(p), len(base))(base)) for p in runs)
        share = several * examples / (count * single) if single else 1.0
        if abs(share - 1) < _ALIKE:
            return ""
        return (
            f"{count} examples take {share:.0%} of {count} times the MACs of one, which budgets "
            "count: is the first dimension of each input the batch, and does all work grow with it?"
        )

    def _size(self, products: Sequence[Product]) -> list[Term]:
        """Return products as functions of the widths."""
        return [(p.factor, [self.network.family.count(d) for d in p.dimensions]) for p in products]

    def channels(self, widths: Widths) -> dict[str, int]:
        """Return how many channels each layer makes in a network of `widths`, by layer name."""
        w = np.array(self.check_widths(widths), np.int64)
        sizes = self.network.family.sizes(w)
        return {
            name: int(sizes[min(group.per_dimension)])
            for name, group in zip(self.layer_names, self.network.family.groups, strict=True)
        }

    def summary(self) -> str:
        """Return one line: how many widths can change, and which modules are fixed."""
        fixed = find_fixed(self.network, self.refused)
        kept = f"fixed: {', '.join(fixed)}" if fixed else "nothing is fixed"
        return f"{self.name}: {len(self.base_widths)} widths can change, {kept}"

    def explain(self) -> str:
        """Return lines that say which widths can change, which cannot, and why.

        Examples:
            >>> print(nsopt.trace(model, torch.zeros(2, 1, 32, 32)).explain())
        """
        lines = [f"{self.name}: {len(self.base_widths)} widths"]
        for name, group in zip(self.layer_names, self.network.family.groups, strict=True):
            lines.append(f"  {name}: {self._describe(name, group)}")
        fixed = find_fixed(self.network, self.refused)
        lines += [f"  fixed: {name}: {reason}" for name, reason in fixed.items()]
        for note, places in self.network.trace.notes.items():
            lines.append(f"  note: {note}" + (f", in {', '.join(places)}" if places else ""))
        lines += [f"  note: {self.batch_doubt}"] * bool(self.batch_doubt)
        return "\n".join(lines)

    def _describe(self, name: str, group: Group) -> str:
        channels = next(iter(group.per_dimension.values()))
        parts = [f"{group.width} units" + (f" of {channels} channels" if channels > 1 else "")]
        if group.rigid:
            parts.append("cannot be removed one by one")
        if not group.exact:
            parts.append("removing one may differ from setting it to zero")
        if name in self.capped:
            parts.append(f"cannot grow: {self.capped[name]}")
        return ", ".join(parts)

    def _limit(self, cost: CostModel) -> LimitedCost:
        """Return a cost model with the limits of the widths."""
        named = zip(self.layer_names, self.base_widths, strict=True)
        widest = np.array([base if name in self.capped else np.inf for name, base in named])
        return LimitedCost(cost, widest, lambda: self.narrowest)


def keep_rigid(arch: Architecture) -> Architecture:
    """Return an architecture whose rigid groups keep their widths: other ones inherit nothing.

    Raises NsoptError if all of its groups are rigid.
    """
    if all(arch.rigid):
        raise NsoptError(
            f"{arch.name} has no unit that can be removed by itself: train other widths of it with "
            "nsopt.compare"
        )
    if not isinstance(arch, TracedArchitecture) or not any(arch.rigid):
        return arch
    least = np.where(arch.rigid, arch.base_widths, arch.narrowest)
    copy = replace(arch)
    vars(copy).update(vars(arch) | {"narrowest": tuple(least.tolist())})
    return copy


def _make_grid(indices: Sequence[Atoms]) -> tuple[Tensor, ...]:
    """Return an index that selects the product of the indices of all dimensions."""
    return tuple(torch.from_numpy(axis) for axis in np.ix_(*indices))
