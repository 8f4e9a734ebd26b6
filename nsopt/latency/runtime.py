"""The runtimes that time networks: PyTorch, onnxruntime, or a user's function."""

import math
import shlex
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import explain_out_of_memory, place, wait_for
from nsopt.errors import NsoptError, shorten, unknown_name
from nsopt.inputs import call_network, lists_examples, resize_batch
from nsopt.models.architecture import Architecture
from nsopt.models.imported import import_function
from nsopt.models.networks import best_layout, change_layout, inputs_for
from nsopt.models.onnx import Arrays, OnnxNetwork, export_to_onnx, import_for_export
from nsopt.settings import BATCH_SIZE
from nsopt.tracing.originals import copy_model
from nsopt.tracing.states import borrow

Measure = Callable[[nn.Module, Any], Any]
Pass = Callable[[], float]  # runs a network once and returns its seconds
Feed = Callable[[Any], Pass]  # takes a batch of inputs
_EXAMPLES = 2


class Runtime(ABC):
    """A program that runs networks, and the batch size of a timed pass.

    Attributes:
        name: its name on the command line and in storage.
        batch_size: examples per pass.
        is_here: whether it runs on this machine.
        rounds: how many it always runs, of one pass each without a warm-up; None for as many as
            needed.
    """

    name: str
    batch_size: int
    is_here: ClassVar[bool] = True
    rounds: ClassVar[int | None] = None

    @property
    def version(self) -> str:
        """Name and version. PyTorch's version is not included: `Latency` stores it separately."""
        return self.name

    def device(self, wanted: torch.device) -> torch.device:
        """Return the device that it uses if the user wants `wanted`."""
        return torch.device("cpu")

    @abstractmethod
    def prepare(self, model: nn.Module, inputs: Any, device: torch.device) -> Feed:
        """Return a function that takes a batch and returns a timed pass of a copy of `model`.

        Args:
            model: the network; it does not change.
            inputs: a batch of any size, of the same kind.
        """


@dataclass(frozen=True)
class Torch(Runtime):
    """PyTorch, without compilation."""

    batch_size: int = BATCH_SIZE
    name = "torch"

    def device(self, wanted: torch.device) -> torch.device:
        return wanted

    def prepare(self, model: nn.Module, inputs: Any, device: torch.device) -> Feed:
        model = copy_model(model).to(device)
        layout = best_layout(model, move(resize_batch(inputs, _EXAMPLES), device))
        placed = place(model, device, layout).eval()

        def feed(inputs: Any) -> Pass:
            batch = inputs_for(placed, inputs)
            return lambda: _time_torch_pass(placed, batch, device)

        return feed


TORCH = Torch()


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """onnxruntime with PyTorch's number of threads; networks are exported to ONNX."""

    batch_size: int = BATCH_SIZE
    name = "onnxruntime"

    @property
    def version(self) -> str:
        return f"{self.name} {import_for_export('onnxruntime').__version__}"

    def prepare(self, model: nn.Module, inputs: Any, device: torch.device) -> Feed:
        # A file for a list of examples takes the timed batch alone.
        size = self.batch_size if lists_examples(inputs) else _EXAMPLES
        examples = move(resize_batch(inputs, size), device)
        with tempfile.TemporaryDirectory(prefix="nsopt-") as folder, borrow(model) as copied:
            file = Path(folder) / "network.onnx"
            try:
                export_to_onnx(copied.cpu(), [examples], {}, file)
                run = OnnxNetwork(file)
            except NsoptError:
                raise
            except Exception as error:
                reason = _describe_error(error)
                raise NsoptError(f"{self.name} cannot run this network: {reason}") from error
        return lambda inputs: partial(_time_pass, run, run.name_inputs(inputs))


def _time_pass(run: OnnxNetwork, arrays: Arrays) -> float:
    """Return the seconds of one pass in onnxruntime."""
    start = time.perf_counter()
    run(arrays)
    return time.perf_counter() - start


