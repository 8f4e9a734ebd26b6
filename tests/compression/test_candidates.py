"""The widths that a compression compares at a budget, and which of them it trains."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import nsopt
from nsopt import NsoptError, uniform_curve
from nsopt.compression.budgets import Solver, budgets_of, read_words
from nsopt.compression.candidates import choose_widths
from nsopt.compression.compress import get_settings
from nsopt.compression.fits import Fits
from nsopt.compute.device import resolve_compute
from nsopt.latency.budget import Widths
from nsopt.scaling.metric import read_budget
from nsopt.session.presets import StudySettings, override
from nsopt.session.session import start_session
from nsopt.session.subject import Subject
from nsopt.storage.schema import FIT, HALFWAY, TAYLOR, UNIFORM, StoredCandidate
from nsopt.tasks.agreement import Agreement
from tests.conftest import EXACT, one_line
from tests.study.test_comparison import Listener, make_workspace

NAMES = FIT, f"{FIT}{HALFWAY}", TAYLOR, f"{TAYLOR}{HALFWAY}", UNIFORM
TRAINING = {**EXACT, "least_steps": None, "epochs": 1}
SETTINGS = override(get_settings(images=False), {"search": EXACT, "training": TRAINING})


def make_model(widths: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Make layers whose units differ much, so that rankings keep other widths than uniform ones."""
    torch.manual_seed(seed)
    layers, inputs = list[nn.Module](), 6
    for width in widths:
        layer = nn.Linear(inputs, width)
        layer.weight.data *= 3 * torch.rand(width, 1) ** 3
        layers += [layer, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 3)).eval()


def make_inputs(count: int = 160) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def make_task(model: nn.Module, has_loss: bool = True) -> nsopt.Task:
    inputs = make_inputs()
    with torch.no_grad():
        targets = model(inputs)
    batches = list(zip(inputs.split(16), targets.split(16), strict=True))
    return nsopt.Task(batches, loss=functional.mse_loss if has_loss else None)


def choose(
    model: nn.Module, task: nsopt.Task, word: str, folder: Path, used: StudySettings = SETTINGS
) -> tuple[list[StoredCandidate], Solver]:
    """Return the candidates at a budget, and what solved it."""
    arch = nsopt.trace(model, make_inputs(2))
    subject = Subject.of(arch, task, used.updated(start=model))
    session = start_session(subject, make_workspace(folder), nsopt.Silent(), "cpu")
    (budget,) = budgets_of(read_words([word]), arch)
    solver = Solver(budget, arch, used, session.timer)
    uniform = solver.solve(uniform_curve(arch.base_widths))
    return choose_widths(Fits(session), solver, uniform), solver


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    widths=st.lists(st.integers(3, 24), min_size=1, max_size=3).map(tuple),
    share=st.integers(35, 95),
    metric=st.sampled_from(["macs", "params"]),
    has_loss=st.booleans(),
    seed=st.integers(0, 99),
)
def test_at_most_five_candidates_all_within_the_budget(
    widths: tuple[int, ...],
    share: int,
    metric: str,
    has_loss: bool,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = make_model(widths, seed)
    folder = tmp_path_factory.mktemp("candidates")
    try:
        found, solver = choose(model, make_task(model, has_loss), f"{metric}={share}%", folder)
    except NsoptError as error:  # a network may return constants
        assume("returns the same numbers" not in str(error))
        raise
    cost = solver.budget.metric.cost(solver.arch)
    assert 1 <= len(found) <= (5 if has_loss else 3)
    known = NAMES if has_loss else (FIT, f"{FIT}{HALFWAY}", UNIFORM)
    assert {candidate.name for candidate in found} <= set(known)
    assert len({candidate.widths for candidate in found}) == len(found), "equal ones are one"
    for candidate in found:
        assert cost(candidate.widths) <= solver.budget.limit
        assert all(1 <= own <= most for own, most in zip(candidate.widths, widths, strict=True))
    assert solver.solve(uniform_curve(widths)) in {candidate.widths for candidate in found}
    agreements = [candidate.agreement for candidate in found]
    assert agreements == sorted(agreements, reverse=True)
    assert [candidate.trained for candidate in found[:1]] == [True]
    assert not any(candidate.trained for candidate in found[2:])


def test_the_choice_is_by_agreement_on_inputs_that_no_fit_saw(tmp_path: Path) -> None:
    """The first fifth of the inputs are compared, relative to the variance of the outputs."""
    model, inputs = make_model((20, 16, 12)), make_inputs()
    held, others = inputs[:32], {tuple(row) for row in inputs[32:].tolist()}
    arch = nsopt.trace(model, inputs[:2])
    subject = Subject.of(arch, make_task(model), SETTINGS.updated(start=model))
    session = start_session(subject, make_workspace(tmp_path), nsopt.Silent(), "cpu")
    (budget,) = budgets_of(read_words(["macs=50%"]), arch)
    solver, fits = Solver(budget, arch, SETTINGS, session.timer), Fits(session)
    found = choose_widths(fits, solver, solver.solve(uniform_curve(arch.base_widths)))
    assert {tuple(row) for batch in fits._inputs.batches for row in batch.tolist()} == others
    with torch.no_grad():
        wanted = model(held)
        outputs = [fits.fit_briefly(candidate.widths)(held) for candidate in found]
    distances = [(own - wanted).square().mean() / wanted.var(0).mean() for own in outputs]
    expected = [100 * math.exp(-float(distance)) for distance in distances]
    assert [candidate.agreement for candidate in found] == pytest.approx(expected, rel=1e-4)
    assert {candidate.name for candidate in found} >= {FIT, TAYLOR}


def choose_by(
    distances: dict[Widths, list[float]], epochs: int = 1
) -> tuple[list[StoredCandidate], list[str]]:
    """Return the choice among widths of one layer, the last of them uniform, and the messages.

    Args:
        distances: of their fitted networks from the trained one, for each example.
    """
    model, listener = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), Listener()
    arch = nsopt.trace(model, torch.rand(2, 4))
    used = override(SETTINGS, {"training": {"epochs": epochs}})
    subject = SimpleNamespace(arch=arch, settings=used)
    exact = resolve_compute("cpu", "fp32")
    session = SimpleNamespace(subject=subject, progress=listener, compute=exact)
    *ranked, uniform = distances
    farthest = max(distances.values(), key=sum)  # also of the widths halfway
    fits = SimpleNamespace(
        session=session,
        rankings={
            name: SimpleNamespace(widths_per_cost=lambda *_, own=own: own)
            for name, own in zip((FIT, TAYLOR), ranked, strict=False)
        },
        fit_briefly=lambda widths: widths,
        compare=lambda widths: Agreement(torch.tensor(distances.get(widths, farthest))),
    )
    solver = SimpleNamespace(
        budget=read_budget("macs=50%").at(arch),
        arch=arch,
        solve=lambda law: tuple(law.widths(1.0).round().astype(int).tolist()),
    )
    return choose_widths(cast(Fits, fits), cast(Solver, solver), uniform), listener.messages


