"""A task by name: `package.module:function`, a function of the user that returns it."""

from dataclasses import replace

from nsopt.data.images import ImageData
from nsopt.data.registry import load_data
from nsopt.data.source import Source, is_folder
from nsopt.errors import NsoptError
from nsopt.models.imported import import_function
from nsopt.tasks.supervise import check_task
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
    return replace(made, source=Source(name))


def load_task(task: Task | ImageData | str) -> Task | ImageData:
    """Return a task or images, loaded if it is a name: of a data set, or of a function.

    Raises:
        NsoptError: for a name of neither, or an object that is neither.
    """
    if isinstance(task, str):
        return load_data(task) if is_folder(task) or ":" not in task else import_task(task)
    return check_task(task)


def import_given_task(name: str | None) -> Task | None:
    """Return the task of `name` as `import_task` does; None without a name."""
    return None if name is None else import_task(name)
