"""Studies over P, the pre-training epochs of a search, and eta, the step size of Algorithm 3.

`pretrain-epochs`: how long must a network train before it is pruned? Each P runs a search, whose
law is solved for the budget and trained: validation accuracy against seconds of search.
`eta`: does Algorithm 3 end at the budget, and soon? It needs one law and no training: distance
from the budget against steps. `both`: widths by Algorithm 3 with a proposed eta, from the law
that a proposed P gives. `objective="accuracy"` asks for accuracy alone and prunes bad trainings.
"""

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.descent import descend
from nsopt.progress import Progress
from nsopt.scaling.power_law import PowerLaw
from nsopt.training.checkpoint import remove_checkpoints
from nsopt.training.device import Compute, describe_device, resolve_compute
from nsopt.tuning import schema
from nsopt.tuning.comparison import sharing
from nsopt.tuning.provenance import provenance
from nsopt.tuning.queue import Watch, claim, run, unfinished
from nsopt.tuning.settings import check_settings
from nsopt.tuning.tune_objective import TuningObjective
from nsopt.tuning.tune_request import Tuning

_STARTUP_TRIALS = 10


def run_tuning(tuning: Tuning, progress: Progress) -> Study:
    """Run the trials that are missing; calling again continues. Raises NsoptError."""
    comparison = tuning.comparison
    training = comparison.settings.training
    with sharing(resolve_compute(training.device, training.precision)) as compute:
        study = _open(tuning, compute)
        law = None if tuning.trains else _law(tuning, study, compute, progress)
        _enqueue(tuning, study)
        _run_all(study, TuningObjective(tuning, compute, progress, law))
    remove_checkpoints(comparison.checkpoints)
    return study


def _law(tuning: Tuning, study: Study, compute: Compute, progress: Progress) -> PowerLaw:
    """What eta is tuned on: searched once, kept with the study."""
    law = schema.read_law(study)
    if law is None:
        comparison = tuning.comparison
        settings, checkpoint = comparison.settings.search, comparison.checkpoints / "search.pt"
        *_, last = descend(
            comparison.arch, comparison.data, settings, (), progress, checkpoint, compute.machine
        )
        law = last.law
        schema.write_law(study, law)
    return law


def _run_all(study: Study, objective: TuningObjective) -> None:
    watch = Watch()
    while unfinished(study):
        trial = claim(study, _sampler)
        if trial is not None:
            run(trial, objective)
        elif watch.look(study):
            objective.progress.message("waiting for a trial of another process")
            watch.wait()


def _open(tuning: Tuning, compute: Compute) -> Study:
    comparison = tuning.comparison
    study = optuna.create_study(
        study_name=tuning.study_name,
        storage=comparison.opened_storage,
        directions=tuning.directions,
        pruner=_pruner(tuning),
        load_if_exists=True,
    )
    stored = schema.read_settings(study)
    if stored:
        check_settings(study.study_name, tuning.identity, stored)
        return study
    schema.write_identity(
        study,
        comparison.subject,
        comparison.source,
        tuning.identity,
        provenance(describe_device(compute.device), "bf16" if compute.bf16 else "fp32"),
        tuning.metric_names,
    )
    return study


def _pruner(tuning: Tuning) -> BasePruner:
    if tuning.objective != "accuracy" or not tuning.trains:
        return NopPruner()
    epochs = tuning.comparison.settings.training.epochs
    if tuning.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def _sampler(trial: FrozenTrial) -> TPESampler:
    """Its proposals follow from the results so far and the number of the trial."""
    return TPESampler(seed=trial.number, multivariate=True, n_startup_trials=_STARTUP_TRIALS)


def _enqueue(tuning: Tuning, study: Study) -> None:
    """Trials that are not there yet. A failed one counts only if it would fail again."""
    settled = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL or schema.ERROR in trial.user_attrs
    ]
    if tuning.over != "pretrain-epochs":
        for _ in range(tuning.trials - len(settled)):
            study.enqueue_trial({}, user_attrs={"seed": 0})
        return
    there = {
        (trial.system_attrs["fixed_params"]["pretrain_epochs"], trial.user_attrs["seed"])
        for trial in settled
    }
    for seed in range(tuning.comparison.seeds):
        for epochs in tuning.pretrain_epochs:
            if (epochs, seed) not in there:
                study.enqueue_trial({"pretrain_epochs": epochs}, user_attrs={"seed": seed})
