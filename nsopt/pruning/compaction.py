"""Cut pruned channels out of a network's tensors while it trains.

A pruned channel is zero. It costs as much as any other channel and changes nothing: its readers get
zeros and send back no gradient. Without it the network computes the same numbers faster. Parameters
become new objects, because autograd remembers the shapes of old ones. BatchNorm statistics and
momentum are cut in the same way.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import Selection, slice_channels
from nsopt.models.tracing.resize import describe_module
from nsopt.pruning.layout import Layout, find_positions
from nsopt.scaling.cost import Operation


def compact(
    arch: TableArchitecture, model: nn.Module, optimizer: torch.optim.SGD, old: Layout, new: Layout
) -> None:
    """Cut a network down to fewer channels.

    Args:
        model: the network; its parameters are replaced.
        optimizer: gets the new parameters and their momentum.
        old: the channels that `model` has.
        new: the channels to keep.
    """
    device = next(model.parameters()).device
    read, written = (
        [
            torch.from_numpy(find_positions(channels, within)).to(device)
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
    """Put a Selection wherever an identity connects tensors with different channels."""
    device = next(model.parameters()).device
    wanted = {path: (group, layout.kept[group]) for path, group in arch.stream_reads.items()}
    wanted |= {path: (one, layout.written[other]) for path, (one, other) in arch.identities.items()}
    present = dict(model.named_children())
    for path, (group, channels) in wanted.items():
        if path in present:
            written = layout.written[group]
            source = find_positions(channels, written)
            same = len(channels) == len(written) and (source >= 0).all()
            module = nn.Identity() if same else Selection(source, len(written)).to(device)
            model.add_module(path, module)


def _cut(
    operation: Operation,
    module: nn.Module,
    optimizer: torch.optim.SGD,
    read: Sequence[Tensor],
    written: Sequence[Tensor],
) -> None:
    """Replace the parameters and buffers of one module."""

    def cut(value: Tensor) -> Tensor:
        part = slice_channels(operation, value, read, written)
        layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
        return part.contiguous(memory_format=layout)

    for name, parameter in list(module.named_parameters()):
        module.register_parameter(name, cut_parameter(parameter, optimizer, cut))
    for name, buffer in list(module.named_buffers()):
        module.register_buffer(name, cut(buffer))
    describe_module(module, 1 if operation.kind == "depthwise" else None)


def cut_parameter(
    parameter: nn.Parameter, optimizer: torch.optim.SGD, cut: Callable[[Tensor], Tensor]
) -> nn.Parameter:
    """Return a new parameter with what `cut` leaves of the old one, and of its momentum."""
    smaller = nn.Parameter(cut(parameter.detach()), parameter.requires_grad)
    momentum = optimizer.state.pop(parameter, {}).get("momentum_buffer")
    if momentum is not None:
        optimizer.state[smaller] = {"momentum_buffer": cut(momentum)}
    return smaller
