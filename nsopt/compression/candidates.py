"""The widths at a budget: a few candidates, each fitted to the trained network and compared.

For each ranking of its units (`Fits.rankings`) these are the widths that lose least for what they
cost (a greedy knapsack: `UnitRanking.widths_per_cost`), and those halfway between them and uniform
ones; and the uniform ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nsopt.compression.budgets import Solver
from nsopt.compression.fits import Fits
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.latency.budget import Widths
from nsopt.scaling.law import uniform_curve
from nsopt.storage.schema import HALFWAY, UNIFORM, StoredCandidate
from nsopt.tasks.agreement import Agreement, is_closer


@dataclass(frozen=True, eq=False)
class Candidate:
    """Widths at a budget, and how closely their fitted network follows the trained one."""

    name: str
    widths: Widths
    agreement: Agreement

    def store(self, is_trained: bool) -> StoredCandidate:
        return StoredCandidate(self.name, self.widths, self.agreement.percentage, is_trained)


def choose_widths(fits: Fits, solver: Solver, uniform: Widths) -> list[StoredCandidate]:
    """Return the candidates at the budget of `solver`, those that agree best first.

    The first is trained, and the next if their agreements do not tell them apart.

    Raises:
        NsoptError: if the distance of no candidate is a usable number.
    """
    session, budget, candidates = fits.session, solver.budget, list[Candidate]()
    for widths, name in dict(_list_candidates(fits, solver, uniform)).items():
        session.progress.start(f"{budget.word}: widths by {name}", 1)
        model = fits.fit_briefly(widths)
        candidates.append(Candidate(name, widths, fits.compare(model)))
    _check_distances(candidates)
    ranked = sorted(candidates, key=lambda candidate: -candidate.agreement.percentage)
    first, *others = ranked
    shown = ", ".join(f"{c.name} {c.agreement.percentage:.1f} %" for c in ranked)
    session.progress.message(f"{budget.word}: agreement of fitted widths: {shown}")
    is_close = others and not is_closer(first.agreement, others[0].agreement)
    trained = 1 + bool(is_close and session.subject.settings.training.epochs)
    return [candidate.store(place < trained) for place, candidate in enumerate(ranked)]


def _list_candidates(fits: Fits, solver: Solver, uniform: Widths) -> Iterator[tuple[Widths, str]]:
    """Yield widths and names, uniform ones last; those that do not fit the budget are left out."""
    cost, limit = solver.budget.metric.cost(solver.arch), solver.budget.limit
    for name, ranking in fits.rankings.items():
        try:
            least = solver.solve(uniform_curve(ranking.widths_per_cost(cost, limit)))
            yield least, name
            halfway = uniform_curve(np.sqrt(np.multiply(least, uniform)))
            yield solver.solve(halfway), f"{name}{HALFWAY}"
        except NoWidthsError as error:
            fits.session.progress.message(f"no widths by {name}: {error}")
    yield uniform, UNIFORM


def _check_distances(candidates: list[Candidate]) -> None:
    """Raise NsoptError if the distances of all networks are too large to compare them."""
    if any(candidate.agreement.percentage for candidate in candidates):
        return
    found = min(float(candidate.agreement.distances.mean()) for candidate in candidates)
    if math.isfinite(found):
        raise NsoptError(
            f"distance= returned {found:.3g} for an example of a smaller network: divide it, so "
            "that it is about 1 for unrelated outputs"
        )
    raise NsoptError(
        "the outputs of every smaller network are infinitely far from those of the trained one: "
        "give the task a distance= that is finite"
    )
