import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nsopt.errors import NsoptError
from nsopt.models.registry import architectures, get_architecture
from nsopt.scaling.curves import floor_widths


@st.composite
def networks(draw: st.DrawFn) -> tuple:
    arch = get_architecture(
        draw(st.sampled_from(architectures())),
        num_classes=draw(st.integers(2, 30)),
        image_size=draw(st.sampled_from([32, 64])),
        in_channels=draw(st.integers(1, 4)),
    )
    count = len(arch.base_widths)
    return arch, draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))


@settings(max_examples=40)
@given(networks())
def test_params_are_those_of_the_built_network(network: tuple) -> None:
    arch, widths = network
    built = sum(parameter.numel() for parameter in arch.build(widths).parameters())
    assert arch.cost("params")(widths) == built


@settings(max_examples=20)
@given(networks())
def test_macs_are_those_that_torch_counts(network: tuple) -> None:
    arch, widths = network
    model = arch.build(widths).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *arch.input_shape))
    assert arch.cost("macs")(widths) == counter.get_total_flops() // 2


@given(networks())
def test_many_widths_cost_what_each_costs(network: tuple) -> None:
    arch, widths = network
    rows = np.array([widths, [w + 1 for w in widths], list(arch.base_widths)])
    for metric in ("params", "macs"):
        cost = arch.cost(metric)
        together = cost(rows)
        assert isinstance(together, np.ndarray)
        assert together.dtype == np.int64
        assert together.tolist() == [cost(row) for row in rows]
        assert isinstance(cost(widths), int)


@pytest.mark.parametrize(
    ("classes", "ratio", "count"),
    [
        (10, 1, 9_231_114),
        (10, 0.25, 579_786),
        (10, 2, 36_894_218),
        (100, 1, 9_277_284),
        (100, 0.25, 591_396),
        (100, 2, 36_986_468),
    ],
)
def test_vgg11_has_the_published_number_of_parameters(
    classes: int, ratio: float, count: int
) -> None:
    arch = get_architecture("vgg11", classes)
    assert arch.cost("params")(floor_widths(ratio, arch.base_widths)) == count


def test_vgg11_of_irregular_widths_has_the_published_number_of_parameters() -> None:
    arch = get_architecture("vgg11", 100)
    assert arch.cost("params")([168, 80, 205, 27, 40, 277, 51, 190]) == 668_918


@pytest.mark.parametrize("name", architectures())
def test_every_layer_has_a_name_a_gate_and_a_filter(name: str) -> None:
    arch = get_architecture(name)
    widths = [3 + i for i in range(len(arch.base_widths))]
    model = arch.build(widths)
    assert len(set(arch.layer_names)) == len(widths)
    assert [gate.num_features for gate in arch.gate_modules(model)] == widths
    assert [weight.shape[0] for weight in arch.filter_weights(model)] == widths
    assert model(torch.zeros(2, *arch.input_shape)).shape == (2, 10)


@pytest.mark.parametrize("name", architectures())
def test_inherited_network_computes_with_the_kept_channels(name: str) -> None:
    arch = get_architecture(name)
    widths = tuple(6 + i for i in range(len(arch.base_widths)))
    model = arch.build(widths)
    for gate in arch.gate_modules(model):
        torch.nn.init.uniform_(gate.weight, 0.5, 1.5)
        torch.nn.init.normal_(gate.bias)
        gate.running_mean.normal_()
    kept = [torch.arange(0, width, 2) for width in widths]
    smaller = arch.inherit(model, kept, [len(indices) for indices in kept])
    with torch.no_grad():
        for gate, indices in zip(arch.gate_modules(model), kept, strict=True):
            dropped = torch.ones(gate.num_features, dtype=torch.bool)
            dropped[indices] = False
            gate.weight[dropped] = 0
            gate.bias[dropped] = 0
        images = torch.randn(4, *arch.input_shape)
        torch.testing.assert_close(smaller.eval()(images), model.eval()(images))


@pytest.mark.parametrize("widths", [[8] * 7, [8] * 9, [8] * 7 + [0], [8] * 7 + [1.5]])
def test_build_refuses_widths_that_are_none(widths: list) -> None:
    with pytest.raises(NsoptError, match="widths"):
        get_architecture("vgg11").build(widths)


def test_cost_refuses_a_wrong_length() -> None:
    with pytest.raises(NsoptError, match="8 widths expected"):
        get_architecture("vgg11").cost("params")([1, 2])


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(NsoptError, match="did you mean 'vgg11'"):
        get_architecture("vgg12")
    with pytest.raises(NsoptError, match="did you mean 'params'"):
        get_architecture("vgg11").cost("param")


def test_images_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(NsoptError, match="--image-size 32"):
        get_architecture("vgg11", image_size=28)
