"""The runtimes that time networks: PyTorch, onnxruntime, or a user's function."""

import math
import shlex
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nsopt.compute.device import place, wait_for
from nsopt.errors import NsoptError, unknown_name
from nsopt.models.imported import import_function
from nsopt.models.layout import best_layout, inputs_for
from nsopt.models.onnx import Images, export_to_onnx, import_for_export, load_onnx
from nsopt.models.quantisation import write_int8
from nsopt.models.tracing.originals import copy_model
from nsopt.settings import BATCH_SIZE

Measure = Callable[[nn.Module, Tensor], Any]
Pass = Callable[[], float]  # runs a network once and returns its seconds
Feed = Callable[[Tensor], Pass]  # takes a batch of images
Run = Callable[[Images], Images]
_TIMES = 3
_EXAMPLES = 2
_CALIBRATING = 8  # random images suffice: quantisation scales do not change the time
_TRIES = 3


class Runtime(ABC):
    """A program that runs networks, and the batch size of a timed pass.

    Attributes:
        name: its name on the command line and in storage.
        batch_size: images per pass.
        is_here: whether it runs on this machine, whose speed may change meanwhile.
    """

    name: str
    batch_size: int
    is_here: ClassVar[bool] = True

    @property
    def version(self) -> str:
        """Name and version. PyTorch's version is not included: `Latency` stores it separately."""
        return self.name

    def device(self, wanted: torch.device) -> torch.device:
        """Return the device that it uses if the user wants `wanted`."""
        return torch.device("cpu")

    def passes(self, warmup: int, repeats: int, rounds: int) -> tuple[int, int, int]:
        """Return how many passes it runs if these are requested: warm-up, repeats, rounds."""
        return warmup, repeats, rounds

    @abstractmethod
    def prepare(self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> Feed:
        """Return a function that takes a batch of images and returns a timed pass of a copy of
        `model`."""


@dataclass(frozen=True)
class Torch(Runtime):
    """PyTorch, without compilation."""

    batch_size: int = BATCH_SIZE
    name = "torch"

    def device(self, wanted: torch.device) -> torch.device:
        return wanted

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> Feed:
        placed = _place(copy_model(model), device, input_shape)

        def feed(images: Tensor) -> Pass:
            own = inputs_for(placed, images)
            return lambda: _time_torch_pass(placed, own)

        return feed


TORCH = Torch()


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """onnxruntime with PyTorch's number of threads; networks are exported to ONNX.

    Attributes:
        int8: whether to quantise networks to 8-bit integers, in the faster of two forms.
        batch_size: images per pass.
    """

    int8: bool = False
    batch_size: int = BATCH_SIZE

    @property
    def name(self) -> str:  # type: ignore[override]
        return "onnxruntime-int8" if self.int8 else "onnxruntime"

    @property
    def version(self) -> str:
        return f"{self.name} {import_for_export('onnxruntime').__version__}"

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> Feed:
        with tempfile.TemporaryDirectory(prefix="nsopt-") as folder:
            file = Path(folder) / "network.onnx"
            export_to_onnx(copy_model(model).cpu(), torch.zeros(_EXAMPLES, *input_shape), {}, file)
            run = self._load_faster_int8(file, input_shape) if self.int8 else load_onnx(file)

        def feed(images: Tensor) -> Pass:
            return partial(time_pass, run, images.contiguous().numpy())

        return feed

    def _load_faster_int8(self, file: Path, input_shape: tuple[int, ...]) -> Run:
        """Quantise an exported network; return the form that is faster for a batch."""
        random = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, *input_shape, generator=random).numpy()
        files = write_int8(file, file.parent, [images[:_CALIBRATING]]).values()
        runs = [load_onnx(each) for each in files]
        return min(runs, key=lambda run: min(time_pass(run, images) for _ in range(_TRIES)))


def time_pass(run: Run, images: Images) -> float:
    """Return the seconds of one pass in onnxruntime."""
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


