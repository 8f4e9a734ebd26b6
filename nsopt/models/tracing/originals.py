"""Find the tensors from which modules compute their weights, for example by normalisation.

Weight normalisation computes g * v / |v|, spectral normalisation W / (u' W v). PyTorch implements
both as hooks (older) and as parametrizations.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from nsopt.models.inputs import tensors_in

_ROUNDS = 15  # iterations of the power method, as in PyTorch


def original_weight(module: nn.Module) -> Tensor | None:
    """Return a module's weight, or the parameter from which it is computed; None without one."""
    names = ["weight", "weight_v", "weight_orig", "weight_ih_l0", "weight_ih"]
    found = [module._parameters.get(name) for name in names]
    parametrized = module._modules.get("parametrizations")
    if isinstance(parametrized, nn.ModuleDict) and "weight" in parametrized:
        found += list(parametrized["weight"]._parameters.values())[::-1]
    return next((tensor for tensor in found if tensor is not None), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile or (Distributed)DataParallel wraps; others themselves.

    A compiled one would be compiled again for all widths that nsopt tries; DataParallel refuses
    inputs on the CPU where there is a GPU.
    """
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    wrapped = model.module if parallel else getattr(model, "_orig_mod", None)
    return unwrapped(wrapped) if isinstance(wrapped, nn.Module) else model


def copy_model(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """Return a deep copy, even if modules store tensors that autograd computed, also in lists.

    `copy.deepcopy` alone raises an error for such tensors. Objects that refuse to be copied, such
    as locks, are shared.

    Args:
        model: a network.
        shared: tensors that the copy shares with `model`.
    """
    held = [t for m in model.modules() for t in tensors_in(vars(m))]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in held if not t.is_leaf}
    memo |= {id(t): t for t in shared}
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:
        memo |= {id(module): module for module in model.modules()}
        stored = [value for module in model.modules() for value in vars(module).values()]
        refusing = {id(value): value for value in stored if not _can_copy(value, memo)}
        memo = {key: value for key, value in memo.items() if not isinstance(value, nn.Module)}
        return copy.deepcopy(model, memo | refusing)


def _can_copy(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def start_norms(model: nn.Module) -> None:
    """Recompute the tensors of weight and spectral norms after weights were initialised.

    Frozen weight norms stay.
    """
    with torch.no_grad():
        for g, v, dim in _find_weight_norms(model):
            if g.requires_grad:
                g.copy_(torch.norm_except_dim(v, 2, dim))
        for u, v, weight, dim in _find_spectral_norms(model):
            matrix = weight.movedim(dim, 0).flatten(1)
            u.normal_()
            for _ in range(_ROUNDS):
                v.copy_(functional.normalize(matrix.T @ u, dim=0))
                u.copy_(functional.normalize(matrix @ v, dim=0))


def spectral_buffers(model: nn.Module) -> set[int]:
    """Return the ids of the buffers that `start_norms` sets."""
    return {id(buffer) for u, v, _, _ in _find_spectral_norms(model) for buffer in (u, v)}


def _find_weight_norms(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield (g, v, dim) of every weight norm."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                g, v = (module.get_parameter(f"{hook.name}_{part}") for part in "gv")
                yield g, v, hook.dim
        norm: Any = module[0] if isinstance(module, ParametrizationList) else None
        if type(norm).__name__ == "_WeightNorm":
            g, v = (module.get_parameter(f"original{part}") for part in "01")
            yield g, v, norm.dim


def _find_spectral_norms(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """Yield (u, v, weight, dim) of every spectral norm."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                u, v = (module.get_buffer(f"{hook.name}_{part}") for part in "uv")
                yield u, v, module.get_parameter(f"{hook.name}_orig"), hook.dim
        norm: Any = module[0] if isinstance(module, ParametrizationList) else None
        if hasattr(norm, "_u"):
            yield norm._u, norm._v, module.get_parameter("original"), norm.dim
