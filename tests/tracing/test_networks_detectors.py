"""The eight detectors of torchvision come back smaller, whole."""

from typing import Any

import pytest
import torch
from torch import nn

from nsopt.torchvision_import import import_torchvision
from nsopt.tracing.originals import copy_model
from tests.tracing.checks import choose_units, randomise, trace_unchanged, with_zeros
from tests.tracing.operators import install_operators

pytestmark = [pytest.mark.networks, pytest.mark.filterwarnings("ignore")]
FEW = {
    "rcnn": {"rpn_pre_nms_top_n_test": 30, "rpn_post_nms_top_n_test": 10, "box_score_thresh": 0.0},
    "": {"score_thresh": 0.0, "topk_candidates": 20},
}
DETECTORS = {  # number of widths at least, share of the parameters left at half widths at most
    "fasterrcnn_resnet50_fpn": (41, 0.35),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (34, 0.26),
    "maskrcnn_resnet50_fpn": (46, 0.35),
    "keypointrcnn_resnet50_fpn": (50, 0.26),
    "retinanet_resnet50_fpn": (47, 0.26),
    "fcos_resnet50_fpn": (47, 0.26),
    "ssd300_vgg16": (23, 0.27),
    "ssdlite320_mobilenet_v3_large": (37, 0.29),
}


def make_detector(name: str) -> nn.Module:
    """Return a detector of few classes and few boxes, whose threshold no box misses."""
    few = next(few for part, few in FEW.items() if part in name)
    boxes = {"box_detections_per_img": 4} if "rcnn" in name else {"detections_per_img": 4}
    sizes = {} if "ssd" in name else {"min_size": 96, "max_size": 128}
    make = getattr(import_torchvision("models.detection"), name)
    options: dict[str, Any] = {**few, **boxes, **sizes}
    return make(weights=None, weights_backbone=None, num_classes=5, **options).eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_whole_detector_comes_back_smaller(name: str) -> None:
    install_operators()
    torch.manual_seed(0)
    model, x = make_detector(name), torch.rand(2, 3, 96, 96)
    arch = trace_unchanged(model, x, training=False)
    count, share = DETECTORS[name]
    half = [max(1, width // 2) for width in arch.base_widths]
    assert len(arch.base_widths) >= count
    assert arch.cost("params")(half) < share * arch.cost("params")(arch.base_widths)
    randomise(model)
    kept = choose_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [units.tolist() for units in kept])
    images = x.double()
    with torch.no_grad():
        whole, expected, found = (
            copy_model(network).double().eval()(images)
            for network in (model, with_zeros(arch, model, kept), smaller)
        )
    different = False
    for own, one, other in zip(whole, expected, found, strict=True):
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-9, atol=1e-9)
            different |= own[key].shape != tensor.shape or not torch.equal(own[key], tensor)
    assert different
    box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    if "mask" in name:
        box["masks"] = torch.ones(1, 96, 96, dtype=torch.uint8)
    if "keypoint" in name:
        box["keypoints"] = torch.tensor([[[30.0, 30.0, 1.0]] * 17])
    losses = smaller.train()(list(x), [box, box])
    sum(losses.values()).backward()
