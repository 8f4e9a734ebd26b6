"""Widths after every prune step (Algorithm 1), and the law fitted to them.

N: rows; L: searched layers. The published rule fits a law to the rows in which every layer has lost
a filter. In a deep residual network some layers lose their first filter when others have a single
one left. These rows say nothing of larger networks, so that each layer is fitted to its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NoWidthsError, ShortRecordError
from nsopt.scaling.cost import CostModel, IntArray, Numbers
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import get_metric

MIN_ROWS = 6
_POOR_R2 = 0.5


def gives_a_law(widths: ArrayLike) -> bool:
    """Return whether widths (N, L) have enough rows by the published rule before a layer has one
    filter left. Row 0 is unpruned.
    """
    w = np.asarray(widths)
    single = np.flatnonzero((w == 1).any(axis=1))
    end = int(single[0]) + 1 if single.size else len(w)
    return int(_find_published_rows(w[:end]).sum()) >= MIN_ROWS


def _find_published_rows(widths: IntArray) -> NDArray[np.bool_]:
    """Return whether every layer has lost a filter, for each row: (N,)."""
    return np.asarray((widths < widths[0]).all(axis=1))


def describe_reach(factor: float) -> str:
    """Say how far a budget is outside a record. `factor`: from `Iteration.beyond`."""
    reach = "largest" if factor > 1 else "smallest"
    return f"{factor:.2g} times the {reach} recorded network"


@dataclass(frozen=True, eq=False)
class PruneRecord:
    """The rows to which a law is fitted.

    Attributes:
        widths: int64 (N, L).
        tau: sizes of the networks with these widths, (N,), in parameters or in the metric by which
            importance was divided.
        by_layer: whether each layer is fitted to the rows in which it shrinks, because the
            published rule leaves too few. The rows are then all, from the unpruned network on.
    """

    widths: IntArray
    tau: Numbers
    by_layer: bool = False

    def law(self) -> PowerLaw:
        """Return the fitted power law. Raises ShortRecordError for fewer than 6 rows.

        If a layer grew while the network shrank, its width is its geometric mean at every size.
        """
        if len(self.tau) < MIN_ROWS:
            raise ShortRecordError(
                f"the prune record has {len(self.tau)} rows and a law needs {MIN_ROWS}: prune in "
                "smaller steps (filters_per_step=) or pre-train longer (pretrain_epochs=)"
            )
        ends = self.widths[[self.tau.argmin(), self.tau.argmax()]]
        return replace(_flatten_falls(self._fit(), self.widths), recorded=ends.astype(np.float64))

    def _fit(self) -> PowerLaw:
        if not self.by_layer:
            return PowerLaw.fit(self.widths, self.tau)
        fits = []
        for layer, widths in enumerate(self.widths.T):
            rows = _find_rows_of_layer(widths)
            fits.append(PowerLaw.fit(self.widths[rows, layer : layer + 1], self.tau[rows]))
        alpha, beta, r2 = (
            np.concatenate([getattr(fit, name) for fit in fits]) for name in ("alpha", "beta", "r2")
        )
        return PowerLaw(alpha, beta, r2)


def _flatten_falls(law: PowerLaw, widths: IntArray) -> PowerLaw:
    """Return `law` with constant widths in the layers whose exponent is negative."""
    falls = law.beta < 0
    return PowerLaw(
        np.where(falls, np.exp(np.log(widths).mean(axis=0)), law.alpha),
        np.where(falls, 0.0, law.beta),
        np.where(falls, 0.0, law.r2),
    )


def _find_rows_of_layer(widths: IntArray) -> slice:
    """Return the rows in which a layer shrinks: from its first lost filter to a width of 1.

    Pruning keeps the last filter. If these rows are fewer than 6, earlier rows are added.
    """
    lost = np.flatnonzero(widths < widths[0])
    last = np.flatnonzero(widths == 1)
    end = int(last[0]) + 1 if last.size else len(widths)
    start = int(lost[0]) if lost.size else 0
    return slice(max(0, min(start, end - MIN_ROWS)), max(end, MIN_ROWS))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """All widths from the unpruned network (row 0) to the last prune step.

    Attributes:
        widths: int64 (N, L).
        tau: sizes of the networks with these widths, (N,).
    """

    widths: IntArray
    tau: Numbers

    def record(self) -> PruneRecord:
        """Return the rows of the published rule, or all rows if these are too few for a law."""
        if not gives_a_law(self.widths) and len(self.tau) > MIN_ROWS:
            return PruneRecord(self.widths, self.tau, by_layer=True)
        rows = _find_published_rows(self.widths)
        return PruneRecord(self.widths[rows], self.tau[rows])

    def within(self, cost: CostModel, budget: float) -> tuple[int, ...] | None:
        """Return the first widths that cost no more than `budget`, or None."""
        enough = np.flatnonzero(cost(self.widths) <= budget)
        return tuple(self.widths[enough[0]].tolist()) if enough.size else None

    def at_fraction(self, fraction: float, channels_per_unit: ArrayLike = 1) -> tuple[int, ...]:
        """Return the first widths with at most `fraction` of the filters. Raises NoWidthsError."""
        filters = (self.widths * np.asarray(channels_per_unit)).sum(axis=1)
        enough = np.flatnonzero(filters <= fraction * filters[0])
        if enough.size == 0:
            raise NoWidthsError(
                f"pruning stopped with {filters[-1] / filters[0]:.0%} of the filters left, before "
                f"{fraction:.0%}: prune in smaller steps (filters_per_step=)"
            )
        return tuple(self.widths[enough[0]].tolist())


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration of architecture descent (Algorithm 4).

    Attributes:
        trajectory: widths after every prune step.
        law: the law fitted to its record.
        widths: the law's proposal at the original network's size.
        seconds: duration.
        metric: unit of tau.
    """

    trajectory: Trajectory
    law: PowerLaw
    widths: tuple[int, ...]
    seconds: float
    metric: str = "params"

    @property
    def record(self) -> PruneRecord:
        return self.trajectory.record()

    def beyond(self, cost: CostModel, budget: float) -> float | None:
        """Return how far a budget is outside the record, however little; see `PowerLaw.beyond`."""
        costs = np.asarray(cost(self.record.widths), dtype=np.float64)
        nearest = float(np.clip(budget, costs.min(), costs.max()))
        return None if nearest == budget else budget / nearest

    def explain_misfits(self, layer_names: Sequence[str]) -> str:
        """Return a warning that names the layers with a poor fit, or an empty string."""
        names, held = np.array(layer_names), self.law.beta == 0
        loose = (self.law.r2 < _POOR_R2) & ~held
        stiff, vague = ", ".join(names[held]), ", ".join(names[loose])
        parts = [f"the width of {stiff} does not follow the size"] if stiff else []
        parts += [f"that of {vague} follows it loosely"] if vague else []
        return "; ".join(parts)

    @property
    def start_widths(self) -> tuple[int, ...]:
        """Widths of the network that was pruned."""
        return tuple(self.trajectory.widths[0].tolist())

    @property
    def change(self) -> float:
        """Largest relative change of a width, from the pruned network to the proposed one."""
        start = self.trajectory.widths[0]
        return float(np.max(np.abs(np.array(self.widths) - start) / start))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe form, from which `from_dict` makes an equal iteration."""
        return {
            "trajectory": self.trajectory.widths.tolist(),
            "tau": self.trajectory.tau.tolist(),
            "law": self.law.to_dict(),
            "widths": list(self.widths),
            "seconds": self.seconds,
            "metric": self.metric,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned. Raises KeyError, TypeError or ValueError otherwise."""
        law, tau = PowerLaw.from_dict(data["law"]), np.array(data["tau"])
        trajectory = Trajectory(np.array(data["trajectory"], dtype=np.int64), tau)
        rows = np.vstack([trajectory.widths, np.array(data["widths"], dtype=np.int64)])
        if rows.shape != (len(tau) + 1, law.layers) or (rows < 1).any():
            raise ValueError("its widths, sizes and law do not belong together")
        if not (np.isfinite(tau) & (tau > 0)).all() or len(trajectory.record().tau) < MIN_ROWS:
            raise ValueError(f"a law needs {MIN_ROWS} rows, with sizes above 0")
        return cls(
            trajectory,
            law,
            tuple(rows[-1].tolist()),
            float(data["seconds"]),
            get_metric(data["metric"]).name,
        )
