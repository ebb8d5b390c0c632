"""One step back: what the last one wrote is taken back."""

from __future__ import annotations

from napari_cellrep.data import Project
from napari_cellrep.jobs import Job, Progress


def undo(project: Project) -> Job[str]:
    """Take back what the last step wrote; returns what it was.

    Raises
    ------
    InputError
        If nothing can be taken back.
    """
    yield Progress(0, 1, "Taking back the last step")
    return project.undo()
