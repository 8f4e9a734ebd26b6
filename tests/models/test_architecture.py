from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nsopt import Architecture, NsoptError, architectures, get_architecture
from nsopt.scaling.law import floor_widths

get_once = cache(get_architecture)


@st.composite
def networks(draw: st.DrawFn) -> tuple:
    """An architecture and widths with many ties, so that projections come and go."""
    shape = draw(st.sampled_from([(2, 32, 1), (30, 64, 4)]))  # classes, side, channels
    arch = get_once(draw(st.sampled_from(architectures())), *shape)
    count = len(arch.base_widths)
    sizes = draw(st.sampled_from([st.integers(1, 24), st.sampled_from([4, 6])]))
    return arch, draw(st.lists(sizes, min_size=count, max_size=count))


@settings(max_examples=40)
@given(networks())
def test_params_equal_those_of_the_built_network(network: tuple) -> None:
    arch, widths = network
    built = sum(parameter.numel() for parameter in arch.build(widths).parameters())
    assert arch.cost("params")(widths) == built


@settings(max_examples=20)
@given(networks())
def test_macs_equal_those_that_torch_counts(network: tuple) -> None:
    arch, widths = network
    model = arch.build(widths).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *arch.input_shape))
    assert arch.cost("macs")(widths) == counter.get_total_flops() // 2


@given(networks())
def test_costs_of_many_widths_equal_those_of_each(network: tuple) -> None:
    arch, widths = network
    rows = np.array([widths, [w + 1 for w in widths], list(arch.base_widths)])
    for metric in ("params", "macs"):
        cost = arch.cost(metric)
        together = cost(rows)
        assert isinstance(together, np.ndarray)
        assert together.dtype == np.int64
        assert together.tolist() == [cost(row) for row in rows]
        assert isinstance(cost(widths), int)


PUBLISHED_COUNTS = [  # network, classes, image size, parameters at 1, 0.25 and 2 times its widths
    ("vgg11", 10, 32, (9_231_114, 579_786, 36_894_218)),
    ("vgg11", 100, 32, (9_277_284, 591_396, 36_986_468)),
    ("mobilenetv2", 10, 32, (2_333_410, 170_464, 9_071_034)),
    ("mobilenetv2", 100, 32, (2_448_700, 199_354, 9_301_524)),
    ("mobilenetv2", 200, 64, (2_576_800, 231_454, 9_557_624)),
    ("resnet18", 100, 32, (11_218_340, 712_628, 44_751_588)),
    ("resnet18", 200, 64, (11_273_736, 725_784, 44_870_472)),
]
IRREGULAR = [  # with 100 classes
    ("vgg11", "168-80-205-27-40-277-51-190", 668_918),
    ("resnet18", "127-44-297-156-271-256-178-232-150-40-63-265-217-87-178-80-253", 4_383_363),
    ("resnet18", "30-20-20-30-30-30-30-30-20-20-30-30-20-20-30-30-30", 109_210),
    (
        "mobilenetv2",
        "49-285-220-33-292-66-117-34-298-206-28-116-26-288-71-151-217-76-279",
        5_527_553,
    ),
    ("mobilenetv2", "20-30-20-20-20-30-20-20-20-20-30-30-30-30-30-30-30-20-20", 176_410),
]


@pytest.mark.parametrize(("name", "classes", "image_size", "counts"), PUBLISHED_COUNTS)
def test_networks_have_their_published_numbers_of_parameters(
    name: str, classes: int, image_size: int, counts: tuple[int, int, int]
) -> None:
    arch = get_once(name, classes, image_size)
    params = arch.cost("params")
    assert tuple(params(floor_widths(r, arch.base_widths)) for r in (1, 0.25, 2)) == counts


@pytest.mark.parametrize(("name", "widths", "count"), IRREGULAR)
def test_irregular_widths_have_their_published_size(name: str, widths: str, count: int) -> None:
    arch = get_once(name, 100)
    assert arch.cost("params")([int(width) for width in widths.split("-")]) == count


@pytest.mark.parametrize(
    ("name", "millions"), [("mobilenetv2-convcut", 2.66), ("resnet18-convcut", 11.62)]
)
def test_convcut_networks_have_the_size_in_the_paper(name: str, millions: float) -> None:
    arch = get_once(name, 200, 64)
    assert round(arch.cost("params")(arch.base_widths) / 1e6, 2) == millions


