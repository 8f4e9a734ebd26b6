"""Studies over P, the pre-training epochs of a search, and eta, the step size of Algorithm 3.

`pretrain-epochs`: how long must a network train before it is pruned? Each P runs a search, whose
law is solved for the budget and trained: validation accuracy against seconds of search.
`eta`: does Algorithm 3 end at the budget, and soon? It needs one law and no training: distance
from the budget against steps.
"""

from optuna.study import Study

from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import Splits
from nsopt.experiments.sharing import sharing
from nsopt.experiments.tuning_points import run_points
from nsopt.experiments.tuning_request import Tuning
from nsopt.experiments.tuning_trial import TuningRunner, searched
from nsopt.experiments.workspace import Workspace
from nsopt.progress import Progress
from nsopt.scaling.law import PowerLaw
from nsopt.storage import schema
from nsopt.storage.provenance import provenance
from nsopt.storage.studies import open_study


def run_tuning(tuning: Tuning, workspace: Workspace, progress: Progress) -> Study:
    """Run the trials that are missing; calling again continues. Raises NsoptError."""
    training = tuning.task.settings.training
    with sharing(resolve_compute(training.device, training.precision)) as compute:
        splits = tuning.task.splits.to(compute.device)
        study = _open(tuning, workspace, compute)
        law = None
        if not tuning.trains:
            law = _law(tuning, workspace, study, compute, splits, progress)
        runner = TuningRunner(tuning, workspace, compute, splits, progress, law)
        run_points(study, {point: {} for point in tuning.points}, runner, progress)
    workspace.clear(tuning.study_name)
    return study


def _law(
    tuning: Tuning,
    workspace: Workspace,
    study: Study,
    compute: Compute,
    splits: Splits,
    progress: Progress,
) -> PowerLaw:
    """What eta is tuned on: searched once, kept with the study."""
    law = schema.read_law(study)
    if law is None:
        law = searched(tuning, workspace, compute, splits, progress, "search.pt")[-1].law
        schema.write_law(study, law)
    return law


def _open(tuning: Tuning, workspace: Workspace, compute: Compute) -> Study:
    return open_study(
        workspace.storage,
        tuning.study_name,
        tuning.task.description,
        tuning.task.source,
        tuning.identity,
        provenance(compute),
        tuning.metric_names,
        tuning.directions,
    )
