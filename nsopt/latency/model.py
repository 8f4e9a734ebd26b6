"""A latency model: milliseconds from the MACs and the widths of a network.

Kernels take time for what they multiply, and for the activations that they read and write, which
grow with the widths. Three numbers, fitted to a few networks that are timed in turns, predict
others within a tenth. A prediction only says where a bisection begins, and which layers are cheap:
networks are timed.

L: searched layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from nsopt.compute.device import Compute, resolve_compute
from nsopt.isolation import public
from nsopt.latency.measure import measure_latencies
from nsopt.latency.runtime import TORCH, Measure, Runtime, choose_inputs, choose_runtime
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress, show_progress
from nsopt.scaling.cost import CostModel, FloatArray, read_rows, unwrap, width_limits
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.settings import BATCH_SIZE

_RANDOM = 12  # networks, with the whole one and the narrowest
_SPREAD = 0.6  # standard deviation of their log-widths
_ROUNDS = 4
_FLAT = 1.2  # if base widths take less than this times the narrowest, nsopt warns
A = TypeVar("A", bound=Architecture)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """A `CostModel` in milliseconds: `constant + per_mac * MACs + widths @ per_unit`.

    Attributes:
        macs: counts the MACs.
        per_unit: milliseconds of one unit of each width, (L,).
        constant: milliseconds that every network takes.

    Examples:
        >>> model = LatencyModel(arch.cost("macs"), 2e-6, np.array([0.3, 0.1]), 4.0)
        >>> model([16, 32])
    """

    macs: CostModel
    per_mac: float
    per_unit: FloatArray
    constant: float
    metric = LATENCY.name

    def __call__(self, widths: ArrayLike) -> Any:
        return self._add(self.macs(widths), widths)

    def lower_bound(self, widths: ArrayLike) -> Any:
        return self._add(self.macs.lower_bound(widths), widths)

    def marginal(self, widths: ArrayLike) -> FloatArray:
        return np.asarray(self.per_mac * self.macs.marginal(widths) + self.per_unit)

    def _add(self, macs: Any, widths: ArrayLike) -> Any:
        rows = read_rows(widths, len(self.per_unit))
        return unwrap(self.constant + self.per_mac * np.asarray(macs) + rows @ self.per_unit)

    def scaled(self, factor: float) -> Self:
        """Return the model of a device that takes `factor` times as long."""
        scaled = {n: factor * getattr(self, n) for n in ("per_mac", "per_unit", "constant")}
        return replace(self, **scaled)

    def to_dict(self) -> dict[str, Any]:
        return {
            "per_mac": self.per_mac,
            "per_unit": self.per_unit.tolist(),
            "constant": self.constant,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], arch: Architecture) -> Self:
        """Read what `to_dict` returned. Raises ValueError for a network of other layers."""
        per_unit = np.array(data["per_unit"], dtype=np.float64)
        if per_unit.shape != (len(arch.base_widths),):
            raise ValueError("it is of a network with other layers")
        return cls(MACS.cost(arch), float(data["per_mac"]), per_unit, float(data["constant"]))


def fit_latency(
    arch: Architecture, networks: Sequence[Sequence[int]], milliseconds: Sequence[float]
) -> LatencyModel:
    """Return the model with the smallest relative errors on timed networks.

    A unit of a layer adds in proportion to its share of the layer at base widths: layers of few
    units usually compute on large activations.

    Args:
        networks: M rows of L widths.
        milliseconds: of these networks, (M,).
    """
    from sklearn.linear_model import LinearRegression  # noqa: PLC0415  (0.6 s to import)

    macs, base = MACS.cost(arch), np.array(arch.base_widths)
    share = 1 / (len(base) * base)
    widths = np.array(networks)
    whole = float(macs(base)) or 1.0
    terms = np.column_stack([macs(widths) / whole, widths @ share, np.ones(len(widths))])
    relative = terms / np.asarray(milliseconds)[:, None]
    fit = LinearRegression(positive=True, fit_intercept=False).fit(relative, np.ones(len(widths)))
    by_macs, by_widths, constant = fit.coef_.tolist()
    return LatencyModel(macs, by_macs / whole, by_widths * share, constant)


@public
def with_latency(
    arch: A,
    device: str = "auto",
    progress: Progress | None = None,
    runtime: str | Measure = TORCH.name,
    batch_size: int = BATCH_SIZE,
    inputs: Any = None,
) -> A:
    """Return `arch` with `cost("latency")`, which predicts milliseconds for a batch.

    nsopt times 14 networks in turns, and fits their milliseconds to their MACs and widths.

    Args:
        arch: an architecture, registered or traced.
        device: as torch names it, or auto.
        progress: receives steps and warnings; by default bars on a terminal, else lines on stderr;
            `nsopt.Silent()` for silence.
        runtime: runs the networks: torch, or onnxruntime (pip install 'nsopt[export]'); or a
            function that takes a network, in evaluation mode on the CPU, and a batch of inputs, and
            returns milliseconds, for example measured on a phone.
        batch_size: examples per batch.
        inputs: a batch for a network of other inputs than images, of any size: a tensor, a tuple of
            arguments, or a dictionary of keyword arguments.

    Raises:
        NsoptError: if the device or the runtime is not available, or fails.

    Examples:
        >>> arch = nsopt.with_latency(nsopt.get_architecture("vgg11"), "cpu")
        >>> nsopt.solve_widths(nsopt.uniform_curve(arch.base_widths), arch.cost("latency"), 20.0)
    """
    timed_in = choose_runtime(runtime, batch_size)
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display:
        return arch.with_latency(learn_latency(arch, compute, display, timed_in, inputs))


def learn_latency(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    inputs: Any = None,
) -> LatencyModel:
    """Return a latency model of `arch`, exact for the network of base widths.

    Args:
        inputs: a batch with which networks are timed; by default random images.
    """
    networks = sample_widths(arch, _RANDOM, seed=0)
    progress.start(f"timing {len(networks)} networks", 1)
    measured = measure_latencies(
        [build_to_fill(arch, widths) for widths in networks],
        choose_inputs(arch, runtime, inputs),
        compute,
        runtime,
        _ROUNDS,
    )
    whole, narrowest, *_ = milliseconds = [latency.median_ms for latency in measured]
    if whole < _FLAT * narrowest:
        progress.message(
            f"latency hardly depends on widths here: {arch.name} takes {whole:.3g} ms per batch, "
            f"and {narrowest:.3g} ms with its narrowest layers; use metric=params or macs instead"
        )
    model = fit_latency(arch, networks, milliseconds)
    return model.scaled(whole / model(arch.base_widths))


def sample_widths(arch: Architecture, count: int, seed: int) -> list[tuple[int, ...]]:
    """Return the base widths, the narrowest ones, and those of random networks of different sizes
    and shapes."""
    least, most = width_limits(MACS.cost(arch), len(arch.base_widths))
    base, generator = np.array(arch.base_widths), np.random.default_rng(seed)
    samples = [base, least]
    for size in np.geomspace(0.25, 1.0, count):
        spread = np.exp(generator.normal(scale=_SPREAD, size=len(base)))
        samples.append(np.clip(size * base * spread, least, most))
    return [tuple(widths.astype(int).tolist()) for widths in samples]
