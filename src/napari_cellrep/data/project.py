"""The project on disk: one folder, whole at every moment, readable without us."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import glob
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import platformdirs
import tifffile
from filelock import Timeout

from napari_cellrep.data import slides
from napari_cellrep.data.cells import make_table, provenance
from napari_cellrep.data.fields import Field, is_gone, read_fields, write_fields
from napari_cellrep.data.files import recover, replacing, sweep, write_text
from napari_cellrep.data.illumination import FOLDER, Illumination, functions_digest, read_illumination
from napari_cellrep.data.images import file_of, stamps_of
from napari_cellrep.data.locks import Lock, Owner
from napari_cellrep.data.stamps import Images, ImageStamps
from napari_cellrep.data.undo import LastStep
from napari_cellrep.data.verdicts import apply_verdicts, read_verdicts
from napari_cellrep.specs import Channel, InputError, digest, find_channel

if TYPE_CHECKING:
    import anndata as ad

FORMAT = 1  # of the folder; a newer one is refused with a sentence, older ones stay readable


class Project:
    """One folder ``<name>.cellrep/`` with everything computed from a set of fields; pixels stay where they are.

    Made by `create_project` and `open_project`.

    ::

        project.json      format, channels, grouping, history
        fields.parquet    one row per field of view
        labels/           <field>.ome.tif, of images larger than memory <field>.ome.zarr; how they were made is in the file
        embeddings/       <key>/<field>.npy: structured rows (label, mask_hash, x), and <key>/key.json
        cells.zarr        AnnData, one row per cell
        fields.zarr       AnnData, one row per field: whole-image embeddings
        groups.zarr       AnnData, one row per group: rankings and profiles
        verdicts.json     what people said of odd cells; an artefact is flagged
        sets.json         named sets of cells
        view.json         how it was looked at last: map, colours, contrast, what was open
        models/           <name>/weights.safetensors, model.json, history.csv, checkpoint
        illumination/     functions that are divided out of the images when they are read, per plate and channel
        images.json       what is in the image files, by hash; thrown away without harm
        .levels/          of images larger than memory smaller ones to look at
        .undo/            what the last step replaced, until the next one
    """

    def __init__(self, root: Path, info: dict[str, Any]):
        self.root = root
        self._info = info
        self._fields: dict[str, Field] | None = None
        self._cells: ad.AnnData | None = None
        self._cells_stamp: int = 0
        self._illumination: Illumination | None = None
        self._lock = Lock(root / ".lock")  # one object, so that a writer may call another
        self._last = LastStep(root)
        self._stamps = ImageStamps(root)
        self._began: dict[str, float] = {}  # step → when it began here, by the clock

    def __repr__(self) -> str:
        return f"Project({str(self.root)!r}, {len(self.fields)} fields)"

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Folder name without ``.cellrep``."""
        return self.root.name.removesuffix(".cellrep")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels in plane order."""
        return tuple(Channel(**c) for c in self._info["channels"])

    @property
    def group_by(self) -> tuple[str, ...]:
        """Metadata columns that make a group; empty: plate and well, else the field."""
        return tuple(self._info.get("group_by", ()))

    @property
    def comparison(self) -> dict[str, str]:
        """The groups that analyses compare, each ``column=value`` or "" while not chosen.

        "a" and "b" are references that are known to look one way and the other; "control" is what is normal.
        """
        return {"a": "", "b": "", "control": "", **self._info.get("comparison", {})}

    def set_comparison(self, **groups: str) -> None:
        """Choose some of the groups of `comparison`, once for all analyses; "" takes a choice back.

        Raises
        ------
        InputError
            If a group is not written ``column=value``.
        """
        for name, text in groups.items():
            if name not in self.comparison:
                raise InputError(f"There is no group {name!r} to choose; there are a, b and control.")
            column, equals, value = text.partition("=")
            if text and not (column.strip() and equals and value.strip()):
                raise InputError(f"A group is written COLUMN=VALUE, for example compound=DMSO; got {text!r}.")
        with self.lock():
            self._info = _read_info(self.root)
            self._info["comparison"] = {**self.comparison, **groups}
            self._write_info()

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every step that was run: what, with what, when, where, how long."""
        return list(self._info["history"])

    def last(self, step: str) -> dict[str, Any]:
        """The newest line of the history about a step; empty when it was never run."""
        lines = (line for line in reversed(self.history) if line.get("step") == step)
        return next((line for line in lines if not line.get("undone")), {})

    # ---- one step back ---------------------------------------------------------------------------

    def begin_step(self, step: str, *, follows: Sequence[str] = ()) -> None:
        """Say that a step begins whose outputs can be taken back as one; those of the step before no longer can.

        Parameters
        ----------
        step : str
            Its name, as `log` gets it.
        follows : sequence of str
            Steps of which this one is a part when it comes right after them, as finding cells is of segmenting.
        """
        self._began[step] = perf_counter()
        open_now = self._last.info()
        if open_now.get("step") in follows:
            since = _read_info(self.root)["history"][open_now["n_history"] :]
            if all(line.get("step") in follows for line in since):
                return
        with self.lock():
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            self._last.begin(step, now, len(_read_info(self.root)["history"]))

    def forget_step(self) -> None:
        """What the last step wrote can no longer be taken back: what follows would be lost with it."""
        if self._last.info():
            with self.lock():
                self._last.forget()

    @property
    def undoable(self) -> dict[str, Any]:
        """The step whose outputs `undo` takes back: "step", "when" and "words"; empty when there is none."""
        found = self._last.info()
        if not found:
            return {}
        lines = self.history[found["n_history"] :]
        told = [line for line in lines if not line.get("undone")]
        words = next((str(line["summary"]) for line in told if line.get("summary")), "")
        what = next((line for line in told if line.get("step") == found["step"]), {})
        of = what.get("recipe") or what.get("model") or what.get("segmenter") or ""
        return {**found, "words": words, "of": of}

    @property
    def undo_bytes(self) -> int:
        """Bytes that are kept for `undo`."""
        return self._last.n_bytes

    def undo(self) -> str:
        """Take back what the last step wrote (labels, cells, vectors, analyses); returns what it was.

        Its lines in the history stay and are marked as undone.

        Raises
        ------
        InputError
            If no step can be taken back.
        """
        with self.lock():
            found = self._last.info()
            if not found:
                raise InputError(
                    f"There is nothing to take back in {self.root.name}: one step is kept, until the next one begins."
                )
            of = self.undoable["of"]
            for field_id in self.labelled():
                self.labels_path(field_id)  # what a killed process has left to do is done first
            self._last.restore()
            self._info = _read_info(self.root)
            for line in self._info["history"][found["n_history"] :]:
                line["undone"] = True
            self._write_info()
            self._last.forget()
            self.reload()
            self.log("undo", of=found["step"], undone=True)
            self.reload()
        return f"{found['step']}{f' ({of})' if of else ''}"

    def set_channels(self, channels: Sequence[Channel]) -> None:
        """Rename channels or change their roles; the planes stay."""
        if len(channels) != len(self.channels):
            raise InputError(f"The project has {len(self.channels)} channels; got names for {len(channels)}.")
        twice = _twice([c.name for c in channels])
        if twice:
            raise InputError(f"There are two channels called {twice[0]!r}; names have to differ.")
        with self.lock():
            self._info = _read_info(self.root)
            self._info["channels"] = [dataclasses.asdict(c) for c in channels]
            self._write_info()

    def log(self, step: str, **what: Any) -> None:
        """Add a line to the project's history."""
        from napari_cellrep import __version__

        line = {
            "step": step,
            "when": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "machine": platform.node(),
            "version": __version__,
            "software": _software(),
            **what,
        }
        if step in self._began:
            line.setdefault("seconds", round(perf_counter() - self._began.pop(step), 1))
        with self.lock():
            self._info = _read_info(self.root)  # another process may have added lines
            self._info["history"].append(json.loads(json.dumps(line, default=str)))
            self._write_info()

    def _write_info(self) -> None:
        write_text(self.root / "project.json", json.dumps(self._info, indent=1, ensure_ascii=False))

    @property
    def read_only(self) -> bool:
        """Whether the project can be viewed but not changed: no permission, or a disk that takes no writes."""
        if not os.access(self.root, os.W_OK):
            return True
        try:
            return bool(os.statvfs(self.root).f_flag & os.ST_RDONLY)
        except (AttributeError, OSError):  # not on Windows
            return False

    @contextlib.contextmanager
    def lock(self, timeout_s: float = 60) -> Iterator[None]:
        """Hold the project for writing. The lock of a process that dies is freed.

        Raises
        ------
        InputError
            If another process holds it all the time, or the project is read-only.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock.hold(timeout_s))
            except Timeout:
                owner = self._lock.owner()
                if owner is None or owner.here:
                    who = "Another process" if owner is None else str(owner)
                    raise InputError(
                        f"{who} has been writing to {self.root.name} for {timeout_s:.0f} s; wait for it or stop it."
                    ) from None
                raise InputError(
                    f"{owner} is writing to {self.root.name}, or has ended without a word; wait for it, or if it does not run "
                    f"any more: cellrep unlock {self.root} (in the window: Unlock… in card 1)."
                ) from None
            except OSError as error:
                if isinstance(error, PermissionError) or error.errno == errno.EROFS:
                    raise InputError(
                        f"{self.root} is read-only: it can be viewed but not changed."
                    ) from error
                raise
            yield

    @property
    def held_elsewhere(self) -> Owner | None:
        """The process of another computer that holds the project, on a share without file locks; else None."""
        owner = self._lock.owner()
        return None if owner is None or owner.here else owner

    def unlock(self) -> str:
        """Free the project from a process that does not run any more, on a share without file locks; returns which it was.

        Raises
        ------
        InputError
            If nobody holds it, or the process is of this computer and runs.
        """
        owner = self._lock.owner()
        if owner is None:
            raise InputError(f"No process has left a lock on {self.root.name}; there is nothing to unlock.")
        if owner.runs:
            raise InputError(f"{owner} is writing to {self.root.name}; wait for it or stop it.")
        self._lock.release()
        self.log("unlock", of=str(owner))
        return str(owner)

    # ---- fields ----------------------------------------------------------------------------------

    @property
    def fields(self) -> list[Field]:
        """All fields, in order, those with a problem included."""
        return list(self._by_id().values())

    @property
    def usable_fields(self) -> list[Field]:
        """The fields without a problem."""
        return [f for f in self.fields if not f.problem]

    def missing(self, most: int = 0) -> list[Field]:
        """Fields whose images are not on the disk; `most` > 0: of that many fields, spread over all."""
        fields = [f for f in self.fields if f.planes and (not f.problem or is_gone(f))]
        if 0 < most < len(fields):
            fields = fields[:: -(-len(fields) // most)]
        return [
            f
            for f in fields
            if not all(file_of(p).exists() for plane in f.planes for p in plane.files(self.root))
        ]

    def _by_id(self) -> dict[str, Field]:
        if self._fields is None:
            self._fields = {f.id: f for f in read_fields(self.root / "fields.parquet")}
        return self._fields

    def field(self, field_id: str) -> Field:
        """The field called `field_id`."""
        try:
            return self._by_id()[field_id]
        except KeyError:
            raise InputError(f"There is no field {field_id!r} in {self.root.name}.") from None

    def write_fields(self, fields: Sequence[Field]) -> None:
        """Replace the list of fields."""
        with self.lock():
            if self._fields is None or set(self._fields) == {f.id for f in fields}:
                self._last.keep(self.root / "fields.parquet")
            else:  # new images: taking back what was before would lose them
                self._last.forget()
            write_fields(self.root / "fields.parquet", fields)
        self._fields = {f.id: f for f in fields}

    def mark(self, problems: Mapping[str, str]) -> None:
        """Set the problem sentence of some fields; "" clears it."""
        if all(self.field(k).problem == v for k, v in problems.items()):
            return
        with self.lock():
            self._fields = None  # another process may have added some
            self.write_fields(
                [dataclasses.replace(f, problem=problems.get(f.id, f.problem)) for f in self.fields]
            )

    def image_stamp(self, field_id: str) -> str:
        """Short text that changes when a field's files do (sizes and times) or their correction. "" if one is gone."""
        try:
            planes = self.field(field_id).planes
            stamps = [stamp for p in planes for f in p.files(self.root) for stamp in stamps_of(f)]
            lit = self.illumination
            return digest(stamps if lit is None else [*stamps, lit.digest])
        except OSError:
            return ""

    def pixels_of(self, field_id: str) -> str:
        """16 hexadecimal digits of what is in a field's files; "" while they cannot be reached.

        The same for images that were moved, copied or only touched. See `napari_cellrep.data.stamps`.
        """
        return self._stamps.of(self.field(field_id).planes)

    def pixels_of_many(self, field_ids: Sequence[str]) -> Iterator[str]:
        """As `pixels_of`, of several fields at once, in their order."""
        return self._stamps.of_many([self.field(f).planes for f in field_ids])

    def keep_stamps(self, timeout_s: float = 60) -> None:
        """Remember what was read of the image files, so that they are not read again while they stay as they are."""
        if self._stamps.has_news and not self.read_only:
            with self.lock(timeout_s):
                self._stamps.keep()

    def measured_from(self) -> dict[str, str]:
        """Field → `pixels_of` it when its cells were found and measured; fields of which that is not known are left out."""
        return stamps_in(self.cells) if self.has_cells else {}

    def look_at_images(self, fields: Sequence[str] | None = None, *, unknown: bool = False) -> Images:
        """Look whether the images of fields are still those their cells were measured from; default: all with cells.

        Fields of which that was not noted are looked at only where `unknown` says so: their files have to be read.
        """
        measured = self.measured_from()
        asked = measured if fields is None else fields
        some = [f for f in asked if f in self._by_id() and (unknown or f in measured)]
        now = dict(zip(some, self.pixels_of_many(some), strict=True))
        return Images(now, tuple(f for f in some if now[f] and now[f] != measured.get(f, now[f])))

    @property
    def light(self) -> str:
        """Digest of what corrects the illumination of every image that is read; "" if nothing does."""
        return str((self._info.get("illumination") or {}).get("digest", ""))

    def measured_in_light(self) -> dict[str, str]:
        """Field → `light` when its cells were measured; fields of which that was not noted are left out."""
        if not self.has_cells:
            return {}
        return dict(json.loads(dict(self.cells.uns.get("cellrep", {})).get(LIGHT, "{}")))

    @property
    def illumination(self) -> Illumination | None:
        """What evens out the illumination of every image that is read; None: images are as in their files."""
        kept = self._info.get("illumination")
        if not kept:
            return None
        if self._illumination is None or self._illumination.digest != kept["digest"]:
            self._illumination = read_illumination(self.root, kept)
        return self._illumination

    def set_illumination(
        self,
        functions: Mapping[tuple[str, str], np.ndarray],
        operation: str,
        source: str,
        notes: Sequence[str] = (),
    ) -> None:
        """Correct every image from now on by functions (plate, channel) → float32 (H, W); without any, by none.

        Labels, flags and vectors made before are out of date then: what they were made from is part of their digest.
        """
        import shutil

        with self.lock():
            self._info = _read_info(self.root)
            old = self._info.pop("illumination", None)
            if functions:
                stamp = functions_digest(functions, operation)
                folder = self.root / FOLDER / stamp
                files = {key: f"{i:04d}.npy" for i, key in enumerate(functions)}
                with replacing(folder) as tmp:
                    tmp.mkdir(parents=True)
                    for key, name in files.items():
                        np.save(tmp / name, functions[key])
                new = Illumination(folder, files, operation, stamp, source, tuple(notes))
                self._info["illumination"] = new.to_json()
            self._write_info()
            if old and old["folder"] != self._info.get("illumination", {}).get("folder"):
                shutil.rmtree(self.root / FOLDER / old["folder"], ignore_errors=True)

    def read_image(self, field_id: str) -> np.ndarray:
        """Pixels of a field, (C, H, W) in the project's channel order, their illumination corrected if that was asked for.

        Of a field that `is_big` ask for parts (`read_region`), or for what little tells of the whole (`glimpse`, `overview`).

        Raises
        ------
        InputError
            If the file is gone or broken, or its size is not what it was when imported.
        """
        return self._read(self.field(field_id), None, None)

    def is_big(self, field_id: str) -> bool:
        """Whether a field is worked on in parts, because the whole of it is more than memory should hold."""
        field = self.field(field_id)
        return field.height_px * field.width_px > slides.BIG_PX

    def read_region(
        self, field_id: str, box: slides.Box, channels: Sequence[int] | None = None
    ) -> np.ndarray:
        """Pixels (C, h, w) of a part of a field, y0, x0, y1, x1, as `read_image` has them.

        Of a field that `is_big` no more is read than the file's own pieces.

        Parameters
        ----------
        channels : sequence of int, optional
            Only these of the project's channels.

        Raises
        ------
        InputError
            As `read_image`.
        """
        if self.is_big(field_id):
            return self._read(self.field(field_id), box, channels)
        y0, x0, y1, x1 = box
        image = self.read_image(field_id)[:, y0:y1, x0:x1]
        return image if channels is None else image[list(channels)]

    def glimpse(self, field_id: str) -> np.ndarray:
        """Pixels (C, h, w) to measure a field's brightness on: all, or of one that `is_big` windows spread over it."""
        if not self.is_big(field_id):
            return self.read_image(field_id)
        return slides.glimpse(partial(self.read_region, field_id), self._shape(field_id))

    def overview(self, field_id: str, most_px: int = 2048) -> tuple[np.ndarray, int]:
        """A field that `is_big`, shrunk until its longer side has at most `most_px`; any other as it is.

        Returns
        -------
        ndarray of shape (C, h, w)
            float32 where it was shrunk: means of squares.
        int
            Field pixels per pixel of it.
        """
        if not self.is_big(field_id):
            return self.read_image(field_id), 1
        return slides.overview(partial(self.read_region, field_id), self._shape(field_id), most_px)

    def parts_of(self, field_id: str, yx: np.ndarray) -> list[np.ndarray]:
        """Which of places (n, 2) in a field, y and x, are worked on together: all, or part by part if it `is_big`.

        Returns
        -------
        list of ndarray of int
            Indices.
        """
        if not len(yx):
            return []
        return slides.by_tile(yx) if self.is_big(field_id) else [np.arange(len(yx))]

    def _shape(self, field_id: str) -> tuple[int, int]:
        field = self.field(field_id)
        return field.height_px, field.width_px

    def _read(self, field: Field, box: slides.Box | None, channels: Sequence[int] | None) -> np.ndarray:
        """A field or a part of it, of all channels or some, corrected."""
        if len(field.planes) != len(self.channels):
            raise InputError(
                f"Field {field.id}: {field.problem or 'its channels are not those of the project.'} "
                "Mend that and import the field again."
            )
        image = field.read(self.root, box, channels)
        whole = (0, 0, field.height_px, field.width_px)
        y0, x0, y1, x1 = box or whole
        if field.height_px and image.shape[1:] != (y1 - y0, x1 - x0):
            now = "smaller" if box else f"{image.shape[2]}×{image.shape[1]} px"
            raise InputError(
                f"Field {field.id} was {field.width_px}×{field.height_px} px when it was imported and is "
                f"{now} now; import it again."
            )
        if self.illumination is None:
            return image
        shown = self.channels if channels is None else [self.channels[i] for i in channels]
        return self.illumination.correct(image, field, shown, box)

    # ---- levels of a slide, to look at -------------------------------------------------------------

    def levels_folder(self, field_id: str) -> Path:
        """Where smaller levels of a field's pixels are kept, to look at; thrown away without harm.

        In the project, or in the user's cache if that cannot be written. The name says of which files and which
        illumination they are.
        """
        place = self.root / ".levels"
        if self.read_only:
            place = Path(platformdirs.user_cache_dir("napari-cellrep")) / "levels" / digest(str(self.root))
        return place / f"{field_id}-{self.image_stamp(field_id)}"

    def make_levels(self, field_id: str) -> Iterator[tuple[int, int]]:
        """Write the smaller levels of a field if they are not there, and remove those of before.

        Yields
        ------
        (int, int)
            Parts done, and all parts.
        """
        folder = self.levels_folder(field_id)
        if folder.is_dir():
            return
        sweep(folder.parent)
        field, read = self.field(field_id), partial(self.read_region, field_id)
        yield from slides.write_levels(read, self._shape(field_id), field.dtype, len(self.channels), folder)
        for other in folder.parent.glob(f"{glob.escape(field_id)}-*"):
            if other != folder and other.name.rpartition("-")[0] == field_id:
                shutil.rmtree(other, ignore_errors=True)

    def levels(self, field_id: str) -> list[list[Any]]:
        """Levels of every channel of a field, the largest first: arrays that are read where they are looked at."""
        return slides.levels(
            partial(self.read_region, field_id), self._shape(field_id), self.field(field_id).dtype,
            len(self.channels), self.levels_folder(field_id),
        )  # fmt: skip

    # ---- labels ----------------------------------------------------------------------------------

    def labels_path(self, field_id: str) -> Path:
        """Where a field's labels are (or would be): a TIFF, or an OME-Zarr of one larger than memory."""
        in_parts = self.root / "labels" / f"{field_id}.ome.zarr"
        if not in_parts.is_dir():
            return self.root / "labels" / f"{field_id}.ome.tif"
        if slides.journal_of(in_parts).is_dir() and not self.read_only:
            with contextlib.suppress(InputError), self._alone_at(field_id):  # a living writer does it itself
                slides.finish_journal(in_parts)
        return in_parts

    def labelled(self) -> set[str]:
        """Fields that are segmented: one look at the folder, however many fields."""
        names = (p.name for p in (self.root / "labels").glob("[!.]*.ome.*"))
        return {n.removesuffix(".ome.tif").removesuffix(".ome.zarr") for n in names}

    def has_labels(self, field_id: str) -> bool:
        """Whether a field is segmented."""
        return self.labels_path(field_id).exists()

    def read_labels_region(self, field_id: str, box: slides.Box) -> np.ndarray:
        """Labels of a part of a field, y0, x0, y1, x1."""
        path = self.labels_path(field_id)
        if path.is_dir():
            return slides.read_labels(path, box)
        y0, x0, y1, x1 = box
        return self.read_labels(field_id)[y0:y1, x0:x1]

    @contextlib.contextmanager
    def writing_labels(
        self, field_id: str, how: Mapping[str, Any], begun_as: str = ""
    ) -> Iterator[slides.LabelWriter]:
        """Write labels part by part, for a field larger than memory; they are in place once the block ends.

        Parameters
        ----------
        how : mapping
            How they are made; written with them.
        begun_as : str
            If given, what is finished stays on disk when the block is left early or the process is killed, and is gone on
            with when the same text is given again (see `slides.LabelWriter`).

        Raises
        ------
        InputError
            If another process is at the same field.
        """
        field = self.field(field_id)
        old, path = self.labels_path(field_id), self.root / "labels" / f"{field_id}.ome.zarr"
        with (
            self._alone_at(field_id),
            replacing(path, self._unfinished(field_id) if begun_as else None) as tmp,
        ):
            writer = slides.LabelWriter(tmp, (field.height_px, field.width_px), field.um_per_px, begun_as)
            yield writer
            writer.finish(how)
            for known in {old, path}:
                self._last.keep(known)
            if not begun_as:
                self._drop_unfinished(field_id)
        if old != path:
            old.unlink(missing_ok=True)

    def change_labels(
        self,
        field_id: str,
        box: slides.Box,
        change: Callable[[np.ndarray, dict[str, Any]], tuple[np.ndarray, Mapping[str, Any]]],
    ) -> int:
        """Change the labels of a part of a field larger than memory; nothing of other parts is written.

        Killed on the way, it is as before, or what is left is done when the labels are looked at next.

        Parameters
        ----------
        box : Box
            The part.
        change : callable
            Gets the labels (h, w) of the part, and what is said of the field's labels (`label_info`); gives those to write.

        Returns
        -------
        int
            Chunks that were written, of all levels.

        Raises
        ------
        InputError
            If another process is at the same field.
        """
        path = self.labels_path(field_id)
        with self._alone_at(field_id, _PATIENCE_S):
            labels, how = change(slides.read_labels(path, box), slides.label_info(path))
            n_chunks = slides.write_journal(path, box, labels, how, partial(self._last.keep, piece_of=path))
            slides.finish_journal(path)
        return n_chunks

    def say_of_labels(self, field_id: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Change what is said of the labels of a field larger than memory (`label_info`); they stay as they are."""
        path = self.labels_path(field_id)
        with self._alone_at(field_id, _PATIENCE_S):
            self._last.keep(path / ".zattrs", piece_of=path)
            slides.say_of_labels(path, change(slides.label_info(path)))

    def _unfinished(self, field_id: str) -> Path:
        return self.root / "labels" / f".{field_id}.ome.zarr.unfinished"

    def _drop_unfinished(self, field_id: str) -> None:
        """Take away labels that were begun in parts: the field has others now."""
        shutil.rmtree(self._unfinished(field_id), ignore_errors=True)

    @contextlib.contextmanager
    def _alone_at(self, field_id: str, timeout_s: float = 0) -> Iterator[None]:
        """Refuse to write the parts of a field that another process is writing. The system frees this when one dies."""
        lock = Lock(self.root / "labels" / f".{field_id}.lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.hold(timeout_s))
            except Timeout:
                raise InputError(
                    f"Another process is writing the labels of field {field_id}; wait for it or stop it."
                ) from None
            except OSError:
                pass  # of a folder that takes no files writing says so itself
            yield

    def read_labels(self, field_id: str) -> np.ndarray:
        """Labels of a field, (H, W) unsigned integers, 0 = background."""
        path = self.labels_path(field_id)
        if not path.exists():
            raise InputError(
                f"Field {field_id} is not segmented yet: run `cellrep segment` (or import labels)."
            )
        if path.is_dir():
            field = self.field(field_id)
            return slides.read_labels(path, (0, 0, field.height_px, field.width_px))
        try:
            labels = np.asarray(tifffile.imread(path))
        except Exception as error:
            raise InputError(
                f"{path.name} cannot be read ({error}); segment field {field_id} again."
            ) from error
        field = self.field(field_id)
        if field.height_px and labels.shape != (field.height_px, field.width_px):
            raise InputError(
                f"The labels of field {field_id} are {' × '.join(map(str, labels.shape[::-1]))} px and the field is "
                f"{field.width_px} × {field.height_px} px; segment it again."
            )
        return labels if labels.dtype.kind in "ui" else whole_numbers(labels, path.name)

    def write_labels(self, field_id: str, labels: np.ndarray, how: Mapping[str, Any]) -> None:
        """Write a field's labels (uint16, uint32 above 65,535) and how they were made.

        Raises
        ------
        InputError
            If their shape is not the field's.
        """
        field = self.field(field_id)
        if labels.shape != (field.height_px, field.width_px):
            raise InputError(
                f"Field {field_id} is {field.width_px}×{field.height_px} px; these labels are "
                f"{' × '.join(str(n) for n in labels.shape[::-1])} px. Labels have to be of their image's size."
            )
        labels = whole_numbers(labels, f"The label image of field {field_id}")
        dtype = np.uint16 if labels.max(initial=0) <= 65_535 else np.uint32
        labels = labels.astype(dtype)
        info = {**how, "n_cells": int(np.unique(labels[labels > 0]).size)}
        old, path = self.labels_path(field_id), self.root / "labels" / f"{field_id}.ome.tif"
        for known in {old, path}:
            self._last.keep(known)
        with replacing(path) as tmp:
            tifffile.imwrite(
                tmp, labels, compression="zlib", ome=True,
                metadata={"axes": "YX", "Name": field_id, "Description": json.dumps(info, default=str)},
            )  # fmt: skip
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
        self._drop_unfinished(field_id)

    def label_info(self, field_id: str) -> dict[str, Any]:
        """How a field's labels were made (kept inside the file); empty when there are none."""
        if self.labels_path(field_id).is_dir():
            return slides.label_info(self.labels_path(field_id))
        try:
            with tifffile.TiffFile(self.labels_path(field_id)) as tif:
                root = ElementTree.fromstring(tif.ome_metadata or "<none/>")
            text = next((e.text for e in root.iter() if e.tag.endswith("}Description")), None)
            return dict(json.loads(text or "{}"))
        except (FileNotFoundError, ValueError, ElementTree.ParseError, tifffile.TiffFileError):
            return {}

    # ---- embeddings ------------------------------------------------------------------------------

    def embedding_folder(self, key: str) -> Path:
        """Where the rows of one embedding are, a file per field."""
        if "/" in key or key.startswith("."):
            raise InputError(f"An embedding cannot be called {key!r}: no slash, no dot in front.")
        return self.root / "embeddings" / key

    def embedding_info(self, key: str) -> dict[str, Any]:
        """How an embedding was made; empty when there is none."""
        try:
            return dict(json.loads((self.embedding_folder(key) / "key.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def start_embedding(self, key: str, how: Mapping[str, Any], **notes: Any) -> None:
        """Begin or go on with an embedding; rows made another way are removed first.

        Parameters
        ----------
        how : mapping
            Everything the numbers depend on; its digest decides whether old rows still count.
        **notes
            What else to remember (device, date); not part of the digest.
        """
        folder, stamp = self.embedding_folder(key), digest(how)
        with self.lock():
            if folder.exists() and self.embedding_info(key).get("digest") != stamp:
                for path in folder.glob("*.npy"):
                    self._last.keep(path)
                    path.unlink()
            self._last.keep(folder / "key.json")
            write_text(folder / "key.json", json.dumps({**notes, **how, "digest": stamp}, default=str))

    def write_rows(
        self,
        key: str,
        field_id: str,
        labels: np.ndarray,
        hashes: np.ndarray,
        x: np.ndarray,
        pixels: np.ndarray | int = 0,
    ) -> None:
        """Write a field's rows of an embedding: one atomic file that says which cells, with which masks and pixels.

        `pixels`: `pixels_of` the field as a number, for each row or for all; 0 where the vectors are of no image.
        """
        dtype = [
            ("label", np.int64), ("mask_hash", np.uint64), ("pixels", np.uint64), ("x", np.float32, (x.shape[1],)),
        ]  # fmt: skip
        rows = np.empty(len(x), dtype)
        rows["label"], rows["mask_hash"], rows["pixels"], rows["x"] = labels, hashes, pixels, x
        path = self.embedding_folder(key) / f"{field_id}.npy"
        self._last.keep(path)
        with replacing(path) as tmp, tmp.open("wb") as f:
            np.save(f, rows)

    def read_rows(self, key: str, field_id: str) -> np.ndarray | None:
        """A field's rows of an embedding, or None when it has none (or a broken file, which counts as none)."""
        try:
            return np.asarray(np.load(self.embedding_folder(key) / f"{field_id}.npy"))
        except (FileNotFoundError, ValueError, EOFError):
            return None

    def embedding_keys(self) -> list[str]:
        """Embeddings that have rows on disk."""
        return sorted(p.parent.name for p in (self.root / "embeddings").glob("*/key.json"))

    # ---- the table -------------------------------------------------------------------------------

    def _recovered(self, name: str) -> Path:
        """A table's folder, made whole first if a process was killed between two renames."""
        path = self.root / name
        old = path.with_name(f".{name}.old")
        if old.exists():
            if self.read_only:
                return path if path.exists() else old
            with self.lock():  # a living writer holds it, and is done when we have it
                recover(path)
        return path

    def _stamp(self) -> int:
        path = self.root / "cells.zarr" / "zarr.json"
        return path.stat().st_mtime_ns if path.exists() else 0

    @property
    def has_cells(self) -> bool:
        """Whether the cell table exists."""
        return self._recovered("cells.zarr").exists()

    @property
    def cells(self) -> ad.AnnData:
        """The cell table, read once; call `reload` after another process wrote it."""
        if self._cells is None:
            if not self.has_cells:
                raise InputError(
                    f"{self.root.name} has no cells yet: run `cellrep segment {self.root}` first."
                )
            try:
                path = self._recovered("cells.zarr")
                self._cells_stamp, self._cells = self._stamp(), read_table(path)
            except InputError:  # replaced while it was read? Then it can be read once the writer is done
                with self.lock():
                    self._cells_stamp, self._cells = self._stamp(), read_table(self.root / "cells.zarr")
            # The table on disk may be older than a verdict: the verdicts are what counts.
            apply_verdicts(self._cells.obs, read_verdicts(self.root))
        return self._cells

    def write_cells(self, cells: ad.AnnData) -> None:
        """Replace the cell table, by rename."""
        with self.lock():
            self._last.keep(self.root / "cells.zarr")
            write_table(self.root / "cells.zarr", cells)
            self._cells_stamp, self._cells = self._stamp(), cells

    def write_groups(self, groups: ad.AnnData) -> None:
        """Replace the group table, by rename."""
        with self.lock():
            self._last.keep(self.root / "groups.zarr")
            write_table(self.root / "groups.zarr", groups)

    @property
    def groups(self) -> ad.AnnData | None:
        """The group table, or None before the first analysis."""
        path = self._recovered("groups.zarr")
        return read_table(path) if path.exists() else None

    def write_field_table(self, table: ad.AnnData) -> None:
        """Replace the table of whole-field embeddings, by rename."""
        with self.lock():
            self._last.keep(self.root / "fields.zarr")
            write_table(self.root / "fields.zarr", table)

    @property
    def field_table(self) -> ad.AnnData | None:
        """The table of whole-field embeddings, or None before the first."""
        path = self._recovered("fields.zarr")
        return read_table(path) if path.exists() else None

    def reload(self) -> None:
        """Forget what was read; the next look reads the disk."""
        self._info, self._fields, self._cells = _read_info(self.root), None, None

    def merge(
        self,
        obs: Any | None = None,
        pixels: Mapping[str, str] | None = None,
        judged: Mapping[str, Mapping[str, Any]] | None = None,
        light: Mapping[str, str] | None = None,
    ) -> ad.AnnData:
        """Bring the table up to date with the rows on disk and write it.

        Every row is joined by label and mask; a cell whose mask changed since, or whose image was replaced, gets NaN
        and ``has_<key>`` false. What was computed per cell before (maps, scores) is carried over by ``cell_id``.

        Parameters
        ----------
        obs : DataFrame, optional
            New rows (after segmenting or editing); default: the present ones.
        pixels : mapping of str to str, optional
            Field → `pixels_of` it, of those whose rows are new.
        judged : mapping of str to mapping, optional
            Field larger than memory → `napari_cellrep.data.cells.Measuring.judged_by`, of those whose rows are all new.
        light : mapping of str to str, optional
            Field → `light` when its rows were measured, of the same fields.
        """
        with self.lock():
            if self._cells is not None and self._stamp() != self._cells_stamp:
                self._cells = None  # another process wrote it since
            return self._merge(obs, pixels or {}, judged or {}, light or {})

    def _merge(
        self,
        obs: Any | None,
        pixels: Mapping[str, str],
        judged: Mapping[str, Mapping[str, Any]],
        light: Mapping[str, str],
    ) -> ad.AnnData:
        before = self.cells if self.has_cells else None
        if obs is None:
            obs = self.cells.obs
        keys = self.embedding_keys()
        # What the rows on disk say is not taken from the old table.
        table = make_table(obs.drop(columns=[f"has_{k}" for k in keys], errors="ignore").copy())
        made = provenance(before) if before is not None else {}
        where = {name: np.flatnonzero(rows) for name, rows in _rows_by_field(table.obs).items()}
        old = dict(made.pop(IMAGES, {}))
        seen = {f: stamp for f, stamp in {**old, **pixels}.items() if f in where and stamp}
        if before is not None:
            other = {f for f, stamp in seen.items() if old.get(f, stamp) != stamp}
            _carry_over(before, table, {f"X_{k}" for k in keys}, other)
        if seen:
            made[IMAGES] = seen
        if by := {f: told for f, told in {**made.pop(JUDGED, {}), **judged}.items() if f in where}:
            made[JUDGED] = by
        lit = {f: stamp for f, stamp in {**made.pop(LIGHT, {}), **light}.items() if f in where}
        if lit:
            made[LIGHT] = lit
        for key in keys:
            x = None
            for field_id, rows in where.items():
                stored = self.read_rows(key, field_id)
                if stored is None or not len(stored):
                    continue
                if x is None:
                    x = np.full((table.n_obs, stored["x"].shape[1]), np.nan, np.float32)
                valid = self._of_these_pixels(stored, field_id, seen.get(field_id, ""))
                at = {
                    pair: i
                    for i, pair in enumerate(
                        zip(stored["label"].tolist(), stored["mask_hash"].tolist(), strict=True)
                    )
                    if valid[i]
                }
                mine = table.obs.iloc[rows]
                pairs = zip(mine["label"].tolist(), mine["mask_hash"].tolist(), strict=True)
                index = np.array([at.get(pair, -1) for pair in pairs], np.int64)
                x[rows[index >= 0]] = stored["x"][index[index >= 0]]
            if x is None:
                made.pop(f"X_{key}", None)
                continue
            table.obsm[f"X_{key}"] = x
            table.obs[f"has_{key}"] = ~np.isnan(x).all(axis=1)
            made[f"X_{key}"] = self.embedding_info(key)
        table.uns["cellrep"] = {key: json.dumps(value, default=str) for key, value in made.items()}
        apply_verdicts(table.obs, read_verdicts(self.root))
        self.write_cells(table)
        return table

    def _of_these_pixels(self, stored: np.ndarray, field_id: str, measured: str) -> np.ndarray:
        """Which rows of an embedding are of the pixels that their cells were measured from, or of those there are now."""
        of = pixels_in(stored)
        fits = (of == 0) | (of == int(measured, 16) if measured else True)
        if not fits.all():
            now = self.pixels_of(field_id)
            fits |= of == int(now, 16) if now else True
        return np.asarray(fits)


_PATIENCE_S = (
    10  # as long as a change of a part may take; one of all parts takes longer, and is not waited for
)
JUDGED = "judged_by"  # in the table's provenance: field → what of the whole of a slide its cells' flags are judged by
IMAGES = "images"  # in the table's provenance: field → what its image files held …
LIGHT = "light"  # … and by what their illumination was corrected, "" by nothing


def stamps_in(cells: ad.AnnData) -> dict[str, str]:
    """Field → what its image files held when its cells were measured (`Project.pixels_of`)."""
    return dict(json.loads(dict(cells.uns.get("cellrep", {})).get(IMAGES, "{}")))


def pixels_in(stored: np.ndarray) -> np.ndarray:
    """Of each row of an embedding `Project.pixels_of` its field, as a number; 0 where it is not known."""
    names = stored.dtype.names or ()
    return stored["pixels"] if "pixels" in names else np.zeros(len(stored), np.uint64)


def _rows_by_field(obs: Any) -> dict[str, np.ndarray]:
    fields = obs["field"].astype(str).to_numpy()
    return {name: fields == name for name in dict.fromkeys(fields)}


def _carry_over(before: ad.AnnData, after: ad.AnnData, leave: set[str], other: Iterable[str] = ()) -> None:
    """Copy what belongs to cells that are still the same (id and mask) from the old table to the new one.

    A cell that is new or whose mask changed gets NaN (false in columns of truth values): what was computed
    for it is out of date. `leave`: keys of obsm that are not copied; `other`: fields that have other images now.
    """
    index = before.obs.index.get_indexer(after.obs.index)
    same = index >= 0
    if "mask_hash" in before.obs and "mask_hash" in after.obs:
        old = before.obs["mask_hash"].to_numpy()
        same[same] = old[index[same]] == after.obs["mask_hash"].to_numpy()[same]
    if other:
        same &= ~after.obs["field"].astype(str).isin(list(other)).to_numpy()
    unchanged = bool(same.all()) and before.obs.index.equals(after.obs.index)
    for column in before.obs.columns.difference(after.obs.columns):
        if column.startswith("has_"):
            continue
        values = before.obs[column].reindex(after.obs.index)
        if before.obs[column].dtype.kind == "b":
            after.obs[column] = np.where(same, values.fillna(False), False).astype(bool)
        else:
            after.obs[column] = values if unchanged else values.where(same)
    for key, x in before.obsm.items():
        if key in leave:
            continue
        if unchanged:
            after.obsm[key] = x
        elif isinstance(x, np.ndarray) and x.dtype.kind == "f":
            moved = np.full((after.n_obs, *x.shape[1:]), np.nan, x.dtype)
            moved[same] = x[index[same]]
            after.obsm[key] = moved
    if unchanged:  # row numbers and graphs mean something only while the rows are the same
        for key, graph in before.obsp.items():
            after.obsp[key] = graph
    for key, value in before.uns.items():
        graph = value.get("connectivities_key") if isinstance(value, Mapping) else None  # scanpy's neighbours
        if key != "cellrep" and (graph is None or graph in after.obsp):
            after.uns[key] = value


def whole_numbers(labels: np.ndarray, name: str) -> np.ndarray:
    """Labels as integers; Fiji and others save them as floats.

    Raises
    ------
    InputError
        If they are no whole numbers from 0 to 4,294,967,295.
    """
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind not in "uif" or (
        labels.size
        and not (labels.min() >= 0 and labels.max() < 2**32 and bool((labels == np.floor(labels)).all()))
    ):
        raise InputError(
            f"{name} holds numbers that are no labels: whole numbers from 0 (background) are wanted."
        )
    return labels if labels.dtype.kind in "ui" else labels.astype(np.uint32)


def read_table(path: Path) -> ad.AnnData:
    """Read an AnnData-zarr folder."""
    import anndata as ad  # takes a second: not before there is a table

    try:
        return ad.read_zarr(path)
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}).") from error


def write_table(path: Path, table: ad.AnnData) -> None:
    """Write AnnData as zarr v3, by rename. Rows per chunk are many, so that files are few."""
    import anndata as ad

    with (
        replacing(path) as tmp,
        ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False),
        warnings.catch_warnings(),
    ):
        # anndata consolidates the metadata of every folder it writes; readers without that feature do not need it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        table.write_zarr(tmp, chunks=None)


def project_root(path: Path | str) -> Path:
    """Absolute folder of the project called `path`, with its ``.cellrep``."""
    root = Path(os.path.normpath(Path(path).expanduser().absolute()))
    return root if root.suffix == ".cellrep" else root.with_name(root.name + ".cellrep")


def create_project(
    path: Path | str,
    fields: Iterable[Field],
    channels: Sequence[Channel],
    group_by: Sequence[str] = (),
    *,
    fill: Callable[[Path], None] | None = None,
) -> Project:
    """Make a project folder; nothing is there until it is whole.

    Parameters
    ----------
    path : path
        Its folder; ".cellrep" is added.
    fields : iterable of Field
    channels : sequence of Channel
        In plane order.
    group_by : sequence of str
        Metadata columns that make a group.
    fill : callable, optional
        Called with the folder before it becomes visible, to put more into it.

    Raises
    ------
    InputError
        If the folder exists, or two channels or fields share a name.
    """
    root = project_root(path)
    fields = list(fields)
    if root.exists():
        raise InputError(f"{root} exists already; choose another name, or open it.")
    for what, names in (("channel", [c.name for c in channels]), ("field", [f.id for f in fields])):
        twice = sorted({n for n in names if names.count(n) > 1}) if len(names) < 5000 else _twice(names)
        if twice:
            raise InputError(f"There are two {what}s called {twice[0]!r}; names have to differ.")
    info = {
        "format": FORMAT,
        "channels": [dataclasses.asdict(c) for c in channels],
        "group_by": list(group_by),
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "history": [],
    }
    with replacing(root) as tmp:
        tmp.mkdir(parents=True)
        (tmp / "labels").mkdir()
        (tmp / "project.json").write_text(json.dumps(info, indent=1, ensure_ascii=False), encoding="utf-8")
        write_fields(tmp / "fields.parquet", fields)
        if fill is not None:
            fill(tmp)
    return Project(root, info)


def open_project(path: Path | str) -> Project:
    """Open a project folder.

    Raises
    ------
    InputError
        If it is not there, not a project, or written by a newer version.
    """
    root = Path(path).expanduser().absolute()
    if not root.exists() and root.with_name(root.name + ".cellrep").exists():
        root = root.with_name(root.name + ".cellrep")
    info = _read_info(root)
    for folder in (root, root / "labels", *(root / "embeddings").glob("*")):
        sweep(folder)
    return Project(root, info)


def _read_info(root: Path) -> dict[str, Any]:
    if root.is_file():
        raise InputError(f"{root} is a file; a project is a folder called <name>.cellrep.")
    if not root.is_dir():
        raise InputError(f"{root} is not there; a project is a folder called <name>.cellrep.")
    try:
        info = json.loads((root / "project.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{root} is not a project: it has no project.json.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{root / 'project.json'} is damaged ({error}).") from error
    if not isinstance(info, dict) or not isinstance(info.get("format"), int) or "channels" not in info:
        raise InputError(f"{root / 'project.json'} is damaged: it does not say its format and channels.")
    if info["format"] > FORMAT:
        raise InputError(
            f"{root.name} was written by a newer version (format {info['format']}, this one reads up to {FORMAT}); "
            "update napari-cellrep."
        )
    return {"history": [], **info}


def _software() -> dict[str, str]:
    """Versions of Python, the system, and of the libraries in use that numbers depend on."""
    import sys
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for module, package in _LIBRARIES.items():
        if module in sys.modules:
            with contextlib.suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


_LIBRARIES = {
    "numpy": "numpy", "scipy": "scipy", "skimage": "scikit-image", "sklearn": "scikit-learn", "umap": "umap-learn",
    "anndata": "anndata", "torch": "torch", "cellpose": "cellpose",
}  # fmt: skip


def _twice(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return sorted({n for n in names if n in seen or seen.add(n)})  # type: ignore[func-returns-value]


def project_channel(project: Project, key: str) -> int:
    """Index of a project's channel by name or role."""
    return find_channel(project.channels, key)
