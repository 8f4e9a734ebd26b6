"""A kept network whose file is damaged or deleted is trained again."""

import shutil
from typing import Any

import pytest

import nsopt
from nsopt.session import session
from nsopt.session.workspace import Workspace
from nsopt.study.plan import Comparison, run_comparison
from nsopt.training.loop import train_configuration
from tests.study.test_comparison import Listener, only


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trainings that ran."""
    seen: list[str] = []

    def watch(*arguments: Any, **options: Any) -> Any:
        seen.append(options["name"])
        return train_configuration(*arguments, **options)

    monkeypatch.setattr(session, "train_configuration", watch)
    return seen


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_damaged_or_deleted_network_is_trained_again_by_the_same_command(
    is_deleted: bool, comparison: Comparison, place: Workspace, trained: list[str]
) -> None:
    uniform = only(comparison, "uniform")
    run_comparison(uniform, place, Listener())
    (path,) = place.artifacts.iterdir()
    whole = nsopt.load_network(path)
    path.write_bytes(path.read_bytes()[:5000])
    if is_deleted:
        shutil.rmtree(place.artifacts)
    listener = Listener()
    run_comparison(uniform, place, listener)
    label = f"uniform 0.5x seed {whole.seed}"
    told = f"{label}: its file is damaged or deleted; training the network again"
    assert told in listener.messages
    assert trained[2:] == [label]
    mended = nsopt.load_network(path)
    assert mended.facts == whole.facts
    for name, weights in mended.model.state_dict().items():
        assert weights.equal(whole.model.state_dict()[name])
    run_comparison(uniform, place, Listener())
    assert len(trained) == 3
