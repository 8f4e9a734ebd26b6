"""The latency model for budgets in milliseconds."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from optuna.study import Study

from nsopt.compression.budgets import check_time, limits_time
from nsopt.compute.device import Compute
from nsopt.latency.measured_budget import make_exact
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.study.task import with_stored_latency


def with_latency_for(
    words: Sequence[str],
    arch: Architecture,
    studies: Iterable[Study],
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    inputs: Any = None,
) -> Architecture:
    """Return `arch`, with a stored or new latency model if a budget limits milliseconds.

    Args:
        words: the budgets.
        studies: may have stored a model, which has priority, so that budgets keep their meaning.
        inputs: a batch with which networks are timed; by default random images.

    Raises:
        NsoptError: if the network meets a budget already, before nsopt learns for minutes.
    """
    if not limits_time(words):
        return arch
    arch = with_stored_latency(arch, studies)
    if arch.latency is None:
        arch = make_exact(
            arch, compute, progress, runtime, partial(check_time, words, arch), inputs
        )
    return arch
