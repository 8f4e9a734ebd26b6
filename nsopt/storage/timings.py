"""What was timed for budgets in milliseconds, in the studies of a task."""

from collections.abc import Callable, Iterable, Sequence

from optuna.study import Study

from nsopt.latency.sittings import Latency
from nsopt.latency.store import Store
from nsopt.storage import schema


class StoredTimings(Store):
    """A `Store` that writes to one study, and also reads those beside it.

    Args:
        study: receives measurements and chosen widths.
        others: returns the other studies of the task.
        name: see `Store`; by default that of the study.
    """

    def __init__(
        self,
        study: Study,
        others: Callable[[], Iterable[Study]] = lambda: (),
        name: str | None = None,
    ) -> None:
        self.name = name or study.study_name
        self._study, self._others = study, others

    def read_timings(self, widths: tuple[int, ...]) -> list[Latency]:
        studies = {study.study_name: study for study in (*self._others(), self._study)}
        timings = [
            timing
            for study in studies.values()
            for timing in schema.read_latencies(study, schema.TIMING)
            if timing.widths == widths
        ]
        return sorted(timings, key=lambda timing: timing.sitting or "")

    def write_timing(self, latency: Latency) -> None:
        schema.write_latency(self._study, latency, schema.TIMING)

    def read_choice(self, asked: Sequence[object]) -> tuple[int, ...] | None:
        choices = (schema.read_answer(study, asked) for study in (self._study, *self._others()))
        return next((widths for widths in choices if widths is not None), None)

    def write_choice(self, asked: Sequence[object], widths: tuple[int, ...]) -> None:
        schema.write_answer(self._study, asked, widths)
