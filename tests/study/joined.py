"""Work on a stored comparison as `nsopt worker` does."""

from typing import Any

from nsopt.progress import Progress
from nsopt.session.searching import clear_finished
from nsopt.session.stored import join_session
from nsopt.session.workspace import Workspace
from nsopt.study.laws import Laws, Worker


def join(name: str, place: Workspace, progress: Progress, **options: Any) -> int:
    """Run the waiting trials; return how many ran here."""
    session = join_session(name, place, progress, **options)
    done = Worker(session, Laws(session)).work()
    clear_finished(session)
    return done
