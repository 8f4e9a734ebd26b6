"""Whole networks on all of CIFAR-10: `nsopt.compress` beside its alternatives at equal cost.

    python studies/compress-whole-cifar10/measure.py train DATA FOLDER
    python studies/compress-whole-cifar10/measure.py compress DATA FOLDER --processes 2

`train` trains the whole networks; `compress` makes smaller ones of them:
    compress          nsopt.compress: search, choice of widths, and fine-tuning, all with this seed
    uniform           uniform widths that inherit the most important units, from the same call
    torch-pruning     Torch-Pruning's widths and weights: global Taylor importance, one ranking
    torch-pruning, trained between    half of the epochs are spent between its steps
    knapsack          units of the least importance for the MACs they save leave one by one, or for
                      the milliseconds in groups of eight, as HALP (Shen et al., 2022) weighs
                      importance against cost
    uniform, scratch  uniform widths, trained as the whole network was, with all epochs of both
All but the last are fine-tuned by `nsopt.train` with the same settings. Rows go to
`FOLDER/outcomes.jsonl`; the same call runs only what is missing there. With `--metric latency` they
have shares of the milliseconds of a pass on this machine's CPU: PyTorch, batches of 100.

Needs one package more: pip install torch-pruning==1.6.1.
"""

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import numpy as np
import torch
from networks import EPOCHS, VAL_FRACTION, Layer, build, recipe, train_whole
from torch import Tensor, nn

import nsopt
from benchmarks.common import time_alone
from benchmarks.trained import Results
from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import ImageData, Splits
from nsopt.models.architecture import Architecture
from nsopt.models.trace import trace
from nsopt.pruning.inherited import TrainedStart, rank_by_importance
from nsopt.scaling.cost import CostModel, width_limits
from nsopt.session.presets import StudySettings, get_preset, override
from nsopt.settings import Precision
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import place_images
from nsopt.tasks.supervision import evaluate
from nsopt.training.step import sgd, train_step

_STEPS, _BATCHES = 100, 5  # of Torch-Pruning to 5 % of the channels; over which it averages
_FAR = 1.1  # rough milliseconds over a budget that need not be measured well
_GROUP = {"macs": 1, "latency": 8}  # units that leave the knapsack together
_KEYS = "network", "metric", "share", "arm", "seed"
_ARMS = {  # numbers of seeds at half and at a quarter of the MACs
    "compress": (5, 5),
    "torch-pruning": (5, 3),
    "torch-pruning, trained between": (5, 3),
    "knapsack": (5, 3),
    "uniform, scratch": (2, 2),
}
_SHARES = 0.5, 0.25
_LATER = {0.5: 0, 0.25: 2}  # a quarter's first seed comes with the third at half


@dataclass(frozen=True)
class Protocol:
    """What all trainings of a call share.

    Attributes:
        per_class: training images of each class; None for all.
    """

    data: str
    folder: Path
    whole_epochs: int | None
    epochs: int
    batch_size: int
    per_class: int | None
    precision: Precision


@dataclass(frozen=True)
class Job:
    """A training; for `compress` its search and two of them."""

    network: str
    metric: str
    arm: str
    share: float
    seed: int


Rows = list[tuple[dict[str, Any], nn.Module]]  # with their networks


@dataclass(frozen=True, eq=False)
class Whole:
    """A trained network, and how smaller ones are made of it."""

    name: str
    arch: Architecture
    model: nn.Module
    data: ImageData
    compute: Compute
    protocol: Protocol

    @property
    def example(self) -> Tensor:
        return torch.zeros(2, *self.arch.input_shape, device=self.compute.device)

    @cached_property
    def timed(self) -> Architecture:
        """It with a model of its milliseconds."""
        return nsopt.with_latency(self.arch, "cpu", nsopt.Silent())

    def cost(self, metric: str) -> CostModel:
        return (self.timed if metric == "latency" else self.arch).cost(metric)

    def budget(self, job: "Job") -> float:
        return job.share * float(self.cost(job.metric)(self.arch.base_widths))

    def time(self, model: nn.Module, rounds: int) -> float:
        """Return the milliseconds of a network over the whole one's, timed in turns."""
        both = [copy.deepcopy(each).eval() for each in (model, self.model)]
        part, whole = time_alone(both, self.arch.input_shape, 1, 2 * rounds, rounds)
        return part / whole

    def settings(self, seed: int) -> StudySettings:
        """Return the settings of `nsopt.compress`: its preset, with larger batches."""
        asked = self.protocol
        lr = (0.04 if self.name == "vit" else 0.08) * asked.batch_size / 256
        own = {
            "optimizer": "sgd",
            "batch_size": asked.batch_size,
            "lr": lr,
            "least_steps": None,
            "epochs": asked.epochs,
        }
        common = {"seed": seed, "val_fraction": VAL_FRACTION, "precision": asked.precision}
        preset = get_preset("compress").settings
        return override(preset, {"search": common, "training": common | own})

    @cached_property
    def splits(self) -> Splits:
        """Its images, on the device."""
        return place_images(self.data.split(VAL_FRACTION), self.compute)

    def batches(self, seed: int) -> TrainingBatches:
        return TrainingBatches(self.splits, self.settings(seed).training.batch_size, seed)


