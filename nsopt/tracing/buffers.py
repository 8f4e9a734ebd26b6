"""Fill the buffers and frozen parameters of networks of other widths.

A parameter is frozen if it does not require gradients. A narrower network gets the values of its
remaining units. A wider one needs values for new units. nsopt has them only if all units have equal
values, as in a filter that blurs each channel.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.tracing.labels import Atoms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import spectral_buffers
from nsopt.tracing.run import tensors_of


def name_trained(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that are trained; those without values are not."""
    named = model.named_parameters()
    return tuple(name for name, p in named if p.requires_grad and p.numel())


def name_tables(model: nn.Module) -> set[str]:
    """Return the names of buffers, except for the statistics of norms.

    Those of one value, such as a bias of zeros, are no tables: they fit any size.
    """
    norms = nn.modules.batchnorm._NormBase
    others = [item for item in model.named_modules() if not isinstance(item[1], norms)]
    return {
        name
        for path, module in others
        for name, buffer in module.named_buffers(path, recurse=False)
        if buffer.is_meta or (buffer.flatten()[1:] != buffer.flatten()[:-1]).any()
    }


def fill_buffers(
    model: nn.Module, network: TracedNetwork, widths: Sequence[int], trained: Collection[str]
) -> None:
    """Fill the buffers and frozen parameters of `model`, and reset the statistics of its norms.

    Frozen norms keep their statistics. `trained` names the parameters that are not frozen.
    """
    for norm in _find_norms(model, trained).values():
        norm.reset_running_stats()
    kept = [np.arange(min(pair)) for pair in zip(widths, network.family.widths, strict=True)]
    indices = network.indices(kept)
    constants = _find_constants(network.template, trained)
    with torch.no_grad():
        for name, tensor in _find_constants(model, trained).items():
            tensor.copy_(_fit_buffer(constants[name], indices[name], tensor.shape))


def find_capped(network: TracedNetwork, trained: Collection[str]) -> dict[int, str]:
    """Return the groups that cannot grow because a constant has different values per unit.

    The reasons are by the index of the group. `trained` names the parameters that are not constant.
    """
    reasons: dict[int, str] = {}
    constants = _find_constants(network.template, trained)
    for index, dimension in enumerate(network.family.dimensions):
        tensor = constants.get(dimension.tensor)
        if tensor is None:
            continue
        if not torch.equal(tensor, tensor.narrow(dimension.axis, 0, 1).expand_as(tensor)):
            kind = "frozen parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            reason = f"the {kind} {dimension.tensor} has different values per unit"
            groups = [i for i, g in enumerate(network.family.groups) if index in g.per_dimension]
            reasons |= dict.fromkeys(groups, reason)
    return reasons


def _fit_buffer(original: Tensor, left: Sequence[Atoms], sizes: Sequence[int]) -> Tensor:
    """Select the remaining indices `left`; repeat the first one up to the requested sizes."""
    for axis, (indices, size) in enumerate(zip(left, sizes, strict=True)):
        picked = np.concatenate([indices, np.zeros(max(0, size - len(indices)), np.int64)])
        original = original.index_select(axis, torch.from_numpy(picked[:size]).to(original.device))
    return original


def _find_constants(model: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors that every network copies: neither trained nor statistics of norms."""
    spectral, norms = spectral_buffers(model), _find_norms(model, trained)
    measured = {f"{path}.{name}" for path, norm in norms.items() for name in norm._buffers}
    return {
        name: tensor
        for name, tensor in tensors_of(model).items()
        if name not in trained and name not in measured and id(tensor) not in spectral
    }


def _find_norms(
    model: nn.Module, trained: Collection[str]
) -> dict[str, nn.modules.batchnorm._NormBase]:
    """Return the norms with running statistics by path, but not the frozen ones.

    A norm without a scale is frozen as the parameters of the innermost module around it are.
    """
    frozen = {id(p): name not in trained for name, p in model.named_parameters()}

    def is_frozen(path: str, norm: nn.modules.batchnorm._NormBase) -> bool:
        owner: nn.Module = norm
        while path and next(owner.parameters(), None) is None:
            path = path.rpartition(".")[0]
            owner = model.get_submodule(path)
        scale = norm.weight  # a parametrised one is no parameter
        near = [scale] if isinstance(scale, nn.Parameter) else list(owner.parameters())
        return bool(near) and all(frozen[id(parameter)] for parameter in near)

    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and not is_frozen(path, module)
    }
