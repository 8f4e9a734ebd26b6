"""Networks of timm are scaled as they compute: some with the suite, the others by `-m networks`."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.models.tracing.checks import OtherProcess, check_network, selected_first

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
IN_SUITE = {  # side of images, number of widths, of refused groups
    "timm:convnextv2_atto": (64, 16, 0),
    "timm:resnest14d": (64, 19, 0),
    "timm:vit_tiny_patch16_224": (224, 25, 0),
}
OTHERS = {
    "timm:cspresnet50": (64, 38, 4),
    "timm:hrnet_w18_small": (64, 45, 0),
    "timm:edgenext_xx_small": (64, 17, 1),
    "timm:mobilenetv4_conv_small": (64, 21, 0),
    "timm:efficientnet_lite0": (64, 24, 0),
    "timm:repvgg_a0": (64, 5, 0),
    "timm:rexnet_100": (64, 31, 0),
    "timm:dla34": (64, 25, 0),
    "timm:skresnet18": (64, 16, 4),
}
NETWORKS = IN_SUITE | OTHERS


@pytest.mark.parametrize("word", selected_first(IN_SUITE, OTHERS))
def test_a_network_of_timm_is_scaled_as_it_computes(
    word: str, other_process: OtherProcess, tmp_path: Path
) -> None:
    check_network(word, *NETWORKS[word], other_process, tmp_path)
