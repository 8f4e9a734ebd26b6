"""Copies of networks, also with other tensors, and the tensors from which weights are computed.

Weight normalisation computes g * v / |v|, spectral normalisation W / (u' W v). PyTorch implements
both as hooks (older) and as parametrizations.
"""

import copy
import gc
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import is_
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from nsopt.errors import NsoptError, short_reason
from nsopt.inputs import identify_memory, tensors_in
from nsopt.tracing.labels import Atoms

_ROUNDS = 15  # iterations of the power method, as in PyTorch
_copied: WeakKeyDictionary[nn.Module, list[ref[nn.Module]]] = WeakKeyDictionary()  # by their copies


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; shared ones have their first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def original_weight(module: nn.Module) -> Tensor | None:
    """Return a module's weight, or the parameter from which it is computed; None without one."""
    names = ["weight", "weight_v", "weight_orig", "weight_ih_l0", "weight_ih"]
    weights = [module._parameters.get(name) for name in names]
    parametrized = module._modules.get("parametrizations")
    if isinstance(parametrized, nn.ModuleDict) and "weight" in parametrized:
        weights += list(parametrized["weight"]._parameters.values())[::-1]
    return next((tensor for tensor in weights if tensor is not None), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module in torch.compile, (Distributed)DataParallel or AveragedModel, or itself.

    A compiled one would be compiled again for all widths that nsopt tries; DataParallel refuses
    inputs on the CPU where there is a GPU.
    """
    wrappers = nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel
    wrapped = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", None)
    return unwrapped(wrapped) if isinstance(wrapped, nn.Module) else model


def set_mode(model: nn.Module, training: bool) -> nn.Module:
    """Change a network to training or evaluation mode; return it.

    Raises NsoptError for a program of torch.export, which has one mode.
    """
    try:
        return model.train(training)
    except NotImplementedError as error:
        raise NsoptError(
            f"the network cannot change its mode ({error}): give the module from which it was "
            "exported"
        ) from None


def copy_model(model: nn.Module, replaced: Mapping[int, Tensor] | None = None) -> nn.Module:
    """Return a deep copy, even if modules store tensors that autograd computed, also in lists.

    `copy.deepcopy` alone raises an error for such tensors. Objects that refuse to be copied, such
    as locks, are shared; a module that refuses raises NsoptError. `replaced` holds what the copy
    has in place of tensors, by their `id`, wherever `model` holds them.
    """
    held = [t for m in model.modules() for t in tensors_in(vars(m))]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in held if not t.is_leaf}
    memo |= replaced or {}
    try:
        return _deep_copy(model, dict(memo))
    except Exception:
        memo |= {id(module): module for module in model.modules()}
        stored = [value for module in model.modules() for value in vars(module).values()]
        refusing = {id(value): value for value in stored if not _can_copy(value, memo)}
        memo = {key: value for key, value in memo.items() if not isinstance(value, nn.Module)}
        try:
            return _deep_copy(model, memo | refusing)
        except Exception as error:  # such as of a network that FSDP has split
            raise NsoptError(
                f"the network refuses to be copied ({short_reason(error)}): build it again and "
                "load its state_dict"
            ) from None


def _deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy whose hooks belong to it: `copy.deepcopy` shares functions."""
    copied = copy.deepcopy(model, memo)
    for value in filter(_is_its_attributes, memo.get(id(memo), ())):  # the originals
        _share_attributes(memo[id(value)], value)
    for module in copied.modules():
        stores = [vars(module), *(attr for attr in vars(module).values() if isinstance(attr, dict))]
        for store in stores:
            for name, value in list(dict.items(store)):
                if (made := _rebind(value, memo)) is not value:
                    dict.__setitem__(store, name, made)
    _copied[copied] = [ref(model), *_copied.get(model, ())]
    return copied


def refuse_borrowed(model: nn.Module, used: Iterable[Tensor]) -> None:
    """Raise NsoptError if a network that `copy_model` returned `used` tensors of the original."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    others = [identify_memory(tensor) for tensor in used if id(tensor) not in own]
    for copied in [link() for link in _copied.get(model, ())] if others else []:
        named = [*copied.named_parameters(), *copied.named_buffers()] if copied else []
        if name := next((name for name, t in named if identify_memory(t) in others), None):
            raise NsoptError(
                f"a copy of the network would compute with {name} of the network itself: reach it "
                "through self in forward and hooks, not through a variable, default or reference"
            )


def copy_shallow(value: Any) -> Any:
    """Return a copy of an object, or the object itself if it refuses to be copied."""
    base = next((base for base in (OrderedDict, dict, list) if isinstance(value, base)), None)
    try:
        if base is None:
            return copy.copy(value)
        kind_of: Any = type(value)
        made = kind_of.__new__(kind_of)
        if base is list:
            list.extend(made, list.__iter__(value))
        else:
            kind = OrderedDict if base is OrderedDict else dict
            for key, item in kind.items(value):
                kind.__setitem__(made, key, item)
        if isinstance(value, defaultdict):
            made.default_factory = value.default_factory
        if _is_its_attributes(value):
            _share_attributes(made, value)
        else:
            getattr(made, "__dict__", {}).update(getattr(value, "__dict__", {}))
    except Exception:  # a lock, an open file
        return value
    return made


def _is_its_attributes(value: Any) -> bool:
    """Return whether a dictionary is the one of its own attributes: `self.__dict__ = self`."""
    return isinstance(value, dict) and getattr(value, "__dict__", None) is value


def _share_attributes(made: Any, value: Any) -> None:
    """Let a copy of such a dictionary be one, too, unless its class copies it in another way."""
    if type(made) is type(value):
        object.__setattr__(made, "__dict__", made)


def _rebind(value: Any, memo: dict[int, Any]) -> Any:
    """Return the copy of an object, or a function that uses copies of what it holds.

    An object that has no copy, and a function that holds none that has one, are returned.
    """
    if id(value) in memo or type(value) not in (FunctionType, MethodType, partial, CellType):
        return memo.get(id(value), value)
    if isinstance(value, CellType):
        held = gc.get_referents(value)
    elif isinstance(value, MethodType):
        held = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        held = [value.func, *value.args, *value.keywords.values()]
    else:
        named = [value.__globals__[name] for name in _list_held_globals(value)]
        keywords = (value.__kwdefaults__ or {}).values()
        held = [*(value.__closure__ or ()), *named, *keywords, *(value.__defaults__ or ())]
    memo[id(value)] = value  # it may hold itself
    memo[id(memo)].append(value)  # else Python may reuse the id
    parts = [_rebind(item, memo) for item in held]
    if not all(map(is_, held, parts)):
        memo[id(value)] = _make_function(value, parts)
    return memo[id(value)]


def _list_held_globals(function: FunctionType) -> list[str]:
    """Return the global names by which a function reaches modules and their methods."""
    around = function.__globals__
    kinds = nn.Module, MethodType, partial
    return [n for n in function.__code__.co_names if isinstance(around.get(n), kinds)]


class _Globals(dict[str, Any]):
    """The global names of a function, some of them with other values."""

    def __init__(self, others: dict[str, Any], own: dict[str, Any]) -> None:
        super().__init__(own)
        self._others = others

    def __missing__(self, name: str) -> Any:
        return self._others[name]


def _make_function(value: Any, parts: list[Any]) -> Any:
    """Return a function, or its like, that holds other objects; see `_rebind`."""
    if isinstance(value, CellType | MethodType):
        return type(value)(*parts)
    if isinstance(value, partial):
        count = len(value.args) + 1
        keywords = dict(zip(value.keywords, parts[count:], strict=True))
        made: Any = partial(parts[0], *parts[1:count], **keywords)
    else:
        rest, around = iter(parts), value.__globals__
        cells = tuple(islice(rest, len(value.__closure__ or ())))
        if names := _list_held_globals(value):
            around = _Globals(around, dict(zip(names, rest, strict=False)))
        kwdefaults = dict(zip(value.__kwdefaults__ or (), rest, strict=False))
        made = FunctionType(value.__code__, around, value.__name__, tuple(rest) or None, cells)
        made.__kwdefaults__ = kwdefaults or None
    vars(made).update(vars(value))
    return made


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


def copy_with_tensors(template: nn.Module, change: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Return a copy with the tensors that `change` returns for their names and old values.

    It gets shared tensors once, and they stay shared.
    """
    tensors = tensors_of(template).items()
    new = {id(tensor): make_new(tensor, change(name, tensor.detach())) for name, tensor in tensors}
    return copy_model(template, new)


def make_new(tensor: Tensor, values: Tensor) -> Tensor:
    """Return a tensor of the same kind, with the attributes that code has given it."""
    is_parameter = isinstance(tensor, nn.Parameter)
    made = nn.Parameter(values, tensor.requires_grad) if is_parameter else values
    vars(made).update({k: v for k, v in vars(tensor).items() if not isinstance(v, Tensor)})
    return made


def replace_tensors(model: nn.Module, change: Callable[[str, Tensor], Tensor]) -> None:
    """Replace each parameter and buffer of `model` by the result of `change`, shared ones once."""
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    made: dict[str, Tensor] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for key, tensor in store.items():
                if tensor is None:
                    continue
                name = names[id(tensor)]
                if name not in made:
                    made[name] = change(name, tensor)
                store[key] = made[name]  # type: ignore[assignment]


def select_indices(tensor: Tensor, indices: Sequence[Atoms]) -> Tensor:
    """Select ascending indices of every dimension; return the tensor itself if all remain."""
    for axis, picked in enumerate(indices):
        if len(picked) < tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.from_numpy(picked).to(tensor.device))
    return tensor


