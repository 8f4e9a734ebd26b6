"""What a compression returns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import unknown_name
from nsopt.isolation import public
from nsopt.notebook import make_html_table
from nsopt.reports.tables import format_networks
from nsopt.session.workspace import Workspace
from nsopt.storage.schema import NetworkRow, TaskDescription, width_key

if TYPE_CHECKING:
    from nsopt.reports.results import Results


@dataclass(frozen=True)
class Compressed:
    """A network at a budget, or the original one.

    Attributes:
        budget: as the user wrote it; `100%` for the original network.
        network: the network with everything needed to use it, as `nsopt.export` takes it. A
            classifier of images takes images that are normalised; files that `nsopt.export` writes
            as ONNX or pt2 take pixels from 0 to 1, because the normalisation is inside.
        agreement: of the fitted network with the original one, before training (%); None for the
            original network.
        error: standard error of the validation accuracy of a classifier of images, in points.
        cost: its parameters and MACs, and what else has a budget, by metric.
        latency: measured milliseconds per batch; None if it was not timed.
        epochs: of training; fewer than the `planned` ones if it was interrupted.
    """

    budget: str
    network: KeptNetwork
    agreement: float | None
    error: float | None
    cost: dict[str, int]
    latency: float | None
    epochs: int
    planned: int

    @property
    def model(self) -> nn.Module:
        """The module with its weights, in evaluation mode on the CPU."""
        return self.network.model

    @property
    def method(self) -> str:
        """The method that proposed its widths."""
        return self.network.method

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of every searched layer."""
        return self.network.widths

    @property
    def score(self) -> float:
        """The score of the validation after fine-tuning; for images their accuracy (%)."""
        return self.network.score

    @property
    def test_score(self) -> float | None:
        """The score of the test after fine-tuning; None for a task without a test."""
        return self.network.test_score

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy (%) of a classifier of images."""
        return self.network.score

    @property
    def test_accuracy(self) -> float:
        """Test accuracy (%) of a classifier of images. Raises NsoptError without a test."""
        return self.network.test_accuracy

    @property
    def accuracy(self) -> float:
        """Test accuracy (%), as `test_accuracy`."""
        return self.test_accuracy


@dataclass(frozen=True, repr=False)
class Compression(Mapping[str, Compressed]):
    """The original network, and the smaller ones by their budgets: `result[budget]`.

    Attributes:
        dense: the original network.
        networks: the smaller networks, by the budgets as the user wrote them.
        name: prefix of the names of its Optuna studies.
        about: network and data.
    """

    dense: Compressed
    networks: dict[str, Compressed]
    name: str
    about: TaskDescription
    _workspace: Workspace

    def __getitem__(self, budget: str) -> Compressed:
        if budget not in self.networks:
            raise unknown_name("budget", budget, self.networks)
        return self.networks[budget]

    def __iter__(self) -> Iterator[str]:
        return iter(self.networks)

    def __len__(self) -> int:
        return len(self.networks)

    def __contains__(self, budget: object) -> bool:
        return budget in self.networks

    def get(self, budget: str, default: Any = None) -> Any:
        return self.networks.get(budget, default)

    @property
    def is_interrupted(self) -> bool:
        """Whether a training was interrupted; the same call continues."""
        return any(network.epochs < network.planned for network in self.networks.values())

    @property
    def _all(self) -> tuple[Compressed, ...]:
        return self.dense, *self.networks.values()

    @property
    def results(self) -> "Results":
        """All trainings and measurements, as reports read them from the storage."""
        from nsopt.reports.results import read_results  # noqa: PLC0415

        return read_results(self._workspace.url, self.name, self._workspace.storage)

    def rows(self) -> list[NetworkRow]:
        """Return the numbers of the networks, the original one first."""
        return [
            NetworkRow(
                budget=network.budget,
                widths_by=network.method,
                agreement=network.agreement,
                score=network.score,
                error=network.error,
                test_score=network.test_score,
                latency_ms=network.latency,
                params=network.cost["params"],
                macs=network.cost["macs"],
                epochs=network.epochs,
                planned=network.planned,
            )
            for network in self._all
        ]

    def _format(self) -> list[dict[str, str]]:
        return format_networks(self.rows(), self.about.score_name)

    def __repr__(self) -> str:
        """Return the rows of the table and the widths as text, in aligned columns."""
        rows = [
            row | {"widths": width_key(network.widths)}
            for row, network in zip(self._format(), self._all, strict=True)
        ]
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        lengths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, lengths)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        return make_html_table(self._format(), self.name)

    @public
    def report(self, folder: Path | str) -> Path:
        """Write a report of the networks, with their numbers as CSV; return its page."""
        from nsopt.reports.page import write_report  # noqa: PLC0415

        return write_report(self.results, Path(folder))
