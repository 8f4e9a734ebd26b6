"""What nsopt knows of an ATen operation: its rule, and what its schema says.

A rule labels the results, and joins or freezes atoms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils._mode_utils import no_dispatch

Rule = Callable[..., None]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}  # by operation; without a rule, all atoms of its inputs freeze
_FILLS = ("full", "full_like", "new_full", "fill", "fill_", "scalar_tensor")
_WITH_KERNELS = ("convolution", "avg_pool", "max_pool", "im2col")
_COPIES = ("clone", "copy", "_to_copy")  # which depend on strides
_FEW = 100


def rule(*operations: str) -> Callable[[R], R]:
    """Register a function as the rule of ATen operations; a string may name several."""

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(" ".join(operations).split(), function))
        return function

    return register


def _is_pointwise(func: Any, name: str) -> bool:
    """Return whether an operation or its version without in-place update is pointwise."""
    if torch.Tag.pointwise in func.tags or name == "leaky_relu":  # has no tag before PyTorch 2.12
        return True
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


@dataclass(frozen=True)
class Signature:
    """The parts of an operation's schema that the tracer needs. Reading a schema is slow.

    Attributes:
        namespace: such as `aten`.
        name: such as `add_`.
        operation: the name without the underscore that marks in-place operations.
        is_pointwise: whether each element of the result depends on one element of each argument.
        depends_on_values: whether its result is no function of shapes alone: a number, or a choice.
        copies_shape: whether it takes only type and shape from tensors, as `zeros_like`.
        defaults: name and default value of every argument but `out`, in order.
    """

    namespace: str
    name: str
    operation: str
    is_pointwise: bool
    depends_on_values: bool
    copies_shape: bool
    defaults: tuple[tuple[str, Any], ...]

    def find_numbers(self, arguments: Sequence[Any]) -> tuple[float | str, ...]:
        """Return the numbers with which the operation calculates; sizes are none of them.

        They include the name of a pointwise operation, and the kernel of a pooling.
        """
        kinds = (int, float) if self.is_pointwise or self.name in _FILLS else float
        if self.name == "lift_fresh" and arguments[0].numel() < _FEW:  # of `torch.tensor`
            with no_dispatch():
                return tuple(arguments[0].flatten().tolist())
        if self.name.startswith(_WITH_KERNELS):
            return tuple(n for part in arguments if isinstance(part, list) for n in part)
        numbers = (a for a in arguments if isinstance(a, kinds) and not isinstance(a, bool))
        computes = self.is_pointwise and self.operation not in _COPIES
        return (self.operation, *numbers) if computes else tuple(numbers)

    def bind(self, args: Any, kwargs: Any) -> list[Any]:
        """Return all arguments in the order of the schema; missing ones have their defaults."""
        return [*args, *(kwargs.get(name, value) for name, value in self.defaults[len(args) :])]


@cache
def read_signature(func: Any) -> Signature:
    """Return the signature of an overload of an operation, such as `aten.add.Tensor`."""
    namespace, name = func._schema.name.split("::")
    in_place = name.endswith("_") and not name.endswith("__")
    operation = name[:-1] if in_place else name
    operation = "view" if operation == "_unsafe_view" else operation  # which one depends on sizes
    defaults = tuple(
        (argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in func._schema.arguments
        if not argument.is_out
    )
    picks = torch.Tag.dynamic_output_shape in func.tags or name == "nms"
    depends = picks or torch.Tag.data_dependent_output in func.tags
    pointwise = _is_pointwise(func, operation)
    shapes = name.endswith("_like") or name.startswith("new_")
    return Signature(namespace, name, operation, pointwise, depends, shapes, defaults)
