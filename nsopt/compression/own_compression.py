"""Make a trained network of any task smaller.

The steps are those of `compress` for a classifier, but without distillation: nsopt does not know
how to compare the outputs of two networks. An interruption loses at most the running search or
fine-tuning.

The user's score ranks widths, and chooses between the fine-tuned networks.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from optuna.trial import Trial
from torch import nn

from nsopt.compression.budgets import (
    Budget,
    check_budgets,
    naming,
    read_compression_budgets,
)
from nsopt.compression.latency import with_latency_for
from nsopt.compression.own_latency import (
    solve_as_timed,
    time_models,
    with_measured_budget,
)
from nsopt.compression.own_task import (
    FINE_TUNED,
    OwnTask,
    choose_law,
    read_own_scores,
    read_own_studies,
)
from nsopt.compression.result import Compressed, OwnCompression
from nsopt.compression.rounding import with_fast_multiple
from nsopt.compute.device import place
from nsopt.compute.memory import keep_memory
from nsopt.compute.out_of_memory import explain_out_of_memory
from nsopt.compute.random_state import use_seed
from nsopt.errors import NonFiniteLossError
from nsopt.methods.registry import BASELINE, DENSE, SCORED
from nsopt.models.tracing.originals import copy_model
from nsopt.pruning.inherited import TrainedStart, inherit_network, rank_by_importance
from nsopt.reports.results import Origin
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import counted_costs
from nsopt.storage import schema, trials
from nsopt.storage.provenance import provenance
from nsopt.storage.weights_file import read_weights, write_weights
from nsopt.training.fine_tuning import average_of, make_schedule
from nsopt.training.kernels.swap import fast_kernels
from nsopt.training.step import sgd, train_step


def run_own_compression(
    task: OwnTask, words: Sequence[str], candidates: int, seeds: int
) -> OwnCompression:
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
    dense = _evaluate(task, task.model)
    task.progress.message(f"the trained network scores {dense:g}")
    studies = read_own_studies(task.folder, task.arch)
    arch = with_latency_for(
        words, task.arch, studies, task.compute, task.progress, task.runtime, task.inputs
    )
    budgets = read_compression_budgets(words, arch)
    stored = [schema.read_own_settings(study) for study in studies]
    settings = with_fast_multiple(
        task.settings, budgets, arch, task.runtime, stored, task.progress, task.inputs
    )
    task = replace(task, arch=arch, settings=settings)
    law = uniform_curve(task.arch.base_widths)
    asked = []
    for budget in budgets:
        with naming(budget, settings):
            timed_task = with_measured_budget(task, budget, law)
            asked.append((budget, timed_task, budget.solve(law, timed_task.arch, task.settings)))
    start = _rank(task)
    base = task.arch.base_widths
    costs = counted_costs(task.arch, base)
    networks = [Compressed("100%", DENSE.name, base, None, dense, costs, None, task.model)]
    for budget, timed_task, widths in asked:
        solve = partial(solve_as_timed, task, budget)
        law = choose_law(timed_task, start, budget, candidates, solve)
        networks.append(_compress(task, start, budget, widths, law, seeds))
    latencies, unit = time_models(task, [each.model for each in networks])
    whole, *smaller = (
        replace(each, latency=latency) for each, latency in zip(networks, latencies, strict=True)
    )
    origin = Origin(
        name=task.arch.name,
        layer_names=task.arch.layer_names,
        latency_unit=unit,
        settings=task.settings.model_dump(mode="json"),
        provenance=provenance(task.compute),
    )
    return OwnCompression(whole, {each.budget: each for each in smaller}, origin)


def _evaluate(task: OwnTask, model: nn.Module) -> float:
    with task.compute.computing():
        model = place(copy_model(model), task.compute.device, task.arch.layout)
        return task.evaluate(model.eval())


def _rank(task: OwnTask) -> TrainedStart:
    ranking = rank_by_importance(
        task.arch, task.model, task.batches, task.settings.search, task.compute
    )
    return TrainedStart(task.arch, task.model, ranking)


def _compress(
    task: OwnTask,
    start: TrainedStart,
    budget: Budget,
    uniform: tuple[int, ...],
    law: PowerLaw,
    seeds: int,
) -> Compressed:
    """Fine-tune uniform widths and those of a law; return the better network, not timed yet."""
    best = solve_as_timed(task, budget, law)
    methods = {uniform: BASELINE.name}
    methods.setdefault(best, SCORED.name)
    first = task.settings.training.seed
    scores = read_own_scores(task, budget)
    tuned = [
        Compressed(
            budget=budget.word,
            method=method,
            widths=widths,
            before=scores.get(schema.width_key(widths)),
            accuracy=accuracy,
            cost=counted_costs(task.arch, widths),
            latency=None,
            model=model,
        )
        for widths, method in methods.items()
        for seed in range(first, first + seeds)
        for accuracy, model in (_fine_tune(task, start, widths, seed),)
    ]
    return max(tuned, key=lambda each: each.accuracy)  # if equal, the first: uniform


def _fine_tune(
    task: OwnTask, start: TrainedStart, widths: tuple[int, ...], seed: int
) -> tuple[float, nn.Module]:
    """Return the score of a fine-tuned network, and the network; train it unless it is stored.

    If several processes need it, one trains and the others wait.
    """
    key = trials.training_key(widths, seed)
    tuned: list[tuple[float, nn.Module]] = []

    def fine_tune(trial: Trial) -> float:
        model = _train(task, start, widths, seed)
        accuracy = _evaluate(task, model)
        write_weights(_get_file(task, trial.number), model.state_dict())
        trials.write_trainings(trial, {key: accuracy})
        tuned.append((accuracy, model))
        return accuracy

    with task.one_at_a_time(task.files / key):
        study = task.open_study(FINE_TUNED)
        for done in trials.read_completed(study):
            file = _get_file(task, done.number)
            stored = _read(task, widths, file) if key in trials.read_trainings(done) else None
            if stored is not None:
                return float(done.values[0]), stored
        study.optimize(fine_tune, n_trials=1)
        return tuned[0]


def _read(task: OwnTask, widths: tuple[int, ...], file: Path) -> nn.Module | None:
    """Return the network in a file; None if it is missing or damaged."""
    model = task.arch.build(widths)
    try:
        model.load_state_dict(read_weights(file))
    except Exception:  # torch raises anything for a damaged file
        return None
    return model.eval()


def _get_file(task: OwnTask, number: int) -> Path:
    return task.files / f"{number}.pt"


def _train(task: OwnTask, start: TrainedStart, widths: tuple[int, ...], seed: int) -> nn.Module:
    """Fine-tune a network that inherits from the trained one; return it on the CPU.

    Raises:
        NonFiniteLossError: if the loss of an epoch becomes NaN or infinite.
    """
    compute, settings = task.compute, task.settings.training_for(seed)
    task.progress.start(f"fine-tuning, seed {seed}", settings.epochs)
    with (
        explain_out_of_memory(compute.device, None),
        compute.computing(),
        use_seed(seed, compute.device),
        keep_memory(compute.device),
        ExitStack() as kernels,
    ):
        model = inherit_network(start, widths, task.batches, compute).train()
        optimizer = sgd(model, settings.lr, settings.momentum, settings.weight_decay)
        batches = task.batches.batches(settings.batch_size, seed)
        schedule = make_schedule(optimizer, settings, batches.per_epoch)
        average = average_of(model, settings.averaging)
        kernels.enter_context(fast_kernels(model))
        for epoch in range(1, settings.epochs + 1):
            total = torch.zeros((), device=compute.device)
            for _ in range(batches.per_epoch):
                compute.give_way()
                total += train_step(model, optimizer, *batches.next(), compute, task.batches.loss)
                schedule.step()
                if average is not None:
                    average.update_parameters(model)
            if not torch.isfinite(total):
                raise NonFiniteLossError(
                    f"the loss became {float(total)} in epoch {epoch}: "
                    f"try a learning rate below {settings.lr:g}"
                )
            task.progress.advance(f"loss {float(total) / batches.per_epoch:.3f}")
    return (model if average is None else average.module).cpu().eval()
