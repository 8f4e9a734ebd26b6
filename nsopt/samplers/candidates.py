"""Candidate laws: the family that searches span, and a sampler of its members."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

import numpy as np
from optuna.samplers import GPSampler
from optuna.trial import Trial

from nsopt.models.architecture import Architecture
from nsopt.pruning.rules import get_size_metric
from nsopt.scaling.cost import CostModel
from nsopt.scaling.family import SLOPE, LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import Metric
from nsopt.settings import Price

_RANGES = {SLOPE: (-1.5, 1.5)}
_WEIGHTS = (-1.0, 1.5)
_STARTUP_TRIALS = 6


def list_prices(metric: Metric) -> tuple[Price, ...]:
    """Return the prices of the searches whose laws suit budgets in a metric, or in several at once.

    The bytes of weights follow the parameters. The peak of the activations has no price per filter:
    most filters do not change it. Computations are the nearest.
    """
    if len(metric.parts) > 1:
        return tuple(dict.fromkeys(p for part in metric.parts for p in list_prices(part)))
    if metric.name in get_args(Price):
        return "filters", cast("Price", metric.name)
    return "filters", "params" if metric.name.startswith("flash") else "macs"


def make_family(arch: Architecture, laws: Mapping[Price, PowerLaw]) -> LawFamily:
    """Return the family of the laws of searches, around uniform scaling.

    Args:
        laws: by the price of their search, over tau.
    """
    others = {
        str(price): relative(law, get_size_metric(price).cost(arch), arch.base_widths)
        for price, law in laws.items()
    }
    return LawFamily(relative_uniform(arch.base_widths), others)


def with_members(
    family: LawFamily, widths: Mapping[str, Sequence[int]], cost: CostModel
) -> LawFamily:
    """Return a family with more members: networks, scaled like uniform ones.

    Args:
        widths: of the networks, by the name of the member.
    """
    base = family.uniform.alpha
    sizes = {name: float(cost(own)) / float(cost(base)) for name, own in widths.items()}
    members = {
        name: replace(family.uniform, alpha=np.array(own) / np.sqrt(sizes[name]))
        for name, own in widths.items()
    }
    return replace(family, others={**family.others, **members})


def suggest_parameters(trial: Trial, family: LawFamily) -> dict[str, float]:
    return {
        name: trial.suggest_float(name, *_RANGES.get(name, _WEIGHTS)) for name in family.parameters
    }


def make_sampler(seed: int) -> GPSampler:
    """Return a sampler of members. It samples the first few at random."""
    return GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
