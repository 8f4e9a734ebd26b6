"""Power laws between a network's size and its layer widths.

Symbols (paper, section 3.2): tau, size of the network in parameters; w_l, width of layer l;
w_l(tau) = alpha_l * tau ** beta_l. L is the number of searched layers, N a number of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Widths of L layers as a power of size.

    alpha, beta, r2: float64 arrays of shape (L,). `r2` is the coefficient of determination of
    each layer's fit in log-log space; a curve that was not fitted has r2 = 1.
    """

    alpha: FloatArray
    beta: FloatArray
    r2: FloatArray

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "r2"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.alpha.ndim != 1 or not self.alpha.shape == self.beta.shape == self.r2.shape:
            raise NsoptError("alpha, beta and r2 of a law must be lists of one length")
        if not (np.isfinite(self.alpha) & (self.alpha > 0) & np.isfinite(self.beta)).all():
            raise NsoptError("a law needs finite alpha > 0 and finite beta in every layer")

    @classmethod
    def fit(cls, widths: ArrayLike, tau: ArrayLike) -> Self:
        """Fit a law by least squares of log w_l on log tau (Algorithm 2, equations 5 to 8).

        widths: (N, L) positive widths; tau: (N,) positive sizes, at least two of them different.
        """
        from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)
        from sklearn.metrics import r2_score  # noqa: PLC0415

        w, t = np.asarray(widths, dtype=np.float64), np.asarray(tau, dtype=np.float64)
        if w.ndim != 2 or t.shape != w.shape[:1]:
            raise NsoptError(f"widths (N, L) and tau (N,) do not match: {w.shape} and {t.shape}")
        if not (np.isfinite(w).all() and np.isfinite(t).all() and (w > 0).all() and (t > 0).all()):
            raise NsoptError("a law is fitted to positive, finite widths and sizes only")
        if np.unique(t).size < 2:
            raise NsoptError("a law needs widths at two different sizes at least")

        log_tau, log_w = np.log(t)[:, None], np.log(w)
        regression = LinearRegression().fit(log_tau, log_w)
        r2 = r2_score(log_w, regression.predict(log_tau), multioutput="raw_values")
        constant = np.ptp(w, axis=0) == 0
        with np.errstate(over="ignore", under="ignore"):
            alpha = np.exp(regression.intercept_)
        return cls(
            alpha=alpha,
            beta=np.where(constant, 0.0, regression.coef_[:, 0]),
            r2=np.where(constant, 1.0, r2),
        )

    def widths(self, tau: ArrayLike) -> FloatArray:
        """Real-valued widths at `tau`: shape (L,) for a number, (N, L) for an (N,) array."""
        scale = np.asarray(tau, dtype=np.float64)[..., None]
        result: FloatArray = self.alpha * scale**self.beta
        return result

    def to_dict(self) -> dict[str, list[float]]:
        """JSON-safe form; `from_dict` gives back exactly the same law."""
        return {"alpha": self.alpha.tolist(), "beta": self.beta.tolist(), "r2": self.r2.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; `r2` may be missing, as in published laws (then NaN)."""
        try:
            alpha, beta = data["alpha"], data["beta"]
            return cls(alpha=alpha, beta=beta, r2=data.get("r2", [float("nan")] * len(alpha)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NsoptError(
                f"not a law (alpha, beta and r2, a number per layer): {error}"
            ) from None
