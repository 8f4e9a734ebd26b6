"""Networks of torchvision are scaled as they compute: the faster ones."""

from pathlib import Path

import pytest

from tests.models.tracing.checks import OtherProcess, check_network

NETWORKS = {  # side of images, number of widths, of refused groups
    "torchvision:resnet18": (64, 12, 0),
    "torchvision:mobilenet_v2": (64, 25, 0),
    "torchvision:mobilenet_v3_small": (64, 27, 0),
    "torchvision:shufflenet_v2_x1_0": (64, 21, 0),
    "torchvision:squeezenet1_1": (64, 25, 0),
    "torchvision:regnet_y_400mf": (64, 38, 0),
}


@pytest.mark.parametrize("word", NETWORKS)
def test_a_network_of_torchvision_is_scaled_as_it_computes(
    word: str, other_process: OtherProcess, tmp_path: Path
) -> None:
    check_network(word, *NETWORKS[word], other_process, tmp_path)
