"""What `refine` learns from as many trainings as `nsopt tune --over curve` had: see README.md.

The law is uniform scaling, the best of the three that the tuning began with; spread 0.25. Then the
best network is trained with the seeds that confirmed the tuned law. Continues where it was stopped.
"""

import argparse
from pathlib import Path

import optuna
import pandas as pd

import nsopt
from nsopt.experiments.presets import get_preset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="cifar10")
parser.add_argument("--storage", required=True)
parser.add_argument("--trials", type=int, default=24)
parser.add_argument("--out", type=Path, required=True, help="the CSV file")
options = parser.parse_args()

data = nsopt.load_data(options.data)
arch = nsopt.get_architecture("vgg11", len(data.classes), data.image_size, data.channels)
macs = arch.cost("macs")
budget = macs([width // 8 for width in arch.base_widths])
settings = get_preset("quick").settings.training.updated(epochs=5)


def accuracy(widths: tuple[int, ...], seed: int) -> float:
    return nsopt.train(arch, widths, data, settings.updated(seed=seed)).val_accuracy


def objective(trial: optuna.Trial) -> float:
    return accuracy(nsopt.suggest_widths(trial, arch), seed=0)


sampler = nsopt.NeuralScaleSampler(
    nsopt.uniform_curve(arch.base_widths),
    macs,
    arch.layer_names,
    budgets=[budget],
    spread=0.25,
    refine=True,
    seed=0,
)
study = optuna.create_study(
    study_name="refine",
    storage=options.storage,
    sampler=sampler,
    direction="maximize",
    load_if_exists=True,
)
study.optimize(objective, n_trials=options.trials - len(study.trials))
best = tuple(study.best_trial.params[f"width_{name}"] for name in arch.layer_names)
rows = [
    {
        "trial": trial.number,
        "seed": 0,
        "val_accuracy": trial.value,
        "widths": "-".join(str(trial.params[f"width_{name}"]) for name in arch.layer_names),
    }
    for trial in study.trials
]
for seed in (1000, 1001, 1002):
    name = "-".join(map(str, best))
    rows.append({"seed": seed, "val_accuracy": accuracy(best, seed), "widths": name})
pd.DataFrame(rows).to_csv(options.out, index=False, lineterminator="\n")
