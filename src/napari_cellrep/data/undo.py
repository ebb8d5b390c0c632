"""The last step's outputs can be taken back: what it replaced is kept aside until the next step begins.

``.undo/`` of the project holds ``step.json`` (which step, since when), ``new.txt`` (what the step made that was not there)
and ``old/`` (what it replaced, as hard links where the disk has them: all files of a project are replaced by rename, so
that a link costs no space until then; of a folder in which single files are replaced only these, in ``pieces/``). One step is
kept, never more: at most one more copy of what that step wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from napari_cellrep.data.files import recover, replacing, write_text

FOLDER = ".undo"


class LastStep:
    """What the last step of a project wrote.

    Parameters
    ----------
    root : Path
        The project's folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self.folder = root / FOLDER
        self._stamp = 0  # of the step that `_new` is of
        self._new: set[str] = set()

    def info(self) -> dict[str, Any]:
        """Which step can be taken back: "step", "when", "n_history"; empty when none can."""
        try:
            found = json.loads((self.folder / "step.json").read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    @property
    def n_bytes(self) -> int:
        """Bytes of what is kept; those that are linked and not yet replaced count, too."""
        return (
            sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
            if self.folder.is_dir()
            else 0
        )

    def begin(self, step: str, when: str, n_history: int) -> None:
        """Forget the step before; from now on what is replaced is kept."""
        self.forget()
        write_text(
            self.folder / "step.json", json.dumps({"step": step, "when": when, "n_history": n_history})
        )

    def forget(self) -> None:
        """Let go of what is kept."""
        if self.folder.is_dir():
            away = (
                self.root / f"{FOLDER}.{os.getpid()}.part"
            )  # swept later, should this process be killed here
            with contextlib.suppress(OSError):
                self.folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def keep(self, path: Path, piece_of: Path | None = None) -> None:
        """Keep `path` (a file or folder of the project) as it is, once per step, before it is replaced or removed.

        Parameters
        ----------
        path : Path
        piece_of : Path, optional
            The folder that the file is in, if that is replaced as a whole at other times.
        """
        try:
            stamp = (self.folder / "step.json").stat().st_mtime_ns
        except OSError:
            return  # no step can be taken back
        note, name = self.folder / "new.txt", path.relative_to(self.root).as_posix()
        if stamp != self._stamp:
            self._stamp = stamp
            self._new = set(note.read_text(encoding="utf-8").splitlines()) if note.is_file() else set()
        if piece_of is not None:
            whole = piece_of.relative_to(self.root).as_posix()
            if whole in self._new or (self.folder / "old" / whole).exists():
                return
        kept = self.folder / ("old" if piece_of is None else "pieces") / name
        if name in self._new or kept.exists():
            return
        if not path.exists():
            self._new.add(name)
            with note.open("a", encoding="utf-8") as f:
                f.write(f"{name}\n")
        elif path.is_dir():
            with replacing(kept) as tmp:
                shutil.copytree(path, tmp, copy_function=_link)
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            _link(path, kept)

    def restore(self) -> None:
        """Put back what the step replaced and remove what it made. Killed on the way, it can be run again."""
        note, old, pieces = self.folder / "new.txt", self.folder / "old", self.folder / "pieces"
        for kept in sorted(old.rglob("*")) if old.is_dir() else ():
            if not kept.exists():  # inside a folder that is back already
                continue
            path = self.root / kept.relative_to(old)
            if kept.is_dir() and kept.suffix == ".zarr":
                recover(path)
                away = path.with_name(f".{path.name}.old")
                if path.exists():
                    path.rename(away)
                kept.rename(path)
                shutil.rmtree(away, ignore_errors=True)
            elif kept.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                kept.replace(path)
        # After whole folders: what is known of one of its files alone is from before the folder was replaced.
        for name in note.read_text(encoding="utf-8").splitlines() if note.is_file() else ():
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for kept in sorted(pieces.rglob("*")) if pieces.is_dir() else ():
            if kept.is_file():
                path = self.root / kept.relative_to(pieces)
                path.parent.mkdir(parents=True, exist_ok=True)
                kept.replace(path)
        for folder in (self.root / "embeddings").glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()  # an embedding that is gone; one with rows stays


def _link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name; a copy where the disk has no links (exFAT, some shares)."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        shutil.copy2(source, target)
