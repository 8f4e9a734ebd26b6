"""Delete checkpoints that are no longer needed."""

from nsopt.compute.checkpoint import Checkpoint
from nsopt.deployment.artifacts import BestNetworks
from nsopt.session.searching import find_pretrained_file, is_searching
from nsopt.session.session import Session
from nsopt.storage import schema
from nsopt.storage.studies import is_unfinished


def clear_finished(session: Session) -> None:
    """Delete checkpoints of a session's finished studies, and networks that are not best."""
    subject, workspace = session.subject, session.workspace
    studies = subject.stored_studies(workspace)
    busy = {m for m, study in studies.items() if is_unfinished(study.get_trials(deepcopy=False))}
    for method in {m for m in studies.keys() - busy if not schema.is_search(m)}:
        workspace.clear(subject.study_name(method))
        BestNetworks(workspace.artifacts).clear(studies[method])
    if not busy:
        workspace.clear(subject.study_name(schema.BASE))
    if not is_searching(session):  # a search may still need the network that several share
        Checkpoint(find_pretrained_file(session), {}).remove()
        workspace.tidy()
