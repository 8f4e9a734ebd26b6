"""What the tuning of a scaling curve is asked for."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from nsopt.experiments.comparison import Size
from nsopt.experiments.task import Task
from nsopt.pruning.rules import scale_metric
from nsopt.scaling.family import LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric
from nsopt.settings import Price
from nsopt.storage import schema

Sampler = Literal["gp", "tpe"]
FRESH_SEED = 1000  # by how much the seeds of the confirmation are higher


@dataclass(frozen=True, eq=False, kw_only=True)
class CurveTuning:
    """Which law trains best at small budgets?

    sizes: the budgets, in the unit of `metric`; every trial trains its widths at each of them with
    `seeds` seeds, from that of the settings on, for `epochs`; the best is confirmed against uniform
    scaling with `confirmations` fresh seeds.
    """

    task: Task
    metric: Metric
    sizes: tuple[Size, ...]
    trials: int
    seeds: int
    epochs: int
    confirmations: int
    sampler: Sampler = "gp"

    @property
    def study_name(self) -> str:
        return schema.study_name(
            schema.tuning_name(self.task.name), schema.curve_kind(self.metric.name)
        )

    @property
    def confirmation_name(self) -> str:
        return schema.confirmation_name(self.study_name)

    @property
    def prices(self) -> tuple[Price, ...]:
        """Of the searches whose laws span the family: the published one, and by the metric."""
        return ("filters", cast("Price", self.metric.name))

    @property
    def starts(self) -> tuple[dict[str, float], ...]:
        """The members that are tried first: uniform scaling and the pure laws."""
        return ({}, *({str(price): 1.0} for price in self.prices))

    def family(self, laws: dict[Price, PowerLaw]) -> LawFamily:
        """laws: by price, over tau."""
        arch = self.task.arch
        others = {
            str(price): relative(law, scale_metric(price).cost(arch), arch.base_widths)
            for price, law in laws.items()
        }
        return LawFamily(relative_uniform(arch.base_widths), others)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its numbers depend on, beside the parameters of a trial."""
        tuned = {
            "metric": self.metric.name,
            "budgets": [size.budget for size in self.sizes],
            "seeds": self.seeds,
            "epochs": self.epochs,
        }
        return self.task.identity | {"tuning": tuned}
