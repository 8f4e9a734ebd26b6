"""Networks that are fitted to the trained one: rankings of its units, fits, and their agreement.

Inputs are enough: no targets, no loss. Those on which networks are compared are not fitted to.
"""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from nsopt.compute.checkpoint import Checkpoint, full_state, load_full_state
from nsopt.latency.budget import Widths
from nsopt.models.architecture import build_to_fill
from nsopt.pruning.fitting.fit import ROWS, Fitted, fit_network
from nsopt.pruning.fitting.plan import Inputs
from nsopt.pruning.ranking import UnitRanking, rank_by_fit
from nsopt.session.agreement import AgreementScore, Compare, hold_out, read_batches
from nsopt.session.searching import format_duration
from nsopt.session.session import Session
from nsopt.storage.schema import FIT, TAYLOR
from nsopt.storage.trials import Point
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import has_loss
from nsopt.tasks.task import Task

_BATCH = 64  # images
_FEW_ROWS = 2048  # of each layer, in fits that are only compared


@dataclass(frozen=True, eq=False)
class Fits:
    """The fits of a session."""

    session: Session

    @cached_property
    def rankings(self) -> dict[str, UnitRanking]:
        """Rankings of the trained network's units: by the fit, and by Taylor importance, if
        networks are trained by a loss."""
        session = self.session
        arch, trained = session.subject.arch, session.trained
        by_fit = rank_by_fit(arch, trained, self._inputs, session.progress)
        is_trained = session.subject.settings.training.epochs and has_loss(session.subject.data)
        if not is_trained or session.start is None:
            return {FIT: by_fit}
        return {FIT: by_fit, TAYLOR: session.start.ranking}

    @cached_property
    def _examples(self) -> tuple[Inputs, Compare]:
        """What networks are fitted to, and what compares them with the trained one."""
        session = self.session
        data, seed = session.subject.data, session.subject.settings.training.seed
        supervision = session.supervision
        read = read_batches(supervision.batches(_BATCH, seed))
        if isinstance(supervision, Classification):
            return Inputs(read), supervision.comparison(session.trained, session.compute)
        assert isinstance(data, Task)
        if isinstance(data.score, AgreementScore):
            return Inputs(read), data.score.compare
        compared, fitted = hold_out(read)
        score = AgreementScore(session.trained, Inputs(compared), data.distance)
        return Inputs(fitted), score.compare

    @property
    def _inputs(self) -> Inputs:
        return self._examples[0]

    @property
    def compare(self) -> Compare:
        """Compares a network with the trained one."""
        return self._examples[1]

    def fit_briefly(self, widths: Widths) -> nn.Module:
        """Return a network that is fitted to few rows, which is enough to compare it."""
        return self._fit(widths, None, _FEW_ROWS).model

    def fit(self, point: Point, widths: Widths) -> nn.Module:
        """Return a network that is fitted to the trained one; the same call finds it again."""
        session, arch = self.session, self.session.subject.arch
        path = session.find_checkpoint(replace(point, seed=0)).with_suffix(".fitted.pt")
        file = Checkpoint(path, {"start": session.subject.settings.start, "widths": list(widths)})
        saved, began = file.load(session.compute.device), time.perf_counter()
        if saved is not None:
            model = build_to_fill(arch, widths)
            load_full_state(model, saved)
            return model.eval()
        fitted = self._fit(widths, path.with_suffix(".part.pt"), ROWS)
        if not session.subject.settings.training.epochs:
            fitted.check()
        file.save(full_state(fitted.model))
        duration = format_duration(time.perf_counter() - began)
        session.progress.message(f"{point.size}, widths by {point.method}: fitted in {duration}")
        return fitted.model

    def _fit(self, widths: Widths, checkpoint: Path | None, rows: int) -> Fitted:
        session = self.session
        return fit_network(
            session.subject.arch,
            session.trained,
            self.rankings[FIT].pick_strongest(widths),
            self._inputs,
            rows=rows,
            seed=session.subject.settings.training.seed,
            progress=session.progress,
            checkpoint=checkpoint,
        )