NEAR, CLOSE, FAR = [0.1, 0.2, 0.3, 0.2], [0.3, 0.1, 0.2, 0.3], [1.1, 1.2, 1.3, 1.2]


@pytest.mark.parametrize(
    ("distances", "names", "trained"),
    [
        ([NEAR, FAR, FAR], FIT, 1),
        ([FAR, NEAR, FAR], TAYLOR, 1),
        ([FAR, FAR, NEAR], UNIFORM, 1),
        ([NEAR, CLOSE, FAR], f"{FIT} {TAYLOR}", 2),
        ([NEAR, FAR, CLOSE], f"{FIT} {UNIFORM}", 2),
        ([CLOSE, NEAR, CLOSE], TAYLOR, 2),
    ],
)
def test_the_next_is_trained_only_while_agreements_do_not_tell_them_apart(
    distances: list[list[float]], names: str, trained: int
) -> None:
    widths = (6,), (5,), (2,)
    found, messages = choose_by(dict(zip(widths, distances, strict=True)))
    taken = [candidate.name for candidate in found if candidate.trained]
    assert len(taken) == trained
    assert taken[: len(names.split())] == names.split()
    assert [candidate.trained for candidate in found] == sorted(
        (candidate.trained for candidate in found), reverse=True
    )
    (message,) = messages
    assert message.startswith(f"macs=50%: agreement of fitted widths: {found[0].name} ")
    alone, _ = choose_by(dict(zip(widths, distances, strict=True)), epochs=0)
    assert sum(candidate.trained for candidate in alone) == 1, "nothing tells more without training"


def test_equal_widths_are_compared_once() -> None:
    found, _ = choose_by({(4,): NEAR})
    assert [(candidate.name, candidate.trained) for candidate in found] == [(UNIFORM, True)]


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (math.inf, "infinitely far from those of the trained one: give the task a distance="),
        (1e6, r"distance= returned 1e\+06 for an example .*: divide it, so that it is about 1"),
    ],
)
def test_distances_that_compare_nothing_are_one_line(distance: float, message: str) -> None:
    with one_line(message):
        choose_by({(6,): [distance] * 4, (2,): [distance] * 4})


def test_a_budget_that_no_ranking_keeps_leaves_the_uniform_widths(tmp_path: Path) -> None:
    model = make_model((8,))
    found, solver = choose(model, make_task(model), "params=17%", tmp_path)
    cost = solver.budget.metric.cost(solver.arch)
    assert all(cost(candidate.widths) <= solver.budget.limit for candidate in found)
