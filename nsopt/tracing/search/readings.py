"""Ways to read the code of a network: as what to label its splits, and which conditions hold."""

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nsopt.tracing.groups import Units
from nsopt.tracing.labels import Atoms, Reading, Split, Trace, TraceError, UnknownError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.run import AFTER, LabelledRun

Readings = Iterator[list[Reading]]  # lists of alternatives


def trace_network(model: nn.Module, run: LabelledRun) -> TracedNetwork:
    """Return the trace of a network, also of code that reads values which decide nothing.

    The tensors of a trace have no values, so that it does not know whether `h.isnan().any()`. Then
    it runs the network with both. Where the code fails with one of them, as a check does, the other
    is right; else both must lead to the same layers.

    Raises:
        TraceError: if it cannot be traced, or if unknown values decide which layers run.
    """
    outcome = _try(model, run)
    is_unknown = isinstance(_find_error(outcome), UnknownError)
    if is_unknown or (isinstance(outcome, TracedNetwork) and AFTER in outcome.trace.notes):
        outcome = _try_conditions(model, run) or outcome
    if isinstance(outcome, TraceError):
        raise outcome
    return outcome


def _try(model: nn.Module, run: LabelledRun) -> TracedNetwork | TraceError:
    try:
        return TracedNetwork.of(model, run)
    except TraceError as error:
        return error


def _try_conditions(model: nn.Module, run: LabelledRun) -> TracedNetwork | None:
    """Return the trace with conditions for which the code runs; None if others run other layers."""
    denied = frozenset[str]()
    outcome = _try(model, replace(run, denied=denied))
    while error := _find_error(outcome):
        if not error.guessed or error.guessed[-1] in denied:
            return None
        denied |= {error.guessed[-1]}
        outcome = _try(model, replace(run, denied=denied))
    assert isinstance(outcome, TracedNetwork)
    summary = _summarise(outcome)
    for line in outcome.trace.guessed:
        flipped = _try(model, replace(run, denied=denied ^ {line}))
        error = _find_error(flipped)
        if isinstance(error, UnknownError):  # in a loop, too
            return None
        if not error and isinstance(flipped, TracedNetwork) and _summarise(flipped) != summary:
            return None
    return outcome


def _find_error(outcome: TracedNetwork | TraceError) -> TraceError | None:
    """Return why a trace failed, in one mode at least."""
    return outcome if isinstance(outcome, TraceError) else outcome.trace.failed


def _summarise(network: TracedNetwork) -> Any:
    """Return what a trace says of the widths of a network, and of its costs."""
    trace = network.trace
    edges = [(one.tobytes(), other.tobytes()) for one, other in trace.edges]
    frozen = [f.atoms.tobytes() for f in trace.frozen]
    products = [(p.factor, *(d.tobytes() for d in p.dimensions)) for p in trace.products]
    return network.outputs, list(trace.read), edges, frozen, products, trace.inferred


def avoid_tables(network: TracedNetwork, tables: Container[str]) -> list[TracedNetwork]:
    """Return the network read so that tables, and what is fixed, share no dimension with splits.

    Empty if less could then be removed.

    Args:
        tables: names of buffers, whose dimensions should not change.
    """
    units, bound = network.family.units, network.family.units.fixed.copy()
    for dimension in network.family.dimensions:
        bound[units.of_atom[dimension.atoms]] |= dimension.tensor in tables
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
    is_better = rival.family.count_free(tables) >= network.family.count_free(tables)
    return [rival] if preferred and is_better else []


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


def join_parts(network: TracedNetwork) -> Readings:
    """Propose that parts of channels change together, if some part must stay."""
    has_own = any(type(kind) is str and kind == "own" for _, kind in network.trace.choices)
    if has_own and any(_are_fixed(network, cut).all() for cut in network.trace.cuts):
        yield [replace(network.trace.reading, apart=False)]


def turn_whole_groups(network: TracedNetwork) -> Readings:
    """Propose that layers with groups that must stay lose the same channels of every group."""
    yield _turn(network, whole=True)


def split_otherwise(network: TracedNetwork) -> Readings:
    """Propose that splits change in another dimension, and that other layers lose whole groups."""
    trace, reading = network.trace, network.trace.reading
    units, traced = network.family.units, Units.of(trace)
    others = _list_axes(trace, units.fixed[units.of_atom])
    known = _list_axes(trace, traced.fixed[traced.of_atom]).keys() | reading.preferred.keys()
    preferred = {key: axes[-1] for key, axes in others.items() if axes and key not in known}
    split = replace(reading, preferred={**reading.preferred, **preferred})
    yield [split, *_turn(network, whole=False)]


def _turn(network: TracedNetwork, whole: bool) -> list[Reading]:
    """Return readings in which layers with groups that must stay, all or in part, lose the same
    channels of every group if they would lose `whole` groups; or the other way round."""
    trace, reading = network.trace, network.trace.reading
    some = [(path, atoms) for path, atoms in trace.grouped if (path in trace.group_sizes) == whole]
    tests: tuple[Callable[..., Any], ...] = np.all, np.any
    paths = [frozenset(p for p, a in some if test(_are_fixed(network, a))) for test in tests]
    return [replace(reading, turned=reading.turned ^ turned) for turned in dict.fromkeys(paths)]


def _are_fixed(network: TracedNetwork, atoms: Atoms) -> NDArray[np.bool_]:
    """Return which of these atoms cannot be removed."""
    return network.family.units.fixed[network.family.units.of_atom[atoms]]
