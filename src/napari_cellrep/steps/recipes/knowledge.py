"""What the vectors know: embeddings side by side on parts held out, and features' information about columns."""

from __future__ import annotations

import numpy as np

from napari_cellrep.analysis import (
    comparison,
    information,
)
from napari_cellrep.data.cells import embedding_names
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, join_words, p_words
from napari_cellrep.steps.work import (
    Found,
    Work,
    check_within,
    in_one_part,
    several,
)


def compare_embeddings(
    work: Work,
    *,
    label: str = "",
    held_out: str = "field",
    probe: str = "knn",
    k: int = 11,
    epochs: int = 30,
    n_draws: int = 1000,
    seed: int = 0,
) -> Job[Found]:
    """Compare all embeddings (models, layers) by how well they know a label, on cells of fields held out."""
    check_within("k", k, 1, 1000)
    check_within("n_draws", n_draws, 10, 100_000)
    if not label:
        raise InputError("No label is chosen: name the column that the embeddings shall know.")
    assert work.project is not None  # `analyze` gives it
    cells = work.project.cells
    at = cells.obs.index.get_indexer(work.obs.index)
    known, part = work.values(label), work.values(held_out)
    vectors = {name: np.asarray(cells.obsm[f"X_{name}"])[at] for name in embedding_names(cells)}
    use = known != ""
    for x in vectors.values():
        use &= np.isfinite(x).all(axis=1)
    n_lacking = int((known != "").sum() - use.sum())
    use &= part != ""
    if use.sum() < 10:
        raise InputError(
            f"Not enough data: {int(use.sum())} cells have {label} and a vector in every embedding."
        )
    if len(np.unique(known[use])) == use.sum():
        raise InputError(f"No two cells have the same {label}, so there is nothing to know.")
    rest = f" Left out: {n_lacking:,} cells without a vector in every embedding." if n_lacking else ""
    if probe != "mlp":  # which tells by itself
        apart = in_one_part(known[use], part[use])
        if len(np.unique(known[use])) - len(apart) < 2:
            raise InputError(
                f"Fewer than two values of {label} have cells in several {several(held_out)}, so nothing can be held out; hold "
                "out another column."
            )
        if apart:
            use &= ~np.isin(known.astype(str), apart)
            rest += f" Not tested, because all its cells are in one {held_out}: {join_words(apart, 5)}."
    n = len(vectors)
    yield Progress(0, 1, f"Asking {n:,} embedding{'s' if n > 1 else ''} for {label}")
    if probe == "mlp":
        from napari_cellrep.models._probe import head_probabilities

        check_within("epochs", epochs, 1, 10_000)
        mlp, left_out = comparison.compare_several(
            {name: x[use] for name, x in vectors.items()}, known[use], part[use],
            head=head_probabilities, epochs=epochs, n_draws=n_draws, seed=seed,
        )  # fmt: skip
        best = mlp.rows[0]
        summary = (
            f"{best['embedding']} knows {label} best: macro-F1 {best['macro_f1']:.3f} (95 % {best['low']:.3f} to "
            f"{best['high']:.3f}) over {len(best['f1'])} classes, of which a cell may have several, on {several(held_out)} held "
            f"out, {mlp.n_cells:,} cells in {mlp.n_parts:,}."
        )
        if len(mlp.rows) > 1:
            pair = mlp.pairs[0]
            summary += f" The next is {pair['worse']}, {pair['difference']:.3f} less ({p_words(pair['p'])})."
        if left_out:
            summary += f" Not tested, because all its cells are in one {held_out}: {join_words(left_out, 5)}."
        return Found(
            summary=summary + rest, numbers={"label": label, "rows": mlp.rows, "pairs": mlp.pairs, "not_tested": left_out}
        )  # fmt: skip
    found = comparison.compare(
        {name: x[use] for name, x in vectors.items()}, known[use].astype(str), part[use].astype(str),
        kind=probe, k=k, n_draws=n_draws, seed=seed,
    )  # fmt: skip
    best = found.rows[0]
    summary = (
        f"{best['embedding']} knows {label} best: balanced accuracy {best['balanced_accuracy']:.1%} (95 % "
        f"{best['low']:.1%} to {best['high']:.1%}) on {several(held_out)} held out, {found.n_cells:,} cells in {found.n_parts:,}."
    )
    if len(found.rows) > 1:
        pair = found.pairs[0]
        summary += f" The next is {pair['worse']}, {100 * pair['difference']:.1f} points less ({p_words(pair['p'])})."
    return Found(summary=summary + rest, numbers={"label": label, "rows": found.rows, "pairs": found.pairs})


def ask_information(work: Work, *, columns: str = "", bins: int = 6, corrected: bool = True) -> Job[Found]:
    """Measure what every feature knows of metadata (mutual information), and which column most features follow."""
    check_within("bins", bins, 2, 1000)
    names = [c.strip() for c in columns.split(",") if c.strip()] or [
        c
        for c in ("group", "well", "plate", "compound", "field")
        if c in work.obs and 1 < work.obs[c].nunique() < len(work.obs)
    ]
    if not names:
        raise InputError(
            "No column with two values or more is there to be known; name some with columns=A,B."
        )
    yield Progress(0, 1, f"Information of {work.x.shape[1]:,} features about {join_words(names, 6)}")
    found = information.mutual_information(work.x, {c: work.values(c) for c in names}, bins, corrected)
    share = information.dominant_factors(found)
    said = join_words([f"{name} {part:.0%}" for name, part in sorted(share.items(), key=lambda p: -p[1])], 8)
    return Found(
        summary=f"Share of the {work.x.shape[1]:,} features that know most of: {said}.",
        numbers={"dominant": share, "information": {c: [round(float(v), 5) for v in found[c]] for c in names},
                 "mean": {c: float(found[c].mean()) for c in names}},
    )  # fmt: skip
