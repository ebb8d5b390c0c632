"""Cells with their pixels → files of other programs: crops as OME-TIFF or sharded zarr, everything as SpatialData."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
import zarr

from napari_cellrep.data import Project, slides
from napari_cellrep.data.cells import QualityRules
from napari_cellrep.data.fields import Field, safe_id
from napari_cellrep.data.files import replacing
from napari_cellrep.data.sets import read_sets
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import CropSpec, InputError, make_config
from napari_cellrep.steps.embed import cut_by_field
from napari_cellrep.steps.export import check_place, for_others, select_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK, SHARD = 64, 1024  # cells; 64 px crops of two 16-bit channels: 1 MB a chunk, 16 MB a file
HELD_BYTES = 64 << 20  # of crops of a group; more are kept in a file until the last one is cut
CROPS_KEY = "crops"  # in obsm of the zarr folder
PER = ("group", "cell")


def write_crops(
    project: Project,
    out: Path | str,
    *,
    format: str = "tiff",  # noqa: A002
    per: str = "group",
    embedding: str = "",
    window_px: int = 0,
    include_flagged: bool = False,
    set: str = "",  # noqa: A002
) -> Job[Path]:
    """Write the crops of cells, all channels of the project as acquired, with a table that says which is which.

    Parameters
    ----------
    out : Path
        Folder to write; replaced when it is such an export.
    format : {"tiff", "zarr"}
        "tiff": OME-TIFF, channels of one cell (axes CYX) or cell after cell as time points (TCYX), ``index.csv`` with
        the file and place of every cell, ``crops.json`` with the `CropSpec`. "zarr": one AnnData-zarr folder (zarr v3)
        whose ``obsm["crops"]`` is (cells, channels, y, x) in chunks of 64 cells and shards of 1,024.
    per : {"group", "cell"}
        What one OME-TIFF holds.
    embedding : str
        Cut as this embedding's network saw the cells; empty: the project's own window.
    window_px : int
        Another side of the window, in pixels of the field; 0: as above.
    include_flagged : bool
        Cells with a quality flag, too.
    set : str
        Only the cells of this set.

    Yields
    ------
    Progress
        Once per field; the job returns the folder.

    Raises
    ------
    InputError
        If there is no such cell, embedding or set, or the place is something else.
    """
    out = Path(os.path.normpath(Path(out).expanduser().absolute()))
    for value, known, what in ((format, ("tiff", "zarr"), "form of crops"), (per, PER, "way to part crops")):
        if value not in known:
            raise InputError(f"There is no {what} {value!r}; there are {' and '.join(known)}.")
    mark = "zarr.json" if format == "zarr" else "crops.json"
    check_place(project, out, is_ours=(out / mark).is_file())
    spec = _spec(project, embedding, window_px)
    rows = _chosen(project, include_flagged, set)
    for path in _fields_without_pixels(project, rows):
        raise InputError(path)
    about = {
        "crop": dataclasses.asdict(spec), "crop_digest": spec.digest(), "channels": [c.name for c in project.channels],
        "roles": [c.role for c in project.channels], "as_seen_by": embedding, "project": project.name,
    }  # fmt: skip
    yield Progress(0, len(rows), "Cutting cells")
    with replacing(out) as tmp:
        tmp.mkdir(parents=True)
        writer = _write_zarr if format == "zarr" else _write_tiffs
        yield from writer(project, tmp, rows, spec, about, per)
    yield Progress(len(rows), len(rows), f"Wrote {out.name}")
    return out


def _spec(project: Project, embedding: str, window_px: int) -> CropSpec:
    """What is cut: an embedding's own crop, else the project's window, of all channels and never resized by itself."""
    if embedding:
        made = project.embedding_info(embedding).get("crop")
        if not made:
            raise InputError(f"There is no embedding {embedding!r} that was cut from the images.")
        spec = CropSpec(**{**made, "channels": ()})
    else:
        rules = make_config(QualityRules, project.last("crop").get("rules", {}))
        spec = CropSpec(size_px=rules.window_px, window_px=rules.window_px)
    if window_px:
        spec = dataclasses.replace(spec, mode="window", size_px=window_px, window_px=window_px, um_per_px=0.0)
    return spec


def _chosen(project: Project, include_flagged: bool, name: str) -> pd.DataFrame:
    """Rows of the cells that leave, field after field; of one larger than memory part after part."""
    obs = project.cells.obs
    keep = np.ones(len(obs), bool) if include_flagged else obs["good"].to_numpy(bool)
    if name:
        sets = read_sets(project.root)
        if name not in sets:
            raise InputError(f"There is no set {name!r}; there are {', '.join(sets) or 'none'}.")
        keep &= obs.index.isin(sets[name]["cells"])
    order = {f.id: i for i, f in enumerate(project.fields)}
    rows = obs[keep]
    rows = rows.iloc[np.argsort(rows["field"].astype(str).map(order).to_numpy(), kind="stable")]
    names, yx = rows["field"].astype(str).to_numpy(), rows[["y_px", "x_px"]].to_numpy(float)
    own = [np.flatnonzero(names == name) for name in dict.fromkeys(names)]
    parts = [at[part] for at in own for part in project.parts_of(names[at[0]], yx[at])]
    if len(parts) > len(own):
        rows = rows.iloc[np.concatenate(parts)]
    if not len(rows):
        raise InputError(
            "There are no cells to write: all of them are flagged (--include-flagged), or the set is empty."
        )
    return rows


def _fields_without_pixels(project: Project, rows: pd.DataFrame) -> Iterator[str]:
    """The sentence of the first field whose files are gone: better now than after an hour."""
    for name in dict.fromkeys(rows["field"].astype(str)):
        field = project.field(name)
        if not all(path.exists() for plane in field.planes for path in plane.files(project.root)):
            yield (
                field.problem
                or f"The images of field {name} are not on the disk; `cellrep relocate` finds them."
            )
            return


def _cuts(
    project: Project, rows: pd.DataFrame, spec: CropSpec
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    return cut_by_field(project, rows, spec, tuple(range(len(project.channels))))


def _write_tiffs(
    project: Project, tmp: Path, rows: pd.DataFrame, spec: CropSpec, about: dict[str, Any], per: str
) -> Job[None]:
    names = [*about["channels"], *(["mask"] if spec.mask_plane else [])]
    groups = rows["group"].astype(str).to_numpy()
    files, places = np.empty(len(rows), object), np.zeros(len(rows), int)
    started: dict[str, _Waiting] = {}
    left = {name: int((groups == name).sum()) for name in dict.fromkeys(groups)}
    taken: dict[str, str] = {}
    done = 0
    for field, own, crops in _cuts(project, rows, spec):
        um = project.field(field).um_per_px
        if per == "cell":
            for i, crop in zip(own, crops, strict=True):
                files[i] = f"{safe_id(groups[i])}/{safe_id(str(rows.index[i]).replace(':', '_'))}.ome.tif"
                _save(tmp / files[i], crop, "CYX", names, um)
        else:
            for name in dict.fromkeys(groups[own]):
                of_group = groups[own] == name
                if name not in taken:
                    file = safe_id(name)
                    while f"{file}.ome.tif".casefold() in {f.casefold() for f in taken.values()}:
                        file += "_"
                    taken[name] = f"{file}.ome.tif"
                waiting = started.setdefault(name, _Waiting(tmp / f".{len(taken)}.part"))
                files[own[of_group]] = taken[name]
                places[own[of_group]] = waiting.n + np.arange(of_group.sum())
                waiting.add(crops[of_group])
                if waiting.n == left[name]:
                    waiting.save(tmp / taken[name], names, um)
                    del started[name]
        done += len(own)
        yield Progress(done, len(rows), f"Cut {field}")
    index = rows.drop(columns=["mask_hash"], errors="ignore").copy()
    index.insert(0, "file", files)
    index.insert(1, "place", places)
    index.to_csv(tmp / "index.csv", index_label="cell_id")
    (tmp / "crops.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


class _Waiting:
    """Crops of a group until its last one is cut: in a file once they are more than memory should hold.

    Parameters
    ----------
    path : Path
        The file; it is gone when they are saved.
    """

    def __init__(self, path: Path):
        self._path, self._held = path, list[np.ndarray]()
        self._on_disk: list[tuple[int, np.dtype]] = []  # how many crops of which type each part has
        self._shape: tuple[int, ...] = ()  # of one
        self.n = 0

    def add(self, crops: np.ndarray) -> None:
        """Take up crops (n, C, y, x)."""
        self._held.append(crops)
        self._shape = crops.shape[1:]
        self.n += len(crops)
        if sum(part.nbytes for part in self._held) > HELD_BYTES:
            with self._path.open("ab") as file:
                for part in self._held:
                    part.tofile(file)
                    self._on_disk.append((len(part), part.dtype))
            self._held = []

    def _parts(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """All of them, in their order."""
        if self._on_disk:
            with self._path.open("rb") as file:
                for n, dtype in self._on_disk:
                    for _ in range(n):
                        yield np.fromfile(file, dtype, math.prod(shape)).reshape(1, *shape)
        yield from self._held

    def save(self, path: Path, names: Sequence[str], um_per_px: float) -> None:
        """Write them as one OME-TIFF, cell after cell as time points."""
        shape = self._shape
        dtype = np.result_type(*(d for _, d in self._on_disk), *(p.dtype for p in self._held))
        planes = (
            plane.astype(dtype, copy=False) for part in self._parts(shape) for crop in part for plane in crop
        )
        _save(path, planes, "TCYX", names, um_per_px, (self.n, *shape), dtype)
        self._path.unlink(missing_ok=True)


def _save(
    path: Path,
    pixels: np.ndarray | Iterator[np.ndarray],
    axes: str,
    names: Sequence[str],
    um_per_px: float,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"PhysicalSizeX": um_per_px, "PhysicalSizeY": um_per_px} if um_per_px else {}
    tifffile.imwrite(
        path, pixels, shape=shape, dtype=dtype, ome=True, compression="zlib", photometric="minisblack",
        metadata={"axes": axes, "Channel": {"Name": list(names)}, **size},
    )  # fmt: skip


def _write_zarr(
    project: Project, tmp: Path, rows: pd.DataFrame, spec: CropSpec, about: dict[str, Any], per: str
) -> Job[None]:
    table = ad.AnnData(obs=rows.copy(), uns={"cellrep": {"crops": json.dumps(about)}})
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for_others(table).write_zarr(tmp)
    where: np.ndarray = np.zeros(len(rows), int)
    stored: Any = None
    full: list[np.ndarray] = []
    at = done = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for field, own, crops in _cuts(project, rows, spec):
            if stored is None:
                group = zarr.open_group(tmp / "obsm", mode="r+", use_consolidated=False)
                stored = group.create_array(
                    CROPS_KEY, shape=(len(rows), *crops.shape[1:]), dtype=crops.dtype,
                    chunks=(CHUNK, *crops.shape[1:]), shards=(SHARD, *crops.shape[1:]),
                    attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
                )  # fmt: skip
            assert (own == np.arange(done, done + len(own))).all()  # rows are in the order of the fields
            where[own] = 1
            full.append(crops.astype(stored.dtype, copy=False))
            done += len(own)
            if sum(map(len, full)) >= SHARD:  # a shard is one file: it is written once
                block = np.concatenate(full)
                n = len(block) // SHARD * SHARD
                stored[at : at + n], at, full = block[:n], at + n, [block[n:]]
            yield Progress(done, len(rows), f"Cut {field}")
        if full and stored is not None:
            block = np.concatenate(full)
            stored[at : at + len(block)] = block
        zarr.consolidate_metadata(tmp)  # as anndata left it, with the new array in it


# ---- SpatialData -----------------------------------------------------------------------------------


def write_spatialdata(project: Project, out: Path | str, *, include_flagged: bool = False) -> Job[Path]:
    """Write images, labels and the table as one SpatialData-zarr folder, which napari-spatialdata and squidpy open.

    Every field has its image ``<field>_image`` (c, y, x), its labels ``<field>_labels`` and a coordinate system of its
    own called as the field, in µm where the pixel size is known. The table ``cells`` annotates the labels: region key
    "region", instance key "instance_id". Images are read field by field while they are written.

    Parameters
    ----------
    out : Path
        Folder to write (``.zarr``); replaced when it is such an export.
    include_flagged : bool
        Rows of flagged cells, too; the labels always hold every cell.

    Yields
    ------
    Progress
        Once per field; the job returns the folder.

    Raises
    ------
    InputError
        If the package spatialdata is not installed, there are no cells, or the place is something else.
    """
    if importlib.util.find_spec("spatialdata") is None:
        raise InputError(
            'This export needs the package spatialdata: pip install "napari-cellrep[spatialdata]", best into an '
            "environment of its own."
        )
    again = (
        'pip install "napari-cellrep[spatialdata]" into an environment of its own brings what fits together'
    )
    try:
        import spatialdata as sd
        from spatialdata.models import Image2DModel, Labels2DModel, TableModel
        from spatialdata.transformations import Identity, Scale
    except ImportError as error:
        raise InputError(f"The package spatialdata cannot be loaded ({error}); {again}.") from error

    out = Path(os.path.normpath(Path(out).expanduser().absolute()))
    check_place(project, out, is_ours=(out / "zarr.json").is_file())
    rows = _chosen(project, include_flagged, "")
    for sentence in _fields_without_pixels(project, rows):
        raise InputError(sentence)
    fields = [project.field(name) for name in dict.fromkeys(rows["field"].astype(str))]
    channels = [c.name for c in project.channels]
    yield Progress(0, len(fields) + 1, "Writing the table")
    with replacing(out) as tmp, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the package itself calls
        cells = for_others(select_cells(project.cells[rows.index], "", drop_missing=False))
        cells.obs["region"] = pd.Categorical([f"{name}_labels" for name in rows["field"].astype(str)])
        cells.obs["instance_id"] = rows["label"].to_numpy(np.int64)
        regions = [f"{f.id}_labels" for f in fields]
        table = TableModel.parse(cells, region=regions, region_key="region", instance_key="instance_id")
        data = sd.SpatialData(tables={"cells": table})
        data.write(tmp)
        for i, field in enumerate(fields):
            um = field.um_per_px
            place = {field.id: Scale([um, um], axes=("y", "x")) if um > 0 else Identity()}
            image, labels = _lazy(project, field)
            names = (f"{field.id}_image", f"{field.id}_labels")
            data[names[0]] = Image2DModel.parse(
                image, dims=("c", "y", "x"), c_coords=channels, transformations=place
            )
            data[names[1]] = Labels2DModel.parse(labels, dims=("y", "x"), transformations=place)
            for name in names:
                try:
                    data.write_element(name)
                except TypeError as error:  # ome-zarr of another time than spatialdata
                    raise InputError(
                        f"The package spatialdata cannot write with the versions beside it ({error}); {again}."
                    ) from error
                del data[name]  # only one field is held in memory
            yield Progress(i + 1, len(fields) + 1, f"Wrote {field.id}")
        data.write_consolidated_metadata()
    yield Progress(len(fields) + 1, len(fields) + 1, f"Wrote {out.name}")
    return out


def _lazy(project: Project, field: Field) -> tuple[Any, Any]:
    """A field's pixels (C, H, W) and labels (H, W), int64, as dask arrays; of one larger than memory read in parts."""
    import dask.array as da

    chunks = (slides.CHUNK_PX, slides.CHUNK_PX)
    if not project.is_big(field.id):
        image, labels = project.read_image(field.id), project.read_labels(field.id).astype(np.int64)
        return da.from_array(image, chunks=(1, *chunks)), da.from_array(labels, chunks=chunks)
    shape = (field.height_px, field.width_px)

    def plane(read: Callable[[slides.Box], np.ndarray], dtype: Any) -> Any:
        return da.from_array(slides.LazyPlane(read, shape, dtype), chunks=chunks, name=False)

    channels = [
        plane(lambda box, c=c: project.read_region(field.id, box, (c,))[0], field.dtype)  # type: ignore[misc]
        for c in range(len(project.channels))
    ]
    labels = plane(lambda box: project.read_labels_region(field.id, box).astype(np.int64), np.int64)
    return da.stack(channels), labels
