"""Options that name a stored study; each is declared once, as in `options`."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from nsopt.cli.values import GivenPath
from nsopt.session.processes import STORAGE_VARIABLE


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """Where results are."""

    storage: Annotated[str | None, Parameter(env_var=STORAGE_VARIABLE)] = None
    """Optuna storage URL. By default an SQLite file: commands that search or train take the one in
    --out, all others the newest study.db under runs/."""

    def find_url(self) -> str:
        """Return the URL, by default that of the newest study. Raises NsoptError without any."""
        from nsopt.storage.opening import newest_storage

        return self.storage or newest_storage()


@dataclass(frozen=True, kw_only=True)
class StoredOptions(StorageOptions):
    """A stored study."""

    name: str | None = None
    """The study as ARCH-DATA-PRESET, if several are stored; for `nsopt report` also
    ARCH-DATA-PRESET-tune, for its tuning."""


@dataclass(frozen=True, kw_only=True)
class ArtifactOptions(StorageOptions):
    """Where networks are stored."""

    artifacts: GivenPath = None
    """Folder of the stored networks; by default `artifacts` beside an SQLite file."""


@dataclass(frozen=True, kw_only=True)
class StoredNetworkOptions:
    """Where the code of a stored study is."""

    arch: str | None = None
    """Network of the stored study; needed only if it is package.module:factory. With
    `nsopt widths --law` the network of the law, by default vgg11."""
    task: str | None = None
    """Task of the stored study, package.module:function, if it is not of images."""
