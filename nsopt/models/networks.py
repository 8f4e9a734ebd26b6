"""Networks of other widths: what users may ask for, how they are made, how they lie in memory.

nsopt's own are made by their design, and traced ones with other values. Trained parameters are
drawn with the mean and spread that they have in the traced network. The standard deviation of a
weight is larger by sqrt(n / m) where n inputs became m. An embedding, a bias, and a parameter that
a module does not call a weight keep theirs. A tensor of equal values keeps its value. One of which
at most half of the values are distinct, such as an identity matrix, was not drawn: a new one of the
same shape gets its values. Buffers and frozen parameters, which do not require gradients, get the
values of the remaining units. A wider network needs values for new units. nsopt has them only if
all units have equal values, as in a filter that blurs each channel.

Channels last is faster on all devices, but not every network runs with it: `x.view(x.size(0), -1)`
needs channels first. So do convolutions of k x 1 with a large k on the CPU: of maps of one column
with channels last oneDNN (PyTorch 2.13) computes some wrongly, from k = 32 on with AVX-512.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from nsopt.errors import NsoptError, shorten
from nsopt.inputs import call_network, tensors_in
from nsopt.scaling.cost import ALWAYS, IntArray, Widths
from nsopt.tracing.groups import tie
from nsopt.tracing.labels import Atoms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import copy_model, spectral_buffers, start_norms, tensors_of
from nsopt.tracing.states import keep_random_numbers

Kept = Sequence[Sequence[int] | NDArray[Any] | Tensor]  # per group
LONGEST_KERNEL = 7  # longer sides of kernels are not trusted to oneDNN; from 16 on it was wrong
_IMAGES = 4  # dimensions of images and of convolution weights
T = TypeVar("T")
_WEIGHT = re.compile(r"weight[^.]*(\.original\d*)?$")  # also a parametrised one
_EMBEDDINGS = nn.Embedding | nn.EmbeddingBag
_FEW = 256  # values of a tensor that show whether they repeat


def read_widths(name: str, count: int, widths: Widths) -> tuple[int, ...]:
    """Return `widths` as a tuple of ints.

    Raises NsoptError unless they are `count` integers of at least 1.
    """
    try:
        integers, given = tuple(map(int, widths)), tuple(widths)
    except (TypeError, ValueError, OverflowError):
        raise NsoptError(f"widths must be a list of integers, not {shorten(widths)}") from None
    if len(integers) != count:
        raise NsoptError(
            f"{name} has {count} widths, got {len(integers)}: give one for each layer name"
        )
    if integers != given or min(integers) < 1:
        raise NsoptError(f"widths must be integers of at least 1, got {given}")
    return integers


def read_kept(
    name: str, layers: Sequence[str], widths: Sequence[int], kept: Kept
) -> list[IntArray]:
    """Return the units to keep of a network of `widths` as indices.

    Raises NsoptError for invalid ones.
    """
    given = len(kept) if isinstance(kept, Sized) else shorten(kept)
    if given != len(layers):
        raise NsoptError(
            f"{name} has {len(layers)} groups, got {given}: give one for each layer name"
        )
    return [_read_indices(*group) for group in zip(layers, widths, kept, strict=True)]


def _read_indices(name: str, width: int, units: Sequence[int] | NDArray[Any] | Tensor) -> IntArray:
    array = np.asarray(units.cpu() if isinstance(units, Tensor) else units)
    if array.dtype == np.bool_ and array.shape == (width,):
        array = np.flatnonzero(array)
    if not array.size:
        raise NsoptError(f"give at least one unit of {name}")
    if array.ndim == 1 and np.issubdtype(array.dtype, np.integer):
        indices: IntArray = array.astype(np.int64)
        if indices[0] >= 0 and indices[-1] < width and (np.diff(indices) > 0).all():
            return indices
    raise NsoptError(
        f"the units to keep of {name} must be ascending integers below {width}, or a mask of "
        f"{width} booleans"
    )


def check_room(layers: Sequence[str], chosen: Sequence[IntArray], widths: Sequence[int]) -> None:
    """Raise NsoptError if a network of `widths` has no room for the chosen units."""
    for name, indices, width in zip(layers, chosen, widths, strict=True):
        if len(indices) > width:
            raise NsoptError(f"give at most {width} units of {name}, got {len(indices)}")


def check_has_weights(model: nn.Module) -> None:
    """Raise NsoptError if tensors have no values: lazy modules, or the meta device."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor) or tensor.is_meta:
            raise NsoptError(f"{name} of the model has no values: give a network with its weights")


