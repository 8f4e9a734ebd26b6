"""The uncertainty of a fitted law: how far the widths of a repeated search may be from it.

The rows of a record are not independent: their residuals drift slowly, so the covariance of least
squares is far too small. The widths of a repeated search are about as far from the law as the rows
of the record. N rows tell as much about this distance as

    N_eff = N * (1 - rho) / (1 + rho)

independent rows, where rho is the autocorrelation of neighbouring residuals. The band is therefore
a prediction band, from the residual variance and the covariance of a fit to N_eff rows, and
Student's t. `benchmarks/law_coverage.py` measures its coverage: 94 to 100 % for published records.

L: searched layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nsopt.scaling.cost import FloatArray

_UPPER = 0.95  # quantile; the two-sided band has 90 %
_FEWEST_ROWS = 3.0
_HIGHEST_RHO = 0.98


@dataclass(frozen=True, eq=False)
class FitError:
    """The uncertainty of L fits of log w_l on log tau.

    Attributes:
        residual: variance of the rows around the law, (L,).
        covariance: covariance of (log alpha_l, beta_l), (L, 2, 2).
        freedom: degrees of freedom of both, (L,).
    """

    residual: FloatArray
    covariance: FloatArray
    freedom: FloatArray

    @classmethod
    def of(cls, log_tau: FloatArray, residuals: FloatArray) -> Self:
        """Estimate the error from log_tau (N,) and residuals (N, L), in the record's order."""
        count, squares = len(log_tau), np.square(residuals).sum(axis=0)
        neighbours = (residuals[1:] * residuals[:-1]).sum(axis=0)
        rho = np.divide(neighbours, squares, out=np.zeros_like(squares), where=squares > 0)
        rho = rho.clip(0.0, _HIGHEST_RHO)
        effective = np.maximum(count * (1 - rho) / (1 + rho), _FEWEST_ROWS)
        freedom = np.maximum(effective - 2, 1.0)
        residual = squares / count * effective / freedom
        rows = np.stack([np.ones_like(log_tau), log_tau], axis=1)
        per_row = residual * count / effective
        return cls(residual, per_row[:, None, None] * np.linalg.pinv(rows.T @ rows), freedom)

    def reach(self, tau: FloatArray) -> FloatArray:
        """Return half the width of the 90 % band of log-widths at sizes tau (...): (..., L)."""
        from scipy.special import stdtrit  # noqa: PLC0415  (slow to import)

        row = np.stack([np.ones_like(tau), np.log(tau)], axis=-1)
        fitted = np.einsum("...i,lij,...j->...l", row, self.covariance, row)
        deviation = np.sqrt(self.residual + np.maximum(fitted, 0.0))
        return np.asarray(stdtrit(self.freedom, _UPPER) * deviation)

    def per_unit(self, unit: float) -> "FitError":
        """Return the error of the same law over sizes in units of `unit`."""
        change = np.array([[1.0, np.log(unit)], [0.0, 1.0]])
        return FitError(self.residual, change @ self.covariance @ change.T, self.freedom)

    def __add__(self, other: "FitError") -> "FitError":
        """Return the error of the product of two laws that were fitted to different records."""
        return FitError(
            self.residual + other.residual,
            self.covariance + other.covariance,
            np.minimum(self.freedom, other.freedom),
        )

    def __mul__(self, factor: float) -> "FitError":
        """Scale the variances: a law to the power p has the error times p ** 2."""
        return FitError(self.residual * factor, self.covariance * factor, self.freedom)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe form, from which `from_dict` makes exactly the same error."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned."""
        return cls(*(np.array(data[name]) for name in ("residual", "covariance", "freedom")))
