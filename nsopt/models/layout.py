"""Memory layout of images and weights.

Channels last is faster on all devices, but not every network runs with it: `x.view(x.size(0), -1)`
needs channels first. So do convolutions of k x 1 with a large k on the CPU: of maps of one column
with channels last oneDNN (PyTorch 2.13) computes some wrongly, from k = 32 on with AVX-512.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.inputs import call_network, tensors_in
from nsopt.tracing.originals import copy_model
from nsopt.tracing.states import keep_random_numbers

LONGEST_KERNEL = 7  # longer sides of kernels are not trusted to oneDNN; from 16 on it was wrong
_IMAGES = 4  # dimensions of images and of convolution weights


def best_layout(model: nn.Module, inputs: Any) -> torch.memory_format:
    """Return channels last if `model` runs with it on `inputs`, in evaluation and in training."""
    tensors = [*model.parameters(), *model.buffers(), *tensors_in(inputs)]
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)]
    is_long = any(height > LONGEST_KERNEL and width == 1 for height, width in kernels)
    if is_long or not any(tensor.ndim == _IMAGES for tensor in tensors):
        return torch.contiguous_format
    tried = lay_out(copy_model(model), torch.channels_last)
    inputs = change_layout(tree_map_only(Tensor, Tensor.clone, inputs), torch.channels_last)
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices), keep_random_numbers(), torch.no_grad():
        try:
            for training in (False, True):
                call_network(tried.train(training), inputs)
        except Exception:  # the code of the network may raise anything
            return torch.contiguous_format
    return torch.channels_last


def layout_of(model: nn.Module) -> torch.memory_format:
    """Return the layout of the weights of `model`; channels first if both layouts are equal."""
    for weight in model.parameters():
        if weight.ndim == _IMAGES and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


def lay_out(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Change the layout of the four-dimensional tensors of `model`, in place; return it."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = change_layout(tensor.data, layout)
    return model


def change_layout(tensors: Any, layout: torch.memory_format) -> Any:
    """Change the layout of all four-dimensional tensors in a nest of tensors."""

    def change(tensor: Tensor) -> Tensor:
        is_image = tensor.ndim == _IMAGES and tensor.layout == torch.strided
        return tensor.to(memory_format=layout) if is_image else tensor

    return tree_map_only(Tensor, change, tensors)


def inputs_for(model: nn.Module, inputs: Any) -> Any:
    """Return a copy of `inputs`, which `model` may change, in the layout of its weights."""
    layout = layout_of(model)
    copies = tree_map_only(Tensor, Tensor.clone, inputs)
    return copies if layout == torch.channels_last else change_layout(copies, layout)
