"""nsopt's own networks at other base widths, such as narrow ones that train in seconds."""

from collections.abc import Sequence

from nsopt.models.architecture import Architecture
from nsopt.models.families import trace_design


def with_base_widths(arch: Architecture, widths: Sequence[int]) -> Architecture:
    return trace_design(arch.name, arch.design, tuple(widths), arch.input_shape)
