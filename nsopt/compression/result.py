"""The networks that a compression returns."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

import pandas as pd
from torch import nn

from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import unknown_name
from nsopt.reports.results import Origin, Results
from nsopt.reports.tables import format_ms, short_number
from nsopt.storage.schema import width_key

Network = TypeVar("Network", bound="Compressed")


@dataclass(frozen=True)
class Compressed:
    """A network at a budget, or the original one.

    Attributes:
        budget: as the user wrote it; `100%` for the original network.
        method: the method that proposed its widths.
        widths: output channels of every searched layer.
        before: validation accuracy (%), or the user's score, before fine-tuning, after a few
            training steps; None if it was not measured. A classifier's widths are ranked by
            agreement with the trained network, which is only in the study of scores.
        accuracy: test accuracy (%), or the user's score, after fine-tuning.
        cost: its parameters and MACs.
        latency: measured milliseconds per batch of `latency_batch_size` images; with the user's
            loader and no budget in milliseconds, per batch of the loader. None if inputs are not
            images.
        model: the network with its weights, in evaluation mode on the CPU.
    """

    budget: str
    method: str
    widths: tuple[int, ...]
    before: float | None
    accuracy: float
    cost: dict[str, int]
    latency: float | None
    model: nn.Module

    def accuracies(self, dense: Self) -> dict[str, str]:
        """Return the columns of accuracy in a table, beside those of the original network."""
        return {"score": _show_change(self.accuracy, dense.accuracy)}


@dataclass(frozen=True)
class CompressedClassifier(Compressed):
    """A classifier. It has all attributes of `Compressed`.

    Like the original network, `model` takes images that are normalised. Files that `nsopt.export`
    writes as ONNX or pt2 take pixels from 0 to 1, because the normalisation is inside.

    Attributes:
        network: the model with its classes and normalisation, for `nsopt.export`.
    """

    network: KeptNetwork

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy (%) after fine-tuning."""
        return self.network.val_accuracy

    @property
    def test_accuracy(self) -> float:
        """Test accuracy (%) after fine-tuning."""
        return self.network.test_accuracy

    def accuracies(self, dense: Self) -> dict[str, str]:
        return {
            "val %": f"{self.val_accuracy:.2f}",
            "test %": _show_change(self.test_accuracy, dense.test_accuracy),
        }


def _show_change(value: float, original: float) -> str:
    return f"{value:.4g}" if value == original else f"{value:.4g} ({value - original:+.2g})"


def _compare(show: Callable[[float], str], cost: float | None, whole: float | None) -> str:
    """Return a cost, and in brackets its share of another one if it differs."""
    if cost is None or whole is None:
        return ""
    return show(cost) if cost == whole else f"{show(cost)} ({cost / whole:.2f}x)"


@dataclass(frozen=True, repr=False)
class _Networks(Generic[Network]):
    """The original network, and a smaller one for each budget."""

    dense: Network
    networks: dict[str, Network]

    def __getitem__(self, budget: str) -> Network:
        if budget not in self.networks:
            raise unknown_name("budget", budget, self.networks)
        return self.networks[budget]

    @property
    def _all(self) -> tuple[Network, ...]:
        return self.dense, *self.networks.values()

    def rows(self) -> list[dict[str, str]]:
        """Return the networks as rows of a table, all values as text, the original one first.

        In brackets are points of accuracy, and shares of costs, beside the original network.
        """
        dense = self.dense
        return [
            {
                "budget": each.budget,
                "widths by": each.method if each is not dense else "",
                "before": "" if each.before is None else f"{each.before:.4g}",
                **each.accuracies(dense),
                "params": _compare(short_number, each.cost["params"], dense.cost["params"]),
                "MACs": _compare(short_number, each.cost["macs"], dense.cost["macs"]),
                "ms": _compare(format_ms, each.latency, dense.latency),
            }
            for each in self._all
        ]

    def __repr__(self) -> str:
        """Return the rows of the table and the widths as text, in aligned columns."""
        rows = [
            row | {"widths": width_key(each.widths)}
            for row, each in zip(self.rows(), self._all, strict=True)
        ]
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        lengths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, lengths)).rstrip() for line in lines)


@dataclass(frozen=True, repr=False)
class OwnCompression(_Networks[Compressed]):
    """The original network of a user's task, and a smaller one for each budget: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
        origin: how they were made.
    """

    origin: Origin

    def report(self, folder: Path | str) -> Path:
        """Write a report of the networks, with numbers as CSV; return the path of its page."""
        from nsopt.reports.own_page import write_own_report  # noqa: PLC0415

        table = pd.DataFrame(
            {
                "budget": each.budget,
                "method": each.method,
                "widths": each.widths,
                "score": each.accuracy,
                **each.cost,
                "latency_ms": each.latency,
            }
            for each in self._all
        )
        return write_own_report(Path(folder), self.origin, table, self.rows())


@dataclass(frozen=True, repr=False)
class Compression(_Networks[CompressedClassifier]):
    """The original classifier, and a smaller one for each budget: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
        results: all trainings and measurements.
    """

    results: Results

    def report(self, folder: Path | str) -> Path:
        """Write the report of `nsopt compress`, and return the path of its page."""
        from nsopt.reports.page import write_report  # noqa: PLC0415

        return write_report(self.results, Path(folder), self.rows())
