"""Read laws from JSON files: one law, or a list with one per iteration of descent."""

import json
from pathlib import Path

from nsopt.errors import NsoptError
from nsopt.scaling.law import PowerLaw


def read_law(path: Path, iteration: int | None = None) -> PowerLaw:
    """Return the law in a JSON file.

    A law is an object with `alpha` and `beta`, lists with one number per layer, and optionally `r2`
    and `iteration`.

    Args:
        path: a file with one law or a list of laws.
        iteration: which law of a list to return; None for the last.

    Raises:
        NsoptError: if the file is missing or invalid, or has no such law.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NsoptError(f"cannot read a law from {path}: {error.strerror}") from None
    except ValueError as error:
        raise NsoptError(f"{path} is not JSON: {error}") from None
    laws = content if isinstance(content, list) else [content]
    if iteration is not None:
        laws = [law for law in laws if isinstance(law, dict) and law.get("iteration") == iteration]
    if not laws:
        raise NsoptError(f"{path} has no law" + (f" of iteration {iteration}" if iteration else ""))
    return PowerLaw.from_dict(laws[-1])
