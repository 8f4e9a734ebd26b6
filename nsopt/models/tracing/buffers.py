"""Fill the buffers of networks of other widths.

A narrower network gets the values of its remaining units. A wider one needs values for new units.
nsopt has them only if all units have equal values, as in a filter that blurs each channel.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.models.tracing.labels import Atoms
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.originals import spectral_buffers


def fill_buffers(model: nn.Module, network: TracedNetwork, widths: Sequence[int]) -> None:
    """Fill the buffers of `model`, a network of `widths`, and reset the statistics of its norms."""
    for norm in _find_norms(model).values():
        norm.reset_running_stats()
    kept = [np.arange(min(pair)) for pair in zip(widths, network.family.widths, strict=True)]
    indices = network.indices(kept)
    statistics = _name_statistics(model)
    for name, buffer in model.named_buffers():
        if name not in statistics:
            buffer.copy_(
                _fit_buffer(network.template.get_buffer(name), indices[name], buffer.shape)
            )


def find_capped(network: TracedNetwork) -> dict[int, str]:
    """Return the groups that cannot grow because a buffer has different values per unit.

    Returns:
        Reasons, by the index of the group.
    """
    reasons: dict[int, str] = {}
    buffers, statistics = dict(network.template.named_buffers()), _name_statistics(network.template)
    for index, dimension in enumerate(network.family.dimensions):
        buffer = buffers.get(dimension.tensor)
        if buffer is None or dimension.tensor in statistics:
            continue
        if not torch.equal(buffer, buffer.narrow(dimension.axis, 0, 1).expand_as(buffer)):
            reason = f"the buffer {dimension.tensor} has different values per unit"
            own = [i for i, g in enumerate(network.family.groups) if index in g.per_dimension]
            reasons |= dict.fromkeys(own, f"{reason}: pass init= to fill it")
    return reasons


def _fit_buffer(original: Tensor, left: Sequence[Atoms], sizes: Sequence[int]) -> Tensor:
    """Select the remaining indices `left`; repeat the first one up to the requested sizes."""
    for axis, (indices, size) in enumerate(zip(left, sizes, strict=True)):
        picked = np.concatenate([indices, np.zeros(max(0, size - len(indices)), np.int64)])
        original = original.index_select(axis, torch.from_numpy(picked[:size]).to(original.device))
    return original


def _find_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    modules = model.named_modules()
    return {p: m for p, m in modules if isinstance(m, nn.modules.batchnorm._NormBase)}


def _name_statistics(model: nn.Module) -> set[str]:
    """Return the names of the running statistics of norms, and of spectral norms' vectors."""
    seen = {f"{path}.{name}" for path, norm in _find_norms(model).items() for name in norm._buffers}
    spectral = spectral_buffers(model)
    return seen | {name for name, buffer in model.named_buffers() if id(buffer) in spectral}
