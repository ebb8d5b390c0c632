"""The analyses: neighbours, trees, maps and heterogeneity, against the libraries people use and what the machine can do.

python benchmarks/analysis.py [--quick] [--only PART …] --json FILE

All on one thread. Neighbours and trees in CPU seconds, the best of several, so that what else the machine does counts
little; maps and heterogeneity in fresh processes, in CPU seconds too, imports and compiling included.

- neighbours: exact k-NN (11) of every cell, against scikit-learn's brute force; the limit is the blocked matrix product alone.
- trees: average and Ward's linkage against SciPy's, with the memory each takes above what the process had before; and as many
  rows as a tree cannot hold, through k-means representatives (how much of the rows' variance they keep is said).
- maps: the first UMAP of a process, ours and umap-learn's own; then warm, at equal epochs and at half of them, with the
  trustworthiness (15 neighbours) of the same cells, 5,000 of them drawn at random. Cells are a made-up tree of clusters.
- heterogeneity: per group, of features on disk, in one pass; the peak is of the whole process, pages of the file included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _harness import environment, options, report, row
from threadpoolctl import threadpool_limits

ONE_THREAD = {
    f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")
}  # of other processes
PARTS = ("neighbours", "trees", "maps", "heterogeneity")
K = 11


def best(what: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Least CPU seconds of a call, and what it gave."""
    found, seconds = None, float("inf")
    for _ in range(times):
        start = time.process_time()
        found = what()
        seconds = min(seconds, time.process_time() - start)
    return seconds, found


def cells(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Made-up features with structure: twenty clusters of unlike width along a few directions, and noise."""
    rng = np.random.default_rng(seed)
    latent = 12
    middle = rng.normal(scale=3, size=(20, latent))
    of = rng.integers(20, size=n)
    place = middle[of] + rng.normal(size=(n, latent)) * rng.uniform(0.3, 1.5, size=20)[of, None]
    out = place @ rng.normal(size=(latent, d)) / np.sqrt(latent)
    return (out + rng.normal(scale=0.5, size=(n, d))).astype(np.float32)


# ---- in fresh processes ------------------------------------------------------------------------------


def alone(task: str, **arguments: Any) -> dict[str, Any]:
    """Run one task of `TASKS` in a process of its own and get what it prints."""
    text = json.dumps({"task": task, **arguments})
    made = subprocess.run(
        [sys.executable, __file__, "--task", text],
        capture_output=True,
        env={**os.environ, **ONE_THREAD},
        text=True,
        check=False,
        timeout=3600,
    )
    if made.returncode:
        raise RuntimeError(f"{task} failed: {made.stderr[-2000:]}")
    return json.loads(made.stdout.splitlines()[-1])


def peak_mb() -> float:
    """The most memory this process has held at once, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def join(file: str, how: str, metric: str, linkage: str) -> dict[str, Any]:
    """CPU seconds and memory of one tree of the rows in a file."""
    z = np.load(file)
    z[:4] @ z[:4].T
    if how == "ours":
        import fastcluster  # noqa: F401
        import scipy.cluster.hierarchy  # noqa: F401

        from napari_cellrep.analysis.profiles import grow

        before, start = peak_mb(), time.process_time()
        made = grow(z, metric, linkage).linkage
    else:
        from scipy.cluster import hierarchy

        before, start = peak_mb(), time.process_time()
        made = hierarchy.linkage(z, linkage, metric)
    seconds = time.process_time() - start
    np.save(f"{file}.{how}.{linkage}.npy", made[:, 2])
    return {"seconds": seconds, "mb": peak_mb() - before}


def lay_out(file: str, how: str, epochs: int = 0) -> dict[str, Any]:
    """CPU seconds of the first map of a process, with all it imports and compiles, and of the second."""
    x, found = np.load(file), []
    for _ in range(2):
        start = time.process_time()
        if how == "ours":
            from napari_cellrep.analysis.projection import umap_map

            xy = umap_map(x, pca_components=0, n_epochs=epochs)
        else:
            from napari_cellrep.analysis.neighbours import import_umap

            model = import_umap().UMAP(
                n_neighbors=30, min_dist=0.3, random_state=0, n_jobs=1, n_epochs=epochs or None
            )
            xy = model.fit_transform(x)
        found.append(time.process_time() - start)
    np.save(f"{file}.{how}.{epochs}.npy", xy)
    return {"first": found[0], "second": found[1]}


def measure(file: str, groups: str, n_groups: int, what: str) -> dict[str, Any]:
    """CPU seconds and peak memory of the heterogeneity of features on disk."""
    from napari_cellrep.analysis.variability import heterogeneity

    x, of = np.load(file, mmap_mode="r"), np.load(groups)
    start, wall = time.process_time(), time.perf_counter()
    found = heterogeneity(x, of, n_groups, measure=what)
    seconds, waited = time.process_time() - start, time.perf_counter() - wall
    some = np.linspace(0, n_groups - 1, 20).astype(int)
    return {"seconds": seconds, "wall": waited, "mb": peak_mb(), "some": found.sd[some].tolist()}


TASKS = {"join": join, "lay_out": lay_out, "measure": measure}


# ---- parts -------------------------------------------------------------------------------------------


def neighbours(quick: bool, _folder: Path) -> list[dict[str, Any]]:
    from sklearn.neighbors import NearestNeighbors

    from napari_cellrep.analysis.neighbours import nearest

    n, d = (4000, 384) if quick else (30_000, 768)
    x = cells(n, d)
    seconds, (index, _) = best(lambda: nearest(x, K))

    def theirs() -> np.ndarray:
        model = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x)
        return model.kneighbors(return_distance=True)[1]

    peer, index_theirs = best(theirs, 2)

    def product() -> None:
        for start in range(0, n, 512):
            x[start : start + 512] @ x.T

    limit, _ = best(product)
    wide = x.astype(np.float64)
    asked = np.random.default_rng(1).choice(n, 200, replace=False)
    distance = np.sqrt(((wide[asked][:, None] - wide[None]) ** 2).sum(axis=2)) if quick else np.stack(
        [np.linalg.norm(wide - wide[i], axis=1) for i in asked]
    )  # fmt: skip
    distance[np.arange(200), asked] = np.inf
    truth = np.argsort(distance, axis=1, kind="stable")[:, :K]
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(index[asked], truth, strict=True)])
    same = np.mean([len(set(a) & set(b)) / K for a, b in zip(index, index_theirs, strict=True)])
    what = f"{n:,} × {d}, {K} neighbours"
    return [
        row(f"k-NN, {what}: times as fast as scikit-learn's brute force", peer / seconds, "×", goal=1.5, agreement=same,
            seconds=round(seconds, 3), peer_seconds=round(peer, 3)),
        row(f"k-NN, {what}: share of the matrix product's speed", limit / seconds, "share", goal=0.55,
            limit_seconds=round(limit, 3)),
        row(f"k-NN, {what}: recall against float64", float(recall), "share", goal=1.0, n_asked=len(asked)),
    ]  # fmt: skip


