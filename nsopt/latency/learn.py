"""Making a latency model: which calls follow the widths how, their kernels, whole networks."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.memory import memory_kept
from nsopt.compute.out_of_memory import memory_for
from nsopt.compute.sharing import sharing
from nsopt.errors import NsoptError
from nsopt.files import cache_folder, write_whole
from nsopt.latency.calls import Call, calls_of
from nsopt.latency.kernel_times import measure_table, rounded_up
from nsopt.latency.measure import (
    garbage_kept,
    latency_conditions,
    measure_latencies,
    was_busy,
)
from nsopt.latency.model import LatencyModel, Term
from nsopt.latency.tables import BLOCK, Table
from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.progress import Progress, Silent
from nsopt.scaling.cost import IntArray, width_limits
from nsopt.scaling.law import floor_widths

A = TypeVar("A", bound=Architecture)
BATCH_SIZE = 100
_SCALES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 5 / 4)
_RANDOM, _UNIFORM = 25, 10  # of the whole networks on which the sum of kernels is corrected
_SPREAD = 0.4  # of the logarithm of their widths
_ROUNDS, _REPEATS = 4, 3
_FLAT = 1.2  # networks whose latencies differ less cannot be told apart by a budget
_FORMAT = 6
_BUSY = (
    "the machine was busy while its latency was learned: predicted milliseconds are too large; "
    "another study, with its own --out, learns it again"
)


@dataclass(frozen=True, eq=False)
class _Structure:
    """The calls of a network. kinds: of the tables, in order; terms: as functions of the widths;
    samples: by kind, calls of networks of several sizes; largest: by kind, their largest place."""

    kinds: tuple[str, ...]
    terms: tuple[Term, ...]
    samples: dict[str, list[Call]]
    largest: dict[str, tuple[int, ...]]


def with_latency(arch: A, device: str = "auto", progress: Progress | None = None) -> A:
    """Return `arch` with `cost("latency")`: milliseconds for a batch of 100 on a device here.

    Learning the model from kernels and a few whole networks takes one to three minutes, in which
    other nsopt processes on the device wait. The cache folder keeps it by network, device, threads
    and versions.
    """
    with sharing(resolve_compute(device, "fp32")) as compute:
        return arch.with_latency(latency_model(arch, compute, progress or Silent()))


def latency_model(
    arch: Architecture, compute: Compute, progress: Progress, folder: Path | None = None
) -> LatencyModel:
    """The latency model of `arch` on the device of `compute`: as `folder` keeps it, or made now.

    It is kept by network, device, threads, precision, batch size and version of torch, unless the
    machine was busy. While kernels are measured, other nsopt processes on the device wait. folder:
    by default in the cache.
    """
    folder = folder or cache_folder() / "latency"
    with compute.exclusive():
        conditions = latency_conditions(compute.device, BATCH_SIZE)
        path = folder / f"{_digest(arch, conditions)}.json"
        known = _read(path, arch)
        if known is not None:
            _warn_if_flat(arch, known, progress)
            return known
        with memory_for(compute.device, f"timing batches of {BATCH_SIZE}"):
            model, busy = _measured(arch, _structure(arch), compute.device, progress)
    _warn_if_flat(arch, model, progress)
    if busy:
        progress.message(_BUSY)
        return model
    write_whole(path, json.dumps(model.to_dict() | {"conditions": conditions}).encode())
    return model


def _warn_if_flat(arch: Architecture, model: LatencyModel, progress: Progress) -> None:
    base = model(arch.base_widths)
    if base < _FLAT * model.floor:
        progress.message(
            f"latency hardly depends on widths here: {arch.name} takes {base:.3g} ms, with one "
            f"filter a layer {model.floor:.3g} ms; budgets of params or macs say more"
        )


def sample_widths(arch: Architecture, count: int, seed: int) -> list[tuple[int, ...]]:
    """Random networks of different sizes and shapes, (count, L)."""
    generator = np.random.default_rng(seed)
    found = []
    for size in np.geomspace(0.1, 1.0, count):
        spread = np.exp(generator.normal(scale=_SPREAD, size=len(arch.base_widths)))
        widths = np.maximum(1, size * np.array(arch.base_widths) * spread)
        found.append(_allowed(arch, widths.astype(int).tolist()))
    return found


def _read(path: Path, arch: Architecture) -> LatencyModel | None:
    """The model in a file of the cache; None if there is none, or a damaged one."""
    try:
        model = LatencyModel.from_dict(json.loads(path.read_text(encoding="utf-8")))
        return model if np.isfinite(model(arch.base_widths)) else None
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _measured(
    arch: Architecture, structure: _Structure, device: torch.device, progress: Progress
) -> tuple[LatencyModel, bool]:
    """The model, and whether the machine was busy."""
    progress.start("learning this device's latency", len(structure.kinds) + 1)
    tables: list[Table] = []
    with memory_kept(device), garbage_kept():
        for kind in structure.kinds:
            samples, largest = structure.samples[kind], structure.largest[kind]
            tables.append(measure_table(samples, largest, device, arch.layout))
            progress.advance()
    layers = len(arch.base_widths)
    model = LatencyModel(tuple(tables), structure.terms, layers, np.ones((len(tables), 2)), 0.0)
    widths = _whole_networks(arch)
    measured = measure_latencies(
        [arch.build(w) for w in (_allowed(arch, [1] * layers), *widths)],
        arch.input_shape,
        BATCH_SIZE,
        warmup=_ROUNDS,
        rounds=_ROUNDS,
        repeats=_REPEATS * _ROUNDS,
        device=str(device),
    )
    progress.advance()
    milliseconds = [latency.median_ms for latency in measured]
    model = replace(model.corrected(widths, milliseconds[1:]), floor=min(milliseconds))
    return model, was_busy(measured)


def _whole_networks(arch: Architecture) -> list[tuple[int, ...]]:
    """Random widths, some of them whole blocks, and uniform ones, of which shortcuts may vanish."""
    ragged = sample_widths(arch, _RANDOM, seed=0)
    blocks = [_on_blocks(arch, widths) for widths in sample_widths(arch, _RANDOM, seed=1)]
    ratios = np.geomspace(0.1, 0.9, _UNIFORM)
    uniform = [_allowed(arch, floor_widths(ratio, arch.base_widths)) for ratio in ratios]
    return [*ragged, *blocks, *uniform]


def _structure(arch: Architecture) -> _Structure:
    """What `arch` calls, from networks without memory."""
    samples: dict[str, list[Call]] = {}
    for scale in _SCALES:
        widths = _allowed(arch, floor_widths(scale, arch.base_widths))
        for call in _calls(arch, widths):
            samples.setdefault(call.kind, []).append(call)
    base = _distinct(arch)
    calls = _calls(arch, base)
    for call in calls:
        samples.setdefault(call.kind, []).append(call)
    kinds = tuple(samples)
    factors = np.stack([_growth(arch, base, calls, layer) for layer in range(len(base))], axis=-1)
    vanishing = _vanishing(arch)
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
    largest = {
        kind: rounded_up(np.max([call.place for call in found], axis=0))
        for kind, found in samples.items()
    }
    return _Structure(kinds, tuple(terms), samples, largest)


def _calls(arch: Architecture, widths: Sequence[int]) -> list[Call]:
    """Those that equal widths can remove are of kinds of their own."""
    vanishing = _vanishing(arch)
    return [
        replace(call, kind=f"{call.kind} of a shortcut") if call.module in vanishing else call
        for call in calls_of(arch.build(widths), arch.input_shape, BATCH_SIZE)
    ]


def _allowed(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    """`widths`, no layer narrower or wider than it can be."""
    limits = width_limits(arch.cost("params"), len(widths))
    return tuple(np.clip(widths, *limits).astype(int).tolist())


def _on_blocks(arch: Architecture, widths: Sequence[int]) -> tuple[int, ...]:
    """`widths` as whole numbers of blocks."""
    return _allowed(arch, [max(BLOCK, round(width / BLOCK) * BLOCK) for width in widths])


def _distinct(arch: Architecture) -> tuple[int, ...]:
    """Widths near the base ones that can all grow by one. Of networks in which equal widths remove
    calls none are equal, nor will be then, so that everything is there."""
    if not isinstance(arch, TableArchitecture):
        return _allowed(arch, [width - 1 for width in arch.base_widths])
    found: list[int] = []
    for width in arch.base_widths:
        while any(abs(width - other) <= 1 for other in found):
            width += 1  # noqa: PLW2901
        found.append(width)
    return tuple(found)


def _growth(arch: Architecture, base: Sequence[int], calls: Sequence[Call], layer: int) -> IntArray:
    """By how much the places of the calls grow with one more unit of a layer, all in a row."""
    wider = tuple(width + (index == layer) for index, width in enumerate(base))
    grown = _calls(arch, wider)
    if [call.kind for call in grown] != [call.kind for call in calls]:
        raise NsoptError(f"{arch.name} computes otherwise at other widths: no latency model")
    before = np.concatenate([call.place for call in calls])
    growth: IntArray = np.concatenate([call.place for call in grown]) - before
    return growth


def _vanishing(arch: Architecture) -> dict[str, Any]:
    """The modules that equal widths remove, by path, as `Term.unless_equal` takes them."""
    if not isinstance(arch, TableArchitecture):
        return {}
    eye = np.eye(len(arch.base_widths), dtype=np.int64)

    def linear(channels: Any) -> tuple[IntArray, int]:
        if channels.layer is None:
            return np.zeros(len(eye), dtype=np.int64), channels.factor
        return channels.factor * eye[channels.layer], 0

    return {
        operation.name: tuple(linear(channels) for channels in operation.unless_equal)
        for operation in arch.operations
        if operation.unless_equal is not None
    }


def _digest(arch: Architecture, conditions: dict[str, Any]) -> str:
    network = [arch.name, arch.num_classes, arch.input_shape, arch.layer_names, arch.base_widths]
    whole = [_FORMAT, network, arch.cost("macs")(arch.base_widths), conditions]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]
