"""Rules of the compiled operations of torchvision's detectors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nsopt.models.tracing.tracer import Tracer, rule


@rule("roi_align", "roi_pool")
def crop_regions(tracer: Tracer, result: Any, x: Tensor, *_: Any) -> None:
    """Keep the channels of a map; freeze its places."""
    results = [result] if isinstance(result, Tensor) else result
    channels, places = tracer.get(x)[1], tracer.get(x)[2:]
    tracer.freeze(f"is cropped by {tracer.operation}", *places)
    for tensor in results:
        tracer.put(tensor, (None, channels, None, None))


@rule("index_put")
def write_rows(
    tracer: Tracer, result: Tensor, x: Tensor, indices: Sequence[Any], values: Tensor, *_: Any
) -> None:
    """Join the channels of rows with those of the tensor into which they are written."""
    old, new = tracer.get(x), tracer.get(values)
    first = indices[0]
    are_rows = len(indices) == 1 and first is not None and values.ndim == x.ndim and first.ndim == 1
    if not are_rows or x._is_view():
        tracer.freeze("is written by indices", *old, *new)
        tracer.put(result, old)
        return
    tracer.freeze("is written by indices", old[0], new[0])
    pairs = zip(old[1:], new[1:], strict=True)
    tracer.put(result, [old[0], *(tracer.join(*pair) for pair in pairs)])
