"""`nsopt.trace`: turn a module into an architecture, a family of networks with other widths."""

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_map_only

from nsopt.errors import NsoptError
from nsopt.inputs import check_numbers, tensors_in
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.networks import find_unfillable, name_trained
from nsopt.progress import repeated
from nsopt.tracing.adaptation import find_alike
from nsopt.tracing.labels import TraceError, UnknownError, find_line
from nsopt.tracing.makers import adopt_weights, find_fixed, name_layers
from nsopt.tracing.network import TracedNetwork
from nsopt.tracing.originals import copy_model, set_mode, tensors_of, unwrapped
from nsopt.tracing.run import AFTER, LabelledRun
from nsopt.tracing.search import probe
from nsopt.tracing.search.search import search
from nsopt.tracing.states import restore_tensors, spare_collector
from nsopt.tracing.tracer import ADVICE

_MOST_REASONS = 5
_LONG = 60.0  # seconds


@contextmanager
def tell_when_long(task: str) -> Iterator[None]:
    """Inside the block, write a line to stderr after each minute: the task, and what runs."""
    start, thread = time.monotonic(), get_ident()

    def tell() -> None:
        line = find_line(sys._current_frames()[thread])
        spent = f"{time.monotonic() - start:.0f} s so far"
        sys.stderr.write(f"{task}: {spent}, now in {line}\n")

    with repeated(tell, _LONG):
        yield


@public
@spare_collector()
@tell_when_long("nsopt.trace runs the network at other widths, to see which can change")
def trace(
    module: nn.Module,
    example: Any,
    name: str | None = None,
    fixed: Sequence[str] = (),
    training: bool = True,
) -> Architecture:
    """Return the architecture of any module: a family of networks, indexed by widths.

    Args:
        module: a network; it does not change. New networks draw their weights with the spread that
            those of `module` have, so that it should be untrained where any are trained anew.
        example: a batch of at least two examples, along the first dimension; or a tuple of
            arguments of `module`; or a dictionary of its keyword arguments. Arguments may be None,
            numbers, and tuples, lists or dictionaries of tensors.
        name: its name in messages and studies; by default the name of the class.
        fixed: paths of modules whose widths must not change, as in `named_modules`.
        training: whether to run the network in training mode, too, where `forward` may differ. If
            it fails there, nsopt warns and uses evaluation mode alone.

    Raises:
        NsoptError: if no width can change, if values of tensors decide which layers run, or if
            `forward` fails on tensors without values.

    Examples:
        >>> arch = nsopt.trace(torchvision.models.resnet18(), torch.rand(2, 3, 64, 64))
        >>> arch.build([width // 2 for width in arch.base_widths])
    """
    module = unwrapped(module)
    inputs = example if isinstance(example, tuple | Mapping) else (example,)
    run = LabelledRun(_read_inputs(inputs), (False, True) if training else (False,))
    _check_module(module, is_double=any(t.dtype == torch.float64 for t in tensors_in(run.inputs)))
    with restore_tensors(module):
        set_mode(module, training=False)  # of an exported program: its copy would change it
    network = _trace_network(_copy_to_cpu(module, run), run)
    if network.trace.failed:
        network = _note_failure(network)
    network, refused = search(network, fixed)
    alike = tuple(find_alike(network.template, network.read))
    network = replace(network, adaptation=replace(network.adaptation, alike=alike))
    if not network.family.groups:
        fixed_layers = find_fixed(network, refused).items()
        held = [f"{path or 'the network'}: {reason}" for path, reason in fixed_layers]
        reasons = "; ".join(held[:_MOST_REASONS]) or "no layer lies between two others"
        raise NsoptError(f"no width of this network can change: {reasons}")
    names = name_layers(network)
    trained = name_trained(network.template)
    grow = probe.find_capped(network) | find_unfillable(network, trained)
    capped = {names[i]: reason for i, reason in grow.items()}
    name = name or type(module).__name__.lower()
    return Architecture(name, network, names, capped, refused, trained)


def _trace_network(model: nn.Module, run: LabelledRun) -> TracedNetwork:
    """Return the trace of a network, also of code that reads values which decide nothing.

    The tensors of a trace have no values, so that it does not know whether `h.isnan().any()`. Then
    it runs the network with both. Where the code fails with one of them, as a check does, the other
    is right; else both must lead to the same layers.

    Raises:
        TraceError: if it cannot be traced, or if unknown values decide which layers run.
    """
    outcome = _try_to_trace(model, run)
    is_unknown = isinstance(_find_error(outcome), UnknownError)
    if is_unknown or (isinstance(outcome, TracedNetwork) and AFTER in outcome.trace.notes):
        outcome = _try_conditions(model, run) or outcome
    if isinstance(outcome, TraceError):
        raise outcome
    return outcome


