"""The networks that a compression returns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from torch import nn

from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError, unknown_name
from nsopt.reports.results import Origin, Results
from nsopt.reports.tables import format_ms, short_number
from nsopt.storage.schema import width_key


@dataclass(frozen=True)
class Compressed:
    """A network at a budget, or the original one.

    Attributes:
        budget: as the user wrote it; `100%` for the original network.
        method: the method that proposed its widths.
        widths: output channels of every searched layer.
        before: the score before fine-tuning, after a few training steps; None if it was not
            measured.
        score: of the validation after fine-tuning; for images their accuracy (%).
        test_score: of the test after fine-tuning, likewise; None for a task without a test.
        cost: its parameters and MACs.
        latency: measured milliseconds per batch.
        model: the network with its weights, in evaluation mode on the CPU. A classifier of images
            takes images that are normalised; files that `nsopt.export` writes as ONNX or pt2 take
            pixels from 0 to 1, because the normalisation is inside.
        kept: a classifier of images with its classes and normalisation; None for other tasks.
    """

    budget: str
    method: str
    widths: tuple[int, ...]
    before: float | None
    score: float
    test_score: float | None
    cost: dict[str, int]
    latency: float | None
    model: nn.Module
    kept: KeptNetwork | None = None

    @property
    def network(self) -> KeptNetwork:
        """A classifier of images for `nsopt.export`. Raises NsoptError for other tasks."""
        if self.kept is None:
            raise NsoptError("only networks of images are exported: use torch.save on .model")
        return self.kept

    @property
    def accuracy(self) -> float:
        """Test accuracy (%) of a classifier of images after fine-tuning."""
        return self.test_accuracy

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy (%) of a classifier of images after fine-tuning."""
        return self.score

    @property
    def test_accuracy(self) -> float:
        """Test accuracy (%) of a classifier of images. Raises NsoptError without a test."""
        if self.test_score is None:
            raise NsoptError("the task has no test: nsopt.Task(..., test=...)")
        return self.test_score

    def describe_scores(self, dense: Self, score_name: str | None) -> dict[str, str]:
        """Return the columns of scores in a table, beside those of the original network.

        Args:
            score_name: of the task; None for images.
        """
        if self.test_score is None or dense.test_score is None:
            return {score_name or "val %": _show_change(self.score, dense.score)}
        validation = f"{self.score:.2f}" if score_name is None else f"{self.score:.4g}"
        return {
            score_name or "val %": validation,
            "test %" if score_name is None else "test": _show_change(
                self.test_score, dense.test_score
            ),
        }


def _show_change(value: float, original: float) -> str:
    return f"{value:.4g}" if value == original else f"{value:.4g} ({value - original:+.2g})"


def _compare(show: Callable[[float], str], cost: float | None, whole: float | None) -> str:
    """Return a cost, and in brackets its share of another one if it differs."""
    if cost is None or whole is None:
        return ""
    return show(cost) if cost == whole else f"{show(cost)} ({cost / whole:.2f}x)"


@dataclass(frozen=True, repr=False)
class Compression:
    """The original network, and a smaller one for each budget: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
        origin: how they were made: all trainings and measurements of a classifier of images, and
            settings and versions for other tasks.
    """

    dense: Compressed
    networks: dict[str, Compressed]
    origin: Results | Origin

    def __getitem__(self, budget: str) -> Compressed:
        if budget not in self.networks:
            raise unknown_name("budget", budget, self.networks)
        return self.networks[budget]

    @property
    def _all(self) -> tuple[Compressed, ...]:
        return self.dense, *self.networks.values()

    @property
    def results(self) -> Results:
        """All trainings and measurements. Raises NsoptError if the task is not of images."""
        if not isinstance(self.origin, Results):
            raise NsoptError("nsopt keeps all trainings only for images: use .networks and .dense")
        return self.origin

    def rows(self) -> list[dict[str, str]]:
        """Return the networks as rows of a table, all values as text, the original one first.

        In brackets are points of the score, and shares of costs, beside the original network.
        """
        dense = self.dense
        score_name = self.origin.score_name if isinstance(self.origin, Origin) else None
        return [
            {
                "budget": network.budget,
                "widths by": network.method if network is not dense else "",
                "before": "" if network.before is None else f"{network.before:.4g}",
                **network.describe_scores(dense, score_name),
                "params": _compare(short_number, network.cost["params"], dense.cost["params"]),
                "MACs": _compare(short_number, network.cost["macs"], dense.cost["macs"]),
                "ms": _compare(format_ms, network.latency, dense.latency),
            }
            for network in self._all
        ]

    def __repr__(self) -> str:
        """Return the rows of the table and the widths as text, in aligned columns."""
        rows = [
            row | {"widths": width_key(network.widths)}
            for row, network in zip(self.rows(), self._all, strict=True)
        ]
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        lengths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, lengths)).rstrip() for line in lines)

    def report(self, folder: Path | str) -> Path:
        """Write a report of the networks, with their numbers as CSV; return its page."""
        if isinstance(self.origin, Results):
            from nsopt.reports.page import write_report  # noqa: PLC0415

            return write_report(self.origin, Path(folder), self.rows())
        from nsopt.reports.own_page import write_own_report  # noqa: PLC0415

        table = pd.DataFrame(
            {
                "budget": network.budget,
                "method": network.method,
                "widths": network.widths,
                "score": network.score,
                "test_score": network.test_score,
                **network.cost,
                "latency_ms": network.latency,
            }
            for network in self._all
        )
        return write_own_report(Path(folder), self.origin, table, self.rows())
