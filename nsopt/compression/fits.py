"""Networks without training: widths that a fit loses least by, and the fit of their layers.

Inputs are enough: no targets, no loss.
"""

import time
import zlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import nn

from nsopt.compression.latency import Solver
from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import Widths
from nsopt.pruning.fitting.fit import fit_network
from nsopt.pruning.fitting.inputs import Inputs
from nsopt.pruning.fitting.rank import rank_by_fit
from nsopt.pruning.ranking import UnitRanking
from nsopt.scaling.law import uniform_curve
from nsopt.session.agreement import HeldOutScore, read_batches
from nsopt.session.durations import format_duration
from nsopt.session.session import Session
from nsopt.storage.schema import SCORED
from nsopt.storage.trials import Point
from nsopt.tasks.supervise import has_loss
from nsopt.tasks.task import Task
from nsopt.training.settings import TrainSettings

_BATCH = 64  # images
_CHOOSE, _BEGIN = 2, 5  # times the least number of steps; with fewer, fits choose widths, or begin
_OFTEN, _GENTLE = 10, 0.1  # epochs of fine-tuning; times the learning rate


@dataclass(frozen=True, eq=False)
class Fits:
    """The fits of a session: its inputs, and the ranking of the trained network's units."""

    session: Session
    _fitted: dict[tuple[Widths, int], nn.Module] = field(default_factory=dict)  # by widths, seed

    @cached_property
    def ranking(self) -> UnitRanking:
        session = self.session
        inputs = self._read_inputs(session.subject.settings.training.seed)
        return rank_by_fit(session.subject.arch, session.trained, inputs, session.progress)

    def _read_inputs(self, seed: int) -> Inputs:
        data = self.session.subject.data
        if isinstance(data, Task) and isinstance(data.score, HeldOutScore):
            return Inputs(data.score.fitted)
        return Inputs(read_batches(self.session.supervision.batches(_BATCH, seed)))

    @cached_property
    def lead(self) -> bool:
        """Whether fits choose the widths, and the weights that fine-tuning begins with, if any.

        They do without training, without a loss, and where the epochs have few steps.
        """
        return self._have_fewer_steps(_CHOOSE)

    @cached_property
    def begin(self) -> bool:
        """Whether fine-tuning begins with fits: inherited weights need more steps to recover."""
        return self._have_fewer_steps(_BEGIN)

    def _have_fewer_steps(self, times: int) -> bool:
        subject = self.session.subject
        training = subject.settings.training
        if not has_loss(subject.data):
            return True
        if training.epochs and subject.trainer is not None:
            return False
        return self.count_steps() < max(1, times * (training.least_steps or 0))

    def count_steps(self) -> int:
        return self.session.subject.settings.training.epochs * self._count_batches()

    def announce(self, budgets: int, seeds: int) -> None:
        """Say how many networks are fitted, and why training begins with fits."""
        progress, training = self.session.progress, self.session.subject.settings.training
        if not self.begin:
            return
        most = (2 * seeds + self.lead) * budgets
        progress.message(f"{most} networks to fit at most; the first shows how long one takes")
        if training.epochs and not has_loss(self.session.subject.data):
            progress.message("no loss: networks are trained to follow the trained one's outputs")
        elif training.epochs:
            steps, least = self.count_steps(), training.least_steps or 0
            note = f" and takes {least}" if steps < least else ""
            progress.message(
                f"{steps} steps are few: fine-tuning begins with fits without training{note}"
            )

    def soften(self, training: TrainSettings) -> TrainSettings:
        """Return the settings of fine-tuning that begins with a fit.

        Where it sees the same data often, larger steps would undo the fit.
        """
        often = (training.least_steps or 0) > _OFTEN * self._count_batches()
        return training.updated(lr=_GENTLE * training.lr) if often else training

    def _count_batches(self) -> int:
        training = self.session.subject.settings.training
        return self.session.supervision.batches(training.batch_size, training.seed).per_epoch

    def choose_widths(self, solver: Solver, uniform: Widths) -> Widths:
        """Return the widths at the budget of `solver` whose network scores best after a fit.

        They are those that lose least by the fit for what they cost, or those halfway between them
        and uniform ones. Uniform ones, if no such widths are within the budget, perhaps only as
        timed on a busy machine.
        """
        subject, progress = self.session.subject, self.session.progress
        budget = solver.budget
        cost = budget.metric.cost(solver.arch)
        try:
            law = uniform_curve(self.ranking.per_cost(cost).widths_within(cost, budget.limit))
            least = solver.solve(law)
            law = uniform_curve(np.sqrt(np.multiply(least, uniform)))
            halfway = solver.solve(law)
        except NoWidthsError as error:
            progress.message(f"{budget.word}: uniform widths are taken, because {error}")
            return uniform
        if len({least, halfway, uniform}) < 3:
            return least
        point = Point(SCORED, budget.metric, budget.limit, subject.settings.training.seed)
        names = {least: "losing least", halfway: "halfway to uniform widths"}
        fitted = {widths: self.fit(point, widths, f", {name}") for widths, name in names.items()}
        scores = {widths: self.session.validate(model) for widths, model in fitted.items()}
        best = max(scores, key=lambda widths: scores[widths])
        self._fitted[best, point.seed] = fitted[best]
        name = subject.description.validation_name
        progress.message(
            f"{budget.word}: {name} {scores[least]:.4g} by the widths that a fit loses least by, "
            f"{scores[halfway]:.4g} halfway between them and uniform ones"
        )
        return best

    def fit(self, point: Point, widths: Widths, which: str = "") -> nn.Module:
        """Return a network that is fitted to the trained one; `which` names one of several."""
        known = self._fitted.pop((widths, point.seed), None)
        if known is not None:
            return known
        session, file = self.session, self.session.find_checkpoint(point)
        name = f"fit-{zlib.crc32(repr(widths).encode()):08x}-{file.name}"  # a point has several
        kept, began = self.ranking.pick_strongest(widths), time.perf_counter()
        fitted = fit_network(
            session.subject.arch,
            session.trained,
            kept,
            self._read_inputs(point.seed),
            seed=point.seed,
            progress=session.progress,
            checkpoint=file.with_name(name),
        )
        if not session.subject.settings.training.epochs:
            fitted.check()
        duration = format_duration(time.perf_counter() - began)
        session.progress.message(f"{point.label}{which}: fitted in {duration}")
        return fitted.model
