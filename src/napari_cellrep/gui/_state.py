"""One session per viewer; nothing else is global."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from napari_cellrep.session import Session

_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(viewer: Any) -> Session:
    """Return the session of a viewer, made when first asked for; it goes when the viewer goes."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins get a proxy of the viewer
    if viewer not in _SESSIONS:
        _SESSIONS[viewer] = Session()
    return _SESSIONS[viewer]
