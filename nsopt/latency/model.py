"""A latency model: widths to milliseconds on one device, from the kernels a network is made of.

Kernels are measured alone over their channels (`tables`), and their sum is corrected on whole
networks: milliseconds = a * convolutions whose channels fill whole blocks + b * other convolutions
+ c * everything else on tensors that a cache holds + d * on larger ones + e per network, all not
negative (scikit-learn). As whole blocks are faster, a wider network may be the quicker one.
L: searched layers; N: rows of widths.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.latency.tables import BLOCK, Table
from nsopt.scaling.cost import IntArray, checked_rows
from nsopt.scaling.law import FloatArray
from nsopt.scaling.metric import LATENCY

_IN_CACHE = 4 * 2**20  # elements that a call reads and writes: 16 MB
_WHOLE, _RAGGED, _NEAR, _FAR, _CONSTANT = range(5)
FEATURES = 5


@dataclass(frozen=True, eq=False)
class Term:
    """One call as a function of the widths.

    table: of its kind; factors, constants: sizes are `factors @ widths + constants`, (D, L) and
    (D,); convolution: whether it counts as one; unless_equal: two linear functions of the widths,
    each (L,) and a constant, that make the call vanish where they agree.
    """

    table: int
    factors: IntArray
    constants: IntArray
    convolution: bool
    unless_equal: tuple[tuple[IntArray, int], tuple[IntArray, int]] | None = None

    def sizes(self, widths: IntArray) -> FloatArray:
        """(..., D) for widths (..., L)."""
        return (widths @ self.factors.T + self.constants).astype(np.float64)

    def exists(self, widths: IntArray) -> NDArray[np.bool_]:
        """Whether networks of these widths make the call, (...)."""
        if self.unless_equal is None:
            return np.ones(widths.shape[:-1], dtype=np.bool_)
        (one, plus), (other, more) = self.unless_equal
        return np.asarray(widths @ one + plus != widths @ other + more)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        functions = self.unless_equal
        return {
            "table": self.table,
            "factors": self.factors.tolist(),
            "constants": self.constants.tolist(),
            "convolution": self.convolution,
            "unless_equal": functions and [[one.tolist(), plus] for one, plus in functions],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        functions = None
        if data["unless_equal"]:
            one, other = ((np.array(factors), plus) for factors, plus in data["unless_equal"])
            functions = (one, other)
        factors, constants = np.array(data["factors"]), np.array(data["constants"])
        return cls(data["table"], factors, constants, data["convolution"], functions)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """A `CostModel` in milliseconds. correction: a to e."""

    tables: tuple[Table, ...]
    terms: tuple[Term, ...]
    layers: int
    correction: FloatArray
    metric = LATENCY.name

    def __call__(self, widths: ArrayLike) -> float | FloatArray:
        w = checked_rows(widths, self.layers)
        return _plain(self.features(w) @ self.correction)

    def lower_bound(self, widths: ArrayLike) -> float | FloatArray:
        """The latency without the calls that equal widths can remove, all blocks counted whole."""
        w = checked_rows(widths, self.layers)
        least = self.correction.copy()
        for pair in (slice(_WHOLE, _NEAR), slice(_NEAR, _CONSTANT)):
            least[pair] = least[pair].min()
        return _plain(self.features(w, always=True) @ least)

    def marginal(self, widths: ArrayLike) -> FloatArray:
        """Milliseconds per filter more of each layer, over a block of them: (L,), or (N, L)."""
        w = checked_rows(widths, self.layers)
        wider = w[..., None, :] + BLOCK * np.eye(self.layers, dtype=np.int64)
        smooth = self.correction.copy()
        smooth[:_NEAR] = smooth[:_NEAR].max()
        grown: FloatArray = self.features(wider) @ smooth
        return (grown - (self.features(w) @ smooth)[..., None]) / BLOCK

    def features(self, widths: IntArray, always: bool = False) -> FloatArray:
        """Uncorrected milliseconds in convolutions on whole blocks, in others, in everything else
        near and far, and 1: (..., 5). always: only of calls that all networks make."""
        result = np.zeros((*widths.shape[:-1], FEATURES))
        result[..., _CONSTANT] = 1.0
        for term in self.terms:
            if always and term.unless_equal is not None:
                continue
            sizes = term.sizes(widths)
            taken = np.where(term.exists(widths), self.tables[term.table].at(sizes), 0.0)
            if term.convolution:
                cheap = ((sizes % BLOCK == 0) | (term.factors.sum(axis=1) == 0)).all(axis=-1)
            else:
                cheap = sizes[..., 0] <= _IN_CACHE
            first = _WHOLE if term.convolution else _NEAR
            result[..., first] += np.where(cheap, taken, 0.0)
            result[..., first + 1] += np.where(cheap, 0.0, taken)
        return result

    def corrected(self, widths: ArrayLike, measured: ArrayLike) -> "LatencyModel":
        """The model whose correction fits whole networks best, relative to their latency.

        widths: (M, L); measured: their milliseconds, (M,).
        """
        from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)

        milliseconds = np.asarray(measured, dtype=np.float64)
        relative = self.features(checked_rows(widths, self.layers)) / milliseconds[:, None]
        fit = LinearRegression(positive=True, fit_intercept=False)
        fit.fit(relative, np.ones(len(milliseconds)))
        return replace(self, correction=fit.coef_.astype(np.float64))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "tables": [table.to_dict() for table in self.tables],
            "terms": [term.to_dict() for term in self.terms],
            "layers": self.layers,
            "correction": self.correction.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        tables = tuple(Table.from_dict(table) for table in data["tables"])
        terms = tuple(Term.from_dict(term) for term in data["terms"])
        return cls(tables, terms, data["layers"], np.array(data["correction"], dtype=np.float64))


def _plain(total: FloatArray) -> float | FloatArray:
    return float(total) if np.ndim(total) == 0 else total
