"""What differs on MPS: no float64, another generator, another way to wait."""

import copy

import torch

import nsopt
from nsopt import ImageData, measure_latency
from nsopt.compute.device import describe_device
from nsopt.methods.built_in import Magnitude
from nsopt.pruning.ranking import rank_filters
from tests.simulated_device.networks import SEARCH, TRAINING, devices_of, dropping
from tests.simulated_device.simulation import SimulatedDevices


def test_training_searching_and_pruning_need_no_float64(
    arch: nsopt.Architecture, images: ImageData, mps: SimulatedDevices
) -> None:
    settings = TRAINING.updated(device="mps")
    model = nsopt.train(arch, arch.base_widths, images, settings).model
    assert devices_of(model) == {torch.device("mps:0")}
    found = nsopt.search(arch, images, SEARCH.updated(device="mps"), start=model)
    assert len(found.iterations[0].record.tau) >= 6
    cost = arch.cost("params")
    widths = rank_filters(arch, model).widths_within(cost, cost(arch.base_widths) / 2)
    assert devices_of(Magnitude().start(arch, widths, model)) == devices_of(model)


def test_a_network_on_the_device_can_be_traced(mps: SimulatedDevices) -> None:
    module, example = dropping(), torch.randn(2, 1, 32, 32)
    here = nsopt.trace(module, example)
    there = nsopt.trace(copy.deepcopy(module).to("mps"), example.to("mps"))
    states = []
    for arch in (here, there):
        torch.manual_seed(0)
        states.append(dict(arch.build(arch.base_widths).state_dict()))
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_random_numbers_depend_on_the_seed_alone(images: ImageData, mps: SimulatedDevices) -> None:
    arch = nsopt.trace(dropping(), torch.randn(2, 1, 32, 32))
    before = mps.generators[0].get_state()
    settings = TRAINING.updated(device="mps")
    one, two = (nsopt.train(arch, arch.base_widths, images, settings) for _ in range(2))
    assert one.losses == two.losses
    torch.testing.assert_close(mps.generators[0].get_state(), before)


def test_timing_waits_around_every_pass(arch: nsopt.Architecture, mps: SimulatedDevices) -> None:
    model = arch.build(arch.base_widths)
    latency = measure_latency(model, arch.input_shape, 5, warmup=1, repeats=3, device="mps")
    assert [event.kind for event in mps.events].count("wait") == 2 * (1 + 3)
    assert latency.device == describe_device(torch.device("mps"))
    assert latency.device != describe_device(torch.device("cpu"))
