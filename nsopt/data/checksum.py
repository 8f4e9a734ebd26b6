"""Check an archive before it is opened."""

import hashlib
from pathlib import Path

from nsopt.errors import NsoptError


def check_md5(archive: Path, expected: str) -> None:
    """Raise NsoptError if `archive` does not have the checksum `expected`."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != expected:
        raise NsoptError(
            f"{archive} is damaged (md5 {found}, not {expected}): delete it and fetch it again"
        )
