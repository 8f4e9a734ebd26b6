"""What makes the units of groups, how groups are called, and why some layers keep their sizes.

A *maker* is a parameter whose product with the input makes channels, such as the weight of a
convolution. Each unit owns some *slices* of the parameter along one axis. Converters from other
formats make weights that are buffers: they are adopted as parameters.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nsopt.errors import NsoptError, unknown_name
from nsopt.inputs import call_network, identify_memory, tensors_in
from nsopt.tracing.groups import Dimension, Group
from nsopt.tracing.labels import Atoms, select_atoms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import copy_model, original_weight, tensors_of
from nsopt.tracing.states import borrow

_PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "convolution")}
Reasons = dict[int, str]  # by the index of a group
_PRODUCERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
Slices = tuple[str, int]  # a parameter, and the axis along which slices belong to units
Made = tuple[Atoms, Slices]  # channels, and the slices that make or scale them


class _Multiplied(TorchDispatchMode):
    """Notes the memory of all tensors that products multiply."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _PRODUCTS:
            self.memory |= set(map(identify_memory, tensors_in((args, kwargs))))
        return func(*args, **(kwargs or {}))


def find_weight_buffers(model: nn.Module, inputs: Any) -> list[str]:
    """Return the names of the floating buffers of modules of which a product multiplies one.

    Buffers that `state_dict` leaves out are none of them. If the network does not run, there are
    none: a trace says why.
    """
    stored, norms = model.state_dict(), nn.modules.batchnorm._NormBase
    owned = [
        [n for n, b in module.named_buffers(path, recurse=False) if b.is_floating_point()]
        for path, module in model.named_modules()
        if not isinstance(module, norms)
    ]
    owned = [[name for name in names if name in stored] for names in owned]
    if not any(stored[name].ndim > 1 for names in owned for name in names):
        return []
    with borrow(model) as copied, torch.no_grad(), _Multiplied() as multiplied:
        try:
            call_network(copied, inputs)
        except Exception:  # of the user's code
            return []
        buffers = dict(copied.named_buffers(remove_duplicate=False))
        memory = {name: identify_memory(buffer) for name, buffer in buffers.items()}
    used = [names for names in owned if multiplied.memory & {memory[name] for name in names}]
    return [name for names in used for name in names if stored[name].ndim]


def adopt_weights(model: nn.Module, inputs: Any) -> nn.Module:
    """Return a copy in which buffers that are weights are parameters, or the network without any.

    Only where nothing trains: there a parameter is what a network can have less of.
    """
    found = find_weight_buffers(model, inputs)
    if not found:
        return model
    copied = copy_model(model)
    for name in found:
        path, _, key = name.rpartition(".")
        module = copied.get_submodule(path)
        weight: Any = module._buffers.pop(key)
        module.register_parameter(key, nn.Parameter(weight))
    return copied


def check_weights(model: nn.Module, inputs: Any) -> None:
    """Warn if more weights are buffers than parameters, before a training.

    Raises NsoptError if all are.
    """
    found, stored = find_weight_buffers(model, inputs), model.state_dict()
    trained = sum(parameter.numel() for parameter in model.parameters())
    if found and not trained:
        raise NsoptError(describe_cure(found[0]))
    if sum(stored[name].numel() for name in found) > trained:
        warnings.warn(describe_cure(found[0]), stacklevel=5)  # of the caller's line


def describe_cure(name: str) -> str:
    """Return how a user turns a buffer into a parameter."""
    path, _, key = name.rpartition(".")
    return (
        f"training does not change the buffer {name}: make it a parameter first, as in part = "
        f"model.get_submodule({path!r}); "
        f"part.register_parameter({key!r}, torch.nn.Parameter(part._buffers.pop({key!r})))"
    )


