"""The trained network that a study starts from: its file beside the results.

Every process of the study reads that file. Its checksum is part of the settings.
"""

from dataclasses import replace
from pathlib import Path

from nsopt.compute.checkpoint import weights_checksum
from nsopt.deployment.trained import load_trained, write_weights
from nsopt.errors import NsoptError
from nsopt.session.subject import Subject
from nsopt.session.workspace import Workspace


def keep_start(subject: Subject, workspace: Workspace) -> None:
    """Write the network that a subject starts from, if any, for workers and later runs."""
    path = _find_file(subject, workspace)
    if subject.start is None or path.is_file():
        return
    write_weights(path, {"state_dict": subject.start.state_dict()})


def with_start(subject: Subject, workspace: Workspace) -> Subject:
    """Return a stored subject with the network of its settings' `start`, if any.

    Raises:
        NsoptError: if its file is missing, or holds other weights.
    """
    wanted, path = subject.settings.start, _find_file(subject, workspace)
    if wanted is None:
        return subject
    if not path.is_file():
        raise NsoptError(
            f"{subject.name} starts from a trained network: give the folder of the study as out=, "
            f"or copy {path.name} from it to {path.parent}"
        )
    model = load_trained(path, subject.arch)
    if weights_checksum(model) != wanted:
        raise NsoptError(f"{path} has other weights than {subject.name} starts from")
    return replace(subject, start=model)


def _find_file(subject: Subject, workspace: Workspace) -> Path:
    """Return the file, named by its checksum: a folder may hold studies of several networks."""
    return workspace.folder / f"trained-{subject.settings.start}.pt"
