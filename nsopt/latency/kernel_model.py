"""A latency model from a network's kernels: learned on a device, kept in the cache.

How calls follow the widths, the times of kernels, and corrections on whole networks.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsopt.compute.device import Compute
from nsopt.compute.out_of_memory import memory_for
from nsopt.files import cache_folder, write_cached
from nsopt.latency.calls import Call, UnpredictableError, measure_table, record_calls
from nsopt.latency.measure import (
    latency_conditions,
    measure_latencies,
    pause_garbage_collection,
)
from nsopt.latency.model import BLOCK, LatencyModel, Table, Term
from nsopt.latency.runtime import TORCH, Runtime, draw_images
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress
from nsopt.scaling.cost import IntArray, width_limits
from nsopt.scaling.law import floor_widths

_SCALES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4)
_RANDOM, _UNIFORM = 25, 10  # numbers of networks that correct the sum of kernel times
_SPREAD = 0.4  # standard deviation of their log-widths
_ROUNDS = 4
_FLAT = 1.2  # if base widths take less than this times the floor, nsopt warns
_FORMAT = 8


def latency_model(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime = TORCH,
    folder: Path | None = None,
) -> LatencyModel:
    """Return the latency model of `arch` on a device, read from `folder` or learned now.

    Its file depends on network, device, threads, precision, batch size and torch version.
    """
    with compute.all_threads():
        conditions = latency_conditions(compute.device, runtime)
        path = (folder or cache_folder() / "latency") / f"{_digest(arch, conditions)}.json"
        model = _read(path, arch)
        if model is None:
            with memory_for(compute.device, f"timing batches of {runtime.batch_size}"):
                calls = _read_calls(arch, runtime.batch_size)
                model = _learn(arch, *calls, compute, progress, runtime)
            data = model.to_dict() | {"conditions": conditions}
            write_cached(path, json.dumps(data).encode())
    _warn_if_flat(arch, model, progress)
    return model


def _warn_if_flat(arch: Architecture, model: LatencyModel, progress: Progress) -> None:
    base = model(arch.base_widths)
    if base < _FLAT * model.floor:
        progress.message(
            f"latency hardly depends on widths here: {arch.name} takes {base:.3g} ms per batch, "
            f"and {model.floor:.3g} ms with one filter per layer; use metric=params or macs "
            "instead"
        )


def sample_widths(arch: Architecture, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return the widths of random networks of different sizes and shapes, (count, L)."""
    generator = np.random.default_rng(seed)
    samples = []
    for size in np.geomspace(0.1, 1.0, count):
        spread = np.exp(generator.normal(scale=_SPREAD, size=len(arch.base_widths)))
        widths = np.maximum(1, size * np.array(arch.base_widths) * spread)
        samples.append(_clip(arch, widths.astype(int).tolist()))
    return samples


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
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
) -> LatencyModel:
    """Return the model. See `_read_calls`."""
    progress.start("learning this device's latency", len(samples) + 1)
    tables: list[Table] = []
    with pause_garbage_collection():
        for calls in samples.values():
            tables.append(measure_table(calls, compute.device, arch.layout))
            progress.advance()
    layers = len(arch.base_widths)
    model = LatencyModel(tuple(tables), terms, layers, np.ones((len(tables), 2)), 0.0, 0.0)
    widths = _choose_networks(arch)
    measured = measure_latencies(
        [build_to_fill(arch, w) for w in (_clip(arch, [1] * layers), *widths)],
        draw_images(arch.input_shape, runtime.batch_size),
        compute,
        runtime,
        _ROUNDS,
    )
    progress.advance()
    milliseconds = [latency.median_ms for latency in measured]
    return replace(model.fitted_to(widths, milliseconds[1:]), floor=min(milliseconds))