@dataclass(frozen=True, eq=False)
class Makers:
    """The parameters behind all units. Only parameters that require gradients count.

    Attributes:
        holders: slices by the index of their dimension, in the order of their first use.
        vectors: slices of vectors, such as a bias or the scale of a norm.
        products: pairs of channels and the indices of the dimensions that make them.
        norms: pairs of channels and the indices of the dimensions of the norm that scales them.
        plain: channels of norms that have no scale, or a frozen one.
    """

    holders: dict[int, Slices]
    vectors: frozenset[Slices]
    products: list[tuple[Atoms, set[int]]]
    norms: list[tuple[Atoms, set[int]]]
    plain: list[Atoms]

    @classmethod
    def of(cls, network: TracedNetwork) -> Self:
        named = network.template.named_parameters()
        trained = {name: parameter for name, parameter in named if parameter.requires_grad}
        holders = {
            index: (dimension.tensor, dimension.axis)
            for index, dimension in network.dimensions_in_order
            if dimension.tensor in trained
        }
        vectors = {
            s for s in holders.values() if trained[s[0]].numel() == trained[s[0]].shape[s[1]]
        }

        def find_dimensions(pairs: Iterable[tuple[Atoms, Atoms]]) -> list[tuple[Atoms, set[int]]]:
            pairs_by_atoms = {
                (made.tobytes(), scale.tobytes()): (made, scale) for made, scale in pairs
            }
            return [
                (made, network.family.dimensions_of(scale))
                for made, scale in pairs_by_atoms.values()
            ]

        trace = network.trace
        products = find_dimensions((label, label) for label in trace.makers)
        norms = find_dimensions(trace.norms)
        frozen = [channels for channels, scales in norms if not scales & holders.keys()]
        plain = [*trace.plain_norms.values(), *frozen]
        return cls(holders, frozenset(vectors), products, norms, plain)

    def is_plain(self, channels: Atoms) -> bool:
        """Return whether a norm without a trained scale normalises all these channels."""
        return any(np.isin(channels, normalised).all() for normalised in self.plain)

    def find_holders(self, group: Group) -> list[Slices]:
        """Return all slices that belong to the units of a group, vectors last."""
        slices = [s for index, s in self.holders.items() if index in group.per_dimension]
        return sorted(slices, key=self.vectors.__contains__)

    def find_first(self, group: Group) -> list[Slices]:
        """Return the slices that make the units of a group, or else the first of its slices."""
        made = self.find_made(group, self.products)
        return [slices for _, slices in made] or self.find_holders(group)[:1]

    def find_made(self, group: Group, operations: list[tuple[Atoms, set[int]]]) -> list[Made]:
        """Return the slices of `products` or `norms` that make a group, with their channels."""
        return [
            (channels, self.holders[index])
            for channels, dimensions in operations
            for index in sorted(dimensions & group.per_dimension.keys() & self.holders.keys())
        ]


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


def unit_norms(network: TracedNetwork, model: nn.Module) -> list[Tensor]:
    """Return the L1 norms of each group's units in `model`, float64 (w_l,), divided by their mean.

    They are averaged over all slices that make a unit. `network` is the trace of `model`.
    """
    makers, result = Makers.of(network), []
    for group in network.family.groups:
        of_unit, counted = torch.zeros(2, len(network.family.units.fixed), dtype=torch.float64)
        for name, axis in makers.find_first(group):
            label = network.labels[name][axis]
            assert isinstance(label, np.ndarray)
            units = torch.from_numpy(network.family.units.of_atom[label])
            norms = relative_norms(model.get_parameter(name), axis)
            of_unit.index_add_(0, units, norms)
            counted.index_add_(0, units, torch.ones_like(norms))
        result.append((of_unit / counted.clamp(min=1))[torch.from_numpy(group.units)])
    return result


def relative_norms(weight: Tensor, axis: int) -> Tensor:
    """Return L1 norms of a weight's slices along `axis`, divided by their mean: float64 (n,)."""
    slices = weight.detach().abs().movedim(axis, 0).reshape(weight.shape[axis], -1)
    norms = slices.sum(dim=1).cpu().double()
    return norms / norms.mean()


def find_fixed(network: TracedNetwork, refused: Mapping[str, str]) -> dict[str, str]:
    """Return why layers, and parameters outside of layers, are fixed, by layer name, module path or
    name of a parameter; `refused` come first."""
    reasons, known, family = dict(refused), _find_reasons(network), network.family
    for path, tensor, axes in _list_outputs(network.template):
        labels = [network.labels[tensor][axis] for axis in axes]
        units = family.units.of_atom[np.concatenate([np.zeros(0, np.int64), *select_atoms(labels)])]
        free = family.group_of_unit[units] >= 0
        if path in refused or free.all() or (len(axes) > 1 and free.any()):
            continue
        why = {reason for unit in units.tolist() for reason in known[unit]}
        some = f"{(~free).sum()} of {len(free)} channels: " if free.any() else ""
        reasons[path] = some + "; ".join(sorted(why) or ["belongs to a fixed group"])
        if tensor not in network.order:
            reasons[path] = "is never used"
    return reasons


def _list_outputs(template: nn.Module) -> Iterator[tuple[str, str, Sequence[int]]]:
    """Yield the path of each layer, the name of its weight and the axis of its outputs.

    Yield the names and all axes of the user's parameters of two or more dimensions, too.
    """
    layers = *_PRODUCERS, nn.Embedding, nn.EmbeddingBag
    names = {id(tensor): name for name, tensor in tensors_of(template).items()}
    for path, module in template.named_modules():
        weight = original_weight(module)
        if isinstance(module, layers) and weight is not None:
            yield path, names[id(weight)], [output_axis(module)]
        elif not type(module).__module__.startswith("torch."):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim > 1:
                    name = names[id(parameter)]
                    yield name, name, range(parameter.ndim)


