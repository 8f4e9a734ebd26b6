"""Run a network on labels: its tensors are fake, need no memory and compute nothing."""

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_map_only

from nsopt.inputs import (
    call_network,
    count_examples,
    find_outputs,
    resize_batch,
    tensors_in,
)
from nsopt.tracing import (  # noqa: F401  (they register their rules)
    cut_rules,
    product_rules,
    shape_rules,
    view_rules,
)
from nsopt.tracing.function_rules import FunctionRules
from nsopt.tracing.labels import Atoms, Labels, Trace, TraceError, is_of_user, select_atoms
from nsopt.tracing.originals import refuse_borrowed, set_mode, tensors_of
from nsopt.tracing.states import (
    follow_modules,
    restore_modules,
    spare_collector,
)
from nsopt.tracing.tracer import Tracer

AFTER = "depends on values after the last layer: what is used there stays"  # if it fails there
_LONGEST_REASON = 150


@contextmanager
def silence_fakes() -> Iterator[None]:
    """Let fake tensors log nothing in the block, also if several threads are in one.

    A filter is faster than a level, which empties the caches of all loggers.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")

    def refuse(_: logging.LogRecord) -> bool:  # another function each time
        return False

    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


@contextmanager
def trust_distributions() -> Iterator[None]:
    """Let new distributions not check the values of their arguments in the block."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@dataclass(frozen=True, eq=False)
class LabelledRun:
    """A way to run a network on labels.

    Attributes:
        inputs: arguments of `forward` in a tuple, or keyword arguments in a dictionary.
        modes: the network runs once with each value of `training`: usually both, because `forward`
            may branch on it.
        denied: lines of code in which unknown conditions are false; elsewhere they are true. None
            to refuse a network that reads unknown values before its last layer.
    """

    inputs: tuple[Any, ...] | dict[str, Any]
    modes: tuple[bool, ...] = (False, True)
    denied: frozenset[str] | None = None

    @property
    def count(self) -> int:
        """The number of examples."""
        return count_examples(self.inputs)

    def with_one_example(self) -> "LabelledRun":
        """Return a copy with one example, in evaluation mode only."""
        return replace(self, inputs=resize_batch(self.inputs, 1), modes=(False,))

    def __call__(
        self,
        model: nn.Module,
        trace: Trace,
        labels: Mapping[str, Labels],
        choices: Sequence[tuple[str, Any]] | None = None,
        same: Callable[[Atoms, Atoms], bool] | None = None,
    ) -> list[tuple[int, ...]]:
        """Run a network once in each mode.

        Args:
            trace: the runs add to it; only the first mode counts multiply-accumulates.
            labels: the labels of parameters and buffers, by name.
            choices: the choices of an earlier trace, to repeat them; None to make new ones.
            same: see `Tracer`.

        Returns:
            The shapes of the outputs in all modes.

        Raises:
            TraceError: if the network does not run. A first trace, without `choices` and `same`,
                only records it if that is so in training mode alone.
        """
        replay = None if choices is None else iter(choices)
        tracer = Tracer(trace, replay, same, self.denied)
        shapes: list[tuple[int, ...]] = []
        with follow_modules(model, tracer.running), silence_fakes(), spare_collector():
            for training in self.modes:
                before = {name: copy(value) for name, value in vars(trace).items()}
                if training != self.modes[0]:
                    trace.operations.append([])
                try:
                    outputs = self._run_mode(model, tracer, labels, training)
                except TraceError as error:
                    if not (shapes and training and error.optional) or choices or same:
                        raise
                    vars(trace).update(before, failed=error)
                    return shapes
                finally:
                    refuse_borrowed(model, tracer.real.values())
                if training != self.modes[0]:
                    trace.products = before["products"]
                shapes += [tuple(tensor.shape) for tensor in outputs]
        return shapes

    def _run_mode(
        self, model: nn.Module, tracer: Tracer, labels: Mapping[str, Labels], training: bool
    ) -> list[Tensor]:
        tracer.guessed, tracer.used = "", set()
        tensors = tensors_of(model)
        for name, tensor in tensors.items():
            tracer.declare(tensor, labels[name])
        paths = {path for path, _ in model.named_modules()}
        with restore_modules(model):
            set_mode(model, training)
            outputs = self._run_forward(model, tracer)
            tracer.complete_products()
            if made := [path for path, _ in model.named_modules() if path not in paths]:
                raise TraceError(
                    f"forward makes the module {made[0]}: make it in __init__, or run the network "
                    "once before you give it"
                )
        tracer.note_reading(outputs)
        tracer.freeze(
            "determines the shape of the output",
            *(label for tensor in outputs for label in tracer.get(tensor)),
        )
        if tracer.guessed and any(
            tensor.requires_grad and select_atoms(labels[name]) and id(tensor) not in tracer.used
            for name, tensor in tensors.items()
        ):
            raise tracer.refuse_guess()
        return outputs

    def _run_forward(self, model: nn.Module, tracer: Tracer) -> list[Tensor]:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, trust_distributions():

            def make_fake(real: Tensor) -> Tensor:
                made: Tensor = fake.from_tensor(real)
                if real.layout != torch.strided:
                    tracer.sparse[id(made)] = real
                if not real.is_floating_point() and not real.is_complex():
                    tracer.values.put(made, real, frozenset([id(made)]))
                return made

            inputs = tree_map_only(Tensor, make_fake, self.inputs)
            functions = FunctionRules(tracer, fake)
            try:
                with torch.no_grad(), functions, tracer:
                    result = copy_context().run(call_network, model, inputs)
                    outputs, ignored = find_outputs(result)
                    if not outputs:
                        kind = f"a {ignored[0]}" if ignored else "no tensor"
                        raise TraceError(
                            f"forward returns {kind}: return tensors, or tuples, lists or dicts of "
                            "them"
                        )
                    for kind in ignored:
                        tracer.note(f"returns a {kind}, whose tensors may change their sizes")
            except Exception as error:  # the user's code or torch may raise anything
                outputs = _find_alive(error, tracer)
                if outputs:
                    tracer.note(AFTER)
                    return outputs
                explained = error if isinstance(error, TraceError) else _explain(error, tracer)
                explained.step = tracer.trace.steps
                explained.guessed = tuple(tracer.trace.guessed)
                explained.sizes = _list_sizes(functions.called)
                raise explained from error
        return outputs


