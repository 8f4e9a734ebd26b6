"""Operations whose results depend on values, such as the picking of boxes.

If the values are known (values.py), so is the result. Otherwise nsopt assumes that everything is
picked: `nonzero` finds all elements, and no box suppresses another one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map_only

from nsopt.models.tracing.shapes import find_mode
from nsopt.models.tracing.values import Values

_FEWEST = 2  # different values that `unique` finds


def make_fakes(values: Values, result: Any) -> Any:
    """Return fake tensors with the values of real ones; numbers stay.

    Args:
        values: gets the values.
        result: tensors, or numbers. Tensors on the meta device have no values.
    """

    def fake(real: Tensor) -> Tensor:
        made = FakeTensor(find_mode(), real.to("meta"), torch.device("cpu"))
        values.put(made, real)
        return made

    with no_dispatch():
        return tree_map_only(Tensor, fake, result)


def pick_all(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of an operation that picks all it can, or None for other operations."""
    with no_dispatch():
        pick = _PICKS.get(func._schema.name)
        return pick(*args, **kwargs) if pick else None


def _find_all(x: Tensor) -> Tensor:
    return torch.ones(x.shape, dtype=torch.bool).nonzero()


def _keep_all(boxes: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.arange(len(boxes))


def _select_all(x: Tensor, mask: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    return torch.empty(shape.numel(), dtype=x.dtype, device="meta")


def _find_few(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    count = min(_FEWEST, x.numel())
    inverse, counts = (torch.empty(n, dtype=torch.int64, device="meta") for n in (x.shape, count))
    return torch.empty(count, dtype=x.dtype, device="meta"), inverse, counts


_PICKS: dict[str, Callable[..., Any]] = {
    "aten::nonzero": _find_all,
    "aten::masked_select": _select_all,
    "aten::_unique2": _find_few,
    "aten::unique_consecutive": _find_few,
    "aten::repeat_interleave": _keep_all,
    "torchvision::nms": _keep_all,
}