@cache
def load(network: str, protocol: Protocol) -> Whole:
    """Return a whole network, with its trained weights."""
    torch.set_num_threads(1)
    data, compute = nsopt.load_data(protocol.data), resolve_compute("auto", "fp32")
    data = data.subset(None, protocol.per_class)
    model = build(network)
    arch = trace(model, torch.zeros(2, 3, 32, 32), network)
    model.load_state_dict(
        torch.load(protocol.folder / f"{network}.pt", weights_only=True, map_location="cpu")
    )
    return Whole(network, arch, model.eval().to(compute.device), data, compute, protocol)


def compress(whole: Whole, job: Job) -> Rows:
    """Return what a call of `nsopt.compress` chose, and its uniform network."""
    word = f"{job.metric}={job.share:.0%}"
    result = nsopt.compress(
        *(whole.model, whole.data, [word]),
        epochs=whole.protocol.epochs,
        settings=whole.settings(job.seed),
        out=whole.protocol.folder / name_files(job),
    )
    outcomes = result.results.outcomes.set_index("method")
    rows = []
    for arm, method in (("compress", result[word].method), ("uniform", "uniform")):
        found = outcomes.loc[method]
        row = {
            **vars(job),
            "arm": arm,
            "validation": float(found["score"]),
            "test": float(found["test_score"]),
            "macs": int(found["macs"]),
            "widths": list(found["widths"]),
            "chosen": method,
        }
        rows.append((row, whole.arch.build(row["widths"])))
    return rows


def name_files(job: Job) -> str:
    return f"{job.network}-{job.metric}-{100 * job.share:.0f}-{job.seed}"


def train(
    whole: Whole,
    job: Job,
    training: nsopt.TrainSettings,
    start: nn.Module | None = None,
    widths: Sequence[int] = (),
) -> Rows:
    """Fine-tune `start`, or train a network of `widths` from scratch.

    A training from scratch continues after an interruption.
    """
    arch: Architecture = whole.arch
    checkpoint = None
    if start is None:
        checkpoint = whole.protocol.folder / f"{name_files(job)}.checkpoint"
    else:
        arch = trace(start.eval(), whole.example, whole.name)
    outcome = nsopt.train(
        arch,
        widths or arch.base_widths,
        whole.data,
        training,
        checkpoint=checkpoint,
        start=start,
        teacher=whole.model,
    )
    row = {
        **vars(job),
        "validation": outcome.val_accuracy,
        "test": outcome.test_accuracy,
        "macs": int(arch.cost("macs")(outcome.widths)),
        "widths": list(outcome.widths),
    }
    return [(row, outcome.model)]


def rank(whole: Whole, seed: int) -> TrainedStart:
    """Return the network with the ranking of its units by Taylor importance."""
    search, images = whole.settings(seed).search, Classification(whole.splits)
    ranking = rank_by_importance(whole.arch, whole.model, images, search, whole.compute)
    return TrainedStart(whole.arch, whole.model, ranking)


