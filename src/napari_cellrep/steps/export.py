"""Table → a file other programs open: AnnData (scanpy, R), CSV or parquet of the cells; the ranking; the groups."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from napari_cellrep.data import Project
from napari_cellrep.data.cells import MAP_PREFIXES, embedding_names, provenance
from napari_cellrep.data.files import replacing
from napari_cellrep.data.project import write_table
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
        "h5ad" and "zarr" hold everything, provenance (``uns["cellrep"]``, JSON) included; "csv" and "parquet"
        one row per cell with its columns, map places and scores; "ranking" a CSV with one row per group. "groups": the group
        table, h5ad with profiles and likeness, or CSV with its columns, as the file's ending says; "likeness": a CSV with
        the Pearson correlation of each two profiles, of the grouping profiled last.
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
    out = Path(out).expanduser().absolute()
    if format not in FORMATS:
        raise InputError(f"There is no export format {format!r}; formats are {join_words(FORMATS)}.")
    if out.is_dir() and not (format == "zarr" and (out.suffix == ".zarr" or not any(out.iterdir()))):
        raise InputError(f"{out} is a folder; give the name of a file to write.")
    if out.is_relative_to(project.root):
        raise InputError(f"{out.name} would lie inside the project; write the export beside it.")
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
        cells = _select(project.cells, embedding, drop_missing)
        if format == "zarr":
            write_table(out, cells)
        else:
            with replacing(out) as tmp:
                if format == "h5ad":
                    with warnings.catch_warnings():
                        # Text columns become categories, as scanpy's own files have them; anndata says so each time.
                        warnings.filterwarnings(
                            "ignore", message=".*storing .* as categorical", category=UserWarning
                        )
                        cells.strings_to_categoricals()
                    tmp.write_bytes(_h5ad(cells))
                elif format == "csv":
                    flat_table(cells).to_csv(tmp, index_label="cell_id")
                else:
                    flat_table(cells).to_parquet(tmp)
    yield Progress(1, 1, f"Wrote {out.name}")
    return out


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


def _select(cells: ad.AnnData, embedding: str, drop_missing: bool) -> ad.AnnData:
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
