"""``cellrep …``: parse, run the step, show progress. The same steps as the window, in this process."""

from napari_cellrep.cli._main import BAD_INPUT, FAILED, OK, STOPPED, main

__all__ = ["BAD_INPUT", "FAILED", "OK", "STOPPED", "main"]
