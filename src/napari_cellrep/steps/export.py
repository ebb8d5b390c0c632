"""Table → a file other programs open: AnnData (scanpy, cellxgene, R), CSV or parquet, ranking, groups, or the project itself."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.cells import MAP_PREFIXES, embedding_names, provenance
from napari_cellrep.data.fields import NOT_HERE, Field, write_fields
from napari_cellrep.data.files import replacing, sweep
from napari_cellrep.data.images import Plane
from napari_cellrep.data.project import project_root, write_table
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words
from napari_cellrep.steps.analyze import ranking

FORMATS = ("h5ad", "zarr", "csv", "parquet", "ranking", "groups", "likeness")


def export(
    project: Project,
    out: Path | str,
    *,
    format: str = "h5ad",  # noqa: A002
    drop_missing: bool = True,
    embedding: str = "",
) -> Job[Path]:
    """Write the cells, or the ranking of groups, to one file.

    Parameters
    ----------
    out : Path
        File (a folder for "zarr") to write; replaced when it is there, unless it is something else than
        what this step writes.
    format : {"h5ad", "zarr", "csv", "parquet", "ranking", "groups", "likeness"}
        "h5ad" and "zarr" hold everything, provenance (``uns["cellrep"]``, JSON) included, as scanpy and cellxgene
        want it (see `for_others`); "csv" and "parquet" one row per cell with its columns, map places and scores;
        "ranking" a CSV with one row per group. "groups": the group table, h5ad with profiles and likeness, or CSV with its
        columns, as the file's ending says; "likeness": a CSV with the Pearson correlation of each two profiles, of the
        grouping profiled last.
    drop_missing : bool
        Leave out cells that lack a vector (of `embedding`, else of every embedding).
    embedding : str
        Only this embedding and what was computed from it; empty: all. For "ranking" and "likeness": which one, empty the last.

    Yields
    ------
    Progress
        The job returns the path written.

    Raises
    ------
    InputError
        If there is nothing to write, or the format, embedding or place is wrong.
    """
    out = Path(os.path.normpath(Path(out).expanduser().absolute()))
    if format not in FORMATS:
        raise InputError(f"There is no export format {format!r}; formats are {join_words(FORMATS)}.")
    check_place(project, out, is_ours=format == "zarr" and (out / "zarr.json").is_file())
    yield Progress(0, 1, f"Writing {out.name}")
    if format == "ranking":
        table = ranking(project, embedding=embedding)
        with replacing(out) as tmp:
            # Where the group is the well (or another column), one column is enough.
            known = any((table[c].astype(str) == table.index).all() for c in table)
            _tidy(table).to_csv(tmp, index=not known)
    elif format == "likeness":
        with replacing(out) as tmp:
            likeness_table(project, embedding).to_csv(tmp, float_format="%.6g")
    elif format == "groups":
        _write_groups(project, out)
    else:
        cells = select_cells(project.cells, embedding, drop_missing)
        if format == "zarr":
            write_table(out, for_others(cells, embedding))
        else:
            with replacing(out) as tmp:
                if format == "h5ad":
                    tmp.write_bytes(_h5ad(for_others(cells, embedding)))
                elif format == "csv":
                    flat_table(cells).to_csv(tmp, index_label="cell_id")
                else:
                    flat_table(cells).to_parquet(tmp)
    yield Progress(1, 1, f"Wrote {out.name}")
    return out


def share(project: Project, out: Path | str, *, labels: bool = True) -> Job[Path]:
    """Copy the project without its images and without any other pixels, to share what was computed.

    The copy opens as a project: table, maps, rankings, sets, verdicts, vectors and trained networks are there; its
    fields say that their images are not here. Of where images were only the file names stay, and no path of the
    history. Whoever has the images brings them back with ``cellrep relocate``.

    Parameters
    ----------
    out : Path
        The new project's folder; ".cellrep" is added.
    labels : bool
        Copy the outlines of the cells (the label images), too.

    Yields
    ------
    Progress
        Once per part; the job returns the new folder.

    Raises
    ------
    InputError
        If the folder exists, or lies inside the project.
    """
    root = project_root(out)
    if root.exists():
        raise InputError(f"{root} exists already; choose another name.")
    check_place(project, root)
    parts = ["cells.zarr", "fields.zarr", "groups.zarr", "sets.json", "verdicts.json", "embeddings"]
    parts += ["labels"] * labels
    yield Progress(0, len(parts) + 2, "Copying")
    with replacing(root) as tmp:
        tmp.mkdir(parents=True)
        (tmp / "labels").mkdir()
        for i, name in enumerate(parts):
            if (source := project.root / name).is_dir():
                shutil.copytree(source, tmp / name, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
            elif source.is_file():
                shutil.copy2(source, tmp / name)
            yield Progress(i + 1, len(parts) + 2, f"Copied {name}")
        for folder in (project.root / "models").glob("*"):
            for name in ("weights.safetensors", "model.json", "history.csv"):  # no checkpoint: it is large
                if (folder / name).is_file():
                    (tmp / "models" / folder.name).mkdir(parents=True, exist_ok=True)
                    shutil.copy2(folder / name, tmp / "models" / folder.name / name)
        write_fields(tmp / "fields.parquet", [_without_place(f) for f in project.fields])
        info = json.loads((project.root / "project.json").read_text(encoding="utf-8"))
        info["history"] = [_without_paths(line) for line in project.history]
        info.pop("illumination", None)
        info["shared_without"] = ["images"] + ["labels"] * (not labels)
        (tmp / "project.json").write_text(json.dumps(info, indent=1, ensure_ascii=False), encoding="utf-8")
    yield Progress(len(parts) + 2, len(parts) + 2, f"Wrote {root.name}")
    return root


def _without_place(field: Field) -> Field:
    """A field whose images are known by their file names only."""

    def name(plane: Plane) -> Plane:
        return dataclasses.replace(plane, path="\n".join(_file_name(p) for p in plane.path.split("\n")))

    return dataclasses.replace(
        field, planes=tuple(name(p) for p in field.planes), problem=field.problem or NOT_HERE
    )


def _file_name(path: str) -> str:
    """The last part of a path written on any system; of an image inside an OME-Zarr, all from its folder on."""
    parts = path.replace("\\", "/").split("/")
    first = next((i for i, part in enumerate(parts) if part.endswith(".zarr")), len(parts) - 1)
    return "/".join(parts[first:])


def _without_paths(value: Any) -> Any:
    """Text of a line of the history without folders: they name people and machines."""
    if isinstance(value, Mapping):
        return {k: _without_paths(v) for k, v in value.items() if k not in ("machine", "notes", "problems")}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    return _file_name(value) if isinstance(value, str) and _is_path(value) else value


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~", "../", "\\\\")) or text[1:3] in (":\\", ":/")


def check_place(project: Project, out: Path, *, is_ours: bool = False) -> None:
    """Refuse to write an export over a folder that is something else, or into the project; what a killed one left is removed.

    Parameters
    ----------
    is_ours : bool
        Whether a folder at this place is such an export, to be replaced.
    """
    if out.is_dir() and any(out.iterdir()) and not is_ours:
        raise InputError(f"{out} is a folder; give the name of a file to write.")
    if out.is_relative_to(project.root):
        raise InputError(f"{out.name} would lie inside the project; write the export beside it.")
    sweep(out.parent, name=out.name)


def for_others(cells: ad.AnnData, embedding: str = "") -> ad.AnnData:
    """A copy of the table as scanpy and cellxgene want it.

    ``X`` holds the numbers of one embedding (`embedding`, else the measurements, whose columns have names, else the
    first), ``var`` their names: programs that want a matrix find one. Columns of obs are of one plain type each: gaps
    make whole numbers floats and truth values categories, text becomes categories, 64-bit hashes text. Names have no
    slash, ids occur once, and every array in ``obsm`` is 2-D float32 under a key that begins with ``X_``. The map made last
    (of `embedding`, where given) is also there under the plain name, ``X_umap`` or ``X_tsne``: cellxgene begins with it (else
    with the first two numbers of whichever embedding comes first in the alphabet), and ``scanpy.pl.umap`` looks for it.
    """
    names = embedding_names(cells)
    main = embedding or next((n for n in ("measurements", *names) if n in names), "")
    taken: set[str] = set()
    columns = {str(c): _plain_column(cells.obs[c]) for c in cells.obs.columns}
    obs = pd.DataFrame(
        {_free_name(c, taken): v for c, v in columns.items()}, index=cells.obs.index.astype(str)
    )
    obs.index.name = None if "cell_id" in obs else "cell_id"
    x, var = None, None
    if main:
        x = np.asarray(cells.obsm[f"X_{main}"], np.float32)
        told = provenance(cells).get(f"X_{main}", {}).get("features") or []
        features = [str(f).replace("/", "_") for f in told]
        if len(features) != x.shape[1] or len(set(features)) != len(features):
            features = [f"{main}_{i}" for i in range(x.shape[1])]
        var = pd.DataFrame(index=pd.Index(features, dtype=object))
    obsm = {}
    for key, values in cells.obsm.items():
        values = np.asarray(values)
        if values.ndim == 2 and values.dtype.kind in "fiu":
            name = key.replace("/", "_")
            obsm[name if name.startswith("X_") else f"X_{name}"] = values.astype(np.float32, copy=False)
    uns = {str(k).replace("/", "_"): v for k, v in cells.uns.items()}
    uns["cellrep"] = {k.replace("/", "_"): v for k, v in dict(cells.uns.get("cellrep", {})).items()}
    for plain, key in _first_maps(cells, embedding).items():
        obsm[plain] = obsm[key.replace("/", "_")]
        uns["cellrep"][plain] = json.dumps({"same_as": key.replace("/", "_")})
    if main:
        uns["cellrep"]["X"] = json.dumps({"embedding": main})
    out = ad.AnnData(X=x, obs=obs, var=var, obsm=obsm, obsp=dict(cells.obsp), uns=uns)
    if not out.obs_names.is_unique:  # never ours; a table that was changed by hand
        out.obs_names_make_unique()
    return out


def _first_maps(cells: ad.AnnData, embedding: str) -> dict[str, str]:
    """Plain name → key of the map of all cells that was made last, of each method that scanpy and cellxgene know."""
    made = provenance(cells)
    found: dict[str, tuple[str, str]] = {}
    for name in [embedding] if embedding else embedding_names(cells):
        for plain in ("X_umap", "X_tsne"):
            key = f"{plain}_{name}"
            if plain in cells.obsm or key not in cells.obsm or np.shape(cells.obsm[key])[1] != 2:
                continue
            maps = [m for m in made.values() if m.get("recipe") == "map" and m.get("embedding") == name]
            when = max((str(m.get("made", "")) for m in maps), default="")
            found[plain] = max(found.get(plain, ("", "")), (when, key))
    return {plain: key for plain, (_, key) in found.items()}


def _free_name(name: str, taken: set[str]) -> str:
    """A column's name without slashes, which no other has; "_index" is anndata's own."""
    name = name.replace("/", "_")
    name = "index" if name == "_index" else name
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _plain_column(values: pd.Series) -> Any:
    """A column as numbers, truth values, or categories of text."""
    kind = values.dtype.kind if not isinstance(values.dtype, pd.CategoricalDtype) else "O"
    if values.name == "mask_hash":  # does not fit the 32 bits that cellxgene has for whole numbers
        return np.array([f"{int(v):016x}" for v in values], dtype=object)
    if kind == "b" and not values.isna().any():
        return values.to_numpy(bool)
    if kind in "iu":
        if values.isna().any():
            return values.to_numpy(np.float64, na_value=np.nan)
        whole = values.to_numpy(np.int64 if kind == "i" else np.uint64)
        small = np.iinfo(np.int32)
        fits = not len(whole) or (whole.min() >= small.min and whole.max() <= small.max)
        return whole.astype(np.int32) if fits else whole
    if kind == "f":
        return values.to_numpy(
            np.float64 if str(values.dtype).lower() != "float32" else np.float32, na_value=np.nan
        )
    text = values.astype(object).where(values.notna(), None)
    return pd.Categorical(pd.Series([v if v is None else str(v) for v in text], dtype=object))


def _h5ad(cells: ad.AnnData) -> memoryview:
    """The bytes of an h5ad file.

    Made in memory: the HDF5 library, writing to a disk that fills, cannot close its file and crashes at exit.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as f:
        ad.io.write_elem(f, "/", cells, dataset_kwargs={"compression": "gzip"})
    return buffer.getbuffer()


