"""The networks that a compression returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import unknown_name
from nsopt.reports.results import Results
from nsopt.reports.tables import format_ms, short_number

Network = TypeVar("Network", bound="Compressed")


@dataclass(frozen=True)
class Compressed:
    """A network at a budget, or the original one.

    Attributes:
        budget: as the user wrote it; `100%` for the original network.
        method: the method that proposed its widths.
        widths: output channels of every searched layer.
        score: validation accuracy (%), or the user's score, after a few training steps before
            fine-tuning; None if it was not measured. The study of scores has the agreement with the
            trained network, which chose a classifier's widths.
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
    score: float | None
    accuracy: float
    cost: dict[str, int]
    latency: float | None
    model: nn.Module


@dataclass(frozen=True)
class CompressedClassifier(Compressed):
    """A classifier. It has all attributes of `Compressed`.

    Like the original network, `model` takes images that are normalised. Files that `nsopt.export`
    writes as ONNX or pt2 take pixels from 0 to 1, because the normalisation is inside.

    Attributes:
        val_accuracy: validation accuracy (%) after fine-tuning.
        test_accuracy: test accuracy (%) after fine-tuning.
        network: the model with its classes and normalisation, for `nsopt.export`.
    """

    val_accuracy: float
    test_accuracy: float
    network: KeptNetwork


def _find(networks: Mapping[str, Network], budget: str) -> Network:
    if budget not in networks:
        raise unknown_name("budget", budget, networks)
    return networks[budget]


def _describe(networks: Sequence[Compressed]) -> str:
    """Return a table with a line for each network."""
    lines = ["budget  accuracy  params  MACs  ms  widths"]
    for each in networks:
        params, macs = (short_number(each.cost[name]) for name in ("params", "macs"))
        ms = "" if each.latency is None else format_ms(each.latency)
        widths = "-".join(map(str, each.widths))
        lines.append("  ".join([each.budget, f"{each.accuracy:.4g}", params, macs, ms, widths]))
    return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class OwnCompression:
    """The original network of a user's task, and a smaller one for each budget: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
    """

    dense: Compressed
    networks: dict[str, Compressed]

    def __getitem__(self, budget: str) -> Compressed:
        return _find(self.networks, budget)

    def __repr__(self) -> str:
        return _describe([self.dense, *self.networks.values()])


@dataclass(frozen=True, repr=False)
class Compression:
    """The original classifier, and a smaller one for each budget: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
        results: all trainings and measurements.
    """

    dense: CompressedClassifier
    networks: dict[str, CompressedClassifier]
    results: Results

    def __getitem__(self, budget: str) -> CompressedClassifier:
        return _find(self.networks, budget)

    def __repr__(self) -> str:
        return _describe([self.dense, *self.networks.values()])

    def report(self, folder: Path | str) -> Path:
        """Write the report of `nsopt compress`, and return the path of its page.

        It needs the optional dependencies: pip install 'nsopt[report]'.
        """
        from nsopt.reports.page import write_report  # noqa: PLC0415

        return write_report(self.results, Path(folder))
