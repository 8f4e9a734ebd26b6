"""Running a network on labels, on tensors without memory or arithmetic."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nsopt.models.activations import Buffer, BufferRecorder, Size
from nsopt.models.tracing.groups import Family
from nsopt.models.tracing.labels import Atoms, Labels, Trace, TraceError
from nsopt.models.tracing.recurrent_rules import RecurrentLayers
from nsopt.models.tracing.rules import RULES
from nsopt.models.tracing.shapes import RESULTS
from nsopt.models.tracing.tracer import Tracer

_LONGEST_REASON = 150


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a shared one by its first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@dataclass(frozen=True, eq=False)
class LabelledRun:
    """How a network is run. examples: its input tensors; modes: of `training`, one after the other.

    Both modes are needed: branches of `forward` may depend on them.
    """

    examples: tuple[Tensor, ...]
    modes: tuple[bool, ...] = (False, True)

    def of_one(self) -> "LabelledRun":
        """The same with one example, in evaluation mode."""
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
        """The shapes of the outputs in the last mode; what is seen goes to `trace`.

        labels: of parameters and buffers by name; choices: to take again, None to choose; same: see
        `Tracer`. The multiply-accumulates are those of the first mode. Raises TraceError.
        """
        replay = None if choices is None else iter(choices)
        shapes: list[tuple[int, ...]] = []
        for training in self.modes:
            counted = len(trace.products)
            tracer = Tracer(trace, RULES, RESULTS, replay, same)
            with _in_mode(model, training), _watched(model, tracer), _quiet():
                for name, tensor in tensors_of(model).items():
                    tracer.declare(tensor, labels[name])
                outputs = self._outputs(model, tracer)
            tracer.enter("the output")
            tracer.freeze("reaches the output", *(a for t in outputs for a in tracer.get(t)))
            shapes = [tuple(tensor.shape) for tensor in outputs]
            if training != self.modes[0]:
                del trace.products[counted:]
        return shapes

    def buffers(
        self, model: nn.Module, count: int, labels: Mapping[str, Labels], family: Family
    ) -> list[Buffer]:
        """Return the activations of an evaluation, with their sizes at all widths of a family.

        count: of the atoms in `labels`. Raises TraceError.
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
        with _in_mode(model, False), _watched(model, tracer), _quiet():
            for name, tensor in tensors_of(model).items():
                tracer.declare(tensor, labels[name])
            self._outputs(model, tracer, recorder)
        return recorder.buffers

    def _outputs(
        self, model: nn.Module, tracer: Tracer, recorder: BufferRecorder | None = None
    ) -> list[Tensor]:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            inputs = tree_map_only(Tensor, fake.from_tensor, self.examples)
            try:
                with RecurrentLayers(tracer), tracer, recorder or nullcontext():
                    if recorder:
                        recorder.take(inputs)
                    result = model(*inputs)
                    if recorder:
                        recorder.give(result)
            except Exception as error:  # whatever the user's code, or torch, makes of other sizes
                told = error if isinstance(error, TraceError) else _explained(error, tracer)
                told.step = tracer.trace.steps
                raise told from error
        return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _explained(error: Exception, tracer: Tracer) -> TraceError:
    if "DataDependent" in type(error).__name__:
        return TraceError(
            f"the forward pass decides on the values of tensors, in {tracer.where}: "
            "trace a network that does not"
        )
    if "more than 1 value per channel" in str(error):
        return TraceError(
            f"a norm in training mode has one value to standardise, in {tracer.where}: it needs "
            "more inputs, or more examples",
            tracer.met(),
        )
    reason = str(error).splitlines()[0][:_LONGEST_REASON] if str(error) else type(error).__name__
    return TraceError(f"{reason} (in {tracer.where})", tracer.met())


@contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation inside; every module, and what it counts, as it was outside."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    stores = [store for module in modes for store in (module._buffers, vars(module))]
    held = [(s, {k: t for k, t in s.items() if isinstance(t, Tensor)}) for s in stores]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for store, tensors in held:
            store.update(tensors)
        for buffer, before in buffers:
            buffer.copy_(before)


@contextmanager
def _watched(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """The tracer knows inside which module runs."""
    hooks = []
    for name, module in model.named_modules():
        path = name or "the network"
        hooks.append(module.register_forward_pre_hook(lambda *_, path=path: tracer.enter(path)))
        hooks.append(module.register_forward_hook(lambda *_: tracer.leave()))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors in a network that is tried out are ours to tell."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