def describe_module(module: nn.Module, group_size: int | None) -> None:
    """Set the size attributes of a module, such as `in_channels`, to fit its tensors.

    Args:
        module: a module whose tensors were replaced.
        group_size: channels per group, if its number of groups changes with the width.
    """
    weight = original_weight(module)
    if isinstance(module, nn.MultiheadAttention):
        _describe_attention(module)
    elif isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
        attentions = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
        module.use_nested_tensor = all(m.num_heads % 2 == 0 for m in attentions)  # PyTorch's kernel
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = module.running_mean if weight is None else weight
        module.num_features = module.num_features if sized is None else len(sized)
    elif weight is None:
        return
    elif isinstance(module, nn.modules.conv._ConvNd):
        _describe_convolution(module, weight, group_size)
    elif isinstance(module, nn.Linear | nn.Bilinear):
        is_linear = isinstance(module, nn.Linear)
        names = ("in_features",) if is_linear else ("in1_features", "in2_features")
        vars(module).update(zip(("out_features", *names), weight.shape, strict=True))
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = len(weight) // group_size if group_size else module.num_groups
        module.num_channels = len(weight)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, nn.RNNBase):
        _describe_recurrent(module, weight)
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = weight.shape[1], module.weight_hh.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)


def _describe_convolution(
    module: nn.modules.conv._ConvNd, weight: Tensor, group_size: int | None
) -> None:
    first, second = weight.shape[:2]
    if group_size:
        module.groups = first // group_size
    elif module.transposed and module.groups == module.in_channels:
        module.groups = first
    inputs, outputs = second * module.groups, first
    if module.transposed:
        inputs, outputs = first, second * module.groups
    module.in_channels, module.out_channels = inputs, outputs


def _describe_recurrent(module: nn.RNNBase, weight: Tensor) -> None:
    """Set the sizes of a recurrent layer, and its list of weights for PyTorch's kernels."""
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.input_size, module.hidden_size = weight.shape[1], len(weight) // gates
    if module.proj_size:
        module.proj_size = module.get_parameter("weight_hh_l0").shape[1]
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _describe_attention(module: nn.MultiheadAttention) -> None:
    module.embed_dim = module.kdim = module.vdim = module.out_proj.weight.shape[0]
    if module.in_proj_weight is None:
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
    module.head_dim = module.embed_dim // module.num_heads


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a state, which may hold other objects, too."""
    return {n: tuple(tensor.shape) for n, tensor in state.items() if isinstance(tensor, Tensor)}