@pytest.mark.parametrize("name", ["mobilenetv2-tied", "resnet18-tied"])
@pytest.mark.parametrize("image_size", [32, 64])
def test_tied_networks_cost_the_same_at_base_widths(name: str, image_size: int) -> None:
    tied = get_once(name, 100, image_size)
    original = get_once(name.removesuffix("-tied"), 100, image_size)
    assert len(tied.base_widths) < len(original.base_widths)
    for metric in ("params", "macs"):
        assert tied.cost(metric)(tied.base_widths) == original.cost(metric)(original.base_widths)


@pytest.mark.parametrize("name", ["mobilenetv2-tied", "resnet18-tied"])
def test_no_shortcut_of_a_tied_network_becomes_a_convolution(name: str) -> None:
    arch = get_once(name)
    irregular = [10 + 3 * group for group in range(len(arch.base_widths))]
    at_base = dict(arch.build(arch.base_widths).named_modules())
    assert dict(arch.build(irregular).named_modules()).keys() == at_base.keys()


@settings(max_examples=40)
@given(networks())
def test_the_lower_bound_of_a_cost_never_decreases(network: tuple) -> None:
    arch, widths = network
    wider = np.array(widths) + np.eye(len(widths), dtype=np.int64)
    for metric in ("params", "macs"):
        cost = arch.cost(metric)
        bound = cost.lower_bound(widths)
        assert bound <= cost(widths)
        assert (cost.lower_bound(wider) >= bound).all()


@settings(max_examples=40)
@given(networks())
def test_the_marginal_cost_equals_the_growth_of_the_network(network: tuple) -> None:
    """Unless an identity shortcut appears or vanishes. It is always positive."""
    arch, widths = network
    wider = np.array(widths) + np.eye(len(widths), dtype=np.int64)
    for metric in ("params", "macs"):
        cost = arch.cost(metric)
        marginal = cost.marginal(widths)
        assert (marginal > 0).all()
        for layer, grown in enumerate(wider):
            if list_identities(arch, grown) == list_identities(arch, widths):
                assert marginal[layer] == cost(grown) - cost(widths)
        np.testing.assert_array_equal(cost.marginal(np.array([widths, widths]))[1], marginal)


def list_identities(arch: Architecture, widths: Sequence[int]) -> list[bool]:
    return [widths[one] == widths[other] for one, other in arch.design.pairs.values()]


@pytest.mark.parametrize("name", architectures())
def test_every_group_has_a_name_gates_and_filters(name: str) -> None:
    arch = get_once(name)
    widths = [3 + i for i in range(len(arch.base_widths))]
    model = arch.build(widths)
    assert len(set(arch.layer_names)) == len(widths) == len(arch.design.find_gates(model))
    for width, gates, filters in zip(
        widths, arch.design.find_gates(model), arch.design.find_filters(model), strict=True
    ):
        assert len(gates) == len(filters) >= 1
        assert {weight.shape[0] for weight in filters} == {width}
        norms = [gate for gate in gates if isinstance(gate, torch.nn.BatchNorm2d)]
        assert all(norm.num_features == width for norm in norms)
    assert model(torch.zeros(2, *arch.input_shape)).shape == (2, 10)


def test_expanded_channels_follow_their_input_channel() -> None:
    arch = get_once("mobilenetv2")
    widths = tuple(4 for _ in arch.base_widths)
    model = arch.build(widths)
    kept = [torch.tensor([1, 3]) for _ in widths]
    smaller = arch.inherit(model, kept, [2] * len(widths))
    rows = [*range(6, 12), *range(18, 24)]
    torch.testing.assert_close(
        smaller.get_parameter("block2_expand.weight"),
        model.get_parameter("block2_expand.weight")[rows][:, [1, 3]],
    )
    torch.testing.assert_close(
        smaller.get_parameter("block2_depthwise.weight"),
        model.get_parameter("block2_depthwise.weight")[rows],
    )


@pytest.mark.parametrize("widths", [[8] * 7, [8] * 9, [8] * 7 + [0], [8] * 7 + [1.5]])
def test_build_refuses_invalid_widths(widths: list) -> None:
    with pytest.raises(NsoptError, match="widths"):
        get_once("vgg11").build(widths)


def test_cost_refuses_a_wrong_number_of_widths() -> None:
    with pytest.raises(NsoptError, match="8 widths expected"):
        get_once("vgg11").cost("params")([1, 2])
