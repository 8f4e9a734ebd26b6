"""Cut pruned channels out of a network's tensors while it trains.

A pruned channel is zero. It costs as much as any other channel and changes nothing: its readers get
zeros and send back no gradient. Without it the network computes the same numbers faster. Parameters
become new objects, because autograd remembers the shapes of old ones. BatchNorm statistics and
momentum are cut in the same way.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nsopt.models.architecture import TableArchitecture
from nsopt.models.layers import Selection, slice_channels
from nsopt.models.tracing.resize import describe_module, replace_tensors
from nsopt.pruning.layout import Layout, find_positions


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
    operations = {operation.name: operation for operation in arch.operations}

    def shrink(name: str, tensor: Tensor) -> Tensor:
        operation = operations.get(name.rpartition(".")[0])
        if operation is None:  # of a Selection, which is replaced below
            return tensor

        def cut(value: Tensor) -> Tensor:
            part = slice_channels(operation, value, read, written)
            layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
            return part.contiguous(memory_format=layout)

        return cut_tensor(tensor, optimizer, cut)

    replace_tensors(model, shrink)
    for path, module in model.named_modules():
        if path in operations:
            describe_module(module, 1 if operations[path].kind == "depthwise" else None)
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


def cut_tensor(
    tensor: Tensor, optimizer: torch.optim.SGD, cut: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return what `cut` leaves of a buffer, or of a parameter and its momentum."""
    if not isinstance(tensor, nn.Parameter):
        return cut(tensor)
    smaller = nn.Parameter(cut(tensor.detach()), tensor.requires_grad)
    momentum = optimizer.state.pop(tensor, {}).get("momentum_buffer")
    if momentum is not None:
        optimizer.state[smaller] = {"momentum_buffer": cut(momentum)}
    return smaller
