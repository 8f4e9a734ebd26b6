"""A latency model: predict milliseconds on one device from the kernels of a network.

nsopt times each kernel alone over its channels (`Table`). Non-negative least squares
(scikit-learn) corrects the sum of these times on whole networks. It fits a constant, and two
factors for each kind of call: one for cheap calls (a convolution whose channels fill whole blocks,
any other call on tensors that fit a cache), one for expensive calls. Whole blocks are faster, so a
wider network may be faster. A projection on a shortcut reads tensors that have left the caches, and
takes four times as long as its kernel alone. The prediction is never below the time of the fastest
measured network, usually the one with one filter per layer: if launching kernels takes longer than
running them, all small networks take equally long.

L: searched layers; N: rows of widths; T: tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from nsopt.errors import NsoptError
from nsopt.scaling.cost import Channels, FloatArray, IntArray, differ, read_rows
from nsopt.scaling.metric import LATENCY

BLOCK = 16  # channels that kernels work on together
# Arrays that JSON keeps as lists.
_AS_LIST = PlainSerializer(lambda array: array.tolist())
Floats = Annotated[FloatArray, PlainValidator(partial(np.array, dtype=np.float64)), _AS_LIST]
Integers = Annotated[IntArray, PlainValidator(np.array), _AS_LIST]
_IN_CACHE = 4 * 2**20  # elements that a call reads and writes: 16 MB
_CHEAP, _EXPENSIVE = range(2)
_ROLES = _CONVOLUTION, _SHORTCUT, _OTHER = range(3)
_LEAST = 0.5  # smallest factor that corrects the time of a kernel alone
_SHRINKAGE = 2e-5  # pulls factors to the shared ones; a tenth of it, or ten times, works as well


@dataclass(frozen=True, eq=False)
class Table:
    """Milliseconds on a grid of D = 1 or 2 sizes. They never fall as a size grows.

    Between grid points they are interpolated linearly; beyond the last point they are proportional
    to the size.

    Attributes:
        axes: the sizes on the grid, D ascending arrays.
        values: milliseconds on the grid.
        blocks: D block sizes. A size above the block is rounded up to a multiple, as kernels pad.
    """

    axes: tuple[Floats, ...]
    values: Floats
    blocks: tuple[int, ...]

    @classmethod
    def of(
        cls, axes: tuple[FloatArray, ...], measured: FloatArray, blocks: tuple[int, ...]
    ) -> Self:
        """Make a table from measurements.

        Where measurements fall, the table has the mean of two monotone versions: values raised to
        the largest before them, and values lowered to the smallest after them.
        """
        raised, lowered = measured, np.flip(measured)
        for axis in range(measured.ndim):
            raised = np.maximum.accumulate(raised, axis=axis)
            lowered = np.minimum.accumulate(lowered, axis=axis)
        return cls(axes, (raised + np.flip(lowered)) / 2, blocks)

    def at(self, sizes: FloatArray) -> FloatArray:
        """Return milliseconds (...) at sizes (..., D)."""
        from scipy.ndimage import map_coordinates  # noqa: PLC0415  (slow to import)

        blocks = np.array(self.blocks)
        padded = np.where(sizes > blocks, np.ceil(sizes / blocks) * blocks, sizes)
        places = [np.interp(padded[..., d], a, np.arange(a.size)) for d, a in enumerate(self.axes)]
        flat = np.reshape(places, (len(places), -1))
        result: FloatArray = map_coordinates(self.values, flat, order=1, mode="nearest")
        result = result.reshape(sizes.shape[:-1])
        for d, axis in enumerate(self.axes):
            result = result * np.maximum(padded[..., d] / axis[-1], 1.0)
        return result


@dataclass(frozen=True, eq=False)
class Term:
    """One call as a function of the widths.

    Attributes:
        table: index of its table.
        factors: (D, L); the D sizes of the call are `factors @ widths + constants`.
        constants: (D,).
        unless_equal: as in `Operation`.
    """

    table: int
    factors: Integers
    constants: Integers
    convolution: bool
    unless_equal: tuple[Channels, Channels] | None

    def sizes(self, widths: IntArray) -> FloatArray:
        """Return the sizes (..., D) for widths (..., L)."""
        return (widths @ self.factors.T + self.constants).astype(np.float64)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """A `CostModel` in milliseconds.

    Attributes:
        tables: T tables of kernel times.
        layers: L.
        factors: factors of each table's cheap and expensive calls, (T, 2).
        constant: milliseconds that every network takes.
        floor: milliseconds of the fastest measured network.
    """

    tables: tuple[Table, ...]
    terms: tuple[Term, ...]
    layers: int
    factors: Floats
    constant: float
    floor: float
    metric = LATENCY.name

    def __call__(self, widths: ArrayLike) -> float | FloatArray:
        w = read_rows(widths, self.layers)
        return self._apply_floor(_sum_parts(self.parts(w), self.factors))

    def lower_bound(self, widths: ArrayLike) -> float | FloatArray:
        """Return the latency with only cheap calls, without those that equal widths can remove."""
        w = read_rows(widths, self.layers)
        least = self.factors.min(axis=1, keepdims=True)
        return self._apply_floor(_sum_parts(self.parts(w, always=True), least))

    def _apply_floor(self, total: FloatArray) -> float | FloatArray:
        milliseconds: FloatArray = np.maximum(total + self.constant, self.floor)
        return float(milliseconds) if np.ndim(milliseconds) == 0 else milliseconds

    def scaled(self, factor: float) -> Self:
        """Return the model of a device that takes `factor` times as long."""
        scaled = {name: factor * getattr(self, name) for name in ("factors", "constant", "floor")}
        return replace(self, **scaled)

    def marginal(self, widths: ArrayLike) -> FloatArray:
        """Return milliseconds per additional filter of each layer: (L,), or (N, L).

        This is an average over one block of filters.
        """
        w = read_rows(widths, self.layers)
        wider = w[..., None, :] + BLOCK * np.eye(self.layers, dtype=np.int64)
        smooth = self.factors.max(axis=1, keepdims=True)
        grown = _sum_parts(self.parts(wider), smooth)
        return (grown - _sum_parts(self.parts(w), smooth)[..., None]) / BLOCK

    def parts(self, widths: IntArray, always: bool = False) -> FloatArray:
        """Return uncorrected milliseconds of each table's cheap and expensive calls, (..., T, 2).

        Args:
            widths: (..., L).
            always: whether to leave out calls that equal widths can remove.
        """
        result = np.zeros((*widths.shape[:-1], len(self.tables), 2))
        for term in self.terms:
            if always and term.unless_equal is not None:
                continue
            sizes, exists = term.sizes(widths), differ(term.unless_equal, widths)
            milliseconds = np.where(exists, self.tables[term.table].at(sizes), 0.0)
            if term.convolution:
                cheap = ((sizes % BLOCK == 0) | (term.factors.sum(axis=1) == 0)).all(axis=-1)
            else:
                cheap = sizes[..., 0] <= _IN_CACHE
            result[..., term.table, _CHEAP] += np.where(cheap, milliseconds, 0.0)
            result[..., term.table, _EXPENSIVE] += np.where(cheap, 0.0, milliseconds)
        return result

    def fitted_to(self, widths: ArrayLike, measured: ArrayLike) -> "LatencyModel":
        """Return the model with the smallest relative errors on M measured networks.

        First all tables of one role share two factors; then each table gets its own factors, shrunk
        towards the shared ones.

        Args:
            widths: (M, L).
            measured: milliseconds of these networks, (M,).
        """
        every = 1 / np.asarray(measured, dtype=np.float64)[:, None]
        parts = self.parts(read_rows(widths, self.layers)) * every[..., None]
        roles = _find_roles(self.terms, len(self.tables))
        sums = [parts[:, roles == role].sum(axis=1) for role in _ROLES]
        fit = _fit(np.hstack([*sums, every]), np.ones(len(every)))
        shared = fit[:-1].reshape(len(_ROLES), 2)[roles]
        design = np.hstack([(parts * shared).reshape(len(every), -1), fit[-1] * every])
        drawn = np.sqrt(_SHRINKAGE * len(every)) * np.eye(design.shape[1])
        target = np.concatenate([np.ones(len(every)), drawn.sum(axis=1)])
        change = _fit(np.vstack([design, drawn]), target)
        factors = shared * change[:-1].reshape(shared.shape)
        return replace(self, factors=factors, constant=float(fit[-1] * change[-1]))

    def to_dict(self) -> dict[str, Any]:
        stored: dict[str, Any] = _MODEL.dump_python(self, mode="json")
        return stored

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "LatencyModel":
        """Read what `to_dict` returned. Raises NsoptError for another format."""
        if "factors" not in data:
            raise NsoptError("the stored latency model has another format: start a new storage")
        return _MODEL.validate_python(data)


_MODEL = TypeAdapter(LatencyModel)


def _find_roles(terms: Sequence[Term], tables: int) -> IntArray:
    """Return the role of each table's calls, (T,)."""
    roles = np.full(tables, _OTHER)
    for term in terms:
        if term.unless_equal is not None:
            roles[term.table] = _SHORTCUT
        elif term.convolution:
            roles[term.table] = _CONVOLUTION
    return roles


def _fit(rows: FloatArray, target: FloatArray) -> FloatArray:
    """Least squares with factors of at least `_LEAST` and a last factor of at least 0."""
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)

    least = np.append(np.full(rows.shape[1] - 1, _LEAST), 0.0)
    fit = LinearRegression(positive=True, fit_intercept=False).fit(rows, target - rows @ least)
    return np.asarray(least + fit.coef_, dtype=np.float64)


def _sum_parts(parts: FloatArray, factors: FloatArray) -> FloatArray:
    """Sum (..., T, 2) to (...)."""
    total: FloatArray = (parts * factors).sum(axis=(-2, -1))
    return total
