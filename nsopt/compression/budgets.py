"""Budgets as users write them: `macs=50%` of a network, `latency=5ms`, `params=600k`."""

from collections.abc import Sequence
from dataclasses import dataclass

from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.scaling.metric import Metric, get_metric
from nsopt.study.comparison import Size


@dataclass(frozen=True)
class Budget:
    """The most that a network may cost. word: as the user wrote it."""

    word: str
    metric: Metric
    size: Size


def check_words(words: Sequence[str]) -> None:
    """Raise NsoptError for a budget that is not `METRIC=LIMIT`."""
    for word in words:
        read_metric(word)


def read_metric(word: str) -> Metric:
    """Return the metric of a budget `METRIC=LIMIT`. Raises NsoptError for another form."""
    name, equals, limit = word.partition("=")
    if not equals or not limit.strip():
        raise NsoptError(f"{word!r} is not a budget: write macs=50%, params=600k or latency=5ms")
    return get_metric(name.strip())


def read_budgets(words: Sequence[str], arch: Architecture) -> tuple[Budget, ...]:
    """Return budgets for networks smaller than the base network.

    Args:
        words: `METRIC=LIMIT`, where a limit is a percentage of the base network's cost (`50%`) or a
            number in the unit of the metric.

    Raises:
        NsoptError: for an empty list, for another form, or for a budget that the base network
            already meets.
    """
    if not words:
        raise NsoptError("give at least one budget, such as macs=50%")
    return tuple(dict.fromkeys(_read(word.strip(), arch) for word in words))


def _read(word: str, arch: Architecture) -> Budget:
    metric = read_metric(word)
    limit = word.partition("=")[2].strip()
    whole = metric.cost(arch)(arch.base_widths)
    if limit.endswith("%"):
        part = _read_percentage(word, limit)
        exact = whole * part
        size = Size(metric, exact if isinstance(whole, float) else int(exact), part)
    else:
        size = Size(metric, metric.read(limit))
    if size.budget >= whole:
        raise NsoptError(
            f"{word}: the network already costs only {metric.show(whole)}; give a smaller budget"
        )
    return Budget(word, metric, size)


def _read_percentage(word: str, limit: str) -> float:
    try:
        part = float(limit.removesuffix("%")) / 100
    except ValueError:
        part = 0.0
    if not 0 < part < 1:
        raise NsoptError(f"{word!r}: a percentage must be between 0 and 100")
    return part
