"""Image → labels, one file each.

A segmenter file holds a docstring, a frozen dataclass ``Config`` (every field with a default) and::

    def segment(image, channels, config, device="cpu") -> labels

``image`` is (C, H, W) in any dtype, ``channels`` the `Channel` of each plane (`specs.find_channel` finds one by
name or role), ``labels`` int32 (H, W), 0 = background. It raises `InputError` for an image it cannot use.

One that reads files takes ``source`` too, a `Source`, and may hold two more functions: ``bring``, which returns labels with
``notes`` for the person and ``classes`` by label, and ``files_read``, the files whose change makes labels out of date.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where a field comes from.

    Parameters
    ----------
    files : tuple of Path
        Its image files.
    um_per_px : float
        Its pixel size; 0 if unknown.
    """

    files: tuple[Path, ...] = ()
    um_per_px: float = 0.0
