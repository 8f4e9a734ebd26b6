"""Rules of recurrent modules, attention and dropout, whose ATen operations do not show enough.

The rule of a recurrent module (LSTM, GRU, RNN) covers all of it, not its time steps. A unit is one
element of the hidden state, with its row in every gate and its column in every weight that reads
the state. A PyTorch module has one hidden size, so all its layers and directions share their units.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from nsopt.inputs import tensors_in
from nsopt.tracing.labels import Label, TraceError
from nsopt.tracing.shape_rules import label_by_met
from nsopt.tracing.tracer import Tracer
from nsopt.tracing.values import make_fakes

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")


class FunctionRules(TorchFunctionMode):
    """Label the results of recurrent modules; mark the size of attention's queries as inexact.

    Attention scales its scores by this size. PyTorch may split attention into products, in which
    the scale is a number without a label. Dropout does nothing, so that a network in training mode
    runs the operations of its evaluation mode. What is assigned to `.data` is copied into it.
    A tensor of an earlier run, which code kept, is refused.
    """

    def __init__(self, tracer: Tracer, fake: FakeTensorMode) -> None:
        super().__init__()
        self._tracer, self._fake = tracer, fake
        self.called: tuple[Any, ...] = ()  # the arguments of the last function

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        self.called = args, kwargs
        given = [t for t in tensors_in(self.called) if isinstance(t, FakeTensor)]
        if any(tensor.fake_mode is not self._fake for tensor in given):
            raise _refuse_kept(self._tracer.where)
        if name in _GATES:
            is_packed = not isinstance(args[3], bool)  # the second argument: its sizes
            rest = args[2:] if is_packed else args[1:-1]
            return _follow_layers(self._tracer, _GATES[name], args[0], *rest)
        if name in _PACKING:
            packed = _PACKING[name](self._tracer, *args)
            return func(*args) if packed is None else packed
        if name == "scaled_dot_product_attention":
            query = args[0] if args else kwargs["query"]
            self._tracer.mark_inexact(self._tracer.get(query)[-1])
            args, kwargs = (*args[:4], *[0.0][: len(args) - 4], *args[5:]), {**kwargs}
            kwargs.pop("dropout_p", None)
        if name in _DROPOUTS and args:
            return args[0]
        if name == "__set__" and func.__self__ is Tensor.data:
            if (args[0].shape, args[0].dtype) != (args[1].shape, args[1].dtype):
                raise RuntimeError("forward assigns a tensor of another shape or type to .data")
            func, args = Tensor.copy_, (args[0].detach(), args[1])
        if name in ("numpy", "__array__"):
            return _read_array(self._tracer, func, args, kwargs)
        if name == "__format__" and not args[0].ndim:  # fake tensors have no numbers to print
            return format(1.0 if args[0].is_floating_point() else 1, args[1])
        return func(*args, **kwargs)


def _refuse_kept(where: str) -> TraceError:
    error = TraceError(
        f"{where} uses a tensor that code keeps outside its modules, as lru_cache does: keep it in "
        "a buffer, or compute it in every call, and start Python anew, since it now has no values"
    )
    error.optional = False
    return error


def _read_array(tracer: Tracer, func: Any, args: Any, kwargs: Any) -> Any:
    """Return a tensor as a NumPy array. Unknown values may only be read after the last layer."""
    value = tracer.read(args[0])
    if value is None and isinstance(args[0], FakeTensor):
        tracer.guess(torch.int64)  # the conversion fails
    with no_dispatch():
        return func(args[0] if value is None else value, *args[1:], **kwargs)


@dataclass(frozen=True)
class _Cell:
    """The parameters of one direction of one layer."""

    of_inputs: Tensor
    of_hidden: Tensor
    biases: tuple[Tensor, ...]
    projection: Tensor | None

    @classmethod
    def of(cls, weights: Sequence[Tensor], has_biases: bool) -> "_Cell":
        """Return the cell with these weights, in PyTorch's order."""
        first, second, *others = weights
        biases = tuple(others[:2]) if has_biases else ()
        projection = others[len(biases)] if len(others) > len(biases) else None
        return cls(first, second, biases, projection)

    def check(self, inputs: int, gates: int) -> None:
        """Raise ValueError if the shapes of the parameters do not fit together."""
        rows, outputs = self.of_hidden.shape
        hidden = rows // gates
        expected = [(self.of_inputs, (rows, inputs)), *((bias, (rows,)) for bias in self.biases)]
        if self.projection is not None:
            expected.append((self.projection, (outputs, hidden)))
        elif outputs != hidden:
            raise ValueError(f"the weights have hidden sizes of {hidden} and {outputs}")
        for tensor, shape in expected:
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"a recurrent weight has the shape {tuple(tensor.shape)}, not {shape}"
                )


