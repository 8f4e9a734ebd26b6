"""Products of activations with a weight: their rows, their weights, and the units of these.

A row is one place of one example: of a convolution the patch below one output, of a matrix product
one row. G: groups of a grouped convolution, solved side by side, otherwise 1.

PyTorch computes recurrent layers in fused kernels or step by step. A cell (a direction of a layer
of nn.LSTM, nn.GRU or nn.RNN, or a module such as nn.LSTMCell) has two products: x W_ih + b_ih of
its inputs, and h W_hh + b_hh of the states before each step. Where a gate adds both, the second
one's outputs are the sum, so that its fit makes up for errors of the first.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import IntArray
from nsopt.tracing.originals import tensors_of

# Per axis: the group of each index, -1 for none; its unit.
Axes = Sequence[tuple[IntArray, IntArray]]
Units = Mapping[str, Axes]  # by tensor
_LAYERS = "lstm", "gru", "rnn_tanh", "rnn_relu"
_CELLS = tuple(f"{name}_cell" for name in _LAYERS)
Shown = tuple[Tensor, "MatrixProduct", Tensor]  # inputs (N, P), the product, outputs (N, O)


@dataclass(eq=False)
class MatrixProduct:
    """Rows times a weight (inputs, outputs).

    Attributes:
        weight: the factor, a parameter or a view of one.
        bias: what the operation itself adds; None if it adds nothing.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def output_axis(self) -> int:
        """The axis of the weight along which its outputs are."""
        return -1

    @property
    def inputs(self) -> int:
        """Number of weights of an output."""
        return self.weight.shape[-2]

    def count_places(self, result: Tensor) -> tuple[int, int]:
        """Return the number of examples in a result, and of places in each."""
        return 1, result.numel() // result.shape[-1]

    def select(self, result: Tensor, places: Tensor) -> Tensor:
        """Return the outputs at `places` (examples, places of each), as (rows, outputs)."""
        return result.reshape(-1, result.shape[-1])[places[0]]

    def rows(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the inputs of the outputs at `places`, (G, rows, inputs)."""
        return self.select(x, places)[None]

    def split(self, outputs: Tensor) -> Tensor:
        """Return outputs (..., all outputs) by groups, (G, ..., outputs of a group)."""
        return outputs[None]

    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight as (G, inputs, outputs of a group)."""
        return weight.reshape(1, *weight.shape[-2:])

    def change(self, change: Tensor) -> None:
        """Add a change (G, inputs, outputs of a group) to the weight."""
        self.weight += change.view(self.weight.shape).to(self.weight)


@dataclass(eq=False)
class Convolution:
    """A convolution of one to three dimensions, grouped or transposed; see `MatrixProduct`."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    groups: int
    sides: list[int]  # of the result

    @property
    def kernel(self) -> list[int]:
        return list(self.weight.shape[2:])

    @property
    def output_axis(self) -> int:
        return int(self.transposed and self.groups == 1)

    @property
    def inputs(self) -> int:
        first, second = self.weight.shape[:2]
        channels = first // self.groups if self.transposed else second
        return channels * math.prod(self.kernel)

    def count_places(self, result: Tensor) -> tuple[int, int]:
        return len(result), math.prod(result.shape[2:])

    def select(self, result: Tensor, places: Tensor) -> Tensor:
        maps = result.flatten(2)
        index = places[:, None].expand(-1, maps.shape[1], -1)
        return maps.gather(2, index).transpose(1, 2).flatten(0, 1)

    def rows(self, x: Tensor, places: Tensor) -> Tensor:
        padded, step = self._pad(x)
        grid = torch.arange(padded.shape[2:].numel(), device=x.device).view(padded.shape[2:])
        sized = zip(self.sides, step, strict=True)
        corners = grid[tuple(slice(0, side * stride, stride) for side, stride in sized)].flatten()
        sized = zip(self.kernel, self.dilation, strict=True)
        taps = grid[tuple(slice(0, k * dilation, dilation) for k, dilation in sized)]
        offsets = (taps.flip(*range(taps.ndim)) if self.transposed else taps).flatten()
        index = (corners[places][:, :, None] + offsets).flatten(1)  # (examples, places * K)
        maps = padded.flatten(2)
        values = maps.gather(2, index[:, None].expand(-1, maps.shape[1], -1))
        shape = len(maps), self.groups, -1, places.shape[1], len(offsets)
        # (examples, G, channels, places, K) -> (G, examples, places, channels, K)
        return values.reshape(shape).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)

    def _pad(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return the padded input, and the steps in it from output to output."""
        spans = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
        if not self.transposed:
            sides = [p for p in reversed(self.padding) for _ in range(2)]
            return functional.pad(x, sides), self.stride
        # Output o reads input i at kernel offset k where o + padding = stride * i + dilation * k.
        sizes = [(n - 1) * stride + 1 for n, stride in zip(x.shape[2:], self.stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *sizes)
        spread[tuple(slice(None, None, stride) for stride in (1, 1, *self.stride))] = x
        around: list[int] = []  # negative where it is cropped
        for n, side, span, padding in zip(sizes, self.sides, spans, self.padding, strict=True):
            around[:0] = span - padding, side + padding - n
        return functional.pad(spread, around), [1] * len(sizes)

    def split(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(*outputs.shape[:-1], self.groups, -1).movedim(-2, 0)

    def matrix(self, weight: Tensor) -> Tensor:
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        by_output = grouped.movedim(2, 1) if self.transposed else grouped
        return by_output.flatten(2).mT

    def change(self, change: Tensor) -> None:
        parts = change.unflatten(1, (-1, *self.kernel))  # (G, channels, *kernel, outputs)
        channels_first = parts.movedim(-1, 2)  # (G, channels, outputs, *kernel)
        whole = channels_first if self.transposed else channels_first.transpose(1, 2)
        self.weight += whole.flatten(0, 1).to(self.weight)


Product = MatrixProduct | Convolution


def read_product(name: str, args: Any, result: Any) -> tuple[Tensor, Product] | None:
    """Return the input of an ATen operation and its product; None for other operations."""
    if name == "convolution":
        x, weight, bias, stride, padding, dilation, transposed, _, groups = args
        sides = len(weight.shape) - 2
        stride, padding, dilation = (
            list(value) * (sides if len(value) == 1 else 1) for value in (stride, padding, dilation)
        )
        rest = stride, padding, dilation, transposed, groups, list(result.shape[2:])
        return x, Convolution(weight, bias, *rest)
    if name in ("mm", "addmm"):
        bias, x, weight = (None, *args) if name == "mm" else args[:3]
        return x, MatrixProduct(weight, bias)
    if name == "bmm" and len(args[1]) == 1:
        return args[0], MatrixProduct(args[1], None)
    return None


def find_units(arch: Architecture, model: nn.Module) -> Units:
    """Return which unit each index belongs to.

    Args:
        model: a network of base widths.
    """
    units = {
        name: [(np.full(size, -1), np.zeros(size, np.int64)) for size in tensor.shape]
        for name, tensor in tensors_of(model).items()
    }
    family = arch.retrace(model).family
    place = np.zeros(len(family.units.fixed), np.int64)
    for group in family.groups:
        place[group.units] = np.arange(len(group.units))
    for dimension in family.dimensions:
        if dimension.tensor in units:
            numbers = family.units.of_atom[dimension.atoms]
            units[dimension.tensor][dimension.axis] = family.group_of_unit[numbers], place[numbers]
    return units


def find_kept(
    view: Tensor, whole: Tensor, axis: int, units: Axes, kept: Sequence[Tensor]
) -> Tensor:
    """Return which indices of a view's axis are left in a cut network, ascending.

    Args:
        view: the weight of a product in the trained network.
        whole: the parameter of which it is a view.
        units: of its axes; see `find_units`.
        kept: per group, the units that are left.
    """
    left = np.ones(view.shape[axis], bool)
    for own, index in _locate(view, whole, axis):
        groups, numbers = (array[index] for array in units[own])
        for group in np.unique(groups[groups >= 0]).tolist():
            left &= (groups != group) | np.isin(numbers, kept[group].cpu().numpy())
    return torch.from_numpy(np.flatnonzero(left))


def find_units_read(
    product: Product, whole: Tensor, units: Axes, widths: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield the groups that a product reads all units of, and the inputs of each, (U, taps).

    Args:
        product: the product in the trained network; not a grouped convolution.
        whole: the parameter of which its weight is a view.
        units: of its axes; see `find_units`.
        widths: of the groups.
    """
    axis, taps = -2, 1
    if isinstance(product, Convolution):
        axis, taps = 1 - int(product.transposed), product.weight[0, 0].numel()
    axes = _locate(product.weight, whole, axis)
    if len(axes) != 1:
        return
    ((axis, index),) = axes
    groups, numbers = (array[index] for array in units[axis])
    for group in np.unique(groups[groups >= 0]).tolist():
        (places,) = np.nonzero(groups == group)
        ordered = places[np.argsort(numbers[places], kind="stable")]
        counts = np.bincount(numbers[places], minlength=widths[group])
        if (counts == counts[0]).all():
            first = torch.from_numpy(ordered.reshape(len(counts), -1)) * taps
            yield group, (first[:, :, None] + torch.arange(taps)).flatten(1)


def _locate(view: Tensor, whole: Tensor, axis: int) -> list[tuple[int, IntArray]]:
    """Return the axes of `whole` along which `view` moves along its own axis, and the indices."""
    size, whole_size = view.element_size(), whole.element_size()  # of real parts of complex ones
    strides = [stride * whole_size for stride in whole.stride()]
    rest: IntArray = np.arange(view.shape[axis]) * view.stride()[axis] * size
    rest += int(view.storage_offset() * size - whole.storage_offset() * whole_size)
    axes = []
    for own in sorted(range(whole.ndim), key=lambda own: -strides[own]):
        if whole.shape[own] > 1:
            index, rest = np.divmod(rest, strides[own])
            if len(np.unique(index)) > 1:
                axes.append((own, index))
    return axes


@dataclass(eq=False)
class StateProduct(MatrixProduct):
    """A product of states, of which a fit takes those of the trained network.

    Those of the small network come from weights that are not fitted yet.
    """


class RecurrentWatch(TorchFunctionMode):
    """Hide recurrent layers from modes of dispatch.

    Args:
        record: takes the products of a layer, before `note`.
        note: takes its name, function, arguments, keyword arguments and result, as one operation.
    """

    def __init__(
        self, record: Callable[[Tensor, MatrixProduct, Tensor], None], note: Callable[..., None]
    ) -> None:
        super().__init__()
        self._record, self._note = record, note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in _LAYERS + _CELLS or kwargs:
            return func(*args, **(kwargs or {}))
        with no_dispatch():
            for shown in (_read_cell if name in _CELLS else _read_layers)(func, *args):
                self._record(*shown)
            result = func(*args)
        self._note(name, func, args, None, result)
        return result


def _read_layers(func: Any, *args: Any) -> Iterator[Shown]:
    """Yield the products of a recurrent module; the arguments are those of `torch.lstm` etc."""
    if isinstance(args[3], bool):
        x, states, weights, has_biases, layers, _, _, both_ways, batch_first = args
        x = x.transpose(0, 1) if batch_first else x
        if not len(x):
            return  # PyTorch refuses no steps if they are padded, and crashes if they are packed
        sizes, x = torch.full((len(x),), x.shape[1]), x.flatten(0, 1)
    else:  # packed
        x, sizes, states, weights, has_biases, layers, _, _, both_ways = args
    options, ways = (has_biases, 1, 0.0, False, both_ways), 1 + both_ways
    per_cell = len(weights) // (layers * ways)
    is_one = isinstance(states, Tensor)
    for layer in range(layers):
        part = slice(layer * ways, (layer + 1) * ways)
        own = weights[part.start * per_cell : part.stop * per_cell]
        first = [state[part] for state in ([states] if is_one else states)]
        made = func(x, sizes, first[0] if is_one else first, own, *options)[0]
        for way, outputs in enumerate(made.chunk(ways, 1)):
            places = _find_before(sizes, bool(way)).to(x.device)
            before = torch.cat([first[0][way], outputs])[places]
            cell = own[way * per_cell :][: 4 if has_biases else 2]
            yield from _read_cell(func, x, before, *cell)
        x = made


def _find_before(sizes: Tensor, backwards: bool) -> Tensor:
    """Return where the state before each packed step is, (N,), in first states and then outputs.

    Args:
        sizes: how many sequences have each step, descending, (T,).
    """
    first = torch.arange(int(sizes[0]))
    exists = first < sizes[:, None]
    places = first.repeat(len(sizes), 1)
    places[exists] = torch.arange(int(sizes.sum())) + len(first)
    others = [places[1:], first[None]] if backwards else [first[None], places[:-1]]
    return torch.cat(others)[exists]


def _read_cell(
    func: Any,
    x: Tensor,
    state: Tensor | Sequence[Tensor],
    of_inputs: Tensor,
    of_states: Tensor,
    bias: Tensor | None = None,
    state_bias: Tensor | None = None,
) -> Iterator[Shown]:
    """Yield both products of a cell; the arguments are those of `torch.lstm_cell` etc."""
    state = state if isinstance(state, Tensor) else state[0]
    made = torch.nn.functional.linear(x, of_inputs, bias)
    total = torch.nn.functional.linear(state, of_states, state_bias)
    added = made.shape[1] * 2 // 3 if func.__name__.startswith("gru") else None  # not the last gate
    total[:, :added] += made[:, :added]
    yield x, MatrixProduct(of_inputs.T, bias), made
    yield state, StateProduct(of_states.T, state_bias), total
