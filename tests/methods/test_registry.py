"""The registry of methods, and the laws of the built-in ones."""

import dataclasses
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import nsopt
from nsopt import Architecture, LawInputs, NsoptError, PowerLaw, SearchSettings, uniform_curve
from nsopt.errors import NoWidthsError
from nsopt.methods import registry
from nsopt.methods.registry import (
    get_method,
    get_methods,
    is_method,
    method_label,
    method_order,
    methods,
)
from nsopt.scaling.record import Iteration, Trajectory

BUILT_IN = ["uniform", "magnitude", "morphnet", "neuralscale", "dense"]


def test_morphnet_prunes_to_half_the_filters_not_half_the_units(
    narrow: Architecture, history: list[Iteration], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array([[40, 4], [5, 3], [4, 3], [3, 2], [2, 2], [2, 1], [1, 1]])
    layers = len(narrow.base_widths)
    widths = np.hstack([rows[:, :1], np.repeat(rows[:, 1:], layers - 1, axis=1)])
    pruned = dataclasses.replace(history[0], trajectory=Trajectory(widths, np.arange(7)))
    channels = property(lambda _: (1, *[64] * (layers - 1)))
    monkeypatch.setattr(Architecture, "channels_per_unit", channels)
    assert law_of("morphnet", narrow, [pruned]).alpha.tolist() == [3, *[2] * (layers - 1)]


@pytest.fixture
def history(narrow: Architecture) -> list[Iteration]:
    """Two iterations with laws of their own, from a network that lost filters evenly."""
    base = np.array(narrow.base_widths)
    rows = np.array([np.ceil(base * fraction) for fraction in np.linspace(1, 0.1, 12)], dtype=int)
    trajectory = Trajectory(rows, np.asarray(narrow.cost("params")(rows)))
    law = trajectory.record().law()
    return [Iteration(trajectory, law**power, narrow.base_widths, 1.0) for power in (1, 2)]


def law_of(name: str, arch: Architecture, history: list[Iteration]) -> PowerLaw:
    law = get_method(name).law(LawInputs(arch, arch.cost("params"), 10_000, history))
    assert isinstance(law, PowerLaw)
    return law


def test_methods_are_found_by_name_in_the_order_of_a_report() -> None:
    assert list(methods()) == BUILT_IN
    assert [method.name for method in get_methods(BUILT_IN * 2)] == BUILT_IN
    assert method_order(["neuralscale-iter2", "morphnet", "mine", "uniform"]) == [
        *("uniform", "morphnet", "mine", "neuralscale-iter2")
    ]


@pytest.mark.parametrize("name", ["neural", "neuralscale-iter0", "neuralscale-iter", "Uniform "])
def test_unknown_methods_suggest_the_nearest(name: str) -> None:
    assert not is_method(name)
    with pytest.raises(NsoptError, match=f"unknown method '{name}': did you mean"):
        get_method(name)
    assert method_label(name) == name
    with pytest.raises(NsoptError, match="neuralscale-iterN, neuralscale-macs, neuralscale-params"):
        get_method("foo")
    with pytest.raises(NsoptError, match="no methods given"):
        get_methods([])


def test_a_method_returns_the_record_that_its_law_is_fitted_to(history: list[Iteration]) -> None:
    for name, number in (("neuralscale-iter1", 0), ("neuralscale-iter2", 1), ("neuralscale", 1)):
        assert get_method(name).fitted_to(history) is history[number]
    for name in ("neuralscale-iter3", "uniform", "morphnet"):
        assert get_method(name).fitted_to(history) is None
    assert get_method("neuralscale").fitted_to([]) is None


def test_each_iteration_of_neuralscale_is_a_method(
    narrow: Architecture, history: list[Iteration]
) -> None:
    second = get_method("neuralscale-iter2")
    assert (second.name, second.label) == ("neuralscale-iter2", "NeuralScale, iteration 2")
    assert law_of("neuralscale-iter1", narrow, history) is history[0].law
    assert law_of("neuralscale", narrow, history) is history[1].law
    settings = SearchSettings(iterations=3)
    assert second.search_iterations(settings) == 2
    assert get_method("neuralscale").search_iterations(settings) == 3
    with pytest.raises(NsoptError, match="neuralscale-iter4 needs iterations=4 or more, not 3"):
        get_method("neuralscale-iter4").search_iterations(settings)
    with pytest.raises(NoWidthsError, match="descent converged at iteration 2"):
        law_of("neuralscale-iter3", narrow, history)


def test_uniform_and_morphnet_only_scale(narrow: Architecture, history: list[Iteration]) -> None:
    assert law_of("uniform", narrow, []).alpha.tolist() == list(narrow.base_widths)
    half = law_of("morphnet", narrow, history)
    assert (half.beta == 1).all()
    assert 0.4 * sum(narrow.base_widths) < half.alpha.sum() <= 0.5 * sum(narrow.base_widths)


def test_magnitude_prunes_a_trained_network_to_smaller_budgets(narrow: Architecture) -> None:
    magnitude, cost = get_method("magnitude"), narrow.cost("params")
    base = cost(narrow.base_widths)
    assert magnitude.supports(base - 1, base)
    assert not magnitude.supports(base, base)
    trained = narrow.build(narrow.base_widths)
    law = magnitude.law(LawInputs(narrow, cost, base // 2, trained=trained))
    widths = nsopt.solve_widths(law, cost, base // 2, warn=False).widths
    started = magnitude.start(narrow, tuple(widths.tolist()), trained)
    assert sum(p.numel() for p in started.parameters()) == cost(widths)


class Mine(nsopt.Method):
    name = "mine"
    label = "My own"

    def law(self, inputs: LawInputs) -> PowerLaw:
        return uniform_curve(inputs.arch.base_widths)


@dataclasses.dataclass
class Named(Mine):
    name: str


@pytest.mark.parametrize("name", ["uniform", "neuralscale", "neuralscale-macs"])
def test_the_name_of_a_built_in_method_cannot_be_registered_again(name: str) -> None:
    with pytest.raises(NsoptError, match=f"a method '{name}' already exists"):
        nsopt.register_method(Named(name))


@pytest.mark.parametrize(
    "name", ["", "a/b", "a,b", "a b", "search", "search-mine", "base", "pretrained"]
)
def test_method_names_that_break_study_names_are_refused(name: str) -> None:
    with pytest.raises(NsoptError, match="a method cannot be named"):
        nsopt.register_method(Named(name))


UNIFORM, VARIANT, SPACED = Named("uniform"), Named("neuralscale-iter2"), Named("a b")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"{__name__}:UNIFORM", "a method 'uniform' already exists: give another name"),
        (f"{__name__}:VARIANT", "a method 'neuralscale-iter2' already exists: give another name"),
        (f"{__name__}:SPACED", "a method cannot be named 'a b': no slash, comma or space"),
        (f"{__name__}:BUILT_IN", "it is not an nsopt Method"),
        ("nsopt:Method", "TypeError: .*"),
        ("no_such_package:Mine", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_method_of_a_package_that_cannot_be_used_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    point = EntryPoint("mine", value, "nsopt.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._load_entry_points.cache_clear()
    message = rf"^the method {value} of an installed package cannot be used \({reason}\): update"
    with pytest.raises(NsoptError, match=message):
        get_method("uniform")
    with pytest.raises(NsoptError, match=message):
        is_method("uniform")