def _follow_layers(
    tracer: Tracer, gates: int, x: Tensor, state: Any, weights: Sequence[Tensor], *options: Any
) -> tuple[Tensor, ...]:
    """Return the labelled results of a recurrent module.

    The arguments after `gates` are those of PyTorch's function, such as `torch.lstm`.

    Args:
        x: padded, with dimensions of batch and time; or packed, with one of both.
    """
    has_biases, layers, _dropout, _training, bidirectional = options
    states = [state] if isinstance(state, Tensor) else list(state)
    ways = 2 if bidirectional else 1
    per_cell = len(weights) // (layers * ways)
    labels, inputs, size = tracer.get(x)[:-1], tracer.get(x)[-1], x.shape[-1]
    steps = math.prod(x.shape[:-1])
    tracer.freeze("holds the steps of a recurrent layer", *labels)
    outputs: list[Label] = [tracer.get(states[0])[-1]]
    cells: list[Label] = [tracer.get(states[-1])[-1]]
    for first in range(0, len(weights), ways * per_cell):
        for start in range(first, first + ways * per_cell, per_cell):
            cell = _Cell.of(weights[start : start + per_cell], has_biases)
            cell.check(size, gates)
            units, made = _follow_cell(tracer, cell, gates, inputs, steps)
            cells.append(units)
            outputs.append(made)
        size, inputs = ways * states[0].shape[-1], _repeat(outputs[-1], ways)
    of_outputs = tracer.join(*outputs) if states[0].shape[-1] > 1 else None
    of_cells = tracer.join(*cells) if states[-1].shape[-1] > 1 else None
    for first_state, label in zip(states, (of_outputs, of_cells), strict=False):
        label_by_met(tracer, first_state, [None, None, label])
    result = x.new_empty(*x.shape[:-1], size)
    tracer.put(result, [*labels, _repeat(of_outputs, ways)])
    ends = [state.new_empty(state.shape) for state in states]
    for end, label in zip(ends, (of_outputs, of_cells), strict=False):
        tracer.put(end, [None, None, label])
    return (result, *ends)


def _follow_cell(
    tracer: Tracer, cell: _Cell, gates: int, inputs: Label, steps: int
) -> tuple[Label, Label]:
    """Join the atoms of a cell; return the labels of its cell state and its hidden state."""
    of_inputs, of_hidden = tracer.get(cell.of_inputs), tracer.get(cell.of_hidden)
    if cell.of_inputs.shape[1] > 1:
        tracer.join(inputs, of_inputs[1])
    rows = tracer.join(of_inputs[0], of_hidden[0], *(tracer.get(bias)[0] for bias in cell.biases))
    units: Label = (
        tracer.join_rows(rows.reshape(gates, -1)) if isinstance(rows, np.ndarray) else None
    )
    made = units
    for labels, tensor in ((of_inputs, cell.of_inputs), (of_hidden, cell.of_hidden)):
        tracer.multiply(steps, *zip(labels, tensor.shape, strict=True))
    if cell.projection is not None:
        projected = tracer.get(cell.projection)
        tracer.multiply(steps, *zip(projected, cell.projection.shape, strict=True))
        if cell.projection.shape[1] > 1:
            tracer.join(units, projected[1])
        made = projected[0]
        tracer.freeze(
            "has a projection, and PyTorch recognises a projection by its size", units, made
        )
    if cell.of_hidden.shape[1] > 1:
        made = tracer.join(made, of_hidden[1])
    tracer.note_maker(made)
    return units, made


def _repeat(label: Label, times: int) -> Label:
    return np.tile(label, times) if isinstance(label, np.ndarray) else label


def _pack(
    tracer: Tracer, x: Tensor, lengths: Tensor, batch_first: bool
) -> tuple[Tensor, Tensor] | None:
    """Return a padded batch as a packed one, and how many sequences have each step."""
    known = tracer.read(lengths)
    if known is None:
        return None
    with no_dispatch():
        steps = torch.arange(int(known.max()))
        sizes, total = (known > steps[:, None]).sum(1), int(known.sum())
    packed = x.new_empty(total, *x.shape[2:])
    tracer.put(packed, [None, *tracer.get(x)[2:]])
    return packed, make_fakes(tracer.values, sizes)


def _pad(
    tracer: Tracer, packed: Tensor, sizes: Tensor, batch_first: bool, value: float, total: int
) -> tuple[Tensor, Tensor] | None:
    """Return a packed batch as a padded one, and the lengths of its sequences."""
    known = tracer.read(sizes)
    if known is None:
        return None
    with no_dispatch():
        count, steps = int(known[0]), max(len(known), total)
        lengths = (known[:, None] > torch.arange(count)).sum(0)
    shape = (count, steps) if batch_first else (steps, count)
    padded = packed.new_empty(*shape, *packed.shape[1:])
    tracer.put(padded, [None, None, *tracer.get(packed)[1:]])
    return padded, make_fakes(tracer.values, lengths)


# By the name of PyTorch's function. They return None if the lengths are unknown.
_PACKING: dict[str, Callable[..., tuple[Tensor, Tensor] | None]] = {
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _pad,
}
