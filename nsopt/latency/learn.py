"""Learn how milliseconds follow the widths, from a few networks that are timed in turns."""

from typing import Any, TypeVar

import numpy as np

from nsopt.compute.device import Compute, resolve_compute
from nsopt.isolation import public
from nsopt.latency.measure import measure_latencies
from nsopt.latency.model import LatencyModel, fit_latency
from nsopt.latency.runtime import TORCH, Measure, Runtime, choose_inputs, choose_runtime
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress, show_progress
from nsopt.scaling.cost import width_limits
from nsopt.scaling.metric import MACS
from nsopt.settings import BATCH_SIZE

_RANDOM = 12  # networks, with the whole one and the narrowest
_SPREAD = 0.6  # standard deviation of their log-widths
_ROUNDS = 4
_FLAT = 1.2  # if base widths take less than this times the narrowest, nsopt warns

A = TypeVar("A", bound=Architecture)


@public
def with_latency(
    arch: A,
    device: str = "auto",
    progress: Progress | None = None,
    runtime: str | Measure = TORCH.name,
    batch_size: int = BATCH_SIZE,
    inputs: Any = None,
) -> A:
    """Return `arch` with `cost("latency")`, which predicts milliseconds for a batch.

    nsopt times 14 networks in turns, and fits their milliseconds to their MACs and widths.

    Args:
        arch: an architecture, registered or traced.
        device: as torch names it, or auto.
        progress: receives steps and warnings; by default bars on a terminal, else lines on stderr;
            `nsopt.Silent()` for silence.
        runtime: runs the networks: torch, or onnxruntime (pip install 'nsopt[export]'); or a
            function that takes a network, in evaluation mode on the CPU, and a batch of inputs, and
            returns milliseconds, for example measured on a phone.
        batch_size: examples per batch.
        inputs: a batch for a network of other inputs than images, of any size: a tensor, a tuple of
            arguments, or a dictionary of keyword arguments.

    Raises:
        NsoptError: if the device or the runtime is not available, or fails.

    Examples:
        >>> arch = nsopt.with_latency(nsopt.get_architecture("vgg11"), "cpu")
        >>> nsopt.solve_widths(nsopt.uniform_curve(arch.base_widths), arch.cost("latency"), 20.0)
    """
    timed_in = choose_runtime(runtime, batch_size)
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display:
        return arch.with_latency(learn_latency(arch, compute, display, timed_in, inputs))


def learn_latency(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    inputs: Any = None,
) -> LatencyModel:
    """Return a latency model of `arch`, exact for the network of base widths.

    Args:
        inputs: a batch with which networks are timed; by default random images.
    """
    networks = sample_widths(arch, _RANDOM, seed=0)
    progress.start(f"timing {len(networks)} networks", 1)
    measured = measure_latencies(
        [build_to_fill(arch, widths) for widths in networks],
        choose_inputs(arch, runtime, inputs),
        compute,
        runtime,
        _ROUNDS,
    )
    whole, narrowest, *_ = milliseconds = [latency.median_ms for latency in measured]
    if whole < _FLAT * narrowest:
        progress.message(
            f"latency hardly depends on widths here: {arch.name} takes {whole:.3g} ms per batch, "
            f"and {narrowest:.3g} ms with its narrowest layers; use metric=params or macs instead"
        )
    model = fit_latency(arch, networks, milliseconds)
    return model.scaled(whole / model(arch.base_widths))


def sample_widths(arch: Architecture, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return the base widths, the narrowest ones, and those of random networks of different sizes
    and shapes."""
    least, most = width_limits(MACS.cost(arch), len(arch.base_widths))
    base, generator = np.array(arch.base_widths), np.random.default_rng(seed)
    samples = [base, least]
    for size in np.geomspace(0.25, 1.0, count):
        spread = np.exp(generator.normal(scale=_SPREAD, size=len(base)))
        samples.append(np.clip(size * base * spread, least, most))
    return [tuple(widths.astype(int).tolist()) for widths in samples]
