"""Rules of the compiled operations of torchvision's detectors."""

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
