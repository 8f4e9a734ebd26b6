"""Run a network on labels: its tensors are fake, need no memory and compute nothing."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nsopt.models.activations import Buffer, BufferRecorder, Size
from nsopt.models.tracing.function_rules import FunctionRules
from nsopt.models.tracing.groups import Family
from nsopt.models.tracing.labels import Atoms, Labels, Trace, TraceError
from nsopt.models.tracing.rules import RULES
from nsopt.models.tracing.shapes import RESULTS
from nsopt.models.tracing.tracer import Tracer

_LONGEST_REASON = 150


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; shared ones have their first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@dataclass(frozen=True, eq=False)
class LabelledRun:
    """A way to run a network on labels.

    Attributes:
        examples: the arguments of `forward`.
        modes: the network runs once with each value of `training`: usually both, because `forward`
            may branch on it.
    """

    examples: tuple[Tensor, ...]
    modes: tuple[bool, ...] = (False, True)

    def with_one_mode(self) -> "LabelledRun":
        """Return a copy in evaluation mode only."""
        return LabelledRun(self.examples, (False,))

    def with_one_example(self) -> "LabelledRun":
        """Return a copy with one example, in evaluation mode only."""
        count = len(self.examples[0])
        firsts = (e[:1] if e.ndim and len(e) == count else e for e in self.examples)
        return LabelledRun(tuple(firsts), (False,))

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
            model: the network.
            trace: the runs add to it; only the first mode counts multiply-accumulates and numbers.
            labels: the labels of parameters and buffers, by name.
            choices: the choices of an earlier trace, to repeat them; None to make new ones.
            same: see `Tracer`.

        Returns:
            The shapes of the outputs in the last mode.

        Raises:
            TraceError: if the network does not run.
        """
        replay = None if choices is None else iter(choices)
        tracer = Tracer(trace, RULES, RESULTS, replay, same)
        tensors = tensors_of(model)
        outputs: list[Tensor] = []
        with follow_modules(model, tracer.running), _hide_logs():
            for training in self.modes:
                counted, numbers = len(trace.products), len(trace.numbers)
                if training != self.modes[0]:
                    trace.operations.append([])
                for name, tensor in tensors.items():
                    tracer.declare(tensor, labels[name])
                with restore_modules(model):
                    model.train(training)
                    outputs = self._run_forward(model, tracer)
                tracer.freeze(
                    "determines the shape of the output",
                    *(label for tensor in outputs for label in tracer.get(tensor)),
                )
                if training != self.modes[0]:
                    del trace.products[counted:], trace.numbers[numbers:]
        return [tuple(tensor.shape) for tensor in outputs]

    def buffers(
        self, model: nn.Module, count: int, labels: Mapping[str, Labels], family: Family
    ) -> list[Buffer]:
        """Return the activations of a run in evaluation mode, sized as functions of the widths.

        Args:
            model: the network.
            count: number of atoms in `labels`.
            labels: the labels of parameters and buffers, by name.
            family: the groups of the network.

        Raises:
            TraceError: if the network does not run.
        """
        tracer = Tracer(Trace(count=count), RULES, RESULTS, same=lambda *_: True)
        fixed = np.zeros(len(family.groups), np.int64)

        def sizes_of(tensor: Tensor) -> list[Size]:
            labelled = zip(tracer.get(tensor), tensor.shape, strict=True)
            return [
                family.count(label) if isinstance(label, np.ndarray) else (fixed, n)
                for label, n in labelled
            ]

        recorder = BufferRecorder(sizes_of)
        with restore_modules(model), follow_modules(model, tracer.running), _hide_logs():
            model.eval()
            for name, tensor in tensors_of(model).items():
                tracer.declare(tensor, labels[name])
            self._run_forward(model, tracer, recorder)
        return recorder.buffers

    def _run_forward(
        self, model: nn.Module, tracer: Tracer, recorder: BufferRecorder | None = None
    ) -> list[Tensor]:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            inputs = tree_map_only(Tensor, fake.from_tensor, self.examples)
            try:
                with torch.no_grad(), FunctionRules(tracer), tracer, recorder or nullcontext():
                    if recorder:
                        recorder.take(inputs)
                    outputs = _find_outputs(model(*inputs))
                    if not outputs:
                        raise TraceError("forward returns no tensor: return what the loss needs")
                    if recorder:
                        recorder.give(outputs)
            except Exception as error:  # the user's code or torch may raise anything
                explained = error if isinstance(error, TraceError) else _explain(error, tracer)
                explained.step = tracer.trace.steps
                raise explained from error
        return outputs


def _find_outputs(result: Any) -> list[Tensor]:
    """Return the tensors in what `forward` returned.

    Raises:
        TraceError: for an object that may hide tensors.
    """
    found: list[Tensor] = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf):
            found += _find_outputs([getattr(leaf, field.name) for field in fields(leaf)])
        elif not isinstance(leaf, int | float | str | NoneType):
            raise TraceError(
                f"forward returns a {type(leaf).__name__}: return tensors, or tuples, lists or "
                "dicts of them"
            )
    return found


def _explain(error: Exception, tracer: Tracer) -> TraceError:
    """Return an error with one line for users about what their code or torch raised."""
    if "DataDependent" in type(error).__name__:
        return TraceError(
            f"the forward pass depends on the values of tensors, in {tracer.where}: "
            "trace a network without this"
        )
    if "more than 1 value per channel" in str(error):
        return TraceError(
            f"a norm in training mode has only one value per channel, in {tracer.where}: pass a "
            "larger example input, or more examples",
            tracer.find_last_atoms(),
        )
    reason = str(error).splitlines()[0][:_LONGEST_REASON] if str(error) else type(error).__name__
    return TraceError(f"{reason} (in {tracer.where})", tracer.find_last_atoms())


@contextmanager
def restore_modules(model: nn.Module) -> Iterator[None]:
    """Restore all attributes of modules after the block, and what dicts and lists in them hold."""
    stores = [
        store
        for module in model.modules()
        for store in (vars(module), *vars(module).values())
        if isinstance(store, dict | list)
    ]
    held = [(store, copy.copy(store)) for store in stores]
    try:
        yield
    finally:
        for store, before in held:
            store.clear()
            store.update(before) if isinstance(store, dict) else store.extend(before)


@contextmanager
def follow_modules(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Inside the block, keep in `running` the paths of the running modules, the innermost last."""

    def leave(*_: Any) -> None:
        running.pop()

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _hide_logs() -> Iterator[None]:
    """Silence the logger of fake tensors inside the block: nsopt reports their errors itself."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
