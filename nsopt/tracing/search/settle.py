"""Choose how to read the code of a network, so that most units can be removed."""

from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsopt.errors import unknown_name
from nsopt.tracing import buffers
from nsopt.tracing.fixed import PRODUCERS, output_axis
from nsopt.tracing.groups import Dimension, Units
from nsopt.tracing.labels import Atoms, Numbers, Reading, Split, Trace, TraceError
from nsopt.tracing.makers import Makers
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import original_weight
from nsopt.tracing.run import tensors_of
from nsopt.tracing.search import lifting, probe
from nsopt.tracing.weights import describe_cure


class Settled(NamedTuple):
    """A network with its lifts, why groups that it had are fixed, and the numbers with which it
    calculates if all others have one unit less."""

    network: TracedNetwork
    refused: dict[str, str]
    numbers: list[Numbers]


def settle(network: TracedNetwork, paths: Sequence[str]) -> Settled:
    """Find lifts, and fix the groups that cannot lose units, or are of the modules at `paths`.

    The code is read in the way in which most units can be removed. A dimension of a split should
    not stay or follow a buffer if another one need not: rotary embeddings are tables of the size of
    a head, so heads are removed whole.

    Raises:
        NsoptError: for a wrong path.
    """
    tables = buffers.name_tables(network.template)
    rival = _split_otherwise(network, tables)
    settled = _settle_readings(rival or network, paths)
    left = settled.network.family.count_free(tables)
    if rival is None or left >= network.family.count_free(tables):
        return settled
    other = _settle_readings(network, paths)
    return settled if left >= other.network.family.count_free(tables) else other


def _split_otherwise(network: TracedNetwork, held: Container[str]) -> TracedNetwork | None:
    """Return a network in which other dimensions of splits change, or None if less would remain.

    Args:
        network: the network.
        held: names of tables, whose dimensions should not change.
    """
    units, bound = network.family.units, network.family.units.fixed.copy()
    for dimension in network.family.dimensions:
        bound[units.of_atom[dimension.atoms]] |= dimension.tensor in held
    others = _list_axes(network.trace, bound[units.of_atom])
    rival = network
    while preferred := {key: axes[-1] for key, axes in others.items() if axes}:
        rival = network.read_as(Reading(preferred))
        useful = {
            (path, sizes)
            for path, sizes, _, atoms in rival.trace.splits
            if not _are_fixed(rival, atoms).all()
        }
        if not (useless := preferred.keys() - useful):
            break
        for key in useless:
            others[key].pop()
    is_better = rival.family.count_free(held) >= network.family.count_free(held)
    return rival if preferred and is_better else None


def _list_axes(trace: Trace, bound: NDArray[np.bool_]) -> dict[Split, list[int]]:
    """Return the dimensions of splits, the largest last, that may change in place of a bound one.

    Args:
        trace: the record with the splits.
        bound: whether an atom cannot be removed, or should not be, (atoms,).
    """
    others: dict[Split, list[int]] = {}
    for path, sizes, chosen, atoms in trace.splits:
        axes = [axis for axis, size in enumerate(sizes) if size > 1 and axis != chosen]
        if bound[atoms].all():
            others[path, sizes] = sorted(axes, key=sizes.__getitem__)
    return others


def _settle_readings(network: TracedNetwork, paths: Sequence[str]) -> Settled:
    """Return the result of `_settle` with the best reading of those that differ where units must
    stay: parts may depend on each other, and code may name a number of groups, or of heads."""

    def settle_as(reading: Reading) -> Iterator[Settled]:
        with suppress(TraceError):
            yield _settle(network.read_as(reading), paths)

    best, tried = _settle(network, paths), [network.trace.reading]
    better: list[Settled] = [best]
    while better:
        best = max(better, key=lambda settled: settled.network.family.count_free(left=1))
        most = best.network.family.count_free()
        for readings in _read_otherwise(best.network):
            new = [reading for reading in readings if reading not in tried]
            tried += new
            settled = chain(*map(settle_as, new))
            better = [rival for rival in settled if rival.network.family.count_free() > most]
            if better:
                break
    return best


