"""Laws in JSON files: one law, or a list of them, one per iteration of architecture descent."""

import json
from pathlib import Path

from nsopt.errors import NsoptError
from nsopt.scaling.law import ScalingLaw, law_from_dict


def read_law(path: Path, iteration: int | None = None) -> ScalingLaw:
    """The law in `path`; of several the one of `iteration`, by default the last.

    A law is an object with `alpha` and `beta`, a number per layer each, and perhaps `r2` and
    `iteration`. Raises NsoptError for anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NsoptError(f"no law can be read from {path}: {error.strerror}") from None
    except ValueError as error:
        raise NsoptError(f"{path} is not JSON: {error}") from None
    laws = content if isinstance(content, list) else [content]
    if iteration is not None:
        laws = [law for law in laws if isinstance(law, dict) and law.get("iteration") == iteration]
    if not laws:
        raise NsoptError(f"{path} has no law" + (f" of iteration {iteration}" if iteration else ""))
    return law_from_dict(laws[-1])
