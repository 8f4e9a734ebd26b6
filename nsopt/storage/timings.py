"""What was timed, in the studies of a task."""

from collections.abc import Callable, Iterable, Sequence

from optuna.study import Study

from nsopt.latency.record import Latency
from nsopt.latency.store import Store
from nsopt.storage import schema


class StoredTimings(Store):
    """A `Store` that writes to one study, and also reads the others of its task.

    Args:
        study: receives latencies and chosen widths.
        others: returns the other studies of the task.
    """

    def __init__(self, study: Study, others: Callable[[], Iterable[Study]] = lambda: ()) -> None:
        self._study, self._others = study, others

    def read(self) -> list[Latency]:
        studies = {study.study_name: study for study in (self._study, *self._others())}
        return [latency for study in studies.values() for latency in schema.read_latencies(study)]

    def write(self, latency: Latency) -> None:
        schema.write_latency(self._study, latency)

    def read_widths(self, budget: Sequence[object]) -> tuple[int, ...] | None:
        known = (
            schema.read_budget_widths(study, budget) for study in (self._study, *self._others())
        )
        return next((widths for widths in known if widths is not None), None)

    def write_widths(self, budget: Sequence[object], widths: tuple[int, ...]) -> None:
        schema.write_budget_widths(self._study, budget, widths)
