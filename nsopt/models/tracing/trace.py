"""`nsopt.trace`: from a module to the family of networks that it belongs to."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.errors import NsoptError, unknown_name
from nsopt.models.tracing import buffers, probe
from nsopt.models.tracing.architecture import PRODUCERS, TracedArchitecture, output_axis
from nsopt.models.tracing.labels import Atoms
from nsopt.models.tracing.makers import Makers
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.originals import copy_model, original_weight
from nsopt.models.tracing.run import LabelledRun, tensors_of

_MOST_REASONS = 5


def trace(
    module: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    name: str | None = None,
    fixed: Sequence[str] = (),
    init: Callable[[nn.Module], None] | None = None,
) -> TracedArchitecture:
    """Return the architecture of any module: a family of networks, indexed by widths.

    Args:
        module: a network, best untrained; it does not change.
        example_input: argument of `module`, or a tuple of arguments, with at least two examples.
        name: for messages and studies; by default the name of the class.
        fixed: paths of modules whose widths must not change.
        init: initialises a new network; by default its values resemble those of `module`.

    Raises:
        NsoptError: if no width can change, if the forward pass depends on the values of tensors, or
            if the module does not run on the meta device.

    Example:
        >>> arch = nsopt.trace(torchvision.models.resnet18(), torch.rand(2, 3, 64, 64))
        >>> arch.build([width // 2 for width in arch.base_widths])
    """
    examples = example_input if isinstance(example_input, tuple) else (example_input,)
    if len(examples[0]) < 2:
        raise NsoptError("trace a network with at least two examples, to recognise sizes of 1")
    _check_precision(module, examples)
    network = TracedNetwork.of(
        _on_cpu(module), LabelledRun(tuple(e.detach().cpu() for e in examples))
    )
    network = network.with_fixed(_units_below(network, fixed))
    network, unscored = _without(network, _cannot_be_scored(network))
    network, suspects = probe.lifted(network)
    network, unshrinkable = _without(network, probe.cannot_shrink(network, suspects))
    refused = unscored | unshrinkable
    if not network.family.groups:
        raise NsoptError(
            "no width of this network can change: " + "; ".join(_all_reasons(network, refused))
        )
    names = _layer_names(network)
    grow = probe.cannot_grow(network) | ({} if init else buffers.cannot_grow(network))
    capped = {names[i]: reason for i, reason in grow.items()}
    own = name or type(module).__name__.lower()
    return TracedArchitecture(own, network, names, capped, refused, init)


def _without(
    network: TracedNetwork, reasons: probe.Reasons
) -> tuple[TracedNetwork, dict[str, str]]:
    """The network with these groups fixed, and the reasons by their names."""
    names = _layer_names(network)
    units = [network.family.groups[i].units for i in reasons]
    fixed = network.with_fixed(np.concatenate([np.zeros(0, np.int64), *units]))
    return fixed, {names[i]: reason for i, reason in reasons.items()}


def _on_cpu(module: nn.Module) -> nn.Module:
    """`module`, or a copy of it where it is on another device."""
    there = {tensor.device.type for tensor in tensors_of(module).values()}
    return module if there == {"cpu"} else copy_model(module).cpu()


def _check_precision(module: nn.Module, examples: Sequence[Tensor]) -> None:
    """NsoptError for what `module.double()` leaves behind."""
    single = [name for name, p in module.named_parameters() if p.dtype == torch.complex64]
    if single and any(example.dtype == torch.float64 for example in examples):
        raise NsoptError(
            f"the input is of type float64, but {single[0]} of complex64, as double() leaves "
            "complex parameters as they are: trace the network in float32"
        )


def _layer_names(network: TracedNetwork) -> tuple[str, ...]:
    """The module that first makes a group's channels, or the tensor that holds them."""
    of_tensor = {id(tensor): name for name, tensor in tensors_of(network.template).items()}
    makers = {
        (of_tensor[id(weight)], output_axis(module)): path
        for path, module in network.template.named_modules()
        if isinstance(module, PRODUCERS) and (weight := original_weight(module)) is not None
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


def _cannot_be_scored(network: TracedNetwork) -> probe.Reasons:
    makers = Makers.of(network)
    unscored = [i for i, g in enumerate(network.family.groups) if not makers.holding(g)]
    return dict.fromkeys(unscored, "nothing that has its units is trained, so they have no score")


def _units_below(network: TracedNetwork, paths: Sequence[str]) -> Atoms:
    """The units that the modules at `paths` make. NsoptError for a path that is none."""
    modules = dict(network.template.named_modules())
    units = [np.zeros(0, np.int64)]
    for path in paths:
        if path not in modules:
            raise unknown_name("module", path, modules)
        units += [
            network.family.units.of_atom[dimension.atoms]
            for dimension in network.family.dimensions
            if dimension.tensor.startswith(f"{path}.") and dimension.axis == 0
        ]
    return np.unique(np.concatenate(units))


def _all_reasons(network: TracedNetwork, refused: dict[str, str]) -> list[str]:
    frozen = {f"{f.reason} in {f.module}" for f in network.trace.frozen if f.reason != "kernel"}
    return sorted(frozen | set(refused.values()))[:_MOST_REASONS]
