"""Make a trained network of any task smaller, step by step; the steps are stored as studies.

The steps are those of a classifier of images. Widths are ranked by the distance of the task, or by
its score, which also chooses between the fine-tuned networks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from optuna.trial import Trial
from torch import nn

from nsopt.compression.budgets import (
    Budget,
    check_budgets,
    limits_time,
    naming,
    read_compression_budgets,
)
from nsopt.compression.latency import (
    ask,
    solve_as_timed,
    solve_candidate,
    with_fast_multiple,
    with_latency_for,
)
from nsopt.compression.own_task import (
    FINE_TUNED,
    OwnTask,
    choose_law,
    read_own_scores,
    read_own_studies,
)
from nsopt.compression.result import Compressed, Compression
from nsopt.compute.device import place
from nsopt.latency.allowance import LEAST, Allowance
from nsopt.latency.measure import measure_latencies
from nsopt.latency.timer import Timer
from nsopt.methods.registry import BASELINE, DENSE, SCORED
from nsopt.models.architecture import build_to_fill
from nsopt.models.tracing.originals import copy_model
from nsopt.pruning.inherited import TrainedStart, inherit_network, rank_by_importance
from nsopt.reports.results import Origin
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import counted_costs
from nsopt.settings import batch_unit
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.timings import StoredTimings
from nsopt.storage.weights_file import read_weights, write_weights
from nsopt.tasks.supervision import evaluate
from nsopt.training.loop import train_configuration
from nsopt.training.outcome import Outcome
from nsopt.training.trainer import TrainerContext, train_by

Widths = tuple[int, ...]


def run_own_compression(
    task: OwnTask, words: Sequence[str], candidates: int, seeds: int
) -> Compression:
    """Run the missing steps of a compression, and return its networks.

    Args:
        task: the trained network and its data.
        words: the budgets, as the user wrote them.
        candidates: number of widths to score at each budget.
        seeds: number of fine-tunings.

    Raises:
        NoWidthsError: if no widths meet a budget.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        NsoptError: if the score is not a number, or other settings wrote the storage.
    """
    check_budgets(words, task.arch, task.settings)
    dense = _evaluate(task)
    task.progress.message(f"the trained network: {task.score_name} {dense.score:g}")
    studies = read_own_studies(task.folder, task.arch)
    timer = Timer(
        task.compute, task.runtime, task.progress, task.inputs, allowance=Allowance(LEAST)
    )
    arch = with_latency_for(words, task.arch, studies, timer)
    budgets = read_compression_budgets(words, arch)
    stored = [schema.read_own_settings(study) for study in studies]
    settings = with_fast_multiple(task.settings, budgets, arch, stored, timer)
    task = replace(task, arch=arch, settings=settings)
    if limits_time(words):
        timer = replace(timer, store=StoredTimings(task.open_study(BASELINE.name)))
    uniform = uniform_curve(task.arch.base_widths)
    asked = []
    for budget in budgets:
        with naming(budget, settings):
            asked.append((budget, solve_as_timed(budget, arch, settings, timer, uniform)))
    ranking = rank_by_importance(
        task.arch, task.model, task.supervision, task.settings.search, task.compute
    )
    start = TrainedStart(task.arch, task.model, ranking)
    networks = [dense]
    for budget, widths in asked:
        corrected = task
        if budget.metric.is_timed:
            question = ask(budget, arch, settings, timer, uniform)
            corrected = replace(task, arch=timer.correct(question))
        solve, solve_timed = (
            partial(function, budget, arch, settings, timer)
            for function in (solve_candidate, solve_as_timed)
        )
        law = choose_law(corrected, start, budget, candidates, solve, solve_timed)
        networks.append(_compress(task, start, budget, widths, solve_timed(law), seeds))
    models = [network.model for network in networks]
    latencies = measure_latencies(models, task.inputs, compute=task.compute, runtime=task.runtime)
    whole, *smaller = (
        replace(network, latency=latency.median_ms)
        for network, latency in zip(networks, latencies, strict=True)
    )
    origin = Origin(
        name=task.arch.name,
        score_name=task.score_name,
        layer_names=task.arch.layer_names,
        latency_unit=batch_unit(task.runtime.batch_size),
        settings=task.settings.model_dump(mode="json"),
        provenance=provenance(task.compute),
    )
    return Compression(whole, {network.budget: network for network in smaller}, origin)


def _evaluate(task: OwnTask) -> Compressed:
    """Return the trained network with its scores, not timed yet."""
    base, compute, supervision = task.arch.base_widths, task.compute, task.supervision
    with compute.computing():
        model = place(copy_model(task.model), compute.device, task.arch.layout)
        score = evaluate(supervision.validation(compute), model, compute)
        test = supervision.test(compute)
        tested = None if test is None else evaluate(test, model, compute)
    costs = counted_costs(task.arch, base)
    return Compressed("100%", DENSE.name, base, None, score, tested, costs, None, task.model)


def _compress(
    task: OwnTask,
    start: TrainedStart,
    budget: Budget,
    uniform: Widths,
    best: Widths,
    seeds: int,
) -> Compressed:
    """Fine-tune uniform widths and the best ones; return the better network, not timed yet."""
    methods = {BASELINE.name: uniform}
    if best != uniform:
        methods[SCORED.name] = best
    first = task.settings.training.seed
    tuned = {
        method: [_fine_tune(task, start, widths, seed) for seed in range(first, first + seeds)]
        for method, widths in methods.items()
    }
    scores = {method: [network[0] for network in found] for method, found in tuned.items()}
    method = choose_method(scores)
    score, test_score, model = max(tuned[method], key=lambda network: network[0])
    before = read_own_scores(task, budget)
    return Compressed(
        budget=budget.word,
        method=method,
        widths=methods[method],
        before=before.get(schema.width_key(methods[method])),
        score=score,
        test_score=test_score,
        cost=counted_costs(task.arch, methods[method]),
        latency=None,
        model=model,
    )


def choose_method(scores: dict[str, list[float]]) -> str:
    """Return the method whose network to take, by its scores after fine-tuning, one for each seed.

    Scores before fine-tuning rank networks about as well. So the scored widths are the answer,
    unless uniform ones have a higher mean by more than the standard error of the difference. A
    single seed has no error: the higher score is the answer.
    """
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    best = max(means, key=means.__getitem__)
    own = scores.get(SCORED.name)
    if own is None or best == SCORED.name:
        return best
    if len(own) < 2:
        return best
    error = math.sqrt(
        sum(float(np.var(values, ddof=1)) / len(values) for values in (own, scores[best]))
    )
    return best if means[best] > means[SCORED.name] + error else SCORED.name


Tuned = tuple[float, float | None, nn.Module]


def _fine_tune(task: OwnTask, start: TrainedStart, widths: Widths, seed: int) -> Tuned:
    """Return the scores of a fine-tuned network, and the network; train it unless it is stored.

    If several processes need it, one trains and the others wait.
    """
    key = trials.training_key(widths, seed)
    tuned: list[Tuned] = []

    def fine_tune(trial: Trial) -> float:
        outcome = _train(task, start, widths, seed, task.files / key)
        model = outcome.model.cpu().eval()
        write_weights(_get_file(task, trial.number), model.state_dict())
        tested = {} if outcome.test_score is None else {"test_score": outcome.test_score}
        trials.write_trainings(trial, {key: outcome.score, **tested})
        tuned.append((outcome.score, outcome.test_score, model))
        return outcome.score

    with task.one_at_a_time(task.files / key):
        study = task.open_study(FINE_TUNED)
        for done in trials.read_completed(study):
            file, stored = _get_file(task, done.number), trials.read_trainings(done)
            model = _read(task, widths, file) if key in stored else None
            if model is not None:
                return float(done.values[0]), stored.get("test_score"), model
        study.optimize(fine_tune, n_trials=1)
        return tuned[0]


def _read(task: OwnTask, widths: tuple[int, ...], file: Path) -> nn.Module | None:
    """Return the network in a file; None if it is missing or damaged."""
    model = build_to_fill(task.arch, widths)
    try:
        model.load_state_dict(read_weights(file))
    except Exception:  # torch raises anything for a damaged file
        return None
    return model.eval()


def _get_file(task: OwnTask, number: int) -> Path:
    return task.files / f"{number}.pt"


def _train(
    task: OwnTask, start: TrainedStart, widths: Widths, seed: int, checkpoint: Path
) -> Outcome:
    """Fine-tune a network that inherits from the trained one, by nsopt or by the user's trainer.

    Raises:
        NonFiniteLossError: if the loss of an epoch becomes NaN or infinite.
    """
    compute, supervision = task.compute, task.supervision
    settings = task.settings.training_for(seed)
    trainer = supervision.task.trainer
    if trainer is not None:
        context = TrainerContext(
            seed, settings.epochs, compute.device, task.model, checkpoint.with_suffix(".trainer")
        )
        task.progress.start(f"fine-tuning by the trainer, seed {seed}", 1)
        with compute.computing():
            model = inherit_network(start, widths, supervision, compute)
        return train_by(
            trainer, task.arch, widths, model, supervision.task, supervision, compute, context
        )
    return train_configuration(
        task.arch,
        widths,
        supervision,
        settings,
        compute,
        task.progress,
        checkpoint.with_suffix(".training.pt"),
        name=f"fine-tuning, seed {seed}",
        start=partial(inherit_network, start, widths, supervision, compute),
        teacher=copy_model(task.model),
    )
