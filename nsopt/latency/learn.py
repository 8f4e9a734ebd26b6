"""Learn a latency model: how calls follow the widths, kernel times, corrections on networks."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from nsopt.arguments import checked
from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.memory import keep_memory
from nsopt.compute.out_of_memory import memory_for
from nsopt.compute.random_state import keep_random_state
from nsopt.compute.sharing import sharing
from nsopt.errors import NsoptError
from nsopt.files import cache_folder, write_cached
from nsopt.latency.calls import Call, record_calls
from nsopt.latency.kernel_times import measure_table
from nsopt.latency.linear import MacsLatency, fit_linear
from nsopt.latency.measure import (
    latency_conditions,
    measure_latencies,
    pause_garbage_collection,
    was_busy,
)
from nsopt.latency.model import LatencyModel, Term
from nsopt.latency.runtime import (
    TORCH,
    Measure,
    Runtime,
    Torch,
    are_images,
    choose_inputs,
    choose_runtime,
    draw_images,
)
from nsopt.latency.tables import BLOCK, Table
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress
from nsopt.scaling.cost import IntArray, width_limits
from nsopt.scaling.law import floor_widths
from nsopt.settings import BATCH_SIZE
from nsopt.terminal import show_progress

A = TypeVar("A", bound=Architecture)
_SCALES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4)
_RANDOM, _UNIFORM = 25, 10  # numbers of networks that correct the sum of kernel times
_SPREAD = 0.4  # standard deviation of their log-widths
_ROUNDS, _REPEATS = 4, 3
_FLAT = 1.2  # if base widths take less than this times the floor, nsopt warns
_FORMAT = 7
_BUSY = (
    "the machine was busy while its latency was learned, so predicted milliseconds are too large: "
    "nsopt does not cache this latency model, and a new study with its own --out learns it again"
)


class UnpredictableError(NsoptError):
    """A network's latency cannot be learned from its kernels."""


@checked
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

    Learning the latency model takes one to three minutes, in which other nsopt processes on the
    device wait. nsopt caches it by network, device, threads and versions; if the machine was busy,
    it warns and does not cache the model. For other runtimes than PyTorch, for networks of other
    inputs than images, and for networks that call other operations at other widths, nsopt times two
    networks and interpolates by MACs.

    Args:
        arch: an architecture, registered or traced.
        device: as torch names it, or auto.
        progress: receives steps and warnings; by default bars on a terminal and nothing elsewhere;
            `nsopt.Silent()` for silence.
        measure: a function that takes a network, in evaluation mode on the CPU, and a batch of
            inputs, and returns milliseconds, for example measured on a phone; by default nsopt
            times the network on this machine.
        runtime: runs the networks: torch, onnxruntime, or onnxruntime-int8 (8-bit integers). The
            last two need optional dependencies: pip install 'nsopt[export]'.
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
    return learn_latency(arch, device, timed_in, progress, inputs)


def learn_latency(
    arch: A, device: str, runtime: Runtime, progress: Progress | None, inputs: Any = None
) -> A:
    """Return `arch` with `cost("latency")` in a runtime, as `with_latency` does."""
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display, sharing(compute, display) as shared:
        return arch.with_latency(find_model(arch, shared, display, runtime, inputs))


def find_model(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    inputs: Any = None,
) -> LatencyModel | MacsLatency:
    """Return the latency model of `arch` in a runtime, as `with_latency` does."""
    inputs = choose_inputs(arch, runtime, inputs)
    if isinstance(runtime, Torch) and are_images(inputs):
        try:
            return latency_model(arch, compute, progress, runtime.batch_size)
        except UnpredictableError as error:
            progress.message(f"{error}: nsopt predicts its latency from its MACs")

    def measure(networks: Sequence[tuple[int, ...]]) -> list[float]:
        models = [build_to_fill(arch, widths) for widths in networks]
        device = str(compute.device)
        measured = measure_latencies(models, inputs, device=device, runtime=runtime)
        return [latency.median_ms for latency in measured]

    progress.start("timing two networks", 1)
    with compute.exclusive():
        return fit_linear(arch, measure)


