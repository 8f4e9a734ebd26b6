"""A traced network, from which networks of other widths are cut or built."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from nsopt.tracing.adaptation import Adaptation, find_norms, list_sizes
from nsopt.tracing.groups import Dimension, Family, Units
from nsopt.tracing.labels import Atoms, Labels, Product, Reading, Trace, TraceError
from nsopt.tracing.originals import (
    copy_with_tensors,
    describe_module,
    make_new,
    replace_tensors,
    select_indices,
    shapes_of,
    tensors_of,
)
from nsopt.tracing.run import LabelledRun
from nsopt.tracing.states import restore_tensors, watch_attributes, watch_writes

T = TypeVar("T")
_FEW = 1000  # elements of a tensor that a copy keeps
FEWEST_TRACED = 2  # units of a group that a trace can follow: it does not label a size of 1


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """A network and the results of its trace.

    Attributes:
        template: the network, which never changes.
        run: runs a network on labels.
        trace: the record of this run.
        labels: the labels of parameters and buffers, by name.
        outputs: shapes of the outputs in all modes.
        family: the groups, and the sizes of tensors as functions of the widths.
        order: when each tensor is first used, by its name.
        adaptation: what else changes with the widths.
        read: paths and names of the sizes in attributes that `forward` reads.
    """

    template: nn.Module
    run: LabelledRun
    trace: Trace
    labels: dict[str, Labels]
    outputs: list[tuple[int, ...]]
    family: Family
    order: dict[str, int]
    adaptation: Adaptation
    read: frozenset[tuple[str, str]]

    @classmethod
    def of(
        cls,
        template: nn.Module,
        run: LabelledRun,
        like: "TracedNetwork | None" = None,
        reading: Reading | None = None,
    ) -> "TracedNetwork":
        """Trace `template`. Raises TraceError if it cannot be traced.

        Args:
            run: runs a network on labels.
            like: a network of the same family, whose choices and adaptation it gets.
            reading: how to read its code.
        """
        trace = Trace(reading or Reading())
        tensors = tensors_of(template)
        labels: dict[str, Labels] = {}
        dimensions: list[Dimension] = []
        for name, tensor in tensors.items():
            labels[name] = tuple(trace.new_atoms(n) if n > 1 else None for n in tensor.shape)
            dimensions += [
                Dimension(name, axis, label)
                for axis, label in enumerate(labels[name])
                if isinstance(label, np.ndarray)
            ]
        if not dimensions:
            raise TraceError("the network has no parameters")
        sizes = {} if like else list_sizes(template)
        stored = {path: [name for name, *_ in attributes] for path, attributes in sizes.items()}
        writes = nullcontext() if like else watch_writes(template, trace.written)
        with watch_attributes(template, stored) as read, writes:
            outputs = run(template, trace, labels, like.trace.choices if like else None)
        names = {id(tensor): name for name, tensor in tensors.items()}
        order = {names[key]: i for i, key in enumerate(trace.read) if key in names}
        norms = () if like else tuple(find_norms(template, trace, dimensions))
        adaptation = like.adaptation if like else Adaptation(unread=norms)
        units = Units.of(adaptation.join_ties(trace, labels))
        units = units.marked(units.of_atom[d.atoms] for d in dimensions if d.tensor not in order)
        family = Family.of(tuple(dimensions), units, order)
        known = like.read if like else frozenset(read)
        return cls(template, run, trace, labels, outputs, family, order, adaptation, known)

    def read_as(self, reading: Reading) -> "TracedNetwork":
        """Return another trace of the network, of such a reading of its code."""
        return TracedNetwork.of(self.template, self.run, reading=reading)

    def adapted(self, more: Adaptation) -> "TracedNetwork":
        """Return a copy that is adapted to other widths in more ways. Fixed units stay fixed."""
        adaptation = self.adaptation + more
        if adaptation.joins == self.adaptation.joins:
            return replace(self, adaptation=adaptation)
        before = self.family.units
        joined = Units.of(adaptation.join_ties(self.trace, self.labels))
        units = joined.marked([joined.of_atom[before.fixed[before.of_atom]]])
        return replace(self._with_units(units), adaptation=adaptation)

    def marked(self, fixed: Sequence[Atoms] = (), inexact: Sequence[Atoms] = ()) -> "TracedNetwork":
        """Return a copy in which these units are fixed, or inexact, too."""
        units = self.family.units
        return self._with_units(units.marked(fixed, inexact)) if fixed or inexact else self

    def _with_units(self, units: Units) -> "TracedNetwork":
        return replace(self, family=Family.of(self.family.dimensions, units, self.order))

    def retrace(self, model: nn.Module, widths: Atoms | None = None) -> "TracedNetwork":
        """Return the trace of `model`, of `widths` (L,) or those that its shapes tell.

        Raises TraceError if the model belongs to another family or has other groups.
        """
        if shapes_of(tensors_of(model)) == shapes_of(tensors_of(self.template)):
            return self
        widths = self._find_widths(model) if widths is None else widths
        # A single unit, as a query that all values share, has nothing to differ from.
        traceable = np.maximum(widths, np.minimum(FEWEST_TRACED, self.family.widths))
        traced = self._trace_alike(self.build_empty(traceable))
        return traced if (traceable == widths).all() else traced.narrow(model, widths)

    def _find_widths(self, model: nn.Module) -> Atoms:
        family, shapes = self.family, shapes_of(tensors_of(model))
        error = "the model does not belong to the family of the traced network"
        for name, label in self.labels.items():
            if name not in shapes or len(shapes[name]) != len(label):
                raise TraceError(f"{error}: {name} is missing or has other dimensions")
        sizes = np.array([shapes[d.tensor][d.axis] for d in family.dimensions])
        solved, *_ = np.linalg.lstsq(family.factors, sizes - family.constants)
        widths = np.rint(solved).astype(np.int64)
        buffers = {name for name, _ in self.template.named_buffers()}
        loose = {  # a table of positions may grow in `forward`
            (d.tensor, d.axis)
            for d, factors in zip(family.dimensions, family.factors, strict=True)
            if d.tensor in buffers and not factors.any()
        }
        for name, shape in self._shapes(widths).items():
            pairs = enumerate(zip(shapes[name], shape, strict=True))
            if any(a != b and (name, axis) not in loose for axis, (a, b) in pairs):
                raise TraceError(f"{error}: {name} has the shape {shapes[name]}")
        return widths

    def _trace_alike(self, model: nn.Module) -> "TracedNetwork":
        traced = TracedNetwork.of(model, self.run, like=self)
        stay = [
            traced.family.units.of_atom[d.atoms]
            for d, factors in zip(traced.family.dimensions, self.family.factors, strict=True)
            if not factors.any()
        ]
        traced = traced.marked(stay)
        groups = [group.per_dimension for group in self.family.groups]
        parts = [g.units for g in traced.family.groups if g.per_dimension not in groups]
        traced = traced.marked(parts)  # of dimensions in which others change
        if [g.per_dimension for g in traced.family.groups] != groups:
            raise TraceError(
                "at these widths the network combines channels in another way: a layer may be too "
                "narrow, or the code adds tensors only if their shapes are equal"
            )
        return traced

    def narrow(self, model: nn.Module, widths: Atoms) -> "TracedNetwork":
        """Return a copy for `model`, which has only the first units of each group."""
        left = self.indices([np.arange(width) for width in widths])
        labels = self._change_labels(left, lambda label, picked: label[picked])
        dimensions = tuple(
            replace(d, atoms=d.atoms[left[d.tensor][d.axis]]) for d in self.family.dimensions
        )
        groups = tuple(
            replace(group, units=group.units[:width], width=int(width))
            for group, width in zip(self.family.groups, widths, strict=True)
        )
        family = Family(dimensions, self.family.units, groups)
        return replace(self, template=model, labels=labels, family=family)

    @cached_property
    def products(self) -> tuple[list[Product], int]:
        """The multiply-accumulates of a run in evaluation mode, and its number of examples.

        It runs one example if the network accepts that, because some work, such as position
        encodings, does not grow with the number of examples.
        """
        try:
            return self.repeat(self.run.with_one_example())[0].products, 1
        except TraceError:
            return self.trace.products, self.run.count

    def repeat(self, run: LabelledRun) -> tuple[Trace, list[tuple[int, ...]]]:
        """Run the network on other inputs, and return the trace and the shapes of the outputs.

        Raises TraceError if it does not run.
        """
        trace = self.family.units.new_trace()
        labels = self.family.units.name_by(self.labels)
        return trace, run(self.template, trace, labels, same=lambda *_: True)

    @cached_property
    def dimensions_in_order(self) -> list[tuple[int, Dimension]]:
        """The dimensions of the family with their indices, in the order of their first use."""
        late = len(self.order)
        return sorted(
            enumerate(self.family.dimensions),
            key=lambda indexed: (self.order.get(indexed[1].tensor, late), indexed[1].axis),
        )

    def indices(self, kept: Sequence[Atoms]) -> dict[str, list[Atoms]]:
        """Return which indices of every dimension remain with the `kept` units, by tensor."""
        alive = self.family.find_alive(list(kept))
        picked = {
            (d.tensor, d.axis): np.flatnonzero(alive[self.family.units.of_atom[d.atoms]])
            for d in self.family.dimensions
        }
        return {
            name: [picked.get((name, axis), np.arange(n)) for axis, n in enumerate(tensor.shape)]
            for name, tensor in tensors_of(self.template).items()
        }

    def cut(self, model: nn.Module, kept: Sequence[Atoms]) -> nn.Module:
        """Return a copy of `model`, which has the template's shapes, with only the kept units.

        Raises TraceError if `model` has other tensors.
        """
        indices = self.indices(kept)
        others = tensors_of(model).keys() - indices.keys()
        if others:
            raise TraceError(f"the traced network has no {min(others)}: trace this model instead")
        smaller = copy_with_tensors(
            model, lambda name, tensor: select_indices(tensor, indices[name]).clone()
        )
        self.describe(smaller)
        return smaller

    def describe(self, model: nn.Module) -> None:
        """Set the sizes that modules store, such as `in_channels`, to those of their tensors."""
        self.adaptation.describe(model)
        for path, module in model.named_modules():
            describe_module(module, self.trace.group_sizes.get(path))
        for path, name, layer, source in self.adaptation.alike:
            vars(model.get_submodule(path))[name] = getattr(model.get_submodule(layer), source)

    @cached_property
    def _quick_run(self) -> LabelledRun:
        """Runs a network of other widths in one mode, if that shows what the other mode does."""
        tensors = {
            path: chain(m.parameters(), m.buffers()) for path, m in self.template.named_modules()
        }
        plain = {path for path, values in tensors.items() if next(values, None) is None}
        return replace(self.run, modes=(False,)) if self.trace.runs_alike(plain) else self.run

    def check_cut(self, kept: Sequence[Atoms]) -> None:
        """Raise TraceError if a network of the kept units does not run, or joins other units."""
        indices = self.indices(kept)
        labels = self._change_labels(indices, lambda label, picked: label[picked])
        shapes = {name: [len(p) for p in picked] for name, picked in indices.items()}
        of_atom, known = self.family.units.of_atom, len(self.family.units.of_atom)

        def same(one: Atoms, other: Atoms) -> bool:
            old = (one < known) & (other < known)
            return bool((of_atom[one[old]] == of_atom[other[old]]).all())

        trace, outputs = self._run_reshaped(shapes, labels, self.trace.choices, same)
        if len(trace.products) != len(self.trace.products):
            raise TraceError("the network runs other products at other widths", step=0)
        self._check_outputs(outputs)

    def build_empty(self, widths: Atoms, device: str | None = None) -> nn.Module:
        """Return a network of `widths` without values, on the template's device or `device`."""
        shapes = self._shapes(widths)
        model = copy_with_tensors(
            self.template, lambda name, tensor: _make_empty(tensor, shapes[name], device)
        )
        self.describe(model)
        return model

    def _shapes(self, widths: Atoms) -> dict[str, list[int]]:
        """Return the shapes of all tensors in a network of `widths`, by name."""
        sizes = self.family.sizes(widths)
        return {
            name: [
                int(sizes[self.family.dimension_indices[name, axis]]) if n > 1 else n
                for axis, n in enumerate(tensor.shape)
            ]
            for name, tensor in tensors_of(self.template).items()
        }

    def check_widths(self, widths: Atoms) -> Trace:
        """Return the trace of a network of `widths`, which joins no atoms.

        New units share the atoms of existing units, so that an error shows the groups at fault.
        Raises TraceError if the network does not run or its outputs change shape.
        """
        shapes = self._shapes(widths)
        labels = self._change_labels(shapes, np.resize)
        trace, outputs = self._run_reshaped(shapes, labels, None, lambda *_: True)
        self._check_outputs(outputs)
        return trace

    def _change_labels(
        self, axes: Mapping[str, Sequence[T]], change: Callable[[Atoms, T], Atoms]
    ) -> dict[str, Labels]:
        """Return the labels of all tensors after a `change` by the items of their axes."""
        return {
            name: tuple(
                change(label, axis) if isinstance(label, np.ndarray) else None
                for label, axis in zip(self.labels[name], items, strict=True)
            )
            for name, items in axes.items()
        }

    def _check_outputs(self, outputs: list[tuple[int, ...]]) -> None:
        before = self.outputs[: len(outputs)]  # a run may leave out modes
        if outputs != before:
            raise TraceError(f"the shape of the output changes from {before} to {outputs}")

    def _run_reshaped(
        self,
        shapes: Mapping[str, Sequence[int]],
        labels: Mapping[str, Labels],
        choices: Sequence[tuple[str, Any]] | None,
        same: Callable[[Atoms, Atoms], bool],
    ) -> tuple[Trace, list[tuple[int, ...]]]:
        """Run the template with tensors of other shapes, which is faster than a copy of it.

        Other arguments are those of `LabelledRun`.
        """
        trace = self.family.units.new_trace()
        with restore_tensors(self.template):
            replace_tensors(
                self.template, lambda name, t: make_new(t, _make_empty(t.detach(), shapes[name]))
            )
            self.describe(self.template)
            outputs = self._quick_run(self.template, trace, labels, choices, same)
        return trace, outputs


def _make_empty(tensor: Tensor, shape: Sequence[int], device: str | None = None) -> Tensor:
    """Return an uninitialised tensor; a small one of the old shape keeps its values."""
    if list(tensor.shape) == list(shape) and tensor.numel() <= _FEW and not device:
        return tensor.clone()
    return tensor.new_empty(shape, device=device)
