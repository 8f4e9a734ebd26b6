"""A task by name: `package.module:function`, a function of the user that returns it."""

from nsopt.errors import NsoptError
from nsopt.models.imported import import_function
from nsopt.tasks.task import Task


def import_task(name: str) -> Task:
    """Import a user's function and return its task.

    Args:
        name: `package.module:function`. It must come from the user of this command, never from a
            storage, because importing runs code.

    Raises:
        NsoptError: if the function does not exist, fails, or returns anything else.
    """
    function = import_function(name)
    try:
        made = function()
    except NsoptError:
        raise
    except (Exception, SystemExit) as error:
        raise NsoptError(
            f"{name} makes no task ({type(error).__name__}: {error}): name a function without "
            "arguments that returns an nsopt.Task"
        ) from error
    if not isinstance(made, Task):
        kind = type(made).__name__
        raise NsoptError(f"{name} returns a {kind}, not an nsopt.Task: name a function that does")
    return made


def import_given_task(name: str | None) -> Task | None:
    """Return the task of `name` as `import_task` does; None without a name."""
    return None if name is None else import_task(name)