def latency_model(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    batch_size: int = BATCH_SIZE,
    folder: Path | None = None,
) -> LatencyModel:
    """Return the latency model of `arch` on a device, read from `folder` or learned now.

    Its file depends on network, device, threads, precision, batch size and torch version. A model
    learned on a busy machine is not stored. While nsopt learns, its other processes on the device
    wait.

    Args:
        arch: the network.
        compute: the device.
        progress: receives steps and warnings.
        batch_size: images per batch.
        folder: folder of the files, by default in the cache.
    """
    folder, runtime = folder or cache_folder() / "latency", Torch(batch_size)
    with compute.exclusive(), keep_random_state(compute.device):
        conditions = latency_conditions(compute.device, runtime)
        path = folder / f"{_digest(arch, conditions)}.json"
        known = _read(path, arch)
        if known is not None:
            _warn_if_flat(arch, known, progress)
            return known
        with memory_for(compute.device, f"timing batches of {batch_size}"):
            calls = _read_calls(arch, batch_size)
            model, busy = _learn(arch, *calls, compute.device, progress, runtime)
    _warn_if_flat(arch, model, progress)
    if busy:
        progress.message(_BUSY)
        return model
    write_cached(path, json.dumps(model.to_dict() | {"conditions": conditions}).encode())
    return model


def _warn_if_flat(arch: Architecture, model: LatencyModel, progress: Progress) -> None:
    base = model(arch.base_widths)
    if base < _FLAT * model.floor:
        progress.message(
            f"latency hardly depends on widths here: {arch.name} takes {base:.3g} ms per batch, "
            f"and {model.floor:.3g} ms with one filter per layer; use --metric params or macs "
            "instead"
        )


