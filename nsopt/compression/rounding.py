"""Widths at budgets in milliseconds: multiples that the device computes fastest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nsopt.compression.budgets import Budget
from nsopt.compute.device import resolve_compute
from nsopt.compute.sharing import sharing
from nsopt.errors import NoWidthsError
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.study.presets import StudySettings

_MORE = 1.02  # times the MACs that a smaller multiple must allow


def with_fast_multiple(
    settings: StudySettings,
    budgets: Sequence[Budget],
    arch: Architecture,
    runtime: Runtime,
    stored: Sequence[Mapping[str, Any]],
    progress: Progress,
    inputs: Any = None,
) -> StudySettings:
    """Return the settings of a compression; at budgets in milliseconds they round widths.

    nsopt times which multiple allows most MACs; that of each layer follows (`multiple_per_layer`).
    The user's own multiple has priority; a runtime on another device gets none.

    Args:
        settings: as the user gave them.
        budgets: of the compression.
        arch: the trained network, with a latency model if a budget limits milliseconds.
        runtime: runs the networks that nsopt times.
        stored: settings of the studies that this compression continues. Their multiple is kept.
        progress: receives a message.
        inputs: a batch with which networks are timed; by default random images.
    """
    if settings.multiple_of is not None or not runtime.is_here:
        return settings
    timed = [budget for budget in budgets if LATENCY in budget.metric.parts]
    known = [each["multiple_of"] for each in stored if "multiple_of" in each]
    if known:
        if isinstance(known[0], dict) and list(known[0]) == [LATENCY.name]:
            return settings.updated(multiple_of=known[0])
        if timed and known[0] is None:
            progress.message("widths are not rounded, as in the results so far: another --out does")
        return settings
    if not timed:
        return settings
    fastest = find_multiple(settings.training.device, runtime, progress)
    if fastest == 1:
        return settings
    multiples = _time_multiples(timed, arch, settings, runtime, fastest, progress, inputs)
    if max(multiples) > 1:
        progress.message(
            f"at budgets in milliseconds widths are multiples of {max(multiples)}, less in narrow "
            f"layers: {runtime.name} computes them fastest here (any width: --multiple-of 1)"
        )
    return _rounded(settings, multiples)


def _rounded(settings: StudySettings, multiples: tuple[int, ...]) -> StudySettings:
    return settings.updated(multiple_of={LATENCY.name: multiples})


def _time_multiples(
    budgets: Sequence[Budget],
    arch: Architecture,
    settings: StudySettings,
    runtime: Runtime,
    fastest: int,
    progress: Progress,
    inputs: Any,
) -> tuple[int, ...]:
    """Return each layer's multiple.

    It is `fastest`, or half of it, and so on, as long as more MACs then fit the budgets. Networks
    are timed for that: whether a multiple pays depends on the widths that a budget allows.
    """
    halved = (fastest >> times for times in range(fastest.bit_length()))
    best, most = (1,) * len(arch.base_widths), 0.0
    for multiples in dict.fromkeys(multiple_per_layer(arch, multiple) for multiple in halved):
        macs = _count_macs(budgets, arch, _rounded(settings, multiples), runtime, progress, inputs)
        if most and macs <= _MORE * most:
            break
        if macs:
            best, most = multiples, macs
    return best


def _count_macs(
    budgets: Sequence[Budget],
    arch: Architecture,
    settings: StudySettings,
    runtime: Runtime,
    progress: Progress,
    inputs: Any = None,
) -> float:
    """Return the geometric mean of the MACs that budgets allow, as timed; 0 if one has no widths.

    The widths are those along uniform scaling, filled.
    """
    law, logs = uniform_curve(arch.base_widths), []
    compute = resolve_compute(settings.training.device, "fp32")
    with sharing(compute, progress) as shared:
        for budget in budgets:
            limits = budget.limits(arch, settings)
            asked = MeasuredBudget(arch, law, budget.metric, budget.limit, limits, True, inputs)
            try:
                found = asked.solve_here(shared, runtime, progress)
            except NoWidthsError:
                return 0.0
            logs.append(math.log(MACS.cost(arch)(found.widths)))
    return math.exp(np.mean(logs))


def multiple_per_layer(arch: Architecture, multiple: int) -> tuple[int, ...]:
    """Return the multiple of each layer's units, at which its channels are multiples of `multiple`.

    A layer that is narrower than two multiples gets half of the multiple, and so on.

    Args:
        arch: the trained network.
        multiple: of channels, a power of two.
    """
    found = []
    for width, channels in zip(arch.base_widths, arch.channels_per_unit, strict=True):
        units = multiple // math.gcd(multiple, channels)
        while units > 1 and 2 * units > width:
            units //= 2
        found.append(units)
    return tuple(found)
