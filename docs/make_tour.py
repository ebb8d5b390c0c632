"""Take the tour of docs/explore-tour.md by real clicks and keys: pictures of each step, and an animation of all.

python docs/make_tour.py PROJECT.cellrep [docs/images]

PROJECT is a project of the sample with a trained network, as `cellrep demo` makes it; the tour works on a copy. Needs
a screen; Xvfb will do.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
from make_images import FRESH, LARGEST_BYTES, LEFT, PLAIN, Window, until
from PIL import Image, ImageDraw, ImageFont
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

WIDTH_PX, CAPTION_PX, COLOURS = 880, 26, 160
VERDICTS = Path(__file__).parents[1] / "benchmarks" / "results" / "odd_cells-verdicts-2026-11-22.csv"
KEYS = {"real": Qt.Key.Key_R, "artefact": Qt.Key.Key_A, "unsure": Qt.Key.Key_U}


def judged() -> dict[str, tuple[str, str]]:
    """Cell → verdict and reason when it was judged blind, of the odd ones of the demo's network."""
    with VERDICTS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["drawn"] == "odd"]
    return {
        row["cell_id"]: (row["verdict"], row["reason"])
        for row in rows
        if row["embedding"] == "paired_cell_inpainting"
    }


class Film:
    """Frames of a window with a line of words below."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.frames: list[Image.Image] = []
        self.times_ms: list[int] = []

    def take(self, words: str, ms: int = 1600) -> Image.Image:
        """Add a frame; gives the window as it was, in full size."""
        whole = Image.fromarray(self.window.viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        height = WIDTH_PX * whole.height // whole.width
        frame = Image.new("RGB", (WIDTH_PX, height + CAPTION_PX), "#1b1d22")
        frame.paste(whole.resize((WIDTH_PX, height), Image.Resampling.LANCZOS), (0, 0))
        ImageDraw.Draw(frame).text((10, height + 5), words, fill="white", font=ImageFont.load_default(14))
        self.frames.append(frame)
        self.times_ms.append(ms)
        return whole

    def save(self, path: Path) -> None:
        """Write a GIF of one palette, that of a few frames side by side."""
        # The window grows when the panel opens; all frames are as high as the highest, their words at the bottom.
        high = max(frame.height for frame in self.frames)
        for i, frame in enumerate(self.frames):
            whole, end = Image.new("RGB", (WIDTH_PX, high), "#1b1d22"), frame.height - CAPTION_PX
            whole.paste(frame.crop((0, 0, WIDTH_PX, end)), (0, 0))
            whole.paste(frame.crop((0, end, WIDTH_PX, frame.height)), (0, high - CAPTION_PX))
            self.frames[i] = whole
        some = self.frames[1 :: max(1, len(self.frames) // 4)]
        sheet = Image.fromarray(np.hstack([np.asarray(frame) for frame in some]))
        palette = sheet.quantize(
            COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1
        )  # else the legend loses its yellow
        flat = [frame.quantize(COLOURS, palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        flat[0].save(
            path, save_all=True, append_images=flat[1:], duration=self.times_ms, loop=0, optimize=True
        )
        print(f"{path.name}: {len(flat)} frames, {path.stat().st_size:,} bytes")


def keep(picture: Image.Image, path: Path) -> None:
    """Save a step's picture in true colours (a palette would falsify legends), as finely as 150 kB allow."""
    for quality in (88, 82, 76, 70, 64, 58):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST_BYTES:
            break
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Open, lasso, look, judge, export."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    copy = FRESH / root.name
    shutil.copytree(root, copy)
    window = Window(out, 1280, 940)
    viewer, session, canvas = window.viewer, window.session, window.canvas
    film = Film(window)
    film.take("napari, with the Explore panel still to be opened", 1200)
    session.open(copy)
    session.embedding = "paired_cell_inpainting"
    panel = window.dock("Explore")
    panel.setMinimumHeight(340)
    view = panel.map
    canvas.show("A07")
    until(lambda: canvas.field == "A07")
    viewer.reset_view()
    viewer.scene.camera.zoom *= 2
    view.fit()
    QTest.qWait(800)
    keep(film.take("Open: the project's cells on a map, a field above", 2200), out / "tour-1-open.jpg")

    obs = session.cells.obs
    at = view.view.to_px(session.map_coordinates())
    high = session.visible & np.isfinite(at).all(axis=1) & (obs["dose_rank"].to_numpy() >= 9)
    middle, turn = np.median(at[high], axis=0), np.linspace(0, 2 * np.pi, 60)
    path = [QPoint(int(x), int(y)) for x, y in middle + np.c_[60 * np.cos(turn), 40 * np.sin(turn)]]
    QTest.mousePress(view, LEFT, PLAIN, path[0])
    for i, p in enumerate(path[1:]):
        QTest.mouseMove(view, p)
        if i % 14 == 13:
            film.take("Lasso: draw around cells on the map", 300)
    QTest.mouseRelease(view, LEFT, PLAIN, path[-1])
    until(lambda: not canvas._todo)
    keep(film.take("They light up in the image and are counted", 2200), out / "tour-2-lasso.jpg")

    gallery = panel.view("Gallery")
    gallery.which.setCurrentText("selected cells")
    looks = canvas.looks()
    until(lambda: all(gallery.grid.pictures.get(r, looks) for r, _ in gallery.grid.in_sight()))
    keep(film.take("Gallery: what they have in common", 2200), out / "tour-3-gallery.jpg")

    odd = panel.view("Odd cells")
    odd.rater.setText("you")  # not the name of this computer's account
    until(lambda: odd.queue and odd.panel.shown is not None, 60)
    QTest.keyClick(odd, Qt.Key.Key_N)
    QTest.keyClick(odd, Qt.Key.Key_P)  # back to the first: the image goes there
    until(lambda: canvas.field == session.place(session.row_of_id(odd.cell_id))[0], 60)
    until(lambda: odd.panel.shown.seen, 120)  # what the network saw comes from the worker
    keep(film.take("Odd cells: the oddest of a group, in its image and beside its mates", 2600),
         out / "tour-4-odd.jpg")  # fmt: skip
    said = judged()

    def press(key: Qt.Key) -> None:
        before = odd.position
        QTest.keyClick(odd, key)
        until(lambda: odd.position != before)
        until(lambda: odd.panel.shown is not None and odd.panel.shown.cell_id == odd.cell_id)

    # The verdicts are those of the blind judgement, of the first cell that has one and the first that was called real.
    for wanted in (set(KEYS), {"real"}):
        there = [cell for cell in odd.queue[odd.position :] if said.get(cell, ("", ""))[0] in wanted]
        if not there:
            print(f"No cell of the queue was judged {' or '.join(wanted)}")
            continue
        verdict, reason = said[there[0]]
        while odd.cell_id != there[0]:
            press(Qt.Key.Key_N)
        until(lambda: canvas.field == session.place(session.row_of_id(odd.cell_id))[0], 60)
        QTest.qWait(1500)
        film.take(f"{odd.cell_id} was judged: {reason}", 2200)
        print(f"{odd.cell_id}: {verdict}, {reason}")
        press(KEYS[verdict])
        QTest.qWait(1200)
        film.take(
            f"{verdict.capitalize()} ({KEYS[verdict].name[-1]}): the verdict is kept, the next cell comes",
            1800,
        )
    table = FRESH / "odd-cells.csv"
    odd.save_table(table)
    until(table.is_file)
    QTest.qWait(800)
    keep(
        film.take("Export: a table, outlines for Fiji, a page for each cell", 2600), out / "tour-5-export.jpg"
    )
    print(table.read_text().splitlines()[:3])
    film.save(out / "tour.gif")
    window.close()


if __name__ == "__main__":
    main()
