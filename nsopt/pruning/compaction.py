"""Cutting pruned channels out of a network's tensors, in the middle of its training.

A pruned channel, held at zero, costs what a live one does and changes nothing: what reads it
gets zeros and sends back no gradient. Without it the network computes the same numbers faster.
The parameters are new objects (autograd remembers the shapes of old ones); statistics of
BatchNorms and momentum are cut alike.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import Selection, slice_channels
from nsopt.pruning.layout import Layout, positions
from nsopt.scaling.cost import Operation


def compact(
    arch: TableArchitecture,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    old: Layout,
    new: Layout,
) -> None:
    """Cut `model`, a network of `arch` with the channels of `old`, down to those of `new`."""
    device = next(model.parameters()).device
    read, written = (
        [
            torch.from_numpy(positions(channels, within)).to(device)
            for channels, within in zip(after, before, strict=True)
        ]
        for after, before in ((new.kept, old.kept), (new.written, old.written))
    )
    modules = dict(model.named_modules())
    for operation in arch.operations:
        if operation.name in modules:
            _cut(operation, modules[operation.name], optimizer, read, written)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    select_channels(arch, model, new)


def select_channels(arch: TableArchitecture, model: nn.Module, layout: Layout) -> None:
    """Put a Selection wherever an identity joins tensors that hold different channels."""
    device = next(model.parameters()).device
    joined = {path: (group, layout.kept[group]) for path, group in arch.stream_reads.items()}
    joined |= {path: (one, layout.written[other]) for path, (one, other) in arch.identities.items()}
    present = dict(model.named_children())
    for path, (group, wanted) in joined.items():
        if path in present:
            there = layout.written[group]
            source = positions(wanted, there)
            same = len(wanted) == len(there) and (source >= 0).all()
            module = nn.Identity() if same else Selection(source, len(there)).to(device)
            model.add_module(path, module)


def _cut(
    operation: Operation,
    module: nn.Module,
    optimizer: torch.optim.SGD,
    read: Sequence[Tensor],
    written: Sequence[Tensor],
) -> None:
    """Replace the parameters of one module, with their momentum, and its buffers."""
    for name, parameter in list(module.named_parameters()):
        smaller = nn.Parameter(_slice(operation, parameter.detach(), read, written))
        module.register_parameter(name, smaller)
        state = optimizer.state.pop(parameter, {})
        if state.get("momentum_buffer") is not None:
            momentum = _slice(operation, state["momentum_buffer"], read, written)
            optimizer.state[smaller] = {"momentum_buffer": momentum}
    for name, buffer in list(module.named_buffers()):
        module.register_buffer(name, _slice(operation, buffer, read, written))
    _describe_shape(operation, module)


def _slice(
    operation: Operation, value: Tensor, read: Sequence[Tensor], written: Sequence[Tensor]
) -> Tensor:
    part = slice_channels(operation, value, read, written)
    layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
    return part.contiguous(memory_format=layout)


def _describe_shape(operation: Operation, module: nn.Module) -> None:
    """Make the attributes of a module tell the shapes that its parameters have."""
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = len(module.weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        outputs, fan_in = module.weight.shape[:2]
        module.groups = outputs if operation.kind == "depthwise" else 1
        module.out_channels, module.in_channels = outputs, fan_in * module.groups
