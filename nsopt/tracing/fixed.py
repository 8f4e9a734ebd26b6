"""Which layers keep their sizes, and why."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from nsopt.tracing.labels import select_atoms
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import original_weight
from nsopt.tracing.run import tensors_of

PRODUCERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)


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
    layers = *PRODUCERS, nn.Embedding, nn.EmbeddingBag
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
