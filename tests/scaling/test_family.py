"""The family of laws around uniform scaling."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nsopt.models.registry import table_architecture
from nsopt.scaling.family import LawFamily, relative, relative_uniform
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.solve import solve_widths

ARCH = table_architecture("vgg11")
LAYERS = len(ARCH.base_widths)
COST = ARCH.cost("macs")
GENERATOR = np.random.default_rng(0)
LAWS = {
    name: relative(
        PowerLaw(GENERATOR.uniform(0.1, 3, LAYERS), GENERATOR.uniform(0.1, 0.6, LAYERS), ONES),
        COST,
        ARCH.base_widths,
    )
    for ONES in [np.ones(LAYERS)]
    for name in ("filters", "macs")
}
FAMILY = LawFamily(relative_uniform(ARCH.base_widths), LAWS)


def test_no_weights_give_uniform_scaling_and_one_weight_gives_its_law() -> None:
    sizes = np.array([0.01, 0.3, 2.0])
    budgets = [1e6, 1e7, 1e8]
    uniform = solve_widths(FAMILY.law({}), COST, budgets)
    plain = solve_widths(uniform_curve(ARCH.base_widths), COST, budgets)
    np.testing.assert_array_equal(uniform.widths, plain.widths)
    for name, law in LAWS.items():
        np.testing.assert_allclose(FAMILY.law({name: 1.0}).widths(sizes), law.widths(sizes))


def test_relative_laws_have_size_1_at_the_base_network() -> None:
    law = PowerLaw(np.full(LAYERS, 0.5), np.full(LAYERS, 0.3), np.ones(LAYERS))
    base = float(COST(ARCH.base_widths))
    ours = relative(law, COST, ARCH.base_widths)
    np.testing.assert_allclose(ours.widths(0.25), law.widths(0.25 * base))


def test_a_slope_moves_widths_towards_later_layers() -> None:
    flat, tilted = FAMILY.law({}), FAMILY.law({"slope": 1.0})
    ratio = tilted.widths(0.5) / flat.widths(0.5)
    assert (np.diff(ratio) > 0).all()
    np.testing.assert_allclose(ratio[-1] / ratio[0], np.e)


weights = st.floats(-1, 1.5)


@given(weights, weights, st.floats(-1.5, 1.5), st.floats(0, 1))
def test_every_member_fits_every_budget(
    filters: float, macs: float, slope: float, part: float
) -> None:
    least, base = int(COST(np.ones(LAYERS, dtype=int))), int(COST(ARCH.base_widths))
    budget = least + part**4 * (2 * base - least)
    law = FAMILY.law({"filters": filters, "macs": macs, "slope": slope})
    fit = solve_widths(law, COST, budget)
    assert least <= fit.cost <= budget
