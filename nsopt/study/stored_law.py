"""Read the laws that searches and scores of a subject stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import LawInputs, Method
from nsopt.models.architecture import Architecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import PARAMS, Metric
from nsopt.scaling.record import Iteration
from nsopt.scaling.solve import Limits
from nsopt.session.presets import MinWidth, Multiple, rounding_for
from nsopt.session.subject import read_architecture
from nsopt.session.workspace import Workspace
from nsopt.storage import schema, trials
from nsopt.storage.urls import hide_password
from nsopt.tasks.task import Task


@dataclass(frozen=True, eq=False)
class NetworkLaw:
    """A law and its network.

    Attributes:
        iteration: of the search to which the law is fitted, if any.
        studies: of its comparison, the law's own first; empty if the law is not stored.
    """

    law: ScalingLaw
    arch: Architecture
    iteration: Iteration | None = None
    studies: Sequence[Study] = ()

    def limits(
        self, metric: Metric, multiple_of: Multiple | None = None, min_width: MinWidth | None = None
    ) -> Limits:
        """Return the limits of its widths at budgets in a metric.

        Where the user gives no rounding, it is that of the comparison. What starts from a trained
        network is filled, and never wider than this.
        """
        # Searches store no settings of trainings.
        settings = map(schema.read_settings, self.studies)
        stored = next((values for values in settings if "multiple_of" in values), {})
        rounding = rounding_for(
            multiple_of or stored.get("multiple_of"), min_width or stored.get("min_width"), metric
        )
        if stored.get("start") is None:
            return Limits(*rounding)
        return Limits(*rounding, schema.read_task(self.studies[0]).base_widths, fill=True)


def read_stored_law(
    workspace: Workspace,
    name: str,
    method: Method,
    *,
    iteration: int | None = None,
    arch_name: str | None = None,
    task: Task | None = None,
) -> NetworkLaw:
    """Return a method's law in the comparison `name`: of an iteration, or of its own choice.

    For `arch_name` and `task` see `read_architecture`. Raises NsoptError if there is no such law.
    """
    studies, at = workspace.studies(name), hide_password(workspace.url)
    ours = {kind: study for kind, study in studies.items() if schema.read_settings(study)}
    if not ours:
        raise NsoptError(f"no search of {name} is stored at {at}: run one first")
    if method.needs_trained_network:
        raise NoWidthsError(
            f"{method.name} has one law per trained network, so none is stored: take another method"
        )
    first, *_ = ours.values()
    arch = read_architecture(schema.read_task(first), arch_name, task)
    # The settings of a search by another price name that price.
    usual = next((s for kind, s in ours.items() if schema.price_of_search(kind) is None), None)
    stored = schema.read_settings(usual or first)["search"]
    settings = SearchSettings(iterations=stored["iterations"])
    if usual is not None:
        settings = settings.updated(price=stored["price"])
    kind = schema.search_kind(method.price or settings.price, settings.price)
    history = trials.read_iterations(studies.get(kind))
    if method.search_iterations(settings) and not history:
        raise NsoptError(f"no {kind} of {name} is stored at {at}: run one first")
    if iteration is not None and iteration > len(history):
        raise NsoptError(f"{name} has no iteration {iteration}: take one up to {len(history)}")
    chosen = history[:iteration]
    cost = PARAMS.cost(arch)
    law = method.law(LawInputs(arch, cost, cost(arch.base_widths), chosen))
    own_first = [ours[kind] for kind in sorted(ours, key=lambda kind: kind != method.name)]
    return NetworkLaw(law, arch, method.fitted_to(chosen), own_first)