def _choose_networks(arch: Architecture) -> list[tuple[int, ...]]:
    """Return random widths, random multiples of a block, and uniform widths.

    Uniform widths include networks whose projections on shortcuts vanish.
    """
    ragged = sample_widths(arch, _RANDOM, seed=0)
    blocks = [
        _clip(arch, [max(BLOCK, round(width / BLOCK) * BLOCK) for width in widths])
        for widths in sample_widths(arch, _RANDOM, seed=1)
    ]
    ratios = np.geomspace(0.1, 0.9, _UNIFORM)
    uniform = [_clip(arch, floor_widths(ratio, arch.base_widths)) for ratio in ratios]
    return [*ragged, *blocks, *uniform]


def _read_calls(
    arch: Architecture, batch_size: int
) -> tuple[tuple[Term, ...], dict[str, list[Call]]]:
    """Record the calls of `arch`.

    Returns:
        The calls as functions of the widths, each with the index of its table, and for each table
        the calls of networks of several sizes, by kind.
    """
    base, samples = _choose_distinct_widths(arch), dict[str, list[Call]]()
    scaled = [_clip(arch, floor_widths(scale, arch.base_widths)) for scale in _SCALES]
    for widths in (*scaled, base):
        calls = _record_calls(arch, widths, batch_size)
        for call in calls:
            samples.setdefault(call.kind, []).append(call)
    kinds = tuple(samples)
    wider = (np.array(base) + np.eye(len(base), dtype=int)).tolist()
    # A width with a single choice stays, and is a constant of the calls.
    grown = [_record_calls(arch, _clip(arch, widths), batch_size) for widths in wider]
    factors = np.stack([_compute_growth(calls, after, arch.name) for after in grown], axis=-1)
    terms = []
    ends = np.cumsum([len(call.place) for call in calls])
    for call, growth in zip(calls, np.split(factors, ends[:-1]), strict=True):
        table, unless_equal = kinds.index(call.kind), arch.conditional.get(call.module)
        constants = np.array(call.place) - growth @ np.array(base)
        terms.append(Term(table, growth, constants, call.function is torch.conv2d, unless_equal))
    return tuple(terms), samples


def _record_calls(arch: Architecture, widths: Sequence[int], batch_size: int) -> list[Call]:
    """Record calls. Calls that equal widths can remove are kinds of their own."""
    may_vanish = arch.conditional
    return [
        replace(call, kind=f"{call.kind} of a shortcut") if call.module in may_vanish else call
        for call in record_calls(build_to_fill(arch, widths), arch.input_shape, batch_size)
    ]


def _clip(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    limits = width_limits(arch.cost("params"), len(widths))
    return tuple(np.clip(widths, *limits).astype(int).tolist())


def _choose_distinct_widths(arch: Architecture) -> tuple[int, ...]:
    """Return widths near the base widths, each of which can grow by one.

    If equal widths remove calls, any two widths differ by at least 2, so that no call is missing,
    also after a layer grows.
    """
    if not arch.conditional:
        return _clip(arch, [width - 1 for width in arch.base_widths])
    distinct: list[int] = []
    for width in arch.base_widths:
        while any(abs(width - earlier) <= 1 for earlier in distinct):
            width += 1  # noqa: PLW2901
        distinct.append(width)
    return tuple(distinct)


def _compute_growth(before: Sequence[Call], after: Sequence[Call], name: str) -> IntArray:
    """Return how much the sizes of all calls, concatenated, grow if a layer gets one more filter.

    Raises:
        UnpredictableError: if the two networks call different operations.
    """
    if [call.kind for call in after] != [call.kind for call in before]:
        raise UnpredictableError(f"{name} calls other operations at other widths")
    places = [np.concatenate([call.place for call in calls]) for calls in (before, after)]
    return np.asarray(places[1] - places[0])


def _digest(arch: Architecture, conditions: dict[str, Any]) -> str:
    network = [arch.name, arch.num_classes, arch.input_shape, arch.layer_names, arch.base_widths]
    calls = [(call.kind, call.place) for call in _record_calls(arch, arch.base_widths, 1)]
    whole = [_FORMAT, network, calls, arch.cost("macs")(arch.base_widths), conditions]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]
