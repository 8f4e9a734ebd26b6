"""Trace code that reads values which decide nothing: checks, and numbers that are only logged.

The tensors of a trace have no values, so that it does not know whether `h.isnan().any()`. Then it
runs the network with both answers. Where the code fails with one of them, as a check does, the
other is right; else both must lead to the same layers.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from nsopt.models.tracing.labels import TraceError, UnknownError
from nsopt.models.tracing.network import TracedNetwork
from nsopt.models.tracing.run import LabelledRun


def trace_network(model: nn.Module, run: LabelledRun) -> TracedNetwork:
    """Return the trace of a network.

    Raises:
        TraceError: if it cannot be traced, or if unknown values decide which layers run.
    """
    found = _try(model, run)
    error = found if isinstance(found, TraceError) else found.trace.failed
    if isinstance(error, UnknownError):
        found = _try_answers(model, run) or found
    if isinstance(found, TraceError):
        raise found
    return found


def _try(model: nn.Module, run: LabelledRun) -> TracedNetwork | TraceError:
    try:
        return TracedNetwork.of(model, run)
    except TraceError as error:
        return error


def _try_answers(model: nn.Module, run: LabelledRun) -> TracedNetwork | None:
    """Return the trace with answers for which the code runs; None if others run other layers."""
    denied = frozenset[str]()
    found = _try(model, replace(run, denied=denied))
    while not isinstance(found, TracedNetwork) or found.trace.failed:
        asked = found.asked if isinstance(found, TraceError) else ()
        if not asked or asked[-1] in denied:
            return None
        denied |= {asked[-1]}
        found = _try(model, replace(run, denied=denied))
    for line in found.trace.asked:
        other = _try(model, replace(run, denied=denied ^ {line}))
        differs = isinstance(other, TracedNetwork) and _summarise(other) != _summarise(found)
        if differs or isinstance(other, UnknownError):  # the latter in a loop, too
            return None
    return found


def _summarise(network: TracedNetwork) -> Any:
    """Return what a trace says of the widths of a network, and of its costs."""
    trace = network.trace
    edges = [(one.tobytes(), other.tobytes()) for one, other in trace.edges]
    frozen = [each.atoms.tobytes() for each in trace.frozen]
    products = [(each.factor, *(d.tobytes() for d in each.dimensions)) for each in trace.products]
    return network.outputs, list(trace.read), edges, frozen, products, trace.inferred