def trees(quick: bool, folder: Path) -> list[dict[str, Any]]:
    from napari_cellrep.analysis.profiles import grow, represent

    rows = []
    d = 64
    for n in (4000,) if quick else (10_000, 20_000):
        file = str(folder / f"rows{n}.npy")
        np.save(file, cells(n, d).astype(np.float64))
        for linkage in ("ward", "average"):
            ours = alone("join", file=file, how="ours", metric="euclidean", linkage=linkage)
            theirs = alone("join", file=file, how="scipy", metric="euclidean", linkage=linkage)
            a, b = (np.load(f"{file}.{how}.{linkage}.npy") for how in ("ours", "scipy"))
            equal = float(np.mean(np.isclose(a, b, rtol=1e-9, atol=1e-9)))
            what = f"{linkage} linkage, {n:,} × {d}"
            goal = {"goal": 0.65} if linkage == "average" else {}
            rows.append(row(f"{what}: share of SciPy's time", ours["seconds"] / theirs["seconds"], "share",
                            more_is_better=False, agreement=equal, seconds=round(ours["seconds"], 2),
                            peer_seconds=round(theirs["seconds"], 2), **goal))  # fmt: skip
            # O(n · d): the rows, twice (theirs and what the tree is drawn from), and 100 bytes a node.
            least = (2 * n * d * 8 + 100 * 2 * n) / 1e6 + 10
            goal = {"goal": round(least, 1)} if linkage == "ward" else {}
            rows.append(row(f"{what}: memory above the start", ours["mb"], "MB", more_is_better=False,
                            peer=("SciPy", theirs["mb"]), **goal))  # fmt: skip
    n = 3000 if quick else 100_000
    x = cells(n, d)
    seconds, (centres, of) = best(lambda: represent(x, 300 if quick else 2000), 1)
    more, _ = best(lambda: grow(centres, "euclidean", "ward"), 1)
    kept = 1 - float(((x - centres[of]) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())
    rows.append(
        row(f"Ward's linkage of {n:,} × {d} through {len(centres):,} representatives", seconds + more, "s", agreement=kept,
            agreement_is="share of the rows' variance that the representatives keep")
    )  # fmt: skip
    return rows


def maps(quick: bool, folder: Path) -> list[dict[str, Any]]:
    from sklearn.manifold import trustworthiness

    n, epochs = (5000, 20) if quick else (20_000, 200)
    file = str(folder / "cells.npy")
    np.save(file, cells(n, 50))
    ours, theirs = (alone("lay_out", file=file, how=how, epochs=epochs) for how in ("ours", "umap-learn"))
    fewer = alone("lay_out", file=file, how="ours", epochs=epochs // 2)
    x = np.load(file)
    some = np.random.default_rng(0).choice(n, min(n, 1000 if quick else 5000), replace=False)

    def trust(how: str, epochs: int) -> float:
        xy = np.load(f"{file}.{how}.{epochs}.npy")
        return float(trustworthiness(x[some], xy[some], n_neighbors=15))

    what = f"UMAP of {n:,} × 50"
    kept, kept_theirs = trust("ours", epochs), trust("umap-learn", epochs)
    return [
        row(f"{what}: first in a process, share of umap-learn's time", ours["first"] / theirs["first"], "share", goal=0.6,
            more_is_better=False, agreement=kept / kept_theirs, seconds=round(ours["first"], 1),
            peer_seconds=round(theirs["first"], 1)),
        row(f"{what}: warm, {epochs} epochs, share of umap-learn's time", ours["second"] / theirs["second"], "share",
            more_is_better=False, agreement=kept / kept_theirs, seconds=round(ours["second"], 2),
            peer_seconds=round(theirs["second"], 2)),
        row(f"{what}: trustworthiness", kept, "share", peer=("umap-learn", kept_theirs), n_cells=len(some)),
        row(f"{what}: warm, half of the epochs, share of its own time", fewer["second"] / ours["second"], "share",
            more_is_better=False, agreement=trust("ours", epochs // 2) / kept, seconds=round(fewer["second"], 2)),
    ]  # fmt: skip


def heterogeneity(quick: bool, folder: Path) -> list[dict[str, Any]]:
    n, d, n_groups = (50_000, 64, 1000) if quick else (1_000_000, 384, 20_000)
    file, groups = folder / "features.npy", folder / "groups.npy"
    x = np.lib.format.open_memmap(file, "w+", np.float32, (n, d))
    rng = np.random.default_rng(0)
    of = rng.integers(n_groups, size=n)
    width = rng.uniform(0.5, 2, n_groups)
    for start in range(0, n, 50_000):
        part = of[start : start + 50_000]
        x[start : start + 50_000] = 3 + rng.normal(size=(len(part), d)) * width[part, None]
    x.flush()
    np.save(groups, of)
    # What it should be for twenty groups, from their cells and plain sums over all.
    some = np.linspace(0, n_groups - 1, 20).astype(int)
    mean, square = np.zeros(d), np.zeros(d)
    for start in range(0, n, 50_000):
        own = np.asarray(x[start : start + 50_000], np.float64)
        mean, square = mean + own.sum(axis=0) / n, square + (own**2).sum(axis=0) / n
    spread = np.sqrt(square - mean**2)
    truth: dict[str, list[float]] = {"sd": [], "distance": []}
    for g in some:
        z = (np.asarray(x[of == g], np.float64) - mean) / spread
        z_unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        truth["sd"].append(z.std(axis=0).mean())
        truth["distance"].append(1 - (z_unit @ z_unit.T)[np.triu_indices(len(z), 1)].mean())
    rows, what = [], f"{n:,} × {d} in {n_groups:,} groups"
    for by, passes in (("sd", "one pass"), ("distance", "two passes")):
        found = alone("measure", file=str(file), groups=str(groups), n_groups=n_groups, what=by)
        equal = float(np.isclose(found["some"], truth[by], rtol=1e-6).mean())
        rows.append(row(f"heterogeneity ({by}, {passes}), {what}: peak memory", found["mb"], "MB", goal=2048,
                        more_is_better=False, agreement=equal, seconds=round(found["seconds"], 2),
                        wall_seconds=round(found["wall"], 2)))  # fmt: skip
    return rows


def main() -> int:
    """Run, print, write."""
    if sys.argv[1:2] == ["--task"]:
        asked = json.loads(sys.argv[2])
        print(json.dumps(TASKS[asked.pop("task")](**asked)))
        return 0
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        for part in args.only:
            rows += globals()[part](args.quick, Path(folder))
            print(f"{part} done", flush=True)
    report(rows, environment("scikit-learn", "scipy", "umap-learn", "fastcluster", "numba"), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
