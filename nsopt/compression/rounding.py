"""Widths at budgets in milliseconds: multiples that the device computes fastest."""

from collections.abc import Mapping, Sequence
from typing import Any

from nsopt.compression.budgets import read_metrics
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import Runtime
from nsopt.progress import Progress
from nsopt.scaling.metric import LATENCY
from nsopt.study.presets import StudySettings


def with_fast_multiple(
    settings: StudySettings,
    words: Sequence[str],
    widths: Sequence[int],
    runtime: Runtime,
    stored: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> StudySettings:
    """Return the settings of a compression; at budgets in milliseconds they round widths.

    The multiple is that of `find_multiple`, or half of it, and so on, until every layer of the
    trained network can be halved. The user's own multiple has priority; a runtime on another device
    gets none.

    Args:
        settings: as the user gave them.
        words: the budgets, as the user wrote them.
        widths: those of the trained network.
        runtime: runs the networks that nsopt times.
        stored: settings of the studies that this compression continues. Their multiple is kept.
        progress: receives a message.
    """
    if settings.multiple_of is not None or not runtime.is_here:
        return settings
    if stored:
        known = stored[0].get("multiple_of")
        is_ours = isinstance(known, dict) and list(known) == [LATENCY.name]
        return settings.updated(multiple_of=known) if is_ours else settings
    if not any(LATENCY in read_metrics(word) for word in words):
        return settings
    multiple = find_multiple(settings.training.device, runtime, progress)
    while 2 * multiple > min(widths):
        multiple //= 2
    if multiple <= 1:
        return settings
    progress.message(
        f"at budgets in milliseconds widths are multiples of {multiple}, "
        f"which {runtime.name} computes fastest here"
    )
    return settings.updated(multiple_of={LATENCY.name: multiple})
