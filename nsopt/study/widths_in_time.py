"""Budgets in milliseconds along the laws of a study: solved by timing networks, and stored."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from optuna.study import Study

from nsopt.latency.bisection import MOST_TIMED, Widths
from nsopt.latency.measure import Latency, latency_conditions
from nsopt.latency.measured_budget import MeasuredBudget, time_widths
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY
from nsopt.storage import schema
from nsopt.study.session import Session

_SCALES = np.geomspace(1e-2, 1e8, 6)  # at which the widths of a law identify it


def correct_latency(session: Session, kind: str, asked: MeasuredBudget) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most 12 timed networks, whatever machine or
    process asks. No network is timed again under the same conditions.

    Args:
        kind: the study to store them in.

    Raises:
        NoWidthsError: if no network that was timed is within the budget.
    """
    study, key = session.open_study(kind), _identify(asked)
    found = schema.read_widths_in_time(study, key)
    if found is None:
        with session.compute.exclusive():
            found = schema.read_widths_in_time(study, key) or _find(session, study, asked)
            schema.write_widths_in_time(study, key, found)
    return asked.corrected(found["predicted"])


def _find(session: Session, study: Study, asked: MeasuredBudget) -> dict[str, Any]:
    shown = asked.metric.show(asked.budget)
    session.progress.start(f"timing widths at {shown}", MOST_TIMED)
    found = asked.solve(_timer(session, study))
    _, method = schema.split_name(study.study_name)
    session.progress.message(
        f"{method} at {shown}: {max(found.measured):.4g} {LATENCY.unit} as timed"
    )
    return asdict(found)


def _timer(session: Session, study: Study) -> Callable[[Widths], Latency]:
    """Return a function that times networks, or returns what was stored, in the order of time."""
    conditions = latency_conditions(session.compute.device, runtime=session.task.runtime)
    used: dict[Widths, int] = {}

    def measure(widths: Widths) -> Latency:
        session.progress.advance()
        known = [
            timing
            for other in session.studies().values()
            for timing in schema.read_timings(other, widths)
            if conditions.items() <= timing.items()
        ]
        number = used.get(widths, 0)
        used[widths] = number + 1
        if number < len(known):
            return Latency(**known[number])
        latency = time_widths(session.task.arch, session.compute, session.task.runtime, widths)
        schema.write_timing(study, widths, asdict(latency))
        return latency

    return measure


def _identify(asked: MeasuredBudget) -> list[object]:
    """Return what decides the widths of a budget, except the clock; the same on all machines."""
    return [
        *(asked.metric.name, float(asked.budget), asked.multiple_of, asked.min_width),
        None if asked.max_width is None else np.asarray(asked.max_width).tolist(),
        _describe_law(asked.law),
    ]


def _describe_law(law: ScalingLaw) -> list[list[str]]:
    return [[f"{width:.6e}" for width in law.widths(scale)] for scale in _SCALES.tolist()]
