"""Where results come from: versions, commit, machine."""

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nsopt.compute.device import Compute, describe_device

_PACKAGES = ("nsopt", "torch", "torchvision", "optuna", "scikit-learn", "numpy")


def provenance(compute: Compute) -> dict[str, str]:
    """Return the device, precision, commit, system and package versions of this process."""
    return {
        "device": describe_device(compute.device),
        "training precision": compute.precision,
        "commit": _find_commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{package: _find_version(package) for package in _PACKAGES},
    }


@cache
def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def _find_commit() -> str:
    """Return the git commit of nsopt's sources, with `-dirty` if they have changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown (not a git checkout)"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError):
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or "unknown"
    return "unknown"
