"""Giving an architecture its latency model, so that it has a cost in milliseconds."""

from typing import TypeVar

from nsopt.compute.device import resolve_compute
from nsopt.latency.learn import latency_model
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress, Silent

A = TypeVar("A", bound=Architecture)


def with_latency(arch: A, device: str = "auto", progress: Progress | None = None) -> A:
    """`arch` with `cost("latency")`: milliseconds for a batch of 100 on a device of this machine.

    The model is learned from kernels and a few whole networks, which takes a minute or two while
    nothing else should run, and kept in the cache folder by network, device, threads and versions.
    """
    compute = resolve_compute(device, "fp32")
    return arch.with_latency(latency_model(arch, compute, progress or Silent()))
