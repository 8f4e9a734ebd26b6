"""How closely a small network follows the trained one."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
import torch

from nsopt.compression.budgets import Budget
from nsopt.compression.scores import ScoreRunner, find_best, score_as_timed, score_laws
from nsopt.compute.device import resolve_compute
from nsopt.data.images import ImageData
from nsopt.models.architecture import TableArchitecture
from nsopt.progress import Silent
from nsopt.scaling.family import LawFamily, relative_uniform
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.session.session import Session
from nsopt.tasks.agreement import Agreement, is_closer
from nsopt.tasks.classification import Classification, outputs_on
from nsopt.tasks.supervision import evaluate


def make_agreement(*divergences: float) -> Agreement:
    return Agreement(torch.tensor(divergences), 50.0)


def test_agreement_is_100_percent_for_equal_outputs_and_falls_with_the_divergence() -> None:
    assert make_agreement(0.0, 0.0).percentage == 100
    assert make_agreement(0.1, 0.3).percentage == pytest.approx(100 * math.exp(-0.2))
    assert make_agreement(0.1, math.inf).percentage == 0


def test_one_network_is_closer_only_beyond_the_error_of_the_images() -> None:
    some, more = make_agreement(0.1, 0.5, 0.3), make_agreement(0.2, 0.6, 0.45)
    noisy = make_agreement(0.9, 0.1, 0.4)
    assert is_closer(some, more)
    assert not is_closer(more, some)
    assert not is_closer(some, some)
    assert not is_closer(some, noisy)
    assert is_closer(some, make_agreement(*[math.inf] * 3))
    assert not is_closer(make_agreement(0.1), make_agreement(0.2)), "one image has no error"


def test_networks_are_compared_on_the_validation_images(
    narrow: TableArchitecture, digits: ImageData
) -> None:
    """The divergence is that of the small network from the trained one, KL(trained || small)."""
    splits, compute = digits.split(0.2), resolve_compute("cpu", "fp32")
    torch.manual_seed(0)
    trained, other = (narrow.build(narrow.base_widths).eval() for _ in range(2))
    images = Classification(splits)
    compare = images.comparison(trained, compute)
    same, found = compare(trained), compare(other)
    accuracy = evaluate(images.validation(compute), other)
    p, q = (
        outputs_on(splits.validation, model, splits, compute).softmax(1)
        for model in (trained, other)
    )
    assert same.percentage == pytest.approx(100)
    assert found.score == accuracy
    torch.testing.assert_close(found.distances, (p * (p / q).log()).sum(1), rtol=1e-3, atol=1e-6)
    assert len(found.distances) == len(splits.validation)
    assert 0 < found.percentage < 100


def test_the_widths_that_were_timed_are_scored_once_and_only_for_milliseconds() -> None:
    uniform, scored, timed = relative_uniform([8, 8]), list[tuple[int, ...]](), (5, 3)
    family = LawFamily(uniform, {"neuralscale": replace(uniform, alpha=uniform.alpha * [2, 0.5])})

    def solve(law: PowerLaw) -> tuple[int, ...]:
        return tuple(law.widths(0.25).round().astype(int).tolist())

    def measure(widths: tuple[int, ...]) -> tuple[float, Mapping[str, Any]]:
        scored.append(widths)
        return float(widths[0]), {"score": 50.0}

    session = SimpleNamespace(compute=resolve_compute("cpu", "fp32"), progress=Silent())
    study = optuna.create_study(direction="maximize")
    for metric in (MACS, LATENCY, LATENCY):
        budget = Budget("half", metric, 9.0)
        runner = ScoreRunner(cast(Session, session), budget, family, solve, measure)
        done = score_laws(study, runner, 2, seed=0)
        score_as_timed(study, replace(runner, solve=lambda law: timed), done)
        assert scored == [(4, 4), (8, 2), *[timed] * (metric == LATENCY)]
        if metric == MACS:
            study.enqueue_trial({"neuralscale": 0.5})  # by a user: it has no seed
    assert [trial.state.name for trial in study.trials] == [*["COMPLETE"] * 2, "PRUNED", "COMPLETE"]
    best = find_best([trial for trial in study.trials if trial.values])
    assert study.trials[-1].params == best.params, "of the law that scored best"
    assert best.number == 1
    later = optuna.create_study(direction="maximize")
    for candidates in (1, 2, 2):
        done = score_laws(later, runner, candidates, seed=0)
        own = score_as_timed(later, replace(runner, solve=lambda law: timed), done)
        assert own.params == find_best(done).params, "also of candidates that are scored later"
    assert [trial.params["neuralscale"] for trial in later.trials] == [0, 0, 1, 1]
