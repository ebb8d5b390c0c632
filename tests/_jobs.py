"""Jobs that fail, crash and hang on purpose, for tests of the worker process and of the window."""

import os
import time

from napari_cellrep.jobs import Progress
from napari_cellrep.specs import InputError


def count(n=5, pause_s=0.01, note=""):
    """Count to n, polite to the last; `note` is a file that gets "closed" when stopped."""
    try:
        for i in range(n):
            yield Progress(i, n, f"Counting {i}", {"value": float(i)})
            time.sleep(pause_s)
        yield Progress(n, n, "Counted")
    except GeneratorExit:
        if note:
            with open(note, "w") as f:  # noqa: PTH123
                f.write("closed")
        raise
    return n


def flood(n):
    """Tell more often than anybody can look."""
    for i in range(n):
        yield Progress(i + 1, n, "Flooding")
    return n


def hang(seconds):
    """Deaf between two yields."""
    yield Progress(0, 1, "Hanging")
    time.sleep(seconds)
    yield Progress(1, 1, "Woke up")


def refuse():
    """What a user's mistake looks like."""
    yield Progress(0, 1, "Looking")
    raise InputError("Field C07 has 3 channels, the others have 2.")


def run_out_of_memory():
    """Ask torch for more than there is, as a batch that is too large does."""
    import torch

    yield Progress(0, 1, "Asking")
    torch.empty(2**50)


def break_down():
    """A fault of ours, of the kind napari's thread worker swallows."""
    yield Progress(0, 1, "Breaking")
    raise RuntimeError("boom")


def die():
    """What a crash in a library looks like."""
    yield Progress(0, 1, "Dying")
    os.kill(os.getpid(), 11)
    time.sleep(10)


def unpicklable():
    return lambda: 0


def name_of(project):
    """The opened project is the first argument."""
    return {"name": project.name, "project": project, "pid": os.getpid()}


def tensor():
    import torch

    return {"x": torch.arange(3), "modules": [torch.ones(2)]}


def pid():
    return os.getpid()


def shape(array):
    return array.shape