def _write_groups(project: Project, out: Path) -> None:
    groups = project.groups
    if groups is None:
        raise InputError(
            "There are no groups yet: run `cellrep analyze PROJECT profile` (or variability) first."
        )
    if out.suffix.lower() not in (".csv", ".h5ad"):
        raise InputError(f"Groups are written to .h5ad or .csv; {out.name} ends otherwise.")
    with replacing(out) as tmp:
        if out.suffix.lower() == ".csv":
            _tidy(groups.obs).to_csv(tmp)
        else:
            tmp.write_bytes(_h5ad(groups))


def likeness_table(project: Project, embedding: str = "") -> pd.DataFrame:
    """Pearson correlation of each two groups' profiles, of the grouping that was profiled last.

    Parameters
    ----------
    embedding : str
        Empty: the one profiled last.

    Raises
    ------
    InputError
        If no profiles were made, or of fewer than three groups.
    """
    groups = project.groups
    made = [] if groups is None else [
        m for m in provenance(groups).values()
        if m.get("recipe") in ("profile", "treatments") and "likeness" in m["numbers"] and embedding in ("", m["embedding"])
    ]  # fmt: skip
    if groups is None or not made:
        of = f" of {embedding}" if embedding else ""
        raise InputError(
            f"There is no likeness of groups{of} yet: run `cellrep analyze PROJECT profile` on three groups or more first."
        )
    last = max(made, key=lambda m: str(m["made"]))
    x = np.asarray(groups.obsp[f"pearson_{last['embedding']}"])
    own = (groups.obs["by"].astype(str) == last["options"]["by"]).to_numpy() & np.isfinite(np.diag(x))
    names = pd.Index(groups.obs["name"].astype(str)[own], name=last["options"]["by"])
    return pd.DataFrame(x[np.ix_(own, own)], index=names, columns=pd.Index(names, name=None))


