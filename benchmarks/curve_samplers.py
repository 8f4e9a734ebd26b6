"""Claim: a Gaussian process finds a good curve in fewer trainings than TPE or random search.

Real trainings of `nsopt tune --over curve` (VGG11 on CIFAR-10 at the MACs of its 0.125x network, 5
epochs; curve_samplers_data/trainings.csv) give a surrogate: a Gaussian process over the weights,
with its own noise. Every sampler then tunes it, beginning with uniform scaling and the pure laws as
the command does. Prints the surrogate's true value at the trial that looked best, mean and standard
deviation over seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal, get_args

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import numpy as np
import optuna
import pandas as pd
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from benchmarks.common import show
from nsopt.tuning.law import RANGES, WEIGHTS, Sampler, make_sampler

_DATA = Path(__file__).parent / "curve_samplers_data" / "trainings.csv"
_NAMES = ("filters", "macs", "slope")
_STARTS: tuple[dict[str, float], ...] = ({}, {"filters": 1.0}, {"macs": 1.0})
_NOISE = 0.5  # points of validation accuracy between seeds of one network


class Surrogate:
    """What trainings would give. noise: standard deviation of a training."""

    def __init__(self, trainings: pd.DataFrame) -> None:
        kernel = ConstantKernel(100.0) * RBF([1.0] * len(_NAMES)) + WhiteKernel(_NOISE**2)
        self._model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        self._model.fit(trainings[list(_NAMES)].to_numpy(), trainings["val_accuracy"])

    def __call__(self, parameters: dict[str, float]) -> float:
        row = [[parameters[name] for name in _NAMES]]
        return float(self._model.predict(row)[0])


def tuned(surrogate: Surrogate, name: Sampler | Literal["random"], trials: int, seed: int) -> float:
    """The true value of what a sampler would end with."""
    generator = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize")
    for start in _STARTS:
        study.enqueue_trial(dict.fromkeys(_NAMES, 0.0) | start)
    for number in range(trials):
        index = 1000 * seed + number
        random = optuna.samplers.RandomSampler(index)
        study.sampler = random if name == "random" else make_sampler(name, index)
        trial = study.ask()
        parameters = {n: trial.suggest_float(n, *RANGES.get(n, WEIGHTS)) for n in _NAMES}
        study.tell(trial, surrogate(parameters) + generator.normal(scale=_NOISE))
    return surrogate(study.best_params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    parser.add_argument("--trials", type=int, default=24)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    surrogate = Surrogate(pd.read_csv(_DATA))
    results: dict[str, float | str] = {"uniform": surrogate(dict.fromkeys(_NAMES, 0.0))}
    for name in ("random", *get_args(Sampler)):
        found = [
            tuned(surrogate, name, options.trials, seed)
            for seed in range(4 if options.quick else 20)
        ]
        results[name] = f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f}"
    show(results, options.json)


if __name__ == "__main__":
    main()
