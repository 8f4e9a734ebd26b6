"""Scaling laws: how the widths of a network's layers follow its size.

Symbols (paper, section 3.2): tau, size of the network in parameters; w_l, width of layer l;
w_l(tau) = alpha_l * tau ** beta_l. L is the number of searched layers, N a number of rows.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from nsopt.errors import NsoptError
from nsopt.notebook import make_html_table
from nsopt.scaling.cost import FloatArray, IntArray, Widths, read_numbers
from nsopt.settings import checked

_LARGEST = np.finfo(np.float64).max  # width that a steep law gives at huge sizes
_OUTSIDE = 0.005  # a budget farther from the record than this share of it is outside
_ROUNDING = 1 + 1e-12  # 1.15 * 100 is 115, but a little less in floating point
_REACHED = 1 + 1e-9  # a constant width below an integer by less than this counts as the integer


class ScalingLaw(Protocol):
    """The widths of L layers along a scale, which is a size or a multiplier.

    Widths never fall as the scale grows.
    """

    @property
    def layers(self) -> int:
        """L, the number of layers."""

    def widths(self, tau: ArrayLike) -> FloatArray:
        """Return real-valued widths: (L,) for a number, (N, L) for an (N,) array."""

    def scales(self, layer: int, widths: FloatArray) -> FloatArray:
        """Return the smallest scales (N,) at which `layer` reaches each of `widths` (N,).

        The scale is 0 for a width that the layer always has, infinity for one it never reaches.
        """


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """The widths of L layers as powers of the network's size: w_l = alpha_l * tau ** beta_l.

    Products and powers of power laws are power laws: `law * other` multiplies the widths at every
    scale, `law ** p` raises them to the power p.

    Attributes:
        alpha: float64 (L,).
        beta: float64 (L,).
        r2: coefficient of determination of each layer's fit in log-log space, float64 (L,); 1 for a
            law that was not fitted.
        recorded: widths of the smallest and of the largest network to which the law was fitted,
            (2, L), or None. Outside them the law is extrapolated.
    """

    alpha: FloatArray
    beta: FloatArray
    r2: FloatArray
    recorded: FloatArray | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "r2", *(["recorded"] if self.recorded is not None else [])):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.alpha.shape == (0,):
            raise NsoptError("a law needs at least one layer")
        if self.alpha.ndim != 1 or not self.alpha.shape == self.beta.shape == self.r2.shape:
            raise NsoptError("alpha, beta and r2 of a law must be lists of the same length")
        if not (np.isfinite(self.alpha) & (self.alpha > 0) & np.isfinite(self.beta)).all():
            raise NsoptError("a law needs finite alpha > 0 and finite beta in every layer")
        if self.recorded is not None and self.recorded.shape != (2, self.layers):
            raise NsoptError("the recorded widths of a law must be of two networks, (2, L)")

    def __repr__(self) -> str:
        beta, r2 = (f"{each.min():.3g} to {each.max():.3g}" for each in (self.beta, self.r2))
        return f"PowerLaw({self.layers} layers, beta {beta}, r2 {r2})"

    def _repr_html_(self) -> str:
        columns = zip(self.alpha, self.beta, self.r2, strict=True)
        rows = [
            {"layer": layer, "alpha": f"{alpha:.4g}", "beta": f"{beta:.3f}", "r2": f"{r2:.3f}"}
            for layer, (alpha, beta, r2) in enumerate(columns, start=1)
        ]
        return make_html_table(rows, "width = alpha * size ** beta")

    @classmethod
    @checked
    def fit(cls, widths: ArrayLike, tau: ArrayLike) -> Self:
        """Fit a law by least squares of log w_l on log tau (Algorithm 2, equations 5 to 8).

        A layer whose width never changes keeps exactly that width (beta = 0).

        Args:
            widths: positive widths (N, L).
            tau: positive sizes (N,), at least two of them different.

        Raises:
            NsoptError: for any other widths or sizes.

        Examples:
            >>> law = nsopt.PowerLaw.fit([[4, 8], [8, 32], [16, 128]], [10, 20, 40])
            >>> law.widths(80).round()
            array([ 32., 512.])
        """
        from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)
        from sklearn.metrics import r2_score  # noqa: PLC0415

        w, t = read_numbers("widths", widths), read_numbers("tau", tau)
        if w.ndim != 2 or t.shape != w.shape[:1]:
            raise NsoptError(
                f"widths and tau do not match: they must be (N, L) and (N,), not {w.shape} and "
                f"{t.shape}"
            )
        if not (np.isfinite(w).all() and np.isfinite(t).all() and (w > 0).all() and (t > 0).all()):
            raise NsoptError("the widths and sizes of a fit must be positive and finite")
        if np.unique(t).size < 2:
            raise NsoptError("a law needs at least two different sizes")

        log_tau, log_w = np.log(t)[:, None], np.log(w)
        regression = LinearRegression().fit(log_tau, log_w)
        r2 = r2_score(log_w, regression.predict(log_tau), multioutput="raw_values")
        constant = np.ptp(w, axis=0) == 0
        with np.errstate(over="ignore", under="ignore"):
            alpha = np.exp(regression.intercept_)
        return cls(
            alpha=np.where(constant, w[0], alpha),
            beta=np.where(constant, 0.0, regression.coef_[:, 0]),
            r2=np.where(constant, 1.0, r2),
            recorded=w[[t.argmin(), t.argmax()]],
        )

    @property
    def layers(self) -> int:
        return self.alpha.size

    def widths(self, tau: ArrayLike) -> FloatArray:
        """Return real-valued widths at sizes `tau`: (L,) for a number, (N, L) for (N,)."""
        sizes = np.asarray(tau, dtype=np.float64)[..., None]
        with np.errstate(over="ignore"):
            return np.asarray(np.minimum(self.alpha * sizes**self.beta, _LARGEST))

    def beyond(self, cost: Callable[[IntArray], Any], budget: ArrayLike) -> Any:
        """Return how far budgets are outside the record.

        Args:
            cost: maps widths (L,) to a cost in the unit of the budget.
            budget: a number or an (N,) array.

        Returns:
            The budget over the cost of the largest recorded network if it is above this cost, over
            the cost of the smallest one if it is below; for N budgets (N,), with 1 inside the
            record or half a percent outside. None if all are, or if the record is unknown.
        """
        if self.recorded is None:
            return None
        ends = [float(cost(widths)) for widths in self.recorded.astype(np.int64)]
        budgets = read_numbers("budget", budget)
        factor = np.asarray(budgets / np.clip(budgets, min(ends), max(ends)))
        factor = np.where(np.abs(factor - 1) < _OUTSIDE, 1.0, factor)
        if (factor == 1).all():
            return None
        return float(factor) if factor.ndim == 0 else factor

    def scales(self, layer: int, widths: FloatArray) -> FloatArray:
        alpha, beta = self.alpha[layer], self.beta[layer]
        if beta <= 0:
            return np.where(widths <= alpha * _REACHED, 0.0, np.inf)
        with np.errstate(over="ignore"):
            return np.asarray((widths / alpha) ** (1 / beta))

    def __mul__(self, other: "PowerLaw") -> "PowerLaw":
        """Multiply the widths of two laws of the same layers.

        The product has the lower r2 and no record.
        """
        if self.layers != other.layers:
            raise NsoptError(
                f"laws of {self.layers} and {other.layers} layers have no product: give two of "
                "one network"
            )
        r2 = np.minimum(self.r2, other.r2)
        return PowerLaw(self.alpha * other.alpha, self.beta + other.beta, r2)

    def __pow__(self, exponent: float) -> "PowerLaw":
        """Raise every width to the power `exponent`."""
        return PowerLaw(self.alpha**exponent, self.beta * exponent, self.r2)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe form, from which `from_dict` makes exactly the same law."""
        arrays = {name: getattr(self, name).tolist() for name in ("alpha", "beta", "r2")}
        recorded = {} if self.recorded is None else {"recorded": self.recorded.tolist()}
        return arrays | recorded

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned.

        `r2` (then NaN) and `recorded` may be missing, as in published laws.

        Raises:
            NsoptError: if `data` is not a law.
        """
        try:
            alpha, beta = data["alpha"], data["beta"]
            r2 = data.get("r2", [float("nan")] * len(alpha))
            return cls(alpha, beta, r2, data.get("recorded"))
        except Exception as error:  # `data` may be anything
            raise NsoptError(
                f"not a law: alpha, beta and r2 need one number per layer ({error})"
            ) from None


def read_law(path: Path, iteration: int | None = None) -> PowerLaw:
    """Return the law in a JSON file.

    A law is an object with `alpha` and `beta`, lists with one number per layer, and optionally `r2`
    and `iteration`.

    Args:
        path: a file with one law or a list of laws.
        iteration: which law of a list to return; None for the last.

    Raises:
        NsoptError: if the file is missing or invalid, or has no such law.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NsoptError(f"cannot read a law from {path}: {error.strerror}: check it") from None
    except ValueError as error:
        raise NsoptError(
            f"{path} is not JSON: {error}: write it with json.dumps(law.to_dict())"
        ) from None
    laws = content if isinstance(content, list) else [content]
    if iteration is not None:
        laws = [law for law in laws if isinstance(law, dict) and law.get("iteration") == iteration]
    if not laws:
        raise NsoptError(f"{path} has no law" + (f" of iteration {iteration}" if iteration else ""))
    return PowerLaw.from_dict(laws[-1])


@checked
def uniform_curve(base_widths: Widths) -> PowerLaw:
    """Return the law s * base_widths (beta = 1), where the scale s is the width multiplier.

    Args:
        base_widths: L widths: those of the network for uniform scaling, or those of a pruned
            network for MorphNet-style scaling and magnitude pruning.

    Examples:
        >>> nsopt.uniform_curve([64, 128]).widths(0.5)
        array([32., 64.])
    """
    base = read_numbers("base_widths", base_widths)
    return PowerLaw(alpha=base, beta=np.ones_like(base), r2=np.ones_like(base))


def floor_widths(ratio: float, base_widths: Widths) -> tuple[int, ...]:
    """Return `ratio` times every base width, rounded down as in the paper, but at least 1.

    The cost of these widths is the budget of all methods at this ratio.
    """
    return tuple(max(1, int(ratio * width * _ROUNDING)) for width in base_widths)