def _try_to_trace(model: nn.Module, run: LabelledRun) -> TracedNetwork | TraceError:
    try:
        return TracedNetwork.of(model, run)
    except TraceError as error:
        return error


def _try_conditions(model: nn.Module, run: LabelledRun) -> TracedNetwork | None:
    """Return the trace with conditions for which the code runs; None if others run other layers."""
    denied = frozenset[str]()
    outcome = _try_to_trace(model, replace(run, denied=denied))
    while error := _find_error(outcome):
        if not error.guessed or error.guessed[-1] in denied:
            return None
        denied |= {error.guessed[-1]}
        outcome = _try_to_trace(model, replace(run, denied=denied))
    assert isinstance(outcome, TracedNetwork)
    summary = _summarise(outcome)
    for line in outcome.trace.guessed:
        flipped = _try_to_trace(model, replace(run, denied=denied ^ {line}))
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


def _copy_to_cpu(module: nn.Module, run: LabelledRun) -> nn.Module:
    """Return a copy on the CPU, or on the meta device: the caller may train `module` on.

    If none of its parameters is trained, as in a network that only infers, all are in the copy, and
    so are buffers that are weights.
    """
    is_meta = {tensor.device.type for tensor in tensors_of(module).values()} == {"meta"}
    copy = copy_model(module) if is_meta else copy_model(module).cpu()
    if not any(parameter.requires_grad for parameter in copy.parameters()):
        for parameter in copy.parameters():
            parameter.requires_grad = parameter.is_floating_point() or parameter.is_complex()
        return copy if is_meta else adopt_weights(copy, run.inputs)
    return copy


def _note_failure(network: TracedNetwork) -> TracedNetwork:
    """Warn that a network was traced in evaluation mode only; return it with a note of that."""
    kind, failed = type(network.template).__name__, network.trace.failed
    sized = {name for name, tensor in tensors_of(network.template).items() if tensor.ndim}
    unread = {name.rpartition(".")[0] for name in sized - network.order.keys()}
    only = f"; layers that run only in training keep their sizes: {', '.join(sorted(unread))}"
    reason = str(failed).removesuffix(ADVICE) + (only if unread else "")
    note = f"traced in evaluation mode only, because of training mode: {reason}"
    network.trace.notes[note] = {}
    warnings.warn(
        f"{kind} is {note}. Pass training=False to trace() if it is only used in evaluation mode",
        stacklevel=7,  # of four decorators, too
    )
    return replace(network, run=replace(network.run, modes=(False,)))


def _read_inputs(inputs: tuple[Any, ...] | Mapping[str, Any]) -> Any:
    """Return inputs on the CPU, without gradients.

    Raises NsoptError unless they contain a tensor, and the first is a batch of two or more.
    """
    check_numbers(tensors_in(inputs), "the example input")
    read = tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), inputs)
    read = dict(read) if isinstance(inputs, Mapping) else read
    if not tensors_in(read):
        raise NsoptError(
            "pass a tensor as the example input, or a tuple of the arguments that `forward` takes, "
            "or a dictionary of its keyword arguments: got no tensor"
        )
    first = tensors_in(read)[0]
    if not first.ndim or LabelledRun(read).count < 2:
        raise NsoptError(
            "pass at least two examples, along the first dimension: the trace does not follow "
            "dimensions of size 1; a list is one argument with an item for each example, and a "
            "task of single examples takes two as example="
        )
    return read


def _check_module(module: nn.Module, is_double: bool) -> None:
    """Raise NsoptError for a network that cannot be traced.

    TorchScript hides operations, sparse buffers cannot be cut, lazy modules do not know their
    inputs yet, tensors of other tensors (distributed, quantised) may crash the process, and
    complex64 parameters do not fit inputs in float64, as after `double()`.
    """
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise NsoptError(
                f"{path or 'the network'} is compiled by TorchScript, which hides its operations: "
                "trace the module from which it was compiled"
            )
    for name, tensor in tensors_of(module).items():
        if hasattr(tensor, "__tensor_flatten__"):
            raise NsoptError(
                f"{name} is a {type(tensor).__name__}: give a network of plain tensors, as "
                "full_tensor() or dequantize() return them"
            )
    for name, buffer in module.named_buffers():
        if buffer.layout != torch.strided:
            path, _, key = name.rpartition(".")
            raise NsoptError(
                f"{name} is sparse, and cannot be cut: make it dense first, as in "
                f"part = model.get_submodule({path!r}); part.{key} = part.{key}.to_dense()"
            )
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise NsoptError(f"{name} has no shape yet: call the network once before it is traced")
        if is_double and parameter.dtype == torch.complex64:
            raise NsoptError(
                f"the input is float64, but {name} is complex64, because double() does not "
                "convert complex parameters: trace the network in float32"
            )