@dataclass(frozen=True)
class OwnMeasure(Runtime):
    """A user's function that takes a network and a batch of images and returns milliseconds.

    It gets a copy of the network in evaluation mode, on the CPU, three times.
    """

    name: str
    measure: Measure
    batch_size: int = BATCH_SIZE
    is_here = False

    def passes(self, warmup: int, repeats: int, rounds: int) -> tuple[int, int, int]:
        return 0, _TIMES, _TIMES

    def prepare(self, model: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> Feed:
        own = copy_model(model).cpu().eval()
        return lambda images: lambda: self._milliseconds(own, images.contiguous()) / 1000

    def _milliseconds(self, model: nn.Module, images: Tensor) -> float:
        try:
            found = self.measure(model, images)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise NsoptError(f"{self.name} could not measure a network: {reason}") from error
        if not isinstance(found, Real) or isinstance(found, bool):
            raise NsoptError(
                f"{self.name} must return milliseconds, but returned {type(found).__name__}"
            )
        if not 0 < float(found) < math.inf:
            raise NsoptError(f"{self.name} must return milliseconds above 0, but returned {found}")
        return float(found)


_BUILT_IN: tuple[Runtime, ...] = (TORCH, OnnxRuntime(), OnnxRuntime(int8=True))
RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in _BUILT_IN}


def choose_runtime(
    name: str, measure: Measure | None = None, batch_size: int = BATCH_SIZE
) -> Runtime:
    """Return the runtime for a user's choice.

    Args:
        name: name of a built-in runtime.
        measure: a user's function, which replaces the built-in runtime if given.
        batch_size: images per pass.

    Raises:
        NsoptError: for an unknown name, a runtime that is not installed, a `measure` that is not
            callable, or a batch size below 1.
    """
    if batch_size < 1:
        raise NsoptError(f"latency of a batch of {batch_size} images: give 1 or more")
    if measure is None:
        if name not in RUNTIMES:
            raise unknown_name("runtime", name, RUNTIMES)
        found = RUNTIMES[name]
        _ = found.version  # raises an error if it is not installed
        return with_batch_size(found, batch_size)
    if not callable(measure):
        raise NsoptError(f"measure must be a function of a network and images, not {measure!r}")
    named = measure if hasattr(measure, "__qualname__") else type(measure)
    return OwnMeasure(f"{named.__module__}:{named.__qualname__}", measure, batch_size)


def with_batch_size(runtime: Runtime, batch_size: int) -> Runtime:
    """Return a copy of a runtime with another batch size."""
    changed: Runtime = replace(runtime, batch_size=batch_size)  # type: ignore[type-var]
    return changed


def stored_runtime(stored: str, given: str | None, batch_size: int = BATCH_SIZE) -> Runtime:
    """Return the runtime that a storage names.

    nsopt never imports a user's module only because a storage names it.

    Args:
        stored: the name in the storage.
        given: the name that the user gave, or None. Required for `package.module:function`.
        batch_size: images per pass.

    Raises:
        NsoptError: if the user must give the name, or if the two names differ.
    """
    if stored in RUNTIMES and given is None:
        return with_batch_size(RUNTIMES[stored], batch_size)
    if given is None:
        raise NsoptError(
            f"the stored study is measured by {stored!r}, which would run code of that module: if "
            f"you trust it, give --measure {shlex.quote(stored)}"
        )
    if given != stored:
        raise NsoptError(f"the stored study is measured by {stored!r}, not {given!r}")
    return with_batch_size(import_measure(given), batch_size)


def import_measure(name: str) -> OwnMeasure:
    """Import a user's function. Raises NsoptError if it does not exist.

    Args:
        name: `package.module:function`. It must come from the user of this command, never from a
            storage, because importing runs code.
    """
    return OwnMeasure(name, import_function(name))


def _place(model: nn.Module, device: torch.device, input_shape: tuple[int, ...]) -> nn.Module:
    """Move `model` to the device, in its fastest layout and in evaluation mode."""
    example = torch.zeros(2, *input_shape, device=device)
    return place(model, device, best_layout(model.to(device), (example,))).eval()


def _time_torch_pass(model: nn.Module, images: Tensor) -> float:
    wait_for(images.device)
    start = time.perf_counter()
    model(images)
    wait_for(images.device)
    return time.perf_counter() - start