def solve_knapsack(whole: Whole, start: TrainedStart, job: Job) -> tuple[int, ...]:
    """Return the widths when units of the least importance for what they save leave first."""
    cost, budget = whole.cost(job.metric), whole.budget(job)
    scores = [np.sort(own.cpu().numpy())[::-1] for own in start.ranking.scores]
    widths = np.array(start.arch.base_widths)
    lowest = width_limits(cost, len(scores))[0].astype(int)

    def is_beyond_budget() -> bool:
        over = float(cost(widths)) / budget
        if job.metric == "macs" or over > _FAR:
            return over > 1
        return is_beyond(whole, whole.arch.build(widths), job)

    while is_beyond_budget():
        fewer = np.maximum(widths - _GROUP[job.metric], lowest)  # of the layer that is chosen
        networks = np.where(np.eye(len(widths), dtype=bool), fewer, widths)
        saved = float(cost(widths)) - np.asarray(cost(networks), float)
        lost = [own[few:width].sum() for own, few, width in zip(scores, fewer, widths, strict=True)]
        prices = np.where(fewer < widths, lost / np.maximum(saved, 1e-9), np.inf)
        widths = networks[int(np.argmin(prices))]
    return tuple(widths.tolist())


def prune(whole: Whole, job: Job, epochs: int = 0) -> nn.Module:
    """Return the network after the first of Torch-Pruning's 100 steps that meets the budget.

    Args:
        epochs: of training, spread over the steps.
    """
    model, pruner = make_pruner(whole)
    batches, between = whole.batches(job.seed), 0
    if epochs:
        between = epochs * batches.per_epoch // max(count_steps(whole, job), 1)
    while is_beyond(whole, model, job):
        prune_step(model, pruner, batches)
        train_between(whole, model, batches, between, job.seed)
    return model.eval()


def count_steps(whole: Whole, job: Job) -> int:
    """Return how many steps meet the budget without training between them."""
    (model, pruner), steps = make_pruner(whole), 0
    while is_beyond(whole, model, job):
        prune_step(model, pruner, whole.batches(job.seed))
        steps += 1
    return steps


def is_beyond(whole: Whole, model: nn.Module, job: Job) -> bool:
    """Return whether a network costs more than a share of the whole one."""
    if job.metric == "latency":
        is_far = whole.time(model, rounds=1) > _FAR * job.share
        return is_far or whole.time(model, rounds=10) > job.share
    from torch_pruning.utils import count_ops_and_params  # noqa: PLC0415  (optional)

    return bool(count_ops_and_params(model, whole.example[:1])[0] > whole.budget(job))


def train_between(
    whole: Whole, model: nn.Module, batches: TrainingBatches, count: int, seed: int
) -> None:
    """Train a network on so many batches, distilled as in fine-tuning, at its highest rate."""
    training, images = whole.settings(seed).training, Classification(whole.splits)
    optimizer = sgd(model, training.lr, training.momentum, training.weight_decay)
    for _ in range(count):
        inputs, labels = batches.next()
        with torch.no_grad():
            loss = images.distil(whole.model(inputs), training.distillation or 0.0)
        train_step(model.train(), optimizer, inputs, labels, whole.compute, loss)


