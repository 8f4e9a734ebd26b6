"""Rules of recurrent modules, attention and dropout, whose ATen operations do not show enough."""

from typing import Any

from torch.overrides import TorchFunctionMode

from nsopt.models.tracing.recurrent_rules import GATES, PACKING, follow_layers
from nsopt.models.tracing.tracer import Tracer

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout")


class FunctionRules(TorchFunctionMode):
    """Label the results of recurrent modules; mark the size of attention's queries as inexact.

    Attention scales its scores by this size. PyTorch may split attention into products, in which
    the scale is a number without a label. Dropout does nothing, so that a network in training mode
    runs the operations of its evaluation mode.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in GATES:
            is_packed = not isinstance(args[3], bool)  # the second argument: its sizes
            rest = args[2:] if is_packed else args[1:-1]
            return follow_layers(self._tracer, GATES[name], args[0], *rest)
        if name in PACKING:
            packed = PACKING[name](self._tracer, *args)
            return func(*args) if packed is None else packed
        if name == "scaled_dot_product_attention":
            query = args[0] if args else kwargs["query"]
            self._tracer.mark_inexact(self._tracer.get(query)[-1])
            args, kwargs = (*args[:4], *[0.0][: len(args) - 4], *args[5:]), {**kwargs}
            kwargs.pop("dropout_p", None)
        if name in _DROPOUTS and args:
            return args[0]
        if name == "__format__" and not args[0].ndim:  # fake tensors have no numbers to print
            return format(1.0 if args[0].is_floating_point() else 1, args[1])
        return func(*args, **kwargs)
