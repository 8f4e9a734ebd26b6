"""Replace the tensors of a network, and adapt the sizes that its modules store."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nsopt.tracing.labels import Atoms
from nsopt.tracing.originals import copy_model, original_weight, tensors_of

_FEW = 1000  # elements of a tensor that a copy keeps


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


def make_empty(tensor: Tensor, shape: Sequence[int], device: str | None = None) -> Tensor:
    """Return an uninitialised tensor; a small one of the old shape keeps its values."""
    if list(tensor.shape) == list(shape) and tensor.numel() <= _FEW and not device:
        return tensor.clone()
    return tensor.new_empty(shape, device=device)


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
