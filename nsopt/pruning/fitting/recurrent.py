"""Show the products of recurrent layers, which PyTorch computes in fused kernels or step by step.

A cell (a direction of a layer of nn.LSTM, nn.GRU or nn.RNN, or a module such as nn.LSTMCell) has
two: x W_ih + b_ih of its inputs, and h W_hh + b_hh of the states before each step. Where a gate
adds both, the second one's outputs are the sum, so that its fit makes up for errors of the first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from nsopt.pruning.fitting.products import MatrixProduct

_LAYERS = "lstm", "gru", "rnn_tanh", "rnn_relu"
_CELLS = tuple(f"{name}_cell" for name in _LAYERS)
Shown = tuple[Tensor, MatrixProduct, Tensor]  # inputs (N, P), the product, outputs (N, O)


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
