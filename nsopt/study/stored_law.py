"""Read the law of a method from a storage, with its network."""

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.base import LawInputs, Method
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import PARAMS, Metric
from nsopt.scaling.record import Iteration
from nsopt.storage import schema, trials
from nsopt.storage.urls import hide_password
from nsopt.study.task import read_architecture
from nsopt.study.tuned_law import read_tuned_law
from nsopt.study.workspace import Workspace


def read_stored_law(
    workspace: Workspace,
    name: str,
    method: Method,
    iteration: int | None,
    metric: Metric,
    given: str | None,
) -> tuple[ScalingLaw, Architecture, Iteration | None]:
    """Return a method's law, its network, and the iteration of the search behind it, if any.

    Args:
        name: ARCH-DATA-PRESET.
        iteration: number of the iteration; None for the method's own choice.
        metric: of the budgets.
        given: the name of the architecture, if the user gave one (`stored_architecture`).

    Raises:
        NsoptError: if the storage has no such law.
    """
    studies = workspace.studies(name)
    ours = [study for study in studies.values() if schema.read_settings(study)]
    if not ours:
        raise NsoptError(
            f"no search of {name} is stored at {hide_password(workspace.url)}: run one first"
        )
    if method.needs_trained_network:
        raise NoWidthsError(f"{method.name} has one law per trained network, so none is stored")
    arch = read_architecture(schema.read_task(ours[0]), ours, given)
    tuned = read_tuned_law(workspace, name, metric).law if method.needs_tuned_law else None
    usual = schema.read_settings(ours[0])["search"]["price"]
    kind = schema.search_kind(method.price or usual, usual)
    found = trials.read_iterations(studies[kind]) if kind in studies else []
    if method.by_algorithm_3 and not found:
        raise NsoptError(
            f"no {kind} of {name} is stored at {hide_password(workspace.url)}: run one first"
        )
    if iteration is not None and iteration > len(found):
        raise NsoptError(f"{name} has no iteration {iteration}: its last is {len(found)}")
    chosen = found[:iteration]
    cost = PARAMS.cost(arch)
    law = method.law(LawInputs(arch, cost, cost(arch.base_widths), chosen, tuned=tuned))
    return law, arch, chosen[-1] if chosen and method.by_algorithm_3 else None
