import platform
import resource
from pathlib import Path

import pytest
import torch

from nsopt.compute.memory import memory_kept

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="elsewhere memory is not kept"
)
CPU = torch.device("cpu")
MIB = 2**20
SIZES = [size * MIB for size in (12, 8, 5, 3, 2)]  # what is left of a gap holds the next


def tensor(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8)


def touched() -> int:
    """Bytes of the places at which tensors of several sizes, one after another, come to lie."""
    starts = [(tensor(size).data_ptr(), size) for size in SIZES]
    covered, end = 0, 0
    for start, size in sorted(starts):
        covered += max(0, start + size - max(start, end))
        end = max(end, start + size)
    return covered


def test_tensors_of_several_sizes_share_their_memory_in_a_process_that_computed_for_long() -> None:
    with memory_kept(CPU):
        freed, between = [], []
        for size in SIZES:
            freed.append(tensor(size))
            between.append(tensor(MIB // 4))  # stays, so that the memory below remains a gap
        freed.clear()
        assert touched() > 1.25 * max(SIZES)  # each in the gap that fits it best
        with memory_kept(CPU):
            assert touched() < 1.1 * max(SIZES)
        assert touched() > 1.25 * max(SIZES)  # the gaps can be used again


def test_memory_that_is_kept_is_given_back() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    with memory_kept(CPU):
        before = resident()  # what was free before is given back by now
        torch.zeros(200 * MIB, dtype=torch.uint8)
        assert resident() > before + 190 * MIB
    assert resident() < before + 20 * MIB
