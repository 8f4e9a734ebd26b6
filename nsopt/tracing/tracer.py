"""Apply a rule to every ATen operation that a network runs.

A dispatch mode sees every operation that the user's `forward` runs. Functional calls, bare
parameters and custom modules therefore need no special treatment.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.inputs import identify_memory, tensors_in
from nsopt.tracing.labels import (
    Atoms,
    Filled,
    Frozen,
    Label,
    Labels,
    Product,
    Trace,
    TraceError,
    UnknownError,
    find_line,
    select_atoms,
)
from nsopt.tracing.rules import RESULTS, RULES, read_signature
from nsopt.tracing.values import Span, Values, list_written, locate, make_fakes, pick_all

ADVICE = ": decide there by shapes or by an argument, or trace the part of the network before it"
_MOST_GUESSES = 2000  # in a run; then it is taken for an endless loop


class Tracer(TorchDispatchMode):
    """Follow labels through one run of a network.

    Args:
        trace: the tracer adds what it records to this trace.
        replay: the choices of an earlier trace, to repeat them; None to make new ones.
        same: returns whether two arrays of atoms belong to the same units. If given, the tracer
            only checks: it joins and freezes nothing, and raises TraceError if a rule joins
            different units.
        denied: see `LabelledRun`.
    """

    def __init__(
        self,
        trace: Trace,
        replay: Iterator[tuple[str, Any]] | None = None,
        same: Callable[[Atoms, Atoms], bool] | None = None,
        denied: frozenset[str] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.values = trace, Values()
        self.guessed = ""  # where code first read a number that is unknown
        self.used: set[int] = set()  # ids of parameters and buffers that the running mode has used
        self.seams: dict[bytes, set[int]] = {}  # ends of unequal parts, by a label's bytes
        self.sparse: dict[int, Tensor] = {}  # inputs, by the ids of their fake tensors
        self.real: dict[int, Tensor] = {}  # tensors with values that operations used, by their ids
        self.operation = ""  # that is running
        self.shape: Sequence[int] = ()  # of its first argument, before it runs
        self.running: list[str] = []  # paths of the running modules, the innermost last
        self._replay = replay
        self._same = same
        self._denied = denied
        self._guesses = 0
        self._known = trace.count
        self._labels: dict[int, Labels] = {}
        self._kept_alive: list[Tensor] = []  # else Python may reuse the ids
        self._outer: set[int] = set()
        self._filled: list[tuple[int, Filled]] = []  # of products, by their indices
        self._aliases: dict[int, dict[int, Span]] = {}  # of filled tensors, by memory and id
        self._unread: dict[int, Callable[[], object]] = {}  # by the id of a tensor
        self._last: list[Tensor] = []

    def declare(self, tensor: Tensor, labels: Labels) -> None:
        """Label a parameter or buffer; the trace then records its first use."""
        self.put(tensor, labels)
        self._outer.add(id(tensor))
        self.values.declared.add(id(tensor))

    @property
    def where(self) -> str:
        """The path of the module that is running."""
        return (self.running[-1] if self.running else "") or "the network"

    def get(self, tensor: Tensor) -> Labels:
        """Return the labels of a tensor, one for each dimension.

        Raises TraceError for a parameter after a guess, which may decide how layers run.
        """
        if id(tensor) in self._outer:
            if self.guessed and isinstance(tensor, nn.Parameter):
                raise self.refuse_guess()
            self.trace.read[id(tensor)] = None
            self.used.add(id(tensor))
        return self._labels.get(id(tensor), (None,) * tensor.ndim)

    def put(self, tensor: Tensor, labels: Sequence[Label]) -> None:
        """Label a tensor. Dimensions of size 1 get None."""
        for label, size in zip(labels, tensor.shape, strict=True):
            assert not isinstance(label, np.ndarray) or len(label) == size
        sized = zip(labels, tensor.shape, strict=True)
        known = tuple(None if size == 1 else label for label, size in sized)
        self._labels[id(tensor)] = known
        self._kept_alive.append(tensor)
        if any(isinstance(label, Filled) for label in known) and tensor.layout == torch.strided:
            self._aliases.setdefault(identify_memory(tensor), {})[id(tensor)] = locate(tensor)

    def put_all(self, results: Any, labels: Sequence[Label]) -> None:
        """Label all tensors that an operation returns alike."""
        for tensor in tensors_in(results):
            self.put(tensor, labels)

    def choose(self, best: Callable[[], Any]) -> Any:
        """Return the result of `best`, or repeat the choice of an earlier trace.

        Networks of other widths must make the same choices, or their groups would differ. Raises
        TraceError if the earlier trace made its choice at another operation.
        """
        if self._replay is None:
            choice = best()
            self.trace.choices.append((self.operation, choice))
            return choice
        operation, choice = next(self._replay, ("nothing", None))
        if operation != self.operation:
            raise self._error(f"the network runs {self.operation} instead of {operation}")
        return choice

    def join(self, *labels: Label) -> Label:
        """Join the labels of dimensions that must have equal sizes; return the common label.

        If one of the sizes is fixed (label None), the atoms of the other labels are frozen.
        """
        atoms = select_atoms(labels)
        filled = [label for label in labels if isinstance(label, Filled)]
        if not atoms:
            return filled[0] if filled and None not in labels else None
        atoms += [label.met for label in filled if label.met is not None]
        for label in filled:
            label.met = atoms[0]
        if any(label is None for label in labels):
            self.freeze("must equal a dimension of fixed size", *atoms)
        if self._same is not None:  # new atoms, as of zeros, belong to no group: they come last
            atoms.sort(key=lambda label: int((label >= self._known).sum()))
        for partner in atoms[1:]:
            self._join_pair(atoms[0], partner)
        return atoms[0]

    def join_rows(self, rows: Atoms) -> Atoms:
        """Join the rows of a matrix of atoms index by index; return the first row."""
        first, others = rows[0], rows[1:]
        self._join_pair(np.broadcast_to(first, others.shape), others)
        return np.asarray(first)

    def check_part(self, whole: Atoms, part: Atoms) -> None:
        """Record which atoms a part of a dimension has; zeros get other atoms in each run.

        Raises TraceError if they are not those that remain of the earlier trace's part.
        """
        before, old = self.choose(lambda: part), part[part < self._known]
        checks = self._same is not None and self._replay is not None
        if checks and not np.array_equal(old, before[np.isin(before, whole)]):
            raise self.refuse_cut()

    def refuse_cut(self) -> TraceError:
        return self._error("the code cuts a dimension at another place")

    def freeze(self, reason: str, *labels: Label) -> None:
        """Freeze all atoms of these labels. `explain` shows users the reason."""
        atoms = [label.ravel() for label in select_atoms(labels)]
        if atoms and self._same is None:
            self.trace.frozen.append(Frozen(np.concatenate(atoms), reason, self.where))

    def freeze_axes(self, reason: str, tensor: Tensor, axes: Iterable[int]) -> list[Label]:
        """Freeze some dimensions of a tensor; return its labels, with None for these."""
        labels, gone = self.get(tensor), {d % tensor.ndim for d in axes}
        self.freeze(reason, *(labels[d] for d in gone))
        return [None if d in gone else label for d, label in enumerate(labels)]

    def when_read(self, tensor: Tensor, action: Callable[[], object]) -> None:
        """Run a function once an operation reads a tensor's values, or the network returns it."""
        self._unread[id(tensor)] = action
        self._kept_alive.append(tensor)

    def mark_inexact(self, *labels: Label) -> None:
        """Mark all atoms of these labels as inexact."""
        self.trace.inexact += select_atoms(labels)

    def multiply(self, factor: int, *dimensions: tuple[Label, int]) -> None:
        """Count multiply-accumulates: a constant times the sizes of dimensions.

        `dimensions` are pairs of a label and a size.
        """
        for label, size in dimensions:
            factor *= 1 if isinstance(label, np.ndarray) else size
            if isinstance(label, Filled):
                self._filled.append((len(self.trace.products), label))
        atoms = tuple(select_atoms(label for label, _ in dimensions))
        self.trace.products.append(Product(factor, atoms, self.where))

    def complete_products(self) -> None:
        """Let products have the sizes that filled tensors met after them."""
        for i, label in self._filled:
            if label.met is not None:
                old = self.trace.products[i]
                sizes = old.factor // label.size, (*old.dimensions, label.met)
                self.trace.products[i] = Product(*sizes, old.module)
        self._filled.clear()

    def note(self, what: str) -> None:
        """Record what `explain` tells users about a module."""
        self.trace.notes.setdefault(what, {})[self.where] = None

    def refuse_guess(self) -> UnknownError:
        """Return the error that the values of tensors decide how layers run."""
        return UnknownError(
            f"the forward pass depends on the values of tensors, in {self.guessed}{ADVICE}"
        )

    def note_maker(self, label: Label) -> None:
        """Record that a product with a parameter makes the channels with this label."""
        self.trace.makers += select_atoms([label])

    def note_norm(self, channels: Label, scale: Label) -> None:
        """Record that a norm multiplies these channels by a parameter with the label `scale`.

        The label is None if it has no such parameter.
        """
        if isinstance(channels, np.ndarray):
            if isinstance(scale, np.ndarray):
                self.trace.norms.append((channels, scale))
            else:
                self.trace.plain_norms[self.running[-1]] = channels

    def find_last_atoms(self) -> Atoms:
        """Return the atoms of all tensors among the arguments of the last operation."""
        atoms = select_atoms(label for tensor in self._last for label in self.get(tensor))
        return np.unique(np.concatenate(atoms)) if atoms else np.zeros(0, np.int64)

    def _join_pair(self, one: Atoms, other: Atoms) -> None:
        if one.shape != other.shape:
            raise self._error(f"sizes {one.size} and {other.size} do not match")
        if self._same is None:
            self.trace.edges.append((one.ravel(), other.ravel()))
        elif not self._same(one, other):
            raise self._error("the network combines channels in another way")

    def _error(self, what: str) -> TraceError:
        return TraceError(f"{what} in {self.where}", self.find_last_atoms())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        self._last = tensors_in((args, kwargs))
        self.real |= {id(tensor): tensor for tensor in self._last if type(tensor) is not FakeTensor}
        signature = read_signature(func)
        self.shape = args[0].shape if args and isinstance(args[0], Tensor) else (1,)
        if self.shape:
            self.trace.operations[-1].append((signature.name, self.where))
        if self._same is None:
            used = [self._labels.get(id(tensor), ()) for tensor in self._last]
            self.trace.passing.setdefault(self.where, []).extend(select_atoms(chain(*used)))
        made = None if "out" in kwargs else RESULTS.get(signature.name)
        if signature.depends_on_values:
            if signature.operation != "index" or self.values.is_unknown_mask(*args):
                return self._compute(func, args, kwargs)
            args = (args[0], self._expand_masks(args[1]), *args[2:])
        result = made(func, *args, **kwargs) if made else func(*args, **kwargs)
        if signature.namespace == "prim":
            return result
        self.values.follow(func, args, kwargs, result)
        self.operation = signature.operation
        if self._unread and not signature.copies_shape:
            self.note_reading(self._last)
        rule = RULES.get(self.operation, RULES["pointwise"] if signature.is_pointwise else None)
        if rule is not None:
            rule(self, result, *signature.bind(args, kwargs))
        else:
            labels = [label for t in self._last for label in self.get(t)]
            self.freeze(f"no rule for the operation {func._schema.name}", *labels)
        for written in list_written(func, args, kwargs):
            self._note_write(written, has_rule=rule is not None)
        return result

    def note_reading(self, tensors: Sequence[Tensor]) -> None:
        """Run what `when_read` got: these tensors are read, or returned."""
        for tensor in tensors:
            if action := self._unread.pop(id(tensor), None):
                action()

    def _note_write(self, written: Tensor, has_rule: bool) -> None:
        """Note what an operation wrote into the memory of filled tensors.

        They keep, or get, its label in a dimension that was written as a whole; in others they may
        differ along the index now. Without a rule nothing is known of what was written.
        """
        if not has_rule:
            self.put(written, [None if isinstance(a, Filled) else a for a in self.get(written)])
        if not (aliases := self._aliases.get(identify_memory(written))):
            return
        here = locate(written)
        by_axis = dict(zip(here.axes, self.get(written), strict=True))
        for key, span in [*aliases.items()]:
            if key != id(written) and span.meets(here):
                self._labels[key] = tuple(
                    by_axis.get(axis) if isinstance(a, Filled) and axis[1] else a
                    for a, axis in zip(self._labels[key], span.axes, strict=True)
                )
            if not any(isinstance(label, Filled) for label in self._labels[key]):
                del aliases[key]

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the result of an operation that depends on values."""
        if func is torch.ops.aten.index.Tensor:
            return self._flatten(args[0], args[1][0])
        known = self.values.compute(func, args, kwargs)
        for tensor in tensors_in((args, kwargs)):
            self._use_values(tensor)
        if known is not None:
            return make_fakes(self.values, known)
        picked = pick_all(func, args, kwargs)
        if picked is None and str(func._schema.returns[0].type) == "Tensor":
            raise self._error(f"the values of tensors decide what {func._schema.name} returns")
        if picked is None:
            return self.guess(args[0].dtype if "scalar" in func._schema.name else torch.bool)
        self.note("picks by values, traced as if everything were picked")
        return make_fakes(self.values, picked)

    def _flatten(self, x: Tensor, mask: Tensor) -> Any:
        """Return what a mask of the same shape picks, as if that were all elements."""
        self.note("picks by values, traced as if everything were picked")
        copy = x.clone(memory_format=torch.contiguous_format)
        self.put(copy, [self.join(*p) for p in zip(self.get(x), self.get(mask), strict=True)])
        return self.__torch_dispatch__(torch.ops.aten.view.default, (), (copy, [-1]))

    def _expand_masks(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Replace masks among the indices of `index` by the indices of what they pick."""
        expanded: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                expanded += self._compute(torch.ops.aten.nonzero.default, (index,), {}).unbind(1)
            else:
                expanded.append(index)
        return expanded

    def read(self, tensor: Tensor) -> Tensor | None:
        """Return the values of a tensor that decide shapes, or None if they are unknown."""
        self._use_values(tensor)
        return self.values.find(tensor)

    def _use_values(self, tensor: Tensor) -> None:
        """Freeze the dimensions of a tensor whose values code reads, and of buffers behind it."""
        self.freeze("its values decide what the code does", *self.get(tensor))
        for source in self.values.sources.get(id(tensor), ()):
            if source in self._labels:
                self.freeze("its values decide what the code does", *self._labels[source])
            else:
                self.note("reads values of the input, which are those of the example")

    def guess(self, kind: torch.dtype) -> bool | int | float:
        """Return 1 for a number that is unknown, or 0 in a line where it is denied.

        Unless lines may be denied, it may only decide what follows the last layer. So may integers:
        they may be sizes.
        """
        line, is_integer = find_line(), not (kind == torch.bool or kind.is_floating_point)
        self._guesses += 1
        if self._denied is None or is_integer or self._guesses > _MOST_GUESSES:
            self.guessed = self.guessed or (f"{self.where} ({line})" if line else self.where)
            if self._guesses > _MOST_GUESSES:
                raise self.refuse_guess()
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        self.trace.guessed[line] = None
        self.note("reads values of tensors, which decide nothing")
        is_true = line not in self._denied
        return is_true if kind == torch.bool else float(is_true)
