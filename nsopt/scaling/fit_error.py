"""How far the widths of another search may lie from a fitted law.

Rows of one record are no independent measurements: their residuals drift slowly, so that the
covariance of least squares is far too small. What another search of the same protocol would find
lies about as far from the law as the rows do, and N rows tell that no better than

    N_eff = N * (1 - rho) / (1 + rho)

independent ones, rho being the autocorrelation of neighbours' residuals. The band is therefore that
of a prediction: residual variance and covariance of the fit, both from N_eff rows, and Student's t.
`benchmarks/law_coverage.py` counts what it holds: of 90 %, 94 to 100 in the published records.

L: searched layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_UPPER = 0.95  # of two sides: 90 %
_FEWEST_ROWS = 3.0
_HIGHEST_RHO = 0.98


@dataclass(frozen=True, eq=False)
class FitError:
    """Of fits of log w_l on log tau.

    residual: variance of the rows about the law, (L,); covariance: of (log alpha_l, beta_l),
    (L, 2, 2); freedom: the degrees of freedom with which both are known, (L,).
    """

    residual: FloatArray
    covariance: FloatArray
    freedom: FloatArray

    @classmethod
    def of(cls, log_tau: FloatArray, residuals: FloatArray) -> Self:
        """log_tau: (N,); residuals: (N, L), in the order of the record."""
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
        """How far from the law's the logarithms of 90 % of other searches' widths should lie at
        most, at sizes tau (...): shape (..., L)."""
        from scipy.special import stdtrit  # noqa: PLC0415  (slow to import)

        row = np.stack([np.ones_like(tau), np.log(tau)], axis=-1)
        fitted = np.einsum("...i,lij,...j->...l", row, self.covariance, row)
        deviation = np.sqrt(self.residual + np.maximum(fitted, 0.0))
        result: FloatArray = stdtrit(self.freedom, _UPPER) * deviation
        return result

    def per_unit(self, unit: float) -> "FitError":
        """Of the same law over sizes that are counted in units of `unit`."""
        change = np.array([[1.0, np.log(unit)], [0.0, 1.0]])
        return FitError(self.residual, change @ self.covariance @ change.T, self.freedom)

    def __add__(self, other: "FitError") -> "FitError":
        """Of the product of two laws that were fitted to different records."""
        return FitError(
            self.residual + other.residual,
            self.covariance + other.covariance,
            np.minimum(self.freedom, other.freedom),
        )

    def __mul__(self, factor: float) -> "FitError":
        """Of a law to the power of the root of `factor`."""
        return FitError(self.residual * factor, self.covariance * factor, self.freedom)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; `from_dict` gives back exactly the same."""
        return {
            "residual": self.residual.tolist(),
            "covariance": self.covariance.tolist(),
            "freedom": self.freedom.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(*(np.array(data[name]) for name in ("residual", "covariance", "freedom")))
