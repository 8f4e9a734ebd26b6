import platform
import resource
from pathlib import Path

import pytest
import torch

from nsopt.compute.memory import keep_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="elsewhere memory is not kept"
)
CPU = torch.device("cpu")
MIB = 2**20


def test_kept_memory_is_returned_to_the_system() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    with keep_memory(CPU):
        tensor = torch.ones(200 * MIB, dtype=torch.uint8)
        used = resident()
        del tensor
        assert resident() > used - 20 * MIB
    assert resident() < used - 190 * MIB


def test_new_tensors_avoid_the_gaps_of_freed_tensors() -> None:
    with keep_memory(CPU):
        old = [torch.empty(8 * MIB, dtype=torch.uint8) for _ in range(8)]
    gaps = [range(old[i].data_ptr(), old[i].data_ptr() + 8 * MIB) for i in (1, 3, 5)]
    del old[1:6:2]

    with keep_memory(CPU):
        new = [torch.empty(MIB, dtype=torch.uint8) for _ in range(16)]
    assert [tensor for tensor in new if any(tensor.data_ptr() in gap for gap in gaps)] == []
