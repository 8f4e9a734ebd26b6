"""Claim: NeuralScaleSampler takes less than 1 ms a trial beyond what Optuna itself takes; with a
spread, what one exact solution takes.

Asks a study for trials and suggests VGG11's eight widths, with this sampler and with Optuna's
RandomSampler in turn, when 10 trials are done and when 10,000 are. Prints milliseconds a trial and
their difference.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import nsopt
from benchmarks.common import show
from nsopt.scaling.law import uniform_curve
from nsopt.storage.trials import LARGEST_WIDTH, width_parameter

_BUDGETS = (300_000, 600_000, 2_000_000)
_ARCH = nsopt.get_architecture("vgg11")


def neuralscale(spread: float) -> BaseSampler:
    curve = uniform_curve(_ARCH.base_widths)
    return nsopt.NeuralScaleSampler(
        curve, _ARCH.cost("params"), _ARCH.layer_names, _BUDGETS, seed=0, spread=spread
    )


def study_with(trials: int, sampler: BaseSampler) -> optuna.Study:
    """A study with so many completed trials."""
    names = [width_parameter(name) for name in _ARCH.layer_names]
    space: dict[str, BaseDistribution] = {name: IntDistribution(1, LARGEST_WIDTH) for name in names}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        optuna.create_trial(
            params={name: 1 + (number + layer) % 500 for layer, name in enumerate(names)},
            distributions=space,
            value=float(number),
        )
        for number in range(trials)
    )
    return study


def milliseconds(study: optuna.Study, count: int) -> float:
    """Median of `count` trials, from asking to the last width."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        trial = study.ask()
        nsopt.suggest_widths(trial, _ARCH)
        seconds.append(time.perf_counter() - start)
        study.tell(trial, 0.0)
    return 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer trials are timed")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    count = 20 if options.quick else 100
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: RandomSampler(seed=0),
        "law": lambda: neuralscale(0.0),
        "spread": lambda: neuralscale(0.1),
    }
    results: dict[str, Any] = {"repeats": options.repeats}
    for trials in (10, 10_000):
        studies = {name: study_with(trials, make()) for name, make in samplers.items()}
        rounds = [
            {name: milliseconds(study, count) for name, study in studies.items()}
            for _ in range(options.repeats)
        ]
        results[f"trial_{trials}"] = {
            "random_ms": statistics.median(times["random"] for times in rounds),
            **{
                f"{name}_beyond_ms_{kind}": choose(
                    times[name] - times["random"] for times in rounds
                )
                for name in ("law", "spread")
                for kind, choose in (("median", statistics.median), ("max", max))
            },
        }
    show(results, options.json)


if __name__ == "__main__":
    main()
