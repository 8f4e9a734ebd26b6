"""A traced network: networks of other widths are cut out of it, or built like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.models.activations import PeakActivations
from nsopt.models.tracing.groups import Dimension, Family, Units
from nsopt.models.tracing.labels import Atoms, Labels, Product, Trace, TraceError
from nsopt.models.tracing.lifts import Lifts
from nsopt.models.tracing.resize import describe_shapes, replaced
from nsopt.models.tracing.run import LabelledRun, tensors_of

FEWEST_SEEN = 2  # units of a group: of a single one a trace tells nothing


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """One network with what its trace has shown. template: never changed.

    labels: of its tensors, by name; outputs: their shapes; order: of the first use of its tensors;
    lifts: what changes beside them.
    """

    template: nn.Module
    run: LabelledRun
    trace: Trace
    labels: dict[str, Labels]
    outputs: list[tuple[int, ...]]
    family: Family
    order: dict[str, int]
    lifts: Lifts

    @classmethod
    def of(
        cls, template: nn.Module, run: LabelledRun, like: "TracedNetwork | None" = None
    ) -> "TracedNetwork":
        """Trace `template`. like: a network whose choices are taken again. Raises TraceError."""
        trace, tensors = Trace(), tensors_of(template)
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
        outputs = run(template, trace, labels, like.trace.choices if like else None)
        names = {id(tensor): name for name, tensor in tensors.items()}
        order = {names[key]: place for place, key in enumerate(trace.read) if key in names}
        lifts = like.lifts if like else Lifts()
        unread = [d for d in dimensions if d.tensor not in order]
        units = Units.of(lifts.joined(trace, labels), unread)
        family = Family.of(tuple(dimensions), units, order)
        return cls(template, run, trace, labels, outputs, family, order, lifts)

    def with_lifts(self, lifts: Lifts) -> "TracedNetwork":
        """The same with these lifts alone; what has to stay does so."""
        before = self.family.units
        joined = Units.of(lifts.joined(self.trace, self.labels), [])
        units = joined.without(joined.of_atom[before.fixed[before.of_atom]])
        return replace(self._with_units(units), lifts=lifts)

    def with_fixed(self, units: Atoms) -> "TracedNetwork":
        """The same, of which more units have to stay."""
        if not len(units):
            return self
        return self._with_units(self.family.units.without(units))

    def _with_units(self, units: Units) -> "TracedNetwork":
        return replace(self, family=Family.of(self.family.dimensions, units, self.order))

    def at(self, model: nn.Module) -> "TracedNetwork":
        """A network of the same family, with the same groups. TraceError if it has others."""
        if _shapes(model) == _shapes(self.template):
            return self
        widths = self._widths_of(model)
        seen = np.maximum(widths, FEWEST_SEEN)
        other = self._traced(self.empty(seen))
        return other if (seen == widths).all() else other._narrowed(model, widths)

    def _widths_of(self, model: nn.Module) -> Atoms:
        family, tensors = self.family, tensors_of(model)
        sizes = np.array([tensors[d.tensor].shape[d.axis] for d in family.dimensions])
        solved, *_ = np.linalg.lstsq(family.factors, sizes - family.constants)
        widths = np.rint(solved).astype(np.int64)
        if (family.sizes(widths) != sizes).any():
            raise TraceError("this is not a network of the family that was traced")
        return widths

    def _traced(self, model: nn.Module) -> "TracedNetwork":
        other = TracedNetwork.of(model, self.run, like=self)
        constant = {
            (d.tensor, d.axis)
            for d, factors in zip(self.family.dimensions, self.family.factors, strict=True)
            if not factors.any()
        }
        stay = [
            other.family.units.of_atom[d.atoms]
            for d in other.family.dimensions
            if (d.tensor, d.axis) in constant
        ]
        other = other.with_fixed(np.concatenate([np.zeros(0, np.int64), *stay]))
        if [g.per_dimension for g in other.family.groups] != [
            g.per_dimension for g in self.family.groups
        ]:
            raise TraceError("channels join differently at these widths: a layer may be too narrow")
        return other

    def _narrowed(self, model: nn.Module, widths: Atoms) -> "TracedNetwork":
        """The same for `model`, which has the first units of each group alone."""
        left = self.indices([np.arange(width) for width in widths])
        labels = {
            name: tuple(
                label[picked] if isinstance(label, np.ndarray) else label
                for label, picked in zip(self.labels[name], axes, strict=True)
            )
            for name, axes in left.items()
        }
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
        """The products of an evaluation, and of how many examples: of one, if it runs with one.

        Work that is the same for any number of examples (codes of places) makes the difference.
        """
        trace = Trace(count=len(self.family.units.of_atom))
        try:
            self.run.of_one()(self.template, trace, self.labels, same=lambda *_: True)
        except TraceError:
            return self.trace.products, len(self.run.examples[0])
        return trace.products, 1

    def activations(self, others: Atoms) -> PeakActivations:
        """The peak of the activations of one example.

        others: widths at which to check it. NsoptError where it does not follow from the widths,
        as the scores of an attention whose heads change.
        """
        one, untold = self.run.of_one(), {n: (None,) * len(own) for n, own in self.labels.items()}
        count = len(self.family.units.of_atom)
        try:
            buffers = one.buffers(self.template, count, self.labels, self.family)
            there = one.buffers(self.empty(others), 0, untold, self.family)
        except TraceError as error:
            raise NsoptError(f"the memory of this network cannot be counted: {error}") from None
        peak = PeakActivations.of(buffers, len(others))
        lives = [[(b.first, b.last) for b in own] for own in (buffers, there)]
        sizes = peak.sizes(others).tolist()
        if lives[0] != lives[1] or sizes != [b.tensor.numel() for b in there]:
            raise NsoptError(
                "the memory of this network cannot be counted: it does not follow from its widths"
            )
        return peak

    @cached_property
    def dimensions_in_order(self) -> list[tuple[int, Dimension]]:
        """Those of the family with their indices, in the order of their first use."""
        late = len(self.order)
        return sorted(
            enumerate(self.family.dimensions),
            key=lambda indexed: (self.order.get(indexed[1].tensor, late), indexed[1].axis),
        )

    @cached_property
    def _dimension_of_atom(self) -> Atoms:
        result = np.full(self.trace.count, -1)
        for index, dimension in enumerate(self.family.dimensions):
            result[dimension.atoms] = index
        return result

    @cached_property
    def _dimension_of(self) -> dict[tuple[str, int], int]:
        return {(d.tensor, d.axis): i for i, d in enumerate(self.family.dimensions)}

    def dimensions_of(self, atoms: Atoms) -> set[int]:
        """Indices of the dimensions that hold any of these atoms."""
        known = self._dimension_of_atom
        found = known[atoms[atoms < len(known)]]
        return set(found[found >= 0].tolist())

    def indices(self, kept: Sequence[Atoms]) -> dict[str, list[Atoms]]:
        """By tensor, the indices of every dimension that are left of it. kept: per group, the
        ascending indices of the units that are left."""
        alive = self.family.alive(list(kept))
        picked = {
            (d.tensor, d.axis): np.flatnonzero(alive[self.family.units.of_atom[d.atoms]])
            for d in self.family.dimensions
        }
        return {
            name: [picked.get((name, axis), np.arange(n)) for axis, n in enumerate(tensor.shape)]
            for name, tensor in tensors_of(self.template).items()
        }

    def cut(self, model: nn.Module, kept: Sequence[Atoms]) -> nn.Module:
        """A copy of `model`, which has the shapes of the template, with the kept units alone."""
        indices = self.indices(kept)

        def change(name: str, tensor: Tensor) -> Tensor:
            for axis, picked in enumerate(indices[name]):
                if len(picked) < tensor.shape[axis]:
                    tensor = tensor.index_select(axis, torch.from_numpy(picked).to(tensor.device))
            return tensor.clone()

        smaller = replaced(model, change)
        self.describe(smaller)
        return smaller

    def describe(self, model: nn.Module) -> None:
        """Make the attributes of all modules tell the sizes that the tensors of `model` have."""
        describe_shapes(model, self.trace.group_sizes)
        self.lifts.describe(model)

    def check_cut(self, kept: Sequence[Atoms]) -> None:
        """TraceError if a network cut so would not run, or would join other channels."""
        indices, labels = self.indices(kept), {}
        for name, picked in indices.items():
            own = zip(self.labels[name], picked, strict=True)
            labels[name] = tuple(
                label[p] if isinstance(label, np.ndarray) and len(p) > 1 else None
                for label, p in own
            )
        model = self._shaped({name: [len(p) for p in picked] for name, picked in indices.items()})
        of_atom, known = self.family.units.of_atom, len(self.family.units.of_atom)

        def same(one: Atoms, other: Atoms) -> bool:
            old = (one < known) & (other < known)
            return bool((of_atom[one[old]] == of_atom[other[old]]).all())

        trace = Trace(count=known)
        outputs = self.run(model, trace, labels, self.trace.choices, same)
        self._check_outputs(outputs)

    def empty(self, widths: Atoms, device: str | None = None) -> nn.Module:
        """A network of other widths whose values are not there yet. device: None for that of the
        template; on `meta` it takes no memory."""
        sizes = self.family.sizes(widths)
        shapes = {
            name: [
                int(sizes[self._dimension_of[name, axis]]) if n > 1 else n
                for axis, n in enumerate(tensor.shape)
            ]
            for name, tensor in tensors_of(self.template).items()
        }
        return self._shaped(shapes, device)

    def check_widths(self, widths: Atoms) -> None:
        """TraceError if a network of these widths would not run, or have another output."""
        labels = {name: (None,) * tensor.ndim for name, tensor in tensors_of(self.template).items()}
        model = self.empty(widths)
        outputs = LabelledRun(self.run.examples, self.run.modes)(model, Trace(), labels)
        self._check_outputs(outputs)

    def _check_outputs(self, outputs: list[tuple[int, ...]]) -> None:
        if outputs != self.outputs:
            raise TraceError(f"the output changes from {self.outputs} to {outputs}")

    def _shaped(self, shapes: Mapping[str, Sequence[int]], device: str | None = None) -> nn.Module:
        """A network whose values are not there yet."""

        def change(name: str, tensor: Tensor) -> Tensor:
            return tensor.new_empty(shapes[name], device=device) if tensor.ndim else tensor.clone()

        model = replaced(self.template, change)
        self.describe(model)
        return model


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
