"""Weights that a network stores as buffers, as converters from other formats make them."""

import warnings
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.errors import NsoptError
from nsopt.inputs import call_network, identify_memory, tensors_in
from nsopt.tracing.originals import copy_model
from nsopt.tracing.outside import borrow

_PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "convolution")}


class _Multiplied(TorchDispatchMode):
    """Notes the memory of all tensors that products multiply."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _PRODUCTS:
            self.memory |= set(map(identify_memory, tensors_in((args, kwargs))))
        return func(*args, **(kwargs or {}))


def find_weight_buffers(model: nn.Module, inputs: Any) -> list[str]:
    """Return the names of the floating buffers of modules of which a product multiplies one.

    Buffers that `state_dict` leaves out are none of them. If the network does not run, there are
    none: a trace says why.
    """
    stored, norms = model.state_dict(), nn.modules.batchnorm._NormBase
    owned = [
        [n for n, b in module.named_buffers(path, recurse=False) if b.is_floating_point()]
        for path, module in model.named_modules()
        if not isinstance(module, norms)
    ]
    owned = [[name for name in names if name in stored] for names in owned]
    if not any(stored[name].ndim > 1 for names in owned for name in names):
        return []
    with borrow(model) as copied, torch.no_grad(), _Multiplied() as multiplied:
        try:
            call_network(copied, inputs)
        except Exception:  # of the user's code
            return []
        buffers = dict(copied.named_buffers(remove_duplicate=False))
        memory = {name: identify_memory(buffer) for name, buffer in buffers.items()}
    used = [names for names in owned if multiplied.memory & {memory[name] for name in names}]
    return [name for names in used for name in names if stored[name].ndim]


def adopt_weights(model: nn.Module, inputs: Any) -> nn.Module:
    """Return a copy in which buffers that are weights are parameters, or the network without any.

    Only where nothing trains: there a parameter is what a network can have less of.
    """
    found = find_weight_buffers(model, inputs)
    if not found:
        return model
    copied = copy_model(model)
    for name in found:
        path, _, key = name.rpartition(".")
        module = copied.get_submodule(path)
        weight: Any = module._buffers.pop(key)
        module.register_parameter(key, nn.Parameter(weight))
    return copied


def check_weights(model: nn.Module, inputs: Any) -> None:
    """Warn if more weights are buffers than parameters, before a training.

    Raises NsoptError if all are.
    """
    found, stored = find_weight_buffers(model, inputs), model.state_dict()
    trained = sum(parameter.numel() for parameter in model.parameters())
    if found and not trained:
        raise NsoptError(describe_cure(found[0]))
    if sum(stored[name].numel() for name in found) > trained:
        warnings.warn(describe_cure(found[0]), stacklevel=5)  # of the caller's line


def describe_cure(name: str) -> str:
    """Return how a user turns a buffer into a parameter."""
    path, _, key = name.rpartition(".")
    return (
        f"training does not change the buffer {name}: make it a parameter first, as in part = "
        f"model.get_submodule({path!r}); "
        f"part.register_parameter({key!r}, torch.nn.Parameter(part._buffers.pop({key!r})))"
    )
