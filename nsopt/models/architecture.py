"""Architectures: families of networks indexed by widths, with their costs."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.inputs import tensors_in
from nsopt.isolation import public
from nsopt.models.networks import (
    Design,
    Kept,
    best_layout,
    check_room,
    fill_network,
    make_grid,
    read_kept,
    read_widths,
)
from nsopt.scaling.cost import (
    ALWAYS,
    CostModel,
    LimitedCost,
    SizeCost,
    Widths,
    sum_products,
    unknown_metric,
)
from nsopt.tracing.labels import Atoms, Labels, Product, Trace, TraceError, UnknownError
from nsopt.tracing.makers import find_fixed, relative_norms, unit_norms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import copy_with_tensors, shapes_of, tensors_of, unwrapped
from nsopt.tracing.search import probe

_ALIKE = 0.05  # difference of shares of MACs that needs no word


@dataclass(frozen=True, eq=False)
class Architecture:
    """A family of networks, indexed by the widths of its L groups of layers.

    Attributes:
        name: the name in messages and studies, which `get_architecture` takes.
        network: a traced network of the family.
        layer_names: names of the groups, in forward order, after the first modules that make their
            channels.
        capped: by name, why a group cannot grow.
        refused: by name, why a group cannot change at all.
        trained: names of the parameters that a new network initialises. It copies all others.
        latency: cost model in milliseconds, or None before `nsopt.with_latency`.
        design: what the author of one of nsopt's own networks knows of it.
    """

    name: str
    network: TracedNetwork
    layer_names: tuple[str, ...]
    capped: dict[str, str]
    refused: dict[str, str]
    trained: tuple[str, ...]
    latency: CostModel | None = None
    design: Design = field(default_factory=Design)

    def __repr__(self) -> str:
        return f"Architecture(name={self.name!r}, base_widths={self.base_widths})"

    @property
    def base_widths(self) -> tuple[int, ...]:
        """Widths of the original network, in units."""
        return self.network.family.widths

    @property
    def channels_per_unit(self) -> tuple[int, ...]:
        """Channels per unit of width; several if they can only change together."""
        return tuple(g.per_dimension[min(g.per_dimension)] for g in self.network.family.groups)

    @cached_property
    @public
    def narrowest(self) -> tuple[int, ...]:
        """The smallest widths at which its networks run, found by trying."""
        if self.design.make:
            return (1,) * len(self.base_widths)
        return tuple(probe.find_narrowest(self.network).tolist())

    @property
    def rigid(self) -> tuple[bool, ...]:
        """Per group, whether pruning cannot remove its units one by one."""
        return tuple(group.rigid for group in self.network.family.groups)

    @cached_property
    def template(self) -> nn.Module:
        """A network of base widths. It never changes."""
        return build_to_fill(self, self.base_widths) if self.design.make else self.network.template

    @property
    def is_built_in(self) -> bool:
        """Whether its code is nsopt's own."""
        return self.design.make is not None

    @property
    def written(self) -> Collection[tuple[str, str]]:
        """Paths of modules and names of attributes that its networks set as they run."""
        return self.network.trace.written

    @property
    def evaluates_only(self) -> bool:
        """Whether its networks are known to run in evaluation mode alone."""
        return self.network.trace.failed is not None

    @cached_property
    def layout(self) -> torch.memory_format:
        """Memory layout of its networks and their inputs."""
        if self.design.make:
            return torch.channels_last
        return best_layout(self.network.template, self.network.run.inputs)

    @property
    def streams(self) -> tuple[int, ...]:
        """Per group, the first group whose channels are added to its own at base widths."""
        return self.design.find_streams(self.base_widths)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, (C, H, W) for images."""
        return tuple(tensors_in(self.network.run.inputs)[0].shape[1:])

    @property
    def num_classes(self) -> int:
        """The last size of the first output; 1 if that is a single number, such as a loss."""
        return (1, *self.network.outputs[0])[-1]

    def check_widths(self, widths: Widths) -> tuple[int, ...]:
        """Return `widths` as a tuple of ints. Raises NsoptError for invalid ones."""
        checked = read_widths(self.name, len(self.base_widths), widths)
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
        """Return a newly initialised network. Raises NsoptError for invalid widths."""
        w = np.array(self.check_widths(widths), np.int64)
        if self.design.make:
            return self.design.build(w)
        model = self.network.build_empty(w)
        fill_network(model, self.network, w.tolist(), self.trained)
        return model

    def shapes(self, widths: Widths) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all tensors in the state of a network, without building it."""
        w = np.array(self.check_widths(widths), np.int64)
        with torch.device("meta"):
            new = self.design.build(w) if self.design.make else self.network.build_empty(w, "meta")
        return shapes_of(new.state_dict())

    def retrace(self, model: nn.Module) -> TracedNetwork:
        """Return the trace of a network of this family. Raises NsoptError for any other.

        It has the tensors of all shortcuts, of which `model` may have fewer.
        """
        if not self.design.make:
            return self.network.retrace(model)
        present = dict(model.named_modules()).keys()
        for path, module in self.network.template.named_modules():
            if path not in present and module._parameters and self.design.find_pair(path) == ALWAYS:
                raise NsoptError(f"the model is no {self.name}: it has no module {path}")
        widths = np.array([len(first) for first, *_ in self.design.find_filters(model)])
        with torch.device("meta"):
            whole = self.design.build(widths, whole=True)
        is_narrow = (widths <= self.base_widths).all()
        return (self.network.narrow if is_narrow else self.network.retrace)(whole, widths)

    @public
    def prune(self, model: nn.Module, kept: Kept) -> nn.Module:
        """Return a copy of `model` that has only some units of each group.

        It computes the same as `model` with the other units set to zero, except in groups for which
        `explain` says otherwise, and where the code calculates with sizes, as in `y / y.shape[1]`.

        Args:
            model: a network of this family.
            kept: per group, ascending indices of the units to keep, or a boolean mask of all units.
                Rigid groups keep all.

        Raises:
            NsoptError: for invalid indices, a network of another family, or widths at which the
                network combines channels in another way.

        Examples:
            >>> arch = nsopt.trace(model, torch.zeros(2, 1, 32, 32))
            >>> smaller = arch.prune(model, [range(width // 2) for width in arch.base_widths])
        """
        network = self.retrace(model := unwrapped(model))
        chosen = read_kept(self.name, self.layer_names, network.family.widths, kept)
        if self.design.make:  # the copy may have other shortcuts
            return self._inherit(network, model, chosen, [len(units) for units in chosen])
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
        """Return the L1 norms of each group's units in `model`, float64 (w_l,).

        Norms are divided by the layer's mean, and averaged over all slices that make a unit.

        Examples:
            >>> norms = arch.filter_norms(model)
            >>> kept = [norm.topk(len(norm) // 2).indices.sort().values for norm in norms]
        """
        network = self.retrace(model := unwrapped(model))
        if not self.design.make:
            return unit_norms(network, model)
        filters = self.design.find_filters(model)
        return [torch.stack([relative_norms(w, 0) for w in some]).mean(0) for some in filters]

    @public
    def inherit(self, model: nn.Module, kept: Kept, widths: Widths) -> nn.Module:
        """Return a network of `widths` with the kept units of a trained `model`.

        All else is newly initialised: also tensors of rigid groups whose widths change, and
        projections on shortcuts that `model` does not have.

        Args:
            model: a trained network of this family.
            kept: per group, ascending indices of at most `widths[l]` units, or a boolean mask.
            widths: the widths of the new network.

        Raises:
            NsoptError: for invalid indices or widths, or a network of another family.

        Examples:
            >>> kept = [torch.arange(width // 2) for width in arch.base_widths]
            >>> half = arch.inherit(model, kept, [len(units) for units in kept])
        """
        network = self.retrace(model := unwrapped(model))
        chosen = read_kept(self.name, self.layer_names, network.family.widths, kept)
        check_room(self.layer_names, chosen, self.check_widths(widths))
        return self._inherit(network, model, chosen, widths)

    def _inherit(
        self, network: TracedNetwork, model: nn.Module, chosen: Sequence[Atoms], widths: Widths
    ) -> nn.Module:
        """Return what `inherit` does; `network` is the trace of `model`."""
        started = build_to_fill(self, widths).to(next(model.parameters()).device)
        source = network.indices(chosen)
        target = self.retrace(started).indices([np.arange(len(k)) for k in chosen])
        tensors, values = tensors_of(started), tensors_of(model)
        with torch.no_grad():
            for name in tensors.keys() & values.keys():
                picked = source[name]
                if values[name].ndim == 0:
                    tensors[name].copy_(values[name])
                elif [len(axis) for axis in picked] == [len(axis) for axis in target[name]]:
                    tensors[name][make_grid(target[name])] = values[name][make_grid(picked)]
        return started

    def with_latency(self, latency: CostModel | None) -> Self:
        """Return a copy with a cost model for `latency`."""
        return self._changed(latency=latency, narrowest=self.narrowest)

    def _changed(self, **attributes: Any) -> Self:
        """Return a copy with other attributes, which keeps all that has been found already."""
        copy = replace(self)
        vars(copy).update(vars(self) | attributes)
        return copy

    def with_rigid_kept(self) -> Self:
        """Return a copy whose rigid groups keep their widths: other ones inherit nothing.

        Raises NsoptError if all of its groups are rigid.
        """
        if all(self.rigid):
            raise NsoptError(
                f"{self.name} has no unit that can be removed by itself: train other widths of it "
                "with nsopt.compare"
            )
        if not any(self.rigid):
            return self
        least = np.where(self.rigid, self.base_widths, self.narrowest)
        return self._changed(narrowest=tuple(least.tolist()))

    @public
    def cost(self, metric: str) -> LimitedCost:
        """Return the cost model for a metric, with the limits of the widths.

        Args:
            metric: `params` or `macs` (of one example), both exact; or `latency` (milliseconds), as
                `nsopt.with_latency` learned it.

        Raises:
            NsoptError: for an unknown metric, for `latency` without a latency model, or if nsopt
                cannot count it for this network.
        """
        costs = {"params": "_params", "macs": "_macs", "latency": "latency"}
        if metric not in costs:
            raise unknown_metric(metric)
        if (cost := getattr(self, costs[metric])) is None:
            raise NsoptError(
                f"{self.name} has no latency model: call nsopt.with_latency(arch) first"
            )
        named = zip(self.layer_names, self.base_widths, strict=True)
        widest = np.array([base if name in self.capped else np.inf for name, base in named])
        return LimitedCost(cost, widest, lambda: self.narrowest)

    @cached_property
    def _params(self) -> SizeCost:
        family, terms = self.network.family, []
        index = family.dimension_indices
        for name, parameter in self.network.template.named_parameters():
            axes = [index[name, axis] for axis, n in enumerate(parameter.shape) if n > 1]
            sizes = [(family.factors[i], int(family.constants[i])) for i in axes]
            terms.append((int(parameter.numel() > 0), sizes, self.design.find_pair(name)))
        return sum_products("params", terms, len(self.base_widths))

    @cached_property
    def _macs(self) -> SizeCost:
        return self._count_macs(*self.network.products)

    def _count_macs(self, products: Sequence[Product], examples: int = 1) -> SizeCost:
        count, pair = self.network.family.count, self.design.find_pair
        terms = ((p.factor, [count(d) for d in p.dimensions], pair(p.module)) for p in products)
        return sum_products("macs", terms, len(self.base_widths), examples)

    @cached_property
    @public
    def batch_warning(self) -> str:
        """One line if the example input takes other MACs than its number of examples times those
        of one, else "": the first dimension of the inputs may be no batch."""
        count, (one, examples) = self.network.run.count, self.network.products
        base, runs = self.base_widths, (self.network.trace.products, one)
        several, single = (int(self._count_macs(products)(base)) for products in runs)
        share = several * examples / (count * single) if single else 1.0
        if abs(share - 1) < _ALIKE:
            return ""
        return (
            f"{count} examples take {share:.0%} of {count} times the MACs of one, which budgets "
            "count: is the first dimension of each input the batch, and does all work grow with it?"
        )

    def summary(self) -> str:
        """Return one line: how many widths can change, and which modules are fixed.

        It is empty for nsopt's own networks, of which nothing is fixed but the outputs.
        """
        if self.design.make:
            return ""
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
            limit = f", cannot grow: {self.capped[name]}" if name in self.capped else ""
            lines.append(f"  {name}: {group.describe()}{limit}")
        fixed = find_fixed(self.network, self.refused)
        lines += [f"  fixed: {name}: {reason}" for name, reason in fixed.items()]
        for note, paths in self.network.trace.notes.items():
            lines.append(f"  note: {note}" + (f", in {', '.join(paths)}" if paths else ""))
        lines += [f"  note: {self.batch_warning}"] * bool(self.batch_warning)
        return "\n".join(lines)


def build_to_fill(arch: Architecture, widths: Widths) -> nn.Module:
    """Build a network into which weights are copied, without changing torch's random numbers."""
    with torch.random.fork_rng(devices=[]):
        return arch.build(widths)
