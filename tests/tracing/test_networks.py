"""Small networks of torchvision and timm can be traced, resized and pruned.

Larger ones are in `test_networks_torchvision.py` and `test_networks_timm.py`.
"""

from pathlib import Path

import pytest

from tests.tracing.checks import OtherProcess, check_network, skip_without_timm

_SMALL = "tests.tracing.small_networks"
TORCHVISION = {  # side of images, number of widths, of refused groups
    "torchvision:squeezenet1_1": (64, 25, 0),
    f"{_SMALL}:googlenet": (64, 13, 0),
    f"{_SMALL}:mobilenet_v3": (64, 9, 0),
    f"{_SMALL}:regnet_y": (64, 12, 0),
    f"{_SMALL}:resnet": (64, 8, 0),
    f"{_SMALL}:shufflenet": (64, 9, 0),
}
TIMM = {
    "timm:test_byobnet": (64, 14, 0),
    "timm:test_efficientnet": (64, 13, 0),
    "timm:test_mambaout": (64, 18, 0),
    f"{_SMALL}:convnextv2": (64, 9, 0),
    f"{_SMALL}:resnest": (64, 19, 0),
    f"{_SMALL}:vision_transformer": (32, 5, 0),
}
NETWORKS = TORCHVISION | TIMM


@pytest.mark.parametrize("word", NETWORKS)
def test_a_small_network_can_be_traced_resized_and_pruned(
    word: str, other_process: OtherProcess, tmp_path: Path
) -> None:
    if word in TIMM:
        skip_without_timm()
    check_network(word, *NETWORKS[word], other_process, tmp_path)
