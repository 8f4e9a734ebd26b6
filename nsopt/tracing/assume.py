"""Trace code that reads values which decide nothing: checks, and numbers that are only logged.

The tensors of a trace have no values, so that it does not know whether `h.isnan().any()`. Then it
runs the network with both answers. Where the code fails with one of them, as a check does, the
other is right; else both must lead to the same layers.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from nsopt.tracing.labels import TraceError, UnknownError
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.run import AFTER, LabelledRun


def trace_network(model: nn.Module, run: LabelledRun) -> TracedNetwork:
    """Return the trace of a network.

    Raises:
        TraceError: if it cannot be traced, or if unknown values decide which layers run.
    """
    outcome = _try(model, run)
    is_unknown = isinstance(_find_error(outcome), UnknownError)
    if is_unknown or (isinstance(outcome, TracedNetwork) and AFTER in outcome.trace.notes):
        outcome = _try_answers(model, run) or outcome
    if isinstance(outcome, TraceError):
        raise outcome
    return outcome


def _try(model: nn.Module, run: LabelledRun) -> TracedNetwork | TraceError:
    try:
        return TracedNetwork.of(model, run)
    except TraceError as error:
        return error


def _try_answers(model: nn.Module, run: LabelledRun) -> TracedNetwork | None:
    """Return the trace with answers for which the code runs; None if others run other layers."""
    denied = frozenset[str]()
    outcome = _try(model, replace(run, denied=denied))
    while error := _find_error(outcome):
        if not error.asked or error.asked[-1] in denied:
            return None
        denied |= {error.asked[-1]}
        outcome = _try(model, replace(run, denied=denied))
    assert isinstance(outcome, TracedNetwork)
    summary = _summarise(outcome)
    for line in outcome.trace.asked:
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