def _read_otherwise(network: TracedNetwork) -> Iterator[list[Reading]]:
    """Yield readings that may free what must stay in this network, the most likely ones first."""
    trace, reading = network.trace, network.trace.reading
    fixed = [(path, _are_fixed(network, atoms)) for path, atoms in trace.grouped]

    def turn(whole: bool) -> list[Reading]:
        some = [(path, stay) for path, stay in fixed if (path in trace.group_sizes) == whole]
        paths = [frozenset(path for path, stay in some if test(stay)) for test in (np.all, np.any)]
        return [replace(reading, turned=reading.turned ^ turned) for turned in dict.fromkeys(paths)]

    if any(type(kind) is str and kind == "own" for _, kind in trace.choices) and any(
        _are_fixed(network, cut).all() for cut in trace.cuts
    ):
        yield [replace(reading, apart=False)]
    yield turn(whole=True)
    units, traced = network.family.units, Units.of(trace)
    others = _list_axes(trace, units.fixed[units.of_atom])
    known = _list_axes(trace, traced.fixed[traced.of_atom]).keys() | reading.preferred.keys()
    preferred = {key: axes[-1] for key, axes in others.items() if axes and key not in known}
    split = [replace(reading, preferred={**reading.preferred, **preferred})]
    yield [*split, *turn(whole=False)]


def _are_fixed(network: TracedNetwork, atoms: Atoms) -> NDArray[np.bool_]:
    """Return which of these atoms cannot be removed."""
    return network.family.units.fixed[network.family.units.of_atom[atoms]]


def _settle(network: TracedNetwork, paths: Sequence[str]) -> Settled:
    """Find lifts, and fix the groups that cannot lose units, or are of the modules at `paths`."""
    network = network.marked(_find_units(network, paths))
    network, unscored = _fix_groups(network, _find_unscorable(network))
    network, divided = _fix_groups(network, _find_divided(network))
    network, hidden = _fix_groups(network, _find_hidden(network))
    network, unshrinkable = _fix_groups(*lifting.find_lifts(network))
    network, dependent = _fix_groups(network, probe.find_dependent(network))
    uneven, numbers = probe.find_indivisible(network)
    network, indivisible = _fix_groups(network, uneven)
    return Settled(
        network, unscored | divided | hidden | unshrinkable | dependent | indivisible, numbers
    )


def _fix_groups(
    network: TracedNetwork, reasons: probe.Reasons
) -> tuple[TracedNetwork, dict[str, str]]:
    """Return the network with these groups fixed, and the reasons by the names of the groups."""
    names = name_layers(network)
    fixed = network.marked([network.family.groups[i].units for i in reasons])
    return fixed, {names[i]: reason for i, reason in reasons.items()}


def name_layers(network: TracedNetwork) -> tuple[str, ...]:
    """Name each group after the first module that makes its channels, or else after a tensor."""
    of_tensor = {id(tensor): name for name, tensor in tensors_of(network.template).items()}
    makers = {
        (of_tensor[id(weight)], output_axis(module)): path
        for path, module in reversed([*network.template.named_modules()])
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


def _find_unscorable(network: TracedNetwork) -> probe.Reasons:
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


def _find_divided(network: TracedNetwork) -> probe.Reasons:
    """Return the groups of which only some units are in a part that the code cuts, with the reason.

    The code would take other channels for them if any other one is removed.
    """
    cuts = [network.family.units.of_atom[cut] for cut in network.trace.cuts]
    return {
        i: "is cut into parts that no weight tells apart"
        for i, group in enumerate(network.family.groups)
        if any(0 < np.isin(group.units, cut).sum() < len(group.units) for cut in cuts)
    }


def _find_hidden(network: TracedNetwork) -> probe.Reasons:
    """Return the groups whose widths the shapes of tensors do not tell, with the reason.

    Each has only a share in dimensions, beside others that have no dimension alone, either.
    """
    family, seen = network.family, list[int]()
    alone = family.factors[family.single].any(axis=0)
    mixed = np.flatnonzero(~alone).tolist()
    for i in sorted(mixed, key=lambda i: (family.groups[i].rigid, -family.widths[i])):
        if np.linalg.matrix_rank(family.factors[:, [*seen, i]]) > len(seen):
            seen.append(i)
    reason = "no shape of a weight tells how many of them there are"
    return dict.fromkeys([i for i in mixed if i not in seen], reason)


def _find_units(network: TracedNetwork, paths: Sequence[str]) -> list[Atoms]:
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