def _list_sizes(called: tuple[Any, ...]) -> set[int]:
    """Return all integers, and sizes of tensors, among the arguments of a function."""
    leaves = tree_leaves(called)
    return {leaf for leaf in leaves if type(leaf) is int}.union(
        *(t.shape for t in tensors_in(called))
    )


def _find_alive(error: Exception, tracer: Tracer) -> list[Tensor]:
    """Return the tensors that the code held when it failed because of a guess, else none."""
    if not tracer.guessed or isinstance(error, TraceError):
        return []
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    held = [list(f.f_locals.values()) for f in frames if is_of_user(f.f_code.co_filename)]
    alive = [tensor for tensor in tensors_in(held) if isinstance(tensor, FakeTensor)]
    return list({id(tensor): tensor for tensor in alive}.values())


def _explain(error: Exception, tracer: Tracer) -> TraceError:
    """Return an error with one line for users about what their code or torch raised."""
    if tracer.guessed:
        return tracer.refuse_guess()
    if "DataDependent" in type(error).__name__ or "DynamicOutput" in type(error).__name__:
        advice = "trace the part of the network before it"
        if "pack_padded_sequence" in str(error):
            advice = "give the lengths of the sequences to forward, as an argument"
        return TraceError(
            f"the forward pass depends on the values of tensors, in {tracer.where}, by {error}: "
            f"{advice}"
        )
    if "more than 1 value per channel" in str(error):
        few = TraceError(
            f"a norm in training mode has only one value per channel, in {tracer.where}: pass a "
            "larger example input, or more examples",
            tracer.find_last_atoms(),
        )
        few.optional = False
        return few
    if "split_sizes to sum exactly" in str(error):
        parts = f"is cut into parts of fixed sizes in {tracer.where}"
        return TraceError(parts, tracer.find_last_atoms())
    if "should be the same" in str(error) or "same dtype" in str(error):
        return TraceError(
            f"weights and inputs have different number types in {tracer.where} ({error}): convert "
            "the network, as with model.float(), or the example input"
        )
    checked = traceback.extract_tb(error.__traceback__)[-1].line
    plain = checked if isinstance(error, AssertionError) and checked else type(error).__name__
    reason = (str(error) or plain).splitlines()[0][:_LONGEST_REASON]
    if "forward() got an unexpected keyword argument" in reason:
        reason += ": it gets all entries of a batch that is a dictionary, but for 'labels'"
    elif operator := re.search(r"HigherOrderOperator (\w+)", reason):
        reason = f"nsopt cannot follow torch's operator {operator[1]}: write torch.where or others"
    elif "mat_a.dtype" in reason:  # of F.grouped_mm, which takes few widths only
        reason = (
            "nsopt cannot follow F.grouped_mm: multiply for one expert after another, as "
            'from_pretrained(..., experts_implementation="eager") does'
        )
    elif "forward() missing" in reason:
        reason += ": several arguments are a tuple, and a batch is a pair, ((a, b), targets)"
    elif "forward() takes" in reason:
        reason += ": each item of a list is an argument; for one argument write ([a, b],)"
    return TraceError(f"{reason} (in {tracer.where})", tracer.find_last_atoms())
