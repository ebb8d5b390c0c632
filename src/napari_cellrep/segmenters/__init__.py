"""Image → labels, one file each.

A segmenter file holds a docstring, a frozen dataclass ``Config`` (every field with a default) and::

    def segment(image, channels, config, device="cpu") -> labels

``image`` is (C, H, W) in any dtype, ``channels`` the `Channel` of each plane (`specs.find_channel` finds one by
name or role), ``labels`` int32 (H, W), 0 = background. It raises `InputError` for an image it cannot use.

One whose labels of a place depend on what is around it, and on a few numbers of the whole image, takes ``scales``, a `Scales`: it
can then be run on parts of an image that is larger than memory, with the numbers that were measured on a sample of it. Where
segmenting the sample would take long it holds ``measure(image, channels, config, scales)`` too, which only measures.

One that reads files takes ``source`` too, a `Source`, and may hold three more functions: ``bring``, which returns labels with
``notes`` for the person and ``classes`` by label; ``files_read``, the files whose change makes labels out of date; and
``in_regions(config, shape, field_id, source)``, which returns the `Regions` of an image larger than memory, or None where its
settings have the image itself looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a field comes from.

    Parameters
    ----------
    files : tuple of Path
        Its image files.
    um_per_px : float
        Its pixel size; 0 if unknown.
    series : str
        The time series it is a frame of; "" for none.
    frame : int
        Which time point, from 0; -1 for none.
    """

    files: tuple[Path, ...] = ()
    um_per_px: float = 0.0
    series: str = ""
    frame: int = -1


Box = tuple[int, int, int, int]  # y0, x0, y1, x1 of a part of an image; the end is exclusive


@dataclass
class Regions:
    """Labels that are brought along for an image larger than memory, read part by part.

    Parameters
    ----------
    read : callable
        Gives the numbers (h, w) of a part; parts share no pixel and each is asked for once.
    told : callable
        Gives ``notes`` for the person and ``classes`` by label, once all parts were read.
    in_pieces : callable
        Gets all numbers there are, 0 among them, and says whether connected pieces get numbers of their own, as those of a
        black-and-white mask do.
    min_area_px : int
        Smaller ones are left out.
    drop_border : bool
        Leave out those that touch the image's edge.
    """

    read: Callable[[Box], Any]
    told: Callable[[], tuple[list[str], dict[int, str]]] = lambda: ([], {})
    in_pieces: Callable[[Any], bool] = lambda numbers: False
    min_area_px: int = 0
    drop_border: bool = False


@dataclass
class Scales:
    """Numbers of a whole image that segmenting a part of it needs: measured where they are not known yet, and kept.

    Parameters
    ----------
    known : dict
        Name → number.
    origin : tuple of int
        y, x of the part's first pixel in the whole image.
    reach_px : float
        How far around a place what was looked at lies, noted while segmenting.
    align_px : int
        Parts have to begin at a multiple of this; noted while segmenting.
    """

    known: dict[str, Any] = field(default_factory=dict)
    origin: tuple[int, int] = (0, 0)
    reach_px: float = 0.0
    align_px: int = 1

    def of(self, name: str, measure: Callable[[], Any]) -> Any:
        """The number called `name`, measured if it is not known."""
        if name not in self.known:
            found = measure()
            # A plain number, so that it is the same after it was kept on disk.
            self.known[name] = found.item() if hasattr(found, "item") else found
        return self.known[name]

    def looks(self, reach_px: float, align_px: int = 1) -> None:
        """Note how far a step looks, and at which multiples parts may begin."""
        self.reach_px, self.align_px = max(self.reach_px, reach_px), max(self.align_px, align_px)

    def at(self, y: int, x: int) -> Scales:
        """The same numbers for the part that begins at y, x."""
        return Scales(dict(self.known), (y, x), self.reach_px, self.align_px)