@dataclass(frozen=True)
class OwnMeasure(Runtime):
    """A user's function that takes a network and a batch of inputs and returns milliseconds.

    It gets a copy of the network in evaluation mode, on the CPU, three times, in turns with the
    network of base widths.
    """

    name: str
    measure: Measure
    batch_size: int = BATCH_SIZE
    is_here = False
    rounds = 3

    def prepare(self, model: nn.Module, inputs: Any, device: torch.device) -> Feed:
        model = copy_model(model).cpu().eval()

        def feed(inputs: Any) -> Pass:
            batch = change_layout(inputs, torch.contiguous_format)
            return lambda: self._milliseconds(model, batch) / 1000

        return feed

    def _milliseconds(self, model: nn.Module, inputs: Any) -> float:
        try:
            ms = self.measure(model, inputs)
        except Exception as error:
            reason = _describe_error(error)
            raise NsoptError(f"{self.name} could not measure a network: {reason}") from error
        if not isinstance(ms, Real) or isinstance(ms, bool):
            raise NsoptError(
                f"{self.name} must return milliseconds, but returned {type(ms).__name__}"
            )
        if not 0 < float(ms) < math.inf:
            raise NsoptError(f"{self.name} must return milliseconds above 0, but returned {ms}")
        return float(ms)


_BUILT_IN: tuple[Runtime, ...] = (TORCH, OnnxRuntime())
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in _BUILT_IN}


def choose_runtime(runtime: str | Runtime | Measure, batch_size: int = BATCH_SIZE) -> Runtime:
    """Return the runtime for a user's choice.

    Args:
        runtime: name of a built-in runtime, or a user's function or its name; or one that is chosen
            already, with its own batch size. A name must come from the user, never from a storage,
            because importing runs code.

    Raises:
        NsoptError: for an unknown name, a runtime that is not installed, or a batch size below 1.
    """
    if isinstance(runtime, Runtime):
        return runtime
    if batch_size < 1:
        raise NsoptError(f"latency of a batch of {batch_size}: give 1 or more")
    if isinstance(runtime, str):
        if ":" in runtime:
            return with_batch_size(import_measure(runtime), batch_size)
        if runtime not in RUNTIMES:
            raise unknown_name("runtime", runtime, RUNTIMES)
        _ = RUNTIMES[runtime].version  # raises an error if it is not installed
        return with_batch_size(RUNTIMES[runtime], batch_size)
    if not callable(runtime):
        raise NsoptError(
            f"runtime must be a name, or a function of a network and inputs, not {shorten(runtime)}"
        )
    named = runtime if hasattr(runtime, "__qualname__") else type(runtime)
    return OwnMeasure(f"{named.__module__}:{named.__qualname__}", runtime, batch_size)


def with_batch_size(runtime: Runtime, batch_size: int) -> Runtime:
    changed: Runtime = replace(runtime, batch_size=batch_size)  # type: ignore[type-var]
    return changed


def stored_runtime(stored: str, given: str | None, batch_size: int = BATCH_SIZE) -> Runtime:
    """Return the runtime that a storage names.

    nsopt never imports a user's module only because a storage names it.

    Args:
        stored: the name in the storage.
        given: the name that the user gave, or None. Required for `package.module:function`.

    Raises:
        NsoptError: if the user must give the name, or if the two names differ.
    """
    if stored in RUNTIMES and given is None:
        return with_batch_size(RUNTIMES[stored], batch_size)
    if given is None:
        raise NsoptError(
            f"the stored study is measured by {stored!r}, which would run code of that module: if "
            f"you trust it, give measure={shlex.quote(stored)}"
        )
    if given != stored:
        raise NsoptError(f"the stored study is measured by {stored!r}, not {given!r}")
    return with_batch_size(import_measure(given), batch_size)


def import_measure(name: str) -> OwnMeasure:
    """Import a user's function: see `import_function`, and never from a name in a storage."""
    return OwnMeasure(name, import_function(name))


def draw_images(shape: Sequence[int], count: int) -> Tensor:
    """Return random images, always the same: a batch with which networks of images are timed."""
    with explain_out_of_memory(torch.device("cpu"), count):
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def choose_inputs(arch: Architecture, runtime: Runtime, inputs: Any = None) -> Any:
    """Return the batch with which networks are timed: `inputs`, or random images if it is None."""
    return draw_images(arch.input_shape, runtime.batch_size) if inputs is None else inputs


def are_images(inputs: Any) -> bool:
    """Return whether a batch is one of images, (B, C, H, W) in float32."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.dtype == torch.float32


def move(inputs: Any, device: torch.device) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs)


def _describe_error(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _time_torch_pass(model: nn.Module, inputs: Any, device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    call_network(model, inputs)
    wait_for(device)
    return time.perf_counter() - start
