"""Take a picture of the CellRep panel in every state a person can meet, for docs/states.md: real projects, real clicks.

python docs/make_states.py [docs/images/states]      Needs a screen; Xvfb will do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

from make_images import FRESH, Window, click, until  # first: it sets folders nobody owns

import numpy as np  # isort: skip
from napari.settings import get_plugin_settings
from qtpy.QtTest import QTest

from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.illumination import correct
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import SAMPLE
from napari_cellrep.steps.segment import segment

WELLS = ("A01", "A06", "A12")
CHANNELS = ("FKHR-GFP:protein", "DNA:nucleus")


def made(name: str, channels: tuple[str, ...] = CHANNELS, wells: tuple[str, ...] = WELLS) -> Path:
    """A project of a few wells of the sample, from copies of its files that may be lost."""
    images = Path(tempfile.gettempdir()) / "plates" / name  # its name is seen in a picture
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for well in wells:
        shutil.copy(SAMPLE / "wells" / f"{well}.ome.tif", images)
    project = drain(import_fields(FRESH / f"{name}.cellrep", [str(images)], channels=list(channels)))
    return project.root


def main(out: Path) -> None:
    """Make the projects, open one after the other, and take the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    plain = made("not segmented")
    unknown = made("no roles", ("first", "second"))
    full = made("cells")
    drain(segment(open_project(full), segmenter="nuclei"))
    drain(crop(open_project(full)))
    embedded = FRESH / "embedded.cellrep"
    shutil.copytree(full, embedded)
    drain(embed(open_project(embedded), model="measurements"))
    dimmed = FRESH / "another light.cellrep"
    shutil.copytree(embedded, dimmed)
    drain(analyze(open_project(dimmed), recipe="map"))
    drain(correct(open_project(dimmed)))
    empty = made("no cells")
    project = open_project(empty)
    for field in project.fields:
        project.write_labels(
            field.id, np.zeros((field.height_px, field.width_px), np.uint16), {"segmenter": "none"}
        )
    with contextlib.suppress(InputError):  # it says that no cell was found
        drain(crop(project))
    other = made("other channels", ("light:brightfield", "DNA:nucleus"))
    drain(segment(open_project(other), segmenter="nuclei"))
    drain(crop(open_project(other)))
    lost = FRESH / "lost.cellrep"
    shutil.copytree(full, lost)
    readonly = FRESH / "read only.cellrep"
    shutil.copytree(embedded, readonly)

    window = Window(out, 1200, 820)
    get_plugin_settings("napari-cellrep").help.offer_tour = False
    dock = window.dock("CellRep")
    until(lambda: dock.cards["model"].model.count() and dock.runner.machine, 180)

    def show(name: str, root: Path | None, card: str, wait_s: float = 1.5) -> None:
        if root is not None:
            dock.open_project(root)
            until(lambda: not dock.opening and dock.session.project is not None, 60)
            until(lambda: dock.session.project.root == root, 60)
        dock.open_card(card)
        QTest.qWait(round(1000 * wait_s))
        window.part(name, dock)

    show("nothing-open", None, "images")
    for card in ("segment", "cells", "model", "explore"):
        show(f"nothing-open-{card}", None, card)
    show("no-roles", unknown, "images")
    show("no-labels", plain, "segment", 4)
    for card in ("cells", "model", "explore"):
        show(f"no-labels-{card}", None, card)
    show("no-cells", empty, "segment")
    show("no-cells-model", None, "model")
    show("wrong-channels", other, "model", 3)
    show("no-embedding", full, "model", 8)
    show("no-embedding-explore", None, "explore")
    show("no-map", embedded, "explore")
    show("out-of-date-segment", dimmed, "segment", 4)
    for card in ("cells", "model", "explore"):
        show(f"out-of-date-{card}", None, card, 3)

    dock.open_project(full)
    until(lambda: not dock.opening, 60)
    dock.open_card("segment")
    dock.submit("segment.segment", "Segmenting 3 fields", segmenter="nuclei", overwrite=True)
    dock.submit("crop.crop", "Finding cells")
    until(lambda: dock.runner.current is not None and dock.runner.current.progress.done > 0, 60)
    window.part("job-running-and-one-waits", dock)
    click(dock.strip.stop)
    QTest.qWait(100)
    window.part("job-stopping", dock)
    window.wait()
    handle = dock.submit("segment.segment", "Segmenting 3 fields", segmenter="nuclei", overwrite=True)
    until(lambda: handle.progress.done > 0, 60)
    os.kill(dock.runner.pid, signal.SIGKILL)
    window.wait()
    window.part("worker-killed", dock)
    shutil.rmtree(Path(tempfile.gettempdir()) / "plates")
    handle = dock.submit("embed.embed", "Embedding", model="measurements")
    window.wait()
    show("images-lost", None, "images")

    if hasattr(os, "geteuid") and os.geteuid() != 0:  # permissions do not bind root
        for path in [readonly, *readonly.rglob("*")]:
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
        show("read-only", readonly, "cells")
        dock.cards["cells"].apply_rules()
        window.wait()
        window.part("read-only", dock)
        for path in [readonly, *readonly.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    window.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images" / "states")
