"""Base networks that several processes of a machine share."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from nsopt.compute.device import Compute
from nsopt.data.images import ImageData
from nsopt.experiments.trained import TrainedNetworks
from nsopt.models.architecture import TableArchitecture
from nsopt.progress import Silent
from nsopt.training.settings import TrainSettings


class Starts(Silent):
    """Counts the trainings."""

    count = 0

    def start(self, task: str, total: int) -> None:
        self.count += 1


def test_who_asks_at_once_waits_for_one_training(
    narrow: TableArchitecture, digits: ImageData, tmp_path: Path
) -> None:
    compute = Compute(torch.device("cpu"), bf16=False)
    settings = TrainSettings(epochs=2, batch_size=64, device="cpu", precision="fp32")
    starts = Starts()

    def ask() -> dict[str, torch.Tensor]:
        networks = TrainedNetworks(narrow, digits.split(0.1), compute, tmp_path)
        return networks.get(settings, starts).state_dict()

    with ThreadPoolExecutor(3) as pool:
        first, *others = (future.result() for future in [pool.submit(ask) for _ in range(3)])
    assert starts.count == 1
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
