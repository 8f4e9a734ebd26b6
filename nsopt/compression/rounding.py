"""Widths at budgets in milliseconds: multiples that the device computes fastest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nsopt.compression.budgets import Budget
from nsopt.errors import NoWidthsError
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import LATENCY
from nsopt.study.presets import StudySettings

_MARGIN = 0.8  # of a budget: milliseconds are only predicted
_LEAST = 0.6  # of a budget that rounded widths should use


def with_fast_multiple(
    settings: StudySettings,
    budgets: Sequence[Budget],
    arch: Architecture,
    runtime: Runtime,
    stored: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> StudySettings:
    """Return the settings of a compression; at budgets in milliseconds they round widths.

    The multiple is that of `find_multiple`, or half of it, and so on, until widths are predicted
    that use most of every budget; that of each layer follows from it, see `choose_multiples`. The
    user's own multiple has priority; a runtime on another device gets none.

    Args:
        settings: as the user gave them.
        budgets: of the compression.
        arch: the trained network, with a latency model if a budget limits milliseconds.
        runtime: runs the networks that nsopt times.
        stored: settings of the studies that this compression continues. Their multiple is kept.
        progress: receives a message.
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
    fastest = multiple = find_multiple(settings.training.device, runtime, progress)
    while multiple > 1:
        multiples = choose_multiples(arch, multiple)
        rounded = settings.updated(multiple_of={LATENCY.name: multiples})
        if max(multiples) > 1 and _fit(timed, arch, rounded):
            progress.message(
                f"at budgets in milliseconds widths are multiples of {max(multiples)}, less in "
                f"narrow layers, because {runtime.name} computes multiples of {fastest} fastest "
                "here (any width: --multiple-of 1)"
            )
            return rounded
        multiple //= 2
    return settings


def choose_multiples(arch: Architecture, multiple: int) -> tuple[int, ...]:
    """Return the multiple of each layer's units, at which its channels are multiples of `multiple`.

    It is halved until the layer can be halved.

    Args:
        arch: the trained network.
        multiple: of channels, a power of two.
    """
    found = []
    for width, channels in zip(arch.base_widths, arch.channels_per_unit, strict=True):
        own = multiple // math.gcd(multiple, channels)
        while own > 1 and 2 * own > width:
            own //= 2
        found.append(own)
    return tuple(found)


def _fit(budgets: Sequence[Budget], arch: Architecture, settings: StudySettings) -> bool:
    """Return whether uniform widths are predicted to be well within all budgets, and to use them.

    If all layers reach their next multiple together, widths may jump over most of a budget.
    """
    law = uniform_curve(arch.base_widths)
    for budget in budgets:
        size = replace(budget.size, budget=_MARGIN * budget.size.budget)
        try:
            widths = replace(budget, size=size).solve(law, arch, settings)
        except NoWidthsError:
            return False
        if budget.metric.cost(arch)(widths) < _LEAST * budget.size.budget:
            return False
    return True
