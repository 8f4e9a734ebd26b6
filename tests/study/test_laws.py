"""Base networks that several processes of a machine share."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import torch

from nsopt.compute.device import Compute
from nsopt.session.session import Session
from nsopt.session.workspace import Workspace
from nsopt.study.laws import train_base_network
from nsopt.study.plan import Comparison
from tests.study.test_comparison import SETTINGS, Listener, with_settings


def test_concurrent_requests_share_one_training(comparison: Comparison, place: Workspace) -> None:
    longer = with_settings(comparison, SETTINGS.updated(magnitude_epochs=2))
    starts = Listener()
    session = Session(longer.subject, place, Compute(torch.device("cpu"), bf16=False), starts)

    def ask() -> dict[str, torch.Tensor]:
        return train_base_network(dataclasses.replace(session), 0).state_dict()

    with ThreadPoolExecutor(3) as pool:
        first, *others = (future.result() for future in [pool.submit(ask) for _ in range(3)])
    assert len(starts.tasks) == 1
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
