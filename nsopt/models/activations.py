"""Count how many numbers the activations of one example hold at the peak of a forward pass.

A buffer exists from the operation that makes it to the last operation that uses it. Views and
in-place operations share the buffer of their input. Inputs and outputs have buffers; tensors that
no operation uses, such as the indices of a max-pool, have none.

L: searched layers; N: rows of widths. A step is an operation of one forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.models.inputs import identify_memory, tensors_in
from nsopt.models.shortcuts import tie
from nsopt.models.sizes import Size, SizeCost
from nsopt.scaling.cost import Channels, CostModel, IntArray, Operation, read_rows

_LARGE = 1_000_003  # above all other sizes of a network


@dataclass(eq=False)
class Buffer:
    """The memory of a tensor and its views.

    Attributes:
        sizes: sizes of its dimensions, as functions of the widths.
        first: the step that makes it.
        last: the last step that uses it.
    """

    tensor: Tensor
    sizes: list[Size]
    first: int
    last: int


class BufferRecorder(TorchDispatchMode):
    """Record when a network makes and uses its activations.

    Args:
        sizes_of: returns the sizes of a tensor's dimensions as functions of the widths.
    """

    def __init__(self, sizes_of: Callable[[Tensor], list[Size]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes_of = sizes_of
        self._buffers: dict[int, Buffer] = {}
        self._views: dict[int, tuple[Tensor, int]] = {}
        self._step = 0

    def take(self, inputs: Any) -> None:
        """Record the inputs of a network, or what an operation makes."""
        for tensor in tensors_in(inputs):
            if identify_memory(tensor) not in self._buffers:
                made = Buffer(tensor, [], self._step, self._step)
                self._buffers[identify_memory(tensor)] = made

    def give(self, outputs: Any) -> None:
        """Record the outputs of a network: their buffers exist until the end."""
        for buffer in self._find(outputs):
            buffer.last = self._step + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._step += 1
        given = tensors_in((args, kwargs))
        for tensor in given:
            known = self._buffers.get(identify_memory(tensor))
            if known is not None and known.tensor.shape == tensor.shape:
                known.tensor = tensor  # the one with labels, where PyTorch made another before
        used = set(map(identify_memory, given))
        made = [tensor for tensor in tensors_in(result) if identify_memory(tensor) not in used]
        if _is_view(func):
            storage = self._find_storage(tensors_in(args)[0])
            for view in made:  # PyTorch reports the memory of a fake view as its own
                self._views[identify_memory(view)] = view, storage
            made = []
        self.take(made)
        if made or func._schema.is_mutable:  # a view does not use the memory
            for buffer in self._find((args, kwargs)):
                buffer.last = self._step
        return result

    @property
    def buffers(self) -> list[Buffer]:
        """The buffers that operations use, sized by what is known at the end of the run."""
        used = [b for b in self._buffers.values() if b.last > b.first and b.tensor.numel()]
        return [replace(buffer, sizes=self._sizes_of(buffer.tensor)) for buffer in used]

    def _find_storage(self, tensor: Tensor) -> int:
        memory = identify_memory(tensor)
        return self._views[memory][1] if memory in self._views else memory

    def _find(self, tensors: Any) -> list[Buffer]:
        storages = dict.fromkeys(map(self._find_storage, tensors_in(tensors)))
        return [self._buffers[storage] for storage in storages if storage in self._buffers]


def _is_view(func: Any) -> bool:
    """Return whether an operation returns only views of its first tensor."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)


def count_activations(buffers: Sequence[Buffer], layers: int) -> SizeCost:
    """Return how many numbers these buffers hold at the peak, as a function of L widths.

    A complex number counts as two.
    """
    steps = range(max(buffer.last for buffer in buffers) + 1)
    live = [[buffer.first <= step <= buffer.last for buffer in buffers] for step in steps]
    numbers = [1 + buffer.tensor.is_complex() for buffer in buffers]
    different = np.unique(np.array(live) * np.array(numbers), axis=0)
    return SizeCost.of("activations", different, [buffer.sizes for buffer in buffers], layers)


@dataclass(frozen=True, eq=False)
class TableActivations(CostModel):
    """The activations of networks that are made from a table of operations.

    Some operations exist only at some widths, which changes the buffers. nsopt therefore records
    one network for each such case.

    Attributes:
        assemble: returns a network of widths (L,), whose tensors are on the meta device.
        input_shape: shape of one example.
        layers: L.
        recorded: the recorded buffers of each case so far.
    """

    assemble: Callable[[Sequence[int]], nn.Module]
    operations: tuple[Operation, ...]
    input_shape: tuple[int, int, int]
    layers: int
    recorded: dict[Any, SizeCost] = field(default_factory=dict)
    metric = "activations"

    def __call__(self, widths: ArrayLike) -> int | IntArray:
        w = read_rows(widths, self.layers)
        rows = w.reshape(-1, self.layers)
        conditional = [o for o in self.operations if o.unless_equal is not None]
        exist = np.array([operation.exists(rows) for operation in conditional], np.bool_)
        cases, case_of = np.unique(exist.reshape(-1, len(rows)).T, axis=0, return_inverse=True)
        peak = np.zeros(len(rows), np.int64)
        for number, case in enumerate(cases):
            mine = case_of.reshape(-1) == number
            missing = zip(conditional, case, strict=True)
            equal = [o.unless_equal for o, exists in missing if o.unless_equal and not exists]
            peak[mine] = self._record(equal)(rows[mine])
        return int(peak[0]) if w.ndim == 1 else peak

    def lower_bound(self, widths: ArrayLike) -> int | IntArray:
        """Return how many numbers input and output of a layer have together, for the largest layer.

        This considers only layers that exist at all widths.
        """
        w = read_rows(widths, self.layers)
        pairs = [
            o.inputs.count(w) * (o.stride * (o.resolution - 1) + 1) ** 2
            + o.outputs.count(w) * o.resolution**2
            for o in self.operations
            if o.unless_equal is None and o.kind != "norm"
        ]
        largest: IntArray = np.max(pairs, axis=0)
        return int(largest) if w.ndim == 1 else largest

    def _record(self, equal: Sequence[tuple[Channels, Channels]]) -> SizeCost:
        """Return the buffers of networks in which these pairs of channels are equal.

        All other widths are large and different, so that a size shows which layer it belongs to.
        """
        layers = [(one.layer, other.layer) for one, other in equal]
        pairs = tuple((a, b) for a, b in layers if a is not None and b is not None)
        if pairs not in self.recorded:
            widths = _LARGE + tie(self.layers, pairs)
            channels = {
                int(c.count(widths)): c
                for o in self.operations
                for c in (o.inputs, o.outputs)
                if c.layer is not None
            }

            def size(n: int) -> Size:
                factors = np.zeros(self.layers, np.int64)
                if n not in channels:
                    return factors, n
                factors[channels[n].layer] = channels[n].factor
                return factors, 0

            recorder = BufferRecorder(lambda tensor: [size(n) for n in tensor.shape])
            network = self.assemble(widths.tolist()).eval()
            images = torch.empty(1, *self.input_shape, device="meta")
            with torch.no_grad(), recorder:
                recorder.take(images)
                recorder.give(network(images))
            self.recorded[pairs] = count_activations(recorder.buffers, self.layers)
        return self.recorded[pairs]
