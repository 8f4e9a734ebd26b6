"""The folders of a study, which several processes may share."""

import os
from pathlib import Path

import pytest
import torch

from nsopt.compute.checkpoint import Checkpoint
from nsopt.session.workspace import Workspace


def test_clearing_leaves_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, sync = Workspace("sqlite://", tmp_path), os.fsync
    path = workspace.checkpoints("study") / "network.pt"
    old = path.with_name("old.pt")
    Checkpoint(old, {}).save({})

    def clear_meanwhile(file: int) -> None:
        if not path.exists():
            workspace.clear("study")
        sync(file)

    monkeypatch.setattr(os, "fsync", clear_meanwhile)
    Checkpoint(path, {}).save({"epoch": 3})
    assert not old.exists()
    assert Checkpoint(path, {}).load(torch.device("cpu")) == {"epoch": 3}


def test_clearing_deletes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    workspace = Workspace("sqlite://", tmp_path)
    path = workspace.checkpoints("study") / "network.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 2**22 + 1)  # above Linux' largest number
        patch.setattr(os, "replace", lambda *_: None)
        Checkpoint(path, {}).save({})
    assert len(list(path.parent.iterdir())) == 1
    workspace.clear("study")
    assert not path.parent.exists()
