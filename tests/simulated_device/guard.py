"""The library of guard.cpp, which a process loads before torch."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

LIBRARY = "NSOPT_SIMULATED_DEVICE"  # environment variable with the path of the built library
_SOURCE = Path(__file__).with_name("guard.cpp")
_FLAGS = ("-O1", "-shared", "-fPIC", "-std=c++20")

# pytest imports this module as a plugin (`-p`), before any conftest imports torch.
_library = ctypes.CDLL(os.environ[LIBRARY]) if LIBRARY in os.environ else None


def simulate(name: Literal["none", "cuda", "mps"]) -> None:
    """Set which accelerator torch says that it has."""
    assert _library is not None
    _library.simulate(("none", "cuda", "mps").index(name))


def compiler() -> str | None:
    """Return the C++ compiler, or None if there is none for this system."""
    return shutil.which(os.environ.get("CXX", "c++")) if sys.platform == "linux" else None


def build(compiler: str, folder: Path) -> Path:
    """Return the library for the installed torch; compile it if it is not in `folder` yet."""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    root = Path(torch.origin).parent
    include, libraries = root / "include", root / "lib"
    digest = hashlib.sha256(f"{root} {version('torch')}".encode() + _SOURCE.read_bytes())
    built = folder / f"guard-{digest.hexdigest()[:16]}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            made = Path(unfinished) / built.name
            subprocess.run(
                [
                    *(compiler, *_FLAGS, str(_SOURCE), "-o", str(made)),
                    *(f"-I{include}", f"-I{include}/torch/csrc/api/include"),
                    *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10"),
                ],
                check=True,
            )
            made.replace(built)
    return built