def _find_reasons(network: TracedNetwork) -> dict[int, set[str]]:
    """Return why units are fixed, by unit."""
    reasons = defaultdict[int, set[str]](set)
    for frozen in network.trace.frozen:
        for unit in np.unique(network.family.units.of_atom[frozen.atoms]).tolist():
            reasons[unit].add(f"{frozen.reason} in {frozen.module}")
    return reasons


def output_axis(module: nn.Module) -> int:
    """Return the axis of a module's weight that belongs to its outputs."""
    is_second = getattr(module, "transposed", False) is True or isinstance(
        module, nn.Embedding | nn.EmbeddingBag
    )
    return 1 if is_second else 0


def name_layers(network: TracedNetwork) -> tuple[str, ...]:
    """Name each group after the first module that makes its channels, or else after a tensor."""
    of_tensor = {id(tensor): name for name, tensor in tensors_of(network.template).items()}
    makers = {
        (of_tensor[id(weight)], output_axis(module)): path
        for path, module in reversed([*network.template.named_modules()])
        if isinstance(module, _PRODUCERS) and (weight := original_weight(module)) is not None
    }
    names = []
    for group in network.family.groups:
        dimensions = [network.family.dimensions[d] for d in group.per_dimension]
        made = [makers.get((dimension.tensor, dimension.axis)) for dimension in dimensions]
        owners = [path for path in made if path]
        first = network.family.dimensions[min(group.per_dimension)].tensor
        names.append(owners[0] if owners else first)
    return tuple(
        f"{name}#{names[:i].count(name) + 1}" if names[:i].count(name) else name
        for i, name in enumerate(names)
    )


def find_unscorable(network: TracedNetwork) -> Reasons:
    """Return the groups without trainable parameters, with the reason."""
    makers = Makers.of(network)
    unscored = [i for i, g in enumerate(network.family.groups) if not makers.find_holders(g)]
    reason = "no trainable parameters: pruning cannot score its units"
    if not all(parameter.requires_grad for parameter in network.template.parameters()):
        reason += ", unless you call model.requires_grad_(True) first"
    reasons, buffers = dict.fromkeys(unscored, reason), dict(network.template.named_buffers())
    for i in unscored:
        held = [network.family.dimensions[d].tensor for d in network.family.groups[i].per_dimension]
        if stored := [name for name in held if name in buffers]:
            reasons[i] = f"{reason.partition(':')[0]}; {describe_cure(stored[0])}"
    return reasons


def find_divided(network: TracedNetwork) -> Reasons:
    """Return the groups of which only some units are in a part that the code cuts, with the reason.

    The code would take other channels for them if any other one is removed.
    """
    cuts = [network.family.units.of_atom[cut] for cut in network.trace.cuts]
    return {
        i: "is cut into parts that no weight tells apart"
        for i, group in enumerate(network.family.groups)
        if any(0 < np.isin(group.units, cut).sum() < len(group.units) for cut in cuts)
    }


def find_hidden(network: TracedNetwork) -> Reasons:
    """Return the groups whose widths the shapes of tensors do not tell, with the reason.

    Each has only a share in dimensions, and shares them with others that have none alone, either.
    """
    family, told = network.family, list[int]()
    alone = family.factors[family.single].any(axis=0)
    mixed = np.flatnonzero(~alone).tolist()
    for i in sorted(mixed, key=lambda i: (family.groups[i].rigid, -family.widths[i])):
        if np.linalg.matrix_rank(family.factors[:, [*told, i]]) > len(told):
            told.append(i)
    reason = "no shape of a weight tells how many of them there are"
    return dict.fromkeys([i for i in mixed if i not in told], reason)


def find_units(network: TracedNetwork, paths: Sequence[str]) -> list[Atoms]:
    """Return the units that the modules at `paths` make. Raises NsoptError for a wrong path."""
    modules = dict(network.template.named_modules())
    units = []
    for path in paths:
        if path not in modules:
            raise unknown_name("module", path, [*filter(None, modules)])
        units += [
            network.family.units.of_atom[dimension.atoms]
            for dimension in network.family.dimensions
            if dimension.tensor.startswith(f"{path}.") and _is_output(network, dimension)
        ]
    return units


def _is_output(network: TracedNetwork, dimension: Dimension) -> bool:
    """Return whether a dimension belongs to the outputs of the module with this tensor."""
    owner = dimension.tensor.rpartition(".")[0].partition(".parametrizations.")[0]
    is_vector = len(network.labels[dimension.tensor]) == 1
    axis = 0 if is_vector else output_axis(network.template.get_submodule(owner))
    return dimension.axis == axis