def make_pruner(whole: Whole) -> tuple[nn.Module, Any]:
    """Return a copy of the network, and Torch-Pruning's pruner of it."""
    import torch_pruning  # noqa: PLC0415  (optional)

    model = copy.deepcopy(whole.model)
    for weight in model.parameters():
        weight.requires_grad_()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    heads = {
        part: part.out_features // layer.head
        for layer in model.modules()
        if isinstance(layer, Layer)
        for part in (layer.query, layer.key, layer.value)
    }
    pruner = torch_pruning.pruner.BasePruner(
        model,
        whole.example[:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=_STEPS,
        ignored_layers=[last],
        num_heads=heads,
        prune_num_heads=bool(heads),
    )
    return model, pruner


def prune_step(model: nn.Module, pruner: Any, batches: TrainingBatches) -> None:
    """Average the gradients of some batches, and remove a hundredth of the channels by them."""
    model.zero_grad()
    for _ in range(_BATCHES):
        images, labels = batches.next()
        nn.functional.cross_entropy(model.train()(images), labels).backward()
    pruner.step()


def run(job: Job, protocol: Protocol, deadline: float) -> list[dict[str, Any]]:
    """Return the rows of a job; none if it is too late to begin."""
    if time.time() > deadline:
        return []
    began, whole = time.time(), load(job.network, protocol)
    rows = make_smaller(whole, job)
    seconds = {"seconds": round(time.time() - began)}
    if job.metric == "latency":
        return [row | seconds | {"time": whole.time(model, rounds=30)} for row, model in rows]
    return [row | seconds for row, _ in rows]


def make_smaller(whole: Whole, job: Job) -> Rows:
    """Return the trained networks of an arm."""
    epochs, training = whole.protocol.epochs, whole.settings(job.seed).training
    if job.arm == "compress":
        return compress(whole, job)
    if job.arm == "torch-pruning":
        return train(whole, job, training, start=prune(whole, job))
    if job.arm == "torch-pruning, trained between":
        model = prune(whole, job, epochs // 2)
        return train(whole, job, training.updated(epochs=epochs - epochs // 2), start=model)
    if job.arm == "knapsack":
        start = rank(whole, job.seed)
        model = start.build(solve_knapsack(whole, start, job))
        return train(whole, job, training, start=model)
    epochs += whole.protocol.whole_epochs or EPOCHS[job.network]
    training = recipe(epochs, job.seed).updated(precision=whole.protocol.precision)
    return train(whole, job, training, widths=solve_uniform(whole, job))


def solve_uniform(whole: Whole, job: Job) -> tuple[int, ...]:
    """Return the largest uniform widths within the budget."""
    law = nsopt.uniform_curve(whole.arch.base_widths)
    if job.metric == "latency":
        share = f"{job.share:.0%}"
        return nsopt.solve_measured_widths(whole.timed, law, share, device="cpu").widths
    found = nsopt.solve_widths(law, whole.cost("macs"), whole.budget(job)).widths
    return tuple(map(int, found))


def list_jobs(options: argparse.Namespace, results: Results) -> list[Job]:
    """Return what is missing, the most decisive first."""
    wanted = [
        Job(network, options.metric, arm, share, seed)
        for network in options.networks
        for arm, seeds in _ARMS.items()
        for share, number in zip(_SHARES, seeds, strict=True)
        for seed in range(number)
        if seed in options.seeds and arm in options.arms and share in options.shares
    ]
    wanted.sort(key=lambda job: ("scratch" in job.arm, job.seed + _LATER[job.share]))
    return [job for job in wanted if not results.has(**vars(job))]


def train_all(options: argparse.Namespace, results: Results) -> None:
    """Train the whole networks, and write their rows."""
    data, compute = nsopt.load_data(options.data), resolve_compute("auto", "fp32")
    for network in options.networks:
        began = time.time()
        arch = trace(build(network), torch.zeros(2, 3, 32, 32), network)
        epochs = options.whole_epochs or EPOCHS[network]
        precision: Precision = options.precision or "fp32"
        model = train_whole(network, arch, data, epochs, precision, options.folder).eval()
        torch.save(model.state_dict(), options.folder / f"{network}.pt")
        images = Classification(place_images(data.split(VAL_FRACTION), compute))
        results.add(
            network=network,
            metric="macs",
            share=1.0,
            arm="whole",
            seed=0,
            validation=evaluate(images.validation(compute), model, compute),
            test=evaluate(images.test(compute), model, compute),
            macs=int(arch.cost("macs")(arch.base_widths)),
            widths=list(arch.base_widths),
            seconds=round(time.time() - began),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("train", "compress"))
    parser.add_argument("data", help="folder:PATH of CIFAR-10")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=["resnet20"], choices=tuple(EPOCHS))
    parser.add_argument("--arms", nargs="+", default=tuple(_ARMS), choices=tuple(_ARMS))
    parser.add_argument("--metric", default="macs", choices=tuple(_GROUP))
    parser.add_argument("--shares", nargs="+", type=float, default=_SHARES, choices=_SHARES)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--whole-epochs", type=int, help="of the whole networks")
    parser.add_argument("--epochs", type=int, default=20, help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--per-class", type=int, help="training images of each class")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="fp32 of the whole ones")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=np.inf, help="begin nothing later")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "outcomes.jsonl", _KEYS)
    if options.stage == "train":
        train_all(options, results)
        return
    deadline = time.time() + options.seconds
    protocol = Protocol(
        options.data,
        options.folder,
        options.whole_epochs,
        options.epochs,
        options.batch_size,
        options.per_class,
        options.precision or "bf16",
    )
    calls = [(job, protocol, deadline) for job in list_jobs(options, results)]
    results.add_all(run, calls, options.processes)


if __name__ == "__main__":
    main()