def check_finite(model: nn.Module, origin: str) -> None:
    """Raise NsoptError if a weight is NaN or infinite, or a buffer NaN; masks may be infinite."""
    weights = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):  # a module may add anything
            continue
        if tensor.isnan().any() or (name in weights and tensor.isinf().any()):
            raise NsoptError(
                f"{name} of {origin} has values that are NaN or infinite: give weights of a "
                "training that ended well"
            )


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


@dataclass(frozen=True, eq=False)
class Design:
    """A network as its author knows it. That of a user's network, which is only traced, is empty.

    A searched width controls a group of layers: usually one, in tied networks all that identity
    shortcuts join.

    Attributes:
        make: makes a network from the widths of its layers, and the names of the blocks whose
            shortcut is the identity in place of a convolution.
        names: names of the layers.
        gates: per layer, the path of the module after which its channels are scored and masked (a
            BatchNorm, or an Identity that marks an activation).
        filters: per layer, the path of the convolution that makes its channels.
        group_of: the group of each layer.
        shortcuts: by block, the layers before and after a shortcut that is the identity if both are
            equally wide. The block has either modules NAME_shortcut..., or the Identity
            NAME_identity. The traced network has the first between different groups.
        reads: paths of the Identity modules through which layers read channels from a residual
            stream, with the layers that make them. Gates do not change the stream.
        followers: paths of convolutions that make several channels of each input, in order, which
            are kept or removed with it.
    """

    make: Callable[[Sequence[int], Collection[str]], nn.Module] | None = None
    names: Sequence[str] = ()
    gates: Sequence[str] = ()
    filters: Sequence[str] = ()
    group_of: Sequence[int] = ()
    shortcuts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    reads: Mapping[str, int] = field(default_factory=dict)
    followers: Sequence[str] = ()

    def build(self, widths: Widths, whole: bool = False) -> nn.Module:
        """Return a new network of `widths`, per group; if `whole`, without identity shortcuts."""
        assert self.make is not None
        of_layer = [int(widths[group]) for group in self.group_of]
        told, ends = self.group_of if whole else of_layer, self.shortcuts.items()
        return self.make(of_layer, {block for block, (a, b) in ends if told[a] == told[b]})

    def find_pair(self, path: str) -> tuple[int, int]:
        """Return the groups that must differ for a module to exist; a group twice for any other."""
        block, is_shortcut, _ = path.partition("_shortcut")
        return self.pairs.get(block, ALWAYS) if is_shortcut else ALWAYS

    @property
    def pairs(self) -> dict[str, tuple[int, int]]:
        """The groups before and after each shortcut that may be the identity, by block."""
        of = self.group_of
        return {block: (of[a], of[b]) for block, (a, b) in self.shortcuts.items()}

    def find_gates(self, model: nn.Module) -> list[list[nn.Module]]:
        """Return the modules after which each group's channels are scored and masked."""
        return list_members(self.group_of, map(model.get_submodule, self.gates))

    def find_filters(self, model: nn.Module) -> list[list[Tensor]]:
        """Return the weights that make each group's channels, shapes (w_l, inputs, k, k)."""
        weights = (model.get_parameter(f"{path}.weight") for path in self.filters)
        return list_members(self.group_of, weights)

    def find_streams(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Return per group the first one whose channels identity shortcuts add to its own."""
        equal = [(a, b) for a, b in self.pairs.values() if widths[a] == widths[b]]
        stream_of = tie(len(widths), equal).tolist()
        return tuple(map(stream_of.index, stream_of))


def list_members(group_of: Sequence[int], values: Iterable[T]) -> list[list[T]]:
    """Group `values`, one per layer, by the groups of the layers."""
    groups: list[list[T]] = [[] for _ in range(max(group_of, default=-1) + 1)]
    for group, value in zip(group_of, values, strict=True):
        groups[group].append(value)
    return groups


def name_trained(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that are trained; those without values are not."""
    named = model.named_parameters()
    return tuple(name for name, p in named if p.requires_grad and p.numel())


def fill_network(
    model: nn.Module, network: TracedNetwork, widths: Sequence[int], trained: Collection[str]
) -> None:
    """Give a network of `widths` its values; `trained` names the parameters that are not frozen."""
    _fill_buffers(model, network, widths, trained)
    _draw_parameters(model, network.template, trained)
    start_norms(model)


def _fill_buffers(
    model: nn.Module, network: TracedNetwork, widths: Sequence[int], trained: Collection[str]
) -> None:
    """Fill the buffers and frozen parameters of `model`, and reset the statistics of its norms.

    Frozen norms keep their statistics.
    """
    for norm in _find_norms(model, trained).values():
        norm.reset_running_stats()
    kept = [np.arange(min(pair)) for pair in zip(widths, network.family.widths, strict=True)]
    indices = network.indices(kept)
    constants = _find_constants(network.template, trained)
    with torch.no_grad():
        for name, tensor in _find_constants(model, trained).items():
            tensor.copy_(_fit_buffer(constants[name], indices[name], tensor.shape))


def find_unfillable(network: TracedNetwork, trained: Collection[str]) -> dict[int, str]:
    """Return why groups cannot grow: a tensor that is not trained differs between units."""
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


@torch.no_grad()
def _draw_parameters(model: nn.Module, template: nn.Module, names: Collection[str]) -> None:
    """Draw parameters of `model`, by name, as those of `template`, which should be untrained.

    Raises NsoptError if values of the template are NaN or infinite.
    """
    for name in names:
        values, new = (_view_as_real(each.get_parameter(name)) for each in (template, model))
        module = model.get_submodule(name.rpartition(".")[0])
        has_fan = _WEIGHT.search(name) and not isinstance(module, _EMBEDDINGS)
        spread, mean = torch.std_mean(values.double(), correction=0)
        if not spread.isfinite():
            raise NsoptError(
                f"{name} of the traced network has values that are NaN or infinite: trace one "
                "without them"
            )
        if (values == values.flatten()[0]).all():
            new.fill_(values.flatten()[0])
        elif new.shape == values.shape and _has_repeats(values):
            new.copy_(values)
        else:
            ratio = math.prod(values.shape[1:]) / math.prod(new.shape[1:]) if has_fan else 1.0
            new.normal_(float(mean), float(spread) * math.sqrt(ratio))
        if isinstance(module, _EMBEDDINGS):
            module._fill_padding_idx_with_zero()


def _view_as_real(parameter: Tensor) -> Tensor:
    """Return a view of the values; of complex values, the real and imaginary parts."""
    values = parameter.detach()
    return torch.view_as_real(values) if values.is_complex() else values


def _has_repeats(values: Tensor) -> bool:
    """Return whether at most half of the values are distinct; in a large tensor, of some values."""
    flat = values.flatten()
    some = flat[:: max(1, len(flat) // _FEW)]
    return 2 * len(some.unique()) <= len(some)


def make_grid(indices: Sequence[Atoms]) -> tuple[Tensor, ...]:
    """Return an index that selects the product of the indices of all dimensions."""
    return tuple(torch.from_numpy(axis) for axis in np.ix_(*indices))
