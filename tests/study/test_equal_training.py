"""The same widths with the same seed are trained once in a comparison."""

import dataclasses
from typing import Any

import pytest

import nsopt
from nsopt.compute.device import resolve_compute
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.scaling.metric import MACS
from nsopt.storage import trials
from nsopt.study import session
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, sizes_of_ratios
from nsopt.study.equal_training import find_equal_training
from nsopt.study.laws import Laws
from nsopt.study.session import Session
from nsopt.study.worker import Worker
from nsopt.study.workspace import Workspace
from nsopt.training.loop import train_configuration
from tests.study.test_comparison import (
    Listener,
    load_results,
    only,
    open_studies,
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trainings that ran."""
    seen: list[str] = []

    def watch(*arguments: Any, **options: Any) -> Any:
        seen.append(options["task"])
        return train_configuration(*arguments, **options)

    monkeypatch.setattr(session, "train_configuration", watch)
    return seen


@pytest.fixture
def uniform(comparison: Comparison) -> Comparison:
    return only(comparison, "uniform")


def at_macs(comparison: Comparison) -> Comparison:
    """Return the comparison at the MACs of the same uniform network."""
    sizes = sizes_of_ratios(comparison.task.arch, MACS, [0.5])
    return dataclasses.replace(comparison, sizes=sizes)


def test_the_same_network_at_a_budget_in_another_metric_is_not_trained_again(
    uniform: Comparison, place: Workspace, trained: list[str]
) -> None:
    run_comparison(uniform, place, Listener())
    listener = Listener()
    run_comparison(at_macs(uniform), place, listener)
    assert trained == ["uniform 0.5x seed 0", "uniform 0.5x seed 1"]
    outcomes = load_results(place).outcomes.set_index(["metric", "seed"])
    own = ["widths", "val_accuracy", "test_accuracy", "epochs", "seconds"]
    assert outcomes.loc["macs", own].equals(outcomes.loc["params", own])
    trial = open_studies(place)["uniform"].trials[2]
    assert trial.user_attrs["trained_as"] == "vgg11-digits-test/uniform trial 0"
    assert any(message.endswith("as uniform 0.5x seed 0") for message in listener.messages)


@pytest.mark.parametrize("name", ["neuralscale-macs", "neuralscale-iter1", "nothing", "search"])
def test_trainings_of_variants_count_as_those_of_methods(
    uniform: Comparison, place: Workspace, name: str
) -> None:
    run_comparison(only(uniform, "uniform", seeds=1), place, Listener())
    study = open_studies(place)["uniform"]
    (trial,) = study.trials
    point, layers = trials.read_point(trial), uniform.task.arch.layer_names
    assert point is not None
    widths = trials.read_widths(trial, layers)
    kept = BestNetworks(place.artifacts)
    found = find_equal_training({name: study}, kept, layers, widths, study, point)
    assert (found is not None) == name.startswith("neuralscale")


def test_the_shared_network_is_kept_for_both_budgets(uniform: Comparison, place: Workspace) -> None:
    for comparison in (uniform, at_macs(uniform)):
        run_comparison(comparison, place, Listener())
    files = BestNetworks(place.artifacts).files(open_studies(place)["uniform"])
    one, two = sorted((nsopt.load_network(path) for path in files), key=lambda n: n.metric)
    assert (one.metric, two.metric) == ("macs", "params")
    assert one.budget == at_macs(uniform).sizes[0].budget
    assert (one.seed, one.val_accuracy) == (two.seed, two.val_accuracy)
    for name, weights in one.model.state_dict().items():
        assert weights.equal(two.model.state_dict()[name])


def test_a_lost_network_is_trained_again(
    uniform: Comparison, place: Workspace, trained: list[str]
) -> None:
    run_comparison(uniform, place, Listener())
    for path in place.artifacts.iterdir():
        path.unlink()
    run_comparison(at_macs(uniform), place, Listener())
    assert trained[2] == "uniform 0.5x MACs seed 0"


def test_the_only_seed_of_a_budget_is_trained_again_if_its_network_is_not_kept(
    uniform: Comparison, place: Workspace, trained: list[str]
) -> None:
    run_comparison(uniform, place, Listener())
    study = open_studies(place)["uniform"]
    (best,) = best_trials(study).values()
    other = 1 - best.user_attrs["seed"]
    later = at_macs(uniform)
    (point,) = (p for p in later.points(later.methods[0]) if p.seed == other)
    trials.enqueue_point(study, point)
    own = Session(later.task, place, resolve_compute("cpu", "fp32"), Listener())
    Worker(own, Laws(own)).work()
    assert trained[2:] == [f"uniform 0.5x MACs seed {other}"]
    assert len(BestNetworks(place.artifacts).files(study)) == 2


def test_a_damaged_network_is_trained_again_by_the_same_command(
    uniform: Comparison, place: Workspace, trained: list[str]
) -> None:
    run_comparison(uniform, place, Listener())
    (path,) = place.artifacts.iterdir()
    whole = nsopt.load_network(path)
    path.write_bytes(path.read_bytes()[:5000])
    listener = Listener()
    run_comparison(uniform, place, listener)
    label = f"uniform 0.5x seed {whole.seed}"
    assert f"{label}: its file is damaged; training the network again" in listener.messages
    assert trained[2:] == [label]
    mended = nsopt.load_network(path)
    assert mended.facts == whole.facts
    for name, weights in mended.model.state_dict().items():
        assert weights.equal(whole.model.state_dict()[name])
    run_comparison(uniform, place, Listener())
    assert len(trained) == 3


def test_magnitude_pruning_to_the_same_widths_is_trained_separately(
    uniform: Comparison, place: Workspace, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Magnitude pruning starts from other weights."""
    run_comparison(uniform, place, Listener())
    widths = load_results(place).outcomes["widths"][0]
    magnitude = only(uniform, "magnitude", seeds=1)
    law = nsopt.uniform_curve(widths)
    monkeypatch.setattr(type(magnitude.methods[0]), "law", lambda self, inputs: law)
    run_comparison(magnitude, place, Listener())
    assert trained[-1] == "magnitude 0.5x seed 0"
    assert load_results(place).outcomes.query("method == 'magnitude'")["widths"].tolist() == [
        widths
    ]
