"""A law outside the record to which it was fitted: it says so, whoever solves it."""

import re
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
import torch

import nsopt
from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.record import PruneRecord

ARCH = get_architecture("vgg11")
PARAMS, MACS = ARCH.cost("params"), ARCH.cost("macs")
WIDTHS = np.array([np.full(8, width) for width in (40, 32, 24, 16, 12, 8)])
TAU = np.asarray(PARAMS(WIDTHS))
LAW = PowerLaw.fit(WIDTHS, TAU)
INSIDE, LARGEST, SMALLEST = int(PARAMS(WIDTHS[2])), int(TAU[0]), int(TAU[-1])


@pytest.mark.parametrize(
    ("budget", "factor", "said"),
    [
        (500 * LARGEST, 500.0, f"{500 * LARGEST:,} params is 5e+02 times the largest recorded"),
        (2 * LARGEST, 2.0, "is 2 times the largest recorded network: nsopt extrapolates"),
        (SMALLEST // 2, 0.5, "is 0.5 times the smallest recorded network"),
        ([INSIDE, SMALLEST // 2, 3 * LARGEST], [1.0, 0.5, 3.0], "is 3 times the largest"),
    ],
)
def test_the_solver_warns_outside_the_record(budget: Any, factor: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(said)) as caught:
        fit = nsopt.solve_widths(LAW, PARAMS, budget)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(fit.beyond_record, factor, rtol=1e-3)
    assert nsopt.solve_widths(LAW, PARAMS, budget, warn=False).beyond_record is not None


def test_the_solver_is_silent_inside_the_record_and_for_laws_without_one() -> None:
    for budget in (INSIDE, SMALLEST, LARGEST, int(1.004 * LARGEST)):
        assert nsopt.solve_widths(LAW, PARAMS, budget).beyond_record is None
    for law in (nsopt.uniform_curve(ARCH.base_widths), LAW * LAW, LAW**2):
        assert nsopt.solve_widths(law, PARAMS, 10**9).beyond_record is None


def test_other_metrics_other_solvers_and_several_budgets_warn_too() -> None:
    macs = 2 * int(MACS(WIDTHS[0]))
    with pytest.warns(UserWarning, match=f"{macs:,} MACs is 2 times the largest"):
        nsopt.solve_widths(LAW, MACS, macs)
    with pytest.warns(UserWarning, match=r"the budgets params=.* are 2 times the largest"):
        fit = nsopt.solve_widths(LAW, [(PARAMS, 2 * LARGEST), (MACS, 100 * macs)])
    assert fit.beyond_record == pytest.approx(2)
    with pytest.warns(UserWarning, match="is 2 times the largest"):
        nsopt.solve_widths_sgd(LAW, PARAMS, 2 * LARGEST, max_steps=1)


def test_a_budget_may_be_a_tensor_but_no_text() -> None:
    for budget in (torch.tensor(INSIDE), torch.tensor([INSIDE, SMALLEST])):
        widths = nsopt.solve_widths(LAW, PARAMS, budget).widths
        np.testing.assert_array_equal(
            widths, nsopt.solve_widths(LAW, PARAMS, budget.tolist()).widths
        )
    for text in ("2e5", "2_000", ["2e5", 3000], np.array(["2e5"], object), b"2e5", "2k"):
        with pytest.raises(NsoptError, match=r"budget must be numbers, not .*2"):
            nsopt.solve_widths(LAW, PARAMS, text)
        with pytest.raises(NsoptError, match=r"budget must be numbers, not .*2"):
            LAW.beyond(PARAMS, text)


def test_a_law_keeps_its_record_in_a_file() -> None:
    law = PowerLaw.from_dict(LAW.to_dict())
    assert law.beyond(PARAMS, 2 * LARGEST) == pytest.approx(2)
    assert law.beyond(PARAMS, INSIDE) is None
    np.testing.assert_array_equal(law.recorded, WIDTHS[[-1, 0]])
    whole = np.vstack([WIDTHS[0], WIDTHS])
    by_layer = PruneRecord(whole, np.asarray(PARAMS(whole)), by_layer=True)
    np.testing.assert_array_equal(by_layer.law().recorded, WIDTHS[[-1, 0]])
    with pytest.raises(nsopt.NsoptError, match="of two networks"):
        replace(LAW, recorded=WIDTHS[0])


def test_the_sampler_warns_once_and_its_trials_say_how_far() -> None:
    with pytest.warns(UserWarning, match="3 times the largest") as caught:
        sampler = nsopt.NeuralScaleSampler(LAW, PARAMS, ARCH, budgets=[INSIDE, 3 * LARGEST])
    assert len(caught) == 1
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: sum(nsopt.suggest_widths(trial, ARCH)), n_trials=4)
    told = [trial.user_attrs.get("beyond_record") for trial in study.trials]
    assert told == [None, pytest.approx(3), None, pytest.approx(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = partial(nsopt.solve_widths, warn=False)
        nsopt.NeuralScaleSampler(LAW, PARAMS, ARCH, budgets=[3 * LARGEST], solver=silent)
