"""Learning from a few named cells: which classifier, on which embedding, tells the sample's cells apart in other wells.

python benchmarks/learn_sets.py PROJECT --json FILE

PROJECT is what ``cellrep demo`` makes. Kinds are dose ranks: "untreated and full dose" are the two controls; the harder
task adds the doses between (ranks 3 to 6) as a third kind. Each time half of the wells of every kind are drawn, of whichever
drug; a few cells of them are named, and all good cells of the other half are predicted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _harness import environment, options, report, row

from napari_cellrep.analysis import labels
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.data import open_project

TASKS = {"untreated and full dose": ("untreated", "full"), "three kinds": ("untreated", "middle", "full")}
NAMED = (10, 40, 160)  # cells of each kind


def main() -> None:
    """Run it."""
    parser = options(__doc__)
    parser.add_argument("project", type=Path, metavar="PROJECT", help="a finished demo project")
    args = parser.parse_args()
    draws = 3 if args.quick else 10
    cells = open_project(args.project).cells
    obs = cells.obs
    good = obs["good"].to_numpy(bool)
    dose, control = obs["dose_rank"].to_numpy(float), obs["control"].to_numpy(float)
    kind = np.select(
        [control == -1, control == 1, (dose >= 3) & (dose <= 6)], ["untreated", "full", "middle"], ""
    )
    well = obs["well"].astype(str).to_numpy()
    rows = []
    for task, kinds in TASKS.items():
        for embedding in ("paired_cell_inpainting", "measurements"):
            x = np.asarray(cells.obsm[f"X_{embedding}"], np.float32)
            use = np.flatnonzero(good & np.isin(kind, kinds) & np.isfinite(x).all(axis=1))
            z = z_score(x[use])
            code = np.array([kinds.index(k) for k in kind[use]])
            wells, own = np.unique(well[use], return_inverse=True)
            of_well = np.array([code[own == i][0] for i in range(len(wells))])
            for n_named in NAMED:
                score: dict[str, list[float]] = {name: [] for name in labels.CLASSIFIERS}
                for seed in range(draws):
                    rng = np.random.default_rng(seed)
                    halves = [
                        rng.permutation(np.flatnonzero(of_well == value)) for value in np.unique(of_well)
                    ]
                    seen = np.isin(own, np.concatenate([half[: len(half) // 2] for half in halves]))
                    named = np.concatenate(
                        [
                            rng.permutation(np.flatnonzero(seen & (code == k)))[:n_named]
                            for k in range(len(kinds))
                        ]
                    )
                    asked = np.flatnonzero(~seen)
                    for name in labels.CLASSIFIERS:
                        made = labels.make_classifier(name, penalty=10.0, seed=seed)
                        share = labels.probabilities(made, z[named], code[named], z[asked], len(kinds))
                        counts = labels.confusion(code[asked], share.argmax(axis=1), len(kinds))
                        score[name].append(labels.balanced_accuracy(counts))
                means = {name: float(np.mean(values)) for name, values in score.items()}
                for name, values in score.items():
                    other = next(n for n in labels.CLASSIFIERS if n != name)
                    rows.append(
                        row(
                            f"{task}, {n_named} named of each, {embedding}: {name}",
                            means[name],
                            "balanced accuracy",
                            peer=(other, means[other]),
                            lowest=min(values),
                            highest=max(values),
                            draws=draws,
                            cells=len(use),
                            wells=len(wells),
                            chance=1 / len(kinds),
                        )
                    )
    report(rows, environment("scikit-learn"), args.json)


if __name__ == "__main__":
    main()
