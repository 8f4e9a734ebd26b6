"""Learn how milliseconds follow the widths: from a network's kernels, or from its MACs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from nsopt.compute.device import Compute, resolve_compute
from nsopt.isolation import public
from nsopt.latency.calls import UnpredictableError
from nsopt.latency.kernel_model import latency_model
from nsopt.latency.measure import measure_latencies
from nsopt.latency.model import LatencyModel
from nsopt.latency.runtime import (
    TORCH,
    Measure,
    Runtime,
    Torch,
    are_images,
    choose_inputs,
    choose_runtime,
)
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress
from nsopt.scaling.cost import LinearCost, width_limits
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.settings import BATCH_SIZE
from nsopt.terminal import show_progress

A = TypeVar("A", bound=Architecture)


class MacsLatency(LinearCost):
    """A latency model from two measurements: a constant, and milliseconds per MAC.

    It orders networks along a law where nsopt has no better model: it cannot time kernels one by
    one in another runtime than PyTorch, nor in a network that calls other operations at other
    widths. Bisection (`bisection`) then finds widths that keep a budget by measurement.
    """

    def scaled(self, factor: float) -> Self:
        """Return the model of a device that takes `factor` times as long."""
        return replace(self, slope=factor * self.slope, constant=factor * self.constant)

    def to_dict(self) -> dict[str, Any]:
        return {"constant": self.constant, "per_mac": self.slope}

    @classmethod
    def from_dict(cls, data: dict[str, Any], arch: Architecture) -> Self | None:
        """Read what `to_dict` returned; None for a model of another kind."""
        if "per_mac" not in data:
            return None
        return cls(LATENCY.name, MACS.cost(arch), data["per_mac"], data["constant"])


@public
def with_latency(
    arch: A,
    device: str = "auto",
    progress: Progress | None = None,
    measure: Measure | None = None,
    runtime: str = TORCH.name,
    batch_size: int = BATCH_SIZE,
    inputs: Any = None,
) -> A:
    """Return `arch` with `cost("latency")`, which predicts milliseconds for a batch.

    Learning the latency model takes one to three minutes. nsopt caches it by network, device,
    threads and versions. For other
    runtimes than PyTorch, for other inputs than images of the network's size, and for networks that
    call other operations at other widths, nsopt times two networks each time and interpolates by
    MACs.

    Args:
        arch: an architecture, registered or traced.
        device: as torch names it, or auto.
        progress: receives steps and warnings; by default bars on a terminal and nothing elsewhere;
            `nsopt.Silent()` for silence.
        measure: a function that takes a network, in evaluation mode on the CPU, and a batch of
            inputs, and returns milliseconds, for example measured on a phone; by default nsopt
            times the network on this machine.
        runtime: runs the networks: torch, or onnxruntime (pip install 'nsopt[export]').
        batch_size: examples per batch.
        inputs: a batch for a network of other inputs than images, of any size: a tensor, a tuple of
            arguments, or a dictionary of keyword arguments.

    Raises:
        NsoptError: if the device or the runtime is not available, or if `measure` fails.

    Examples:
        >>> arch = nsopt.with_latency(nsopt.get_architecture("vgg11"), "cpu")
        >>> nsopt.solve_widths(nsopt.uniform_curve(arch.base_widths), arch.cost("latency"), 20.0)
    """
    timed_in = choose_runtime(runtime, measure, batch_size)
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display:
        return arch.with_latency(learn_latency(arch, compute, display, timed_in, inputs))


def learn_latency(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    inputs: Any = None,
) -> LatencyModel | MacsLatency:
    """Return a latency model of `arch`, as `with_latency` does.

    Args:
        inputs: a batch with which networks are timed; by default random images.
    """
    inputs = choose_inputs(arch, runtime, inputs)
    known = are_images(inputs) and inputs.shape[1:] == arch.input_shape
    if isinstance(runtime, Torch) and known:
        try:
            return latency_model(arch, compute, progress, runtime)
        except UnpredictableError as error:
            progress.message(f"{error}: nsopt predicts its latency from its MACs")

    def measure(networks: Sequence[tuple[int, ...]]) -> list[float]:
        models = [build_to_fill(arch, widths) for widths in networks]
        measured = measure_latencies(models, inputs, compute=compute, runtime=runtime)
        return [latency.median_ms for latency in measured]

    progress.start("timing two networks", 1)
    return fit_linear(arch, measure)


def fit_linear(
    arch: Architecture, measure: Callable[[Sequence[tuple[int, ...]]], Sequence[float]]
) -> MacsLatency:
    """Fit the model to two measured networks: base widths, and the narrowest widths.

    If the narrowest network takes as long, milliseconds are proportional to MACs.
    """
    macs = MACS.cost(arch)
    narrowest, _ = width_limits(macs, len(arch.base_widths))
    networks = [arch.base_widths, tuple(narrowest.astype(int).tolist())]
    (whole, small), (most, least) = measure(networks), (float(macs(w)) for w in networks)
    slope = (whole - small) / (most - least) if most > least else 0.0
    if slope <= 0 or whole < slope * most:
        return MacsLatency(LATENCY.name, macs, whole / most, 0.0)
    return MacsLatency(LATENCY.name, macs, slope, whole - slope * most)