def sample_widths(arch: Architecture, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return the widths of random networks of different sizes and shapes, (count, L)."""
    generator = np.random.default_rng(seed)
    found = []
    for size in np.geomspace(0.1, 1.0, count):
        spread = np.exp(generator.normal(scale=_SPREAD, size=len(arch.base_widths)))
        widths = np.maximum(1, size * np.array(arch.base_widths) * spread)
        found.append(_clip(arch, widths.astype(int).tolist()))
    return found


def _read(path: Path, arch: Architecture) -> LatencyModel | None:
    """Read a model from the cache; None if its file is missing or damaged."""
    try:
        model = LatencyModel.from_dict(json.loads(path.read_text(encoding="utf-8")))
        return model if np.isfinite(model(arch.base_widths)) else None
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _learn(
    arch: Architecture,
    terms: tuple[Term, ...],
    samples: Mapping[str, Sequence[Call]],
    device: torch.device,
    progress: Progress,
    runtime: Runtime,
) -> tuple[LatencyModel, bool]:
    """Return the model, and whether the machine was busy. See `_read_calls`."""
    progress.start("learning this device's latency", len(samples) + 1)
    tables: list[Table] = []
    with keep_memory(device), pause_garbage_collection():
        for calls in samples.values():
            tables.append(measure_table(calls, device, arch.layout))
            progress.advance()
    layers = len(arch.base_widths)
    model = LatencyModel(tuple(tables), terms, layers, np.ones((len(tables), 2)), 0.0)
    widths = _choose_networks(arch)
    measured = measure_latencies(
        [arch.build(w) for w in (_clip(arch, [1] * layers), *widths)],
        draw_images(arch.input_shape, runtime.batch_size),
        warmup=_ROUNDS,
        rounds=_ROUNDS,
        repeats=_REPEATS * _ROUNDS,
        device=str(device),
        runtime=runtime,
    )
    progress.advance()
    milliseconds = [latency.median_ms for latency in measured]
    model = replace(model.fitted_to(widths, milliseconds[1:]), floor=min(milliseconds))
    return model, was_busy(measured)


def _choose_networks(arch: Architecture) -> list[tuple[int, ...]]:
    """Return random widths, random multiples of a block, and uniform widths.

    Uniform widths include networks whose projections on shortcuts vanish.
    """
    ragged = sample_widths(arch, _RANDOM, seed=0)
    blocks = [_round_to_blocks(arch, widths) for widths in sample_widths(arch, _RANDOM, seed=1)]
    ratios = np.geomspace(0.1, 0.9, _UNIFORM)
    uniform = [_clip(arch, floor_widths(ratio, arch.base_widths)) for ratio in ratios]
    return [*ragged, *blocks, *uniform]


def _read_calls(
    arch: Architecture, batch_size: int
) -> tuple[tuple[Term, ...], dict[str, list[Call]]]:
    """Record the calls of `arch` on the meta device.

    Returns:
        The calls as functions of the widths, each with the index of its table, and for each table
        the calls of networks of several sizes, by kind.
    """
    samples: dict[str, list[Call]] = {}
    for scale in _SCALES:
        widths = _clip(arch, floor_widths(scale, arch.base_widths))
        for call in _record_calls(arch, widths, batch_size):
            samples.setdefault(call.kind, []).append(call)
    base = _choose_distinct_widths(arch)
    calls = _record_calls(arch, base, batch_size)
    for call in calls:
        samples.setdefault(call.kind, []).append(call)
    kinds = tuple(samples)
    wider = (np.array(base) + np.eye(len(base), dtype=int)).tolist()
    grown = [_record_calls(arch, widths, batch_size) for widths in wider]
    factors = np.stack([_compute_growth(calls, after, arch.name) for after in grown], axis=-1)
    vanishing = _find_vanishing_modules(arch)
    terms = []
    ends = np.cumsum([len(call.place) for call in calls])
    for call, own in zip(calls, np.split(factors, ends[:-1]), strict=True):
        constants = np.array(call.place) - own @ np.array(base)
        terms.append(
            Term(
                kinds.index(call.kind),
                own,
                constants,
                call.function is torch.conv2d,
                vanishing.get(call.module),
            )
        )
    return tuple(terms), samples


def _record_calls(arch: Architecture, widths: Sequence[int], batch_size: int) -> list[Call]:
    """Record calls. Calls that equal widths can remove are kinds of their own."""
    vanishing = _find_vanishing_modules(arch)
    return [
        replace(call, kind=f"{call.kind} of a shortcut") if call.module in vanishing else call
        for call in record_calls(arch.build(widths), arch.input_shape, batch_size)
    ]


def _clip(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    """Clip `widths` to the limits of the layers."""
    limits = width_limits(arch.cost("params"), len(widths))
    return tuple(np.clip(widths, *limits).astype(int).tolist())


def _round_to_blocks(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    return _clip(arch, [max(BLOCK, round(width / BLOCK) * BLOCK) for width in widths])


def _choose_distinct_widths(arch: Architecture) -> tuple[int, ...]:
    """Return widths near the base widths, each of which can grow by one.

    If equal widths remove calls, any two widths differ by at least 2, so that no call is missing,
    also after a layer grows.
    """
    if not arch.conditional:
        return _clip(arch, [width - 1 for width in arch.base_widths])
    found: list[int] = []
    for width in arch.base_widths:
        while any(abs(width - other) <= 1 for other in found):
            width += 1  # noqa: PLW2901
        found.append(width)
    return tuple(found)


def _compute_growth(before: Sequence[Call], after: Sequence[Call], name: str) -> IntArray:
    """Return how much the sizes of all calls, concatenated, grow if a layer gets one more filter.

    Args:
        before: the calls of the network.
        after: the calls of the wider network.
        name: name of the network, for the error.

    Raises:
        UnpredictableError: if the two networks call different operations.
    """
    if [call.kind for call in after] != [call.kind for call in before]:
        raise UnpredictableError(f"{name} calls other operations at other widths")
    places = [np.concatenate([call.place for call in calls]) for calls in (before, after)]
    growth: IntArray = places[1] - places[0]
    return growth


def _find_vanishing_modules(arch: Architecture) -> dict[str, Any]:
    """Return `Term.unless_equal` of the modules that equal widths remove, by path."""
    eye = np.eye(len(arch.base_widths), dtype=np.int64)

    def linear(channels: Any) -> tuple[IntArray, int]:
        if channels.layer is None:
            return np.zeros(len(eye), dtype=np.int64), channels.factor
        return channels.factor * eye[channels.layer], 0

    return {
        path: tuple(linear(channels) for channels in pair)
        for path, pair in arch.conditional.items()
    }


def _digest(arch: Architecture, conditions: dict[str, Any]) -> str:
    network = [arch.name, arch.num_classes, arch.input_shape, arch.layer_names, arch.base_widths]
    calls = [(call.kind, call.place) for call in _record_calls(arch, arch.base_widths, 1)]
    whole = [_FORMAT, network, calls, arch.cost("macs")(arch.base_widths), conditions]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]