def flat_table(cells: ad.AnnData) -> pd.DataFrame:
    """Cells as one plain table: their columns, and x and y on every map; no long vectors."""
    table = cells.obs.copy()
    for key, xy in cells.obsm.items():
        if key.startswith(MAP_PREFIXES):
            for i in range(np.shape(xy)[1]):
                table[f"{key[2:]}_{i + 1}"] = np.asarray(xy)[:, i]
    return table


def select_cells(cells: ad.AnnData, embedding: str, drop_missing: bool) -> ad.AnnData:
    """A copy of the table with only one embedding (empty: all), and only cells that have a vector if asked."""
    keys = embedding_names(cells)
    if embedding and embedding not in keys:
        raise InputError(f"There is no embedding {embedding!r}; there are {join_words(keys, 12) or 'none'}.")
    wanted = [embedding] if embedding else keys
    keep = np.ones(cells.n_obs, bool)
    if drop_missing and wanted:
        keep = np.any([np.isfinite(np.asarray(cells.obsm[f"X_{k}"])).all(axis=1) for k in wanted], axis=0)
    if not keep.any():
        raise InputError(
            "There are no cells to write: none has been embedded (--keep-missing writes them all)."
        )
    chosen = cells[keep].copy()
    for other in set(keys) - set(wanted):
        for key in (f"X_{other}", f"X_pca_{other}", *(f"{p}{other}" for p in MAP_PREFIXES)):
            chosen.obsm.pop(key, None)
        chosen.uns.pop(f"neighbors_{other}", None)
        for key in (f"neighbors_{other}_distances", f"neighbors_{other}_connectivities"):
            chosen.obsp.pop(key, None)
        if dict(chosen.uns.get("neighbors", {})).get("params", {}).get("use_rep") == f"X_{other}":
            del chosen.uns["neighbors"]
            for key in ("distances", "connectivities"):
                chosen.obsp.pop(key, None)
        theirs = [f"{c}_{other}" for c in ("has", "score", "outlier", "unlike")]
        chosen.obs = chosen.obs.drop(columns=[c for c in theirs if c in chosen.obs])
    return chosen


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers to six digits: what a person reads, and no more than what the cells can tell."""
    out = table.copy()
    for column in out.columns:
        if out[column].dtype.kind == "f":
            out[column] = out[column].map(lambda v: float(f"{v:.6g}"))
    return out
