"""Buffers of networks of other widths.

What is not learned is told by the original: the values of the units that are left. There are
values for more units where those of all are equal, as in a filter that blurs every channel.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.tracing.labels import Atoms
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.originals import spectral_buffers


def fill_buffers(model: nn.Module, network: TracedNetwork, widths: Sequence[int]) -> None:
    """Give `model`, a network of `widths`, its buffers; norms forget what they have seen."""
    for norm in _norms(model).values():
        norm.reset_running_stats()
    kept = [np.arange(min(pair)) for pair in zip(widths, network.family.widths, strict=True)]
    indices = network.indices(kept)
    told = _statistics(model)
    for name, buffer in model.named_buffers():
        if name not in told:
            buffer.copy_(_stretched(network.template.get_buffer(name), indices[name], buffer.shape))


def cannot_grow(network: TracedNetwork) -> dict[int, str]:
    """Groups of which a buffer has other values for every unit, with the reasons."""
    reasons: dict[int, str] = {}
    buffers, statistics = dict(network.template.named_buffers()), _statistics(network.template)
    for index, dimension in enumerate(network.family.dimensions):
        buffer = buffers.get(dimension.tensor)
        if buffer is None or dimension.tensor in statistics:
            continue
        if not torch.equal(buffer, buffer.narrow(dimension.axis, 0, 1).expand_as(buffer)):
            reason = f"the buffer {dimension.tensor} has other values for every unit"
            own = [i for i, g in enumerate(network.family.groups) if index in g.per_dimension]
            reasons |= dict.fromkeys(own, f"{reason}: give init= to fill it")
    return reasons


def _stretched(original: Tensor, left: Sequence[Atoms], sizes: Sequence[int]) -> Tensor:
    """The indices of every dimension that are left, and the first one again for what is missing."""
    for axis, (indices, size) in enumerate(zip(left, sizes, strict=True)):
        picked = np.concatenate([indices, np.zeros(max(0, size - len(indices)), np.int64)])
        original = original.index_select(axis, torch.from_numpy(picked[:size]).to(original.device))
    return original


def _norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    modules = model.named_modules()
    return {p: m for p, m in modules if isinstance(m, nn.modules.batchnorm._NormBase)}


def _statistics(model: nn.Module) -> set[str]:
    """The names of what norms have seen, and of what spectral norms keep."""
    seen = {f"{path}.{name}" for path, norm in _norms(model).items() for name in norm._buffers}
    spectral = spectral_buffers(model)
    return seen | {name for name, buffer in model.named_buffers() if id(buffer) in spectral}
