"""How networks of other widths are made: nsopt's own by their design, the values of traced ones.

Trained parameters are drawn with the mean and spread that they have in the traced network. The
standard deviation of a weight is larger by sqrt(n / m) where n inputs became m. An embedding, a
bias, and a parameter that a module does not call a weight keep theirs. A tensor of equal values
keeps its value. One of which at most half of the values are distinct, such as an identity matrix,
was not drawn: a new one of the same shape gets its values.

Buffers and frozen parameters, which do not require gradients, get the values of the remaining
units. A wider network needs values for new units. nsopt has them only if all units have equal
values, as in a filter that blurs each channel.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError
from nsopt.scaling.cost import ALWAYS, Widths
from nsopt.tracing.groups import tie
from nsopt.tracing.labels import Atoms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import spectral_buffers, tensors_of

T = TypeVar("T")
_WEIGHT = re.compile(r"weight[^.]*(\.original\d*)?$")  # also a parametrised one
_EMBEDDINGS = nn.Embedding | nn.EmbeddingBag
_FEW = 256  # values of a tensor that show whether they repeat


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
def draw_parameters(model: nn.Module, template: nn.Module, names: Collection[str]) -> None:
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
