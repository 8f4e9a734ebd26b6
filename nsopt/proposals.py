"""`nsopt widths`: from a stored or published law to widths at budgets."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nsopt.console import console
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.models.registry import get_architecture
from nsopt.scaling.law_file import read_law
from nsopt.scaling.power_law import PowerLaw
from nsopt.scaling.solve import solve_widths
from nsopt.tuning import schema
from nsopt.tuning.request import parse_sizes
from nsopt.tuning.storage import (
    load_studies,
    only_comparison,
    open_storage,
    shown,
    storage_errors,
    storage_exists,
)


@dataclass(frozen=True)
class Network:
    """An architecture by name and the shape of its task."""

    arch: str
    classes: int
    image_size: int
    channels: int

    def architecture(self) -> Architecture:
        return get_architecture(self.arch, self.classes, self.image_size, self.channels)


@dataclass(frozen=True)
class Proposal:
    """What `nsopt widths` was asked for; the law is in a file or in a storage."""

    law_file: Path | None
    storage: str | None
    name: str | None
    iteration: int | None
    network: Network
    ratios: str | None
    budgets: str | None
    metric: str
    multiple_of: int
    min_width: int


def print_widths(proposal: Proposal, as_json: bool) -> None:
    """Solve and print. Raises NsoptError for a missing law or a budget that no widths meet."""
    rows = propose(proposal)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in ("ratio", "budget", "params", "macs", "widths"):
        left = name == "widths"
        table.add_column(
            name, justify="left" if left else "right", overflow="fold", no_wrap=not left
        )
    for row in rows:
        numbers = [f"{row[name]:,}" for name in ("budget", "params", "macs")]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
        table.add_row(ratio, *numbers, schema.width_key(row["widths"]))
    console.print(table)


def propose(proposal: Proposal) -> list[dict[str, Any]]:
    """One row per budget: ratio, budget, widths, params, macs."""
    law, network = _law_and_network(proposal)
    arch = network.architecture()
    if law.alpha.size != len(arch.base_widths):
        raise NsoptError(
            f"the law has {law.alpha.size} layers and {arch.name} has {len(arch.base_widths)} "
            "searched widths: give the --arch that it was found on"
        )
    cost = arch.cost(proposal.metric)
    rows = []
    for size in parse_sizes(arch, proposal.metric, proposal.ratios, proposal.budgets, (0.25, 1.0)):
        fit = solve_widths(law, cost, size.budget, proposal.multiple_of, proposal.min_width)
        widths = fit.widths.tolist()
        costs = {metric: arch.cost(metric)(widths) for metric in ("params", "macs")}
        rows.append({"ratio": size.ratio, "budget": size.budget, **costs, "widths": widths})
    return rows


def _law_and_network(proposal: Proposal) -> tuple[PowerLaw, Network]:
    if (proposal.law_file is None) == (proposal.storage is None):
        raise NsoptError("say where the law is: --law FILE or --storage URL")
    if proposal.law_file is not None:
        return read_law(proposal.law_file, proposal.iteration), proposal.network
    url = str(proposal.storage)
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {url}: run a search first")
    with storage_errors(url):
        storage = open_storage(url)
        name = proposal.name or only_comparison(storage)
        studies = load_studies(storage, name)
        if schema.SEARCH not in studies:
            raise NsoptError(f"no search of {name} is stored at {shown(url)}: run one first")
        iterations = schema.read_iterations(studies[schema.SEARCH])
        subject = schema.read_subject(studies[schema.SEARCH])
    number = proposal.iteration or len(iterations)
    if not 1 <= number <= len(iterations):
        raise NsoptError(f"{name} has {len(iterations)} iterations, not {number}")
    network = Network(subject.arch, subject.classes, subject.image_size, subject.channels)
    return iterations[number - 1].law, network
