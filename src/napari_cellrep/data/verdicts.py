"""What people said of odd cells: real, artefact or unsure. Kept in ``verdicts.json`` of the project."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_cellrep.data.files import change_entries, read_entries
from napari_cellrep.specs import InputError

VERDICTS = ("real", "artefact", "unsure")
REASONS = ("debris", "dead", "mitotic", "mask wrong", "out of focus", "neighbour", "no signal")
FLAG = "artefact"  # the quality flag of a cell that a person called an artefact


def make_verdict(
    verdict: str, reason: str = "", rater: str = "", mask_hash: Any = None, **more: Any
) -> dict[str, Any]:
    """One verdict, as it is kept.

    Parameters
    ----------
    verdict : {"real", "artefact", "unsure"}
    reason, rater : str
    mask_hash : int, optional
        Of the mask that was judged: a verdict counts only as long as the cell has this mask.
    more
        Whatever else is to be remembered, such as how a cell was drawn in a blind round.
    """
    if verdict not in VERDICTS:
        raise InputError(f"A verdict is {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}; got {verdict!r}.")
    when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    made = {"verdict": verdict, "reason": reason, "rater": rater, "when": when, **more}
    return made if mask_hash is None else {**made, "mask_hash": str(int(mask_hash))}


def read_verdicts(root: Path) -> dict[str, dict[str, Any]]:
    """Verdicts of a project by ``cell_id``; {} when there are none.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    return read_entries(
        root / "verdicts.json",
        lambda said: isinstance(said, dict) and said.get("verdict") in VERDICTS,
        "verdicts",
        "open the project",
    )


def write_verdicts(root: Path, changes: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Add, change or (None) remove verdicts; those of other cells stay, also what another window wrote meanwhile.

    Raises
    ------
    InputError
        If the project cannot be written.
    """

    def change(now: dict[str, Any]) -> dict[str, Any]:
        for cell_id, verdict in changes.items():
            now.pop(cell_id, None)
            if verdict is not None:
                now[cell_id] = dict(verdict)
        return now

    change_entries(root / "verdicts.json", lambda: read_verdicts(root), change, "verdicts", indent=0)


def valid(obs: pd.DataFrame, verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Cells of the table whose verdict counts, with their rows: same id, and the mask that was judged."""
    ids = list(verdicts)
    rows = obs.index.get_indexer(pd.Index(ids, dtype=object)) if ids else np.zeros(0, int)
    masks = obs["mask_hash"].to_numpy() if "mask_hash" in obs else None
    found = {}
    for cell_id, row in zip(ids, rows.tolist(), strict=True):
        judged = verdicts[cell_id].get("mask_hash")
        if row >= 0 and (masks is None or judged is None or str(int(masks[row])) == judged):
            found[cell_id] = row
    return found


def apply_verdicts(obs: pd.DataFrame, verdicts: Mapping[str, Mapping[str, Any]]) -> None:
    """Flag the cells that were called artefacts, and take that flag from all others, in place.

    So they are hidden and left out of rankings as cells with other flags are, and rules that are changed or cells
    that are measured again do not bring them back.
    """
    rejected = [row for i, row in valid(obs, verdicts).items() if verdicts[i]["verdict"] == "artefact"]
    flags = obs["flags"] if "flags" in obs else pd.Series("", obs.index)
    kinds = flags.astype("category").cat
    stale = [i for i, name in enumerate(kinds.categories) if FLAG in str(name).split(";")]
    if not stale and not rejected:  # as mostly; looking through a million cells takes half a second
        return
    touched = np.union1d(np.flatnonzero(np.isin(kinds.codes, stale)), np.array(rejected, np.int64))
    set_flagged(obs, touched, np.isin(touched, rejected))


def set_flagged(obs: pd.DataFrame, rows: np.ndarray, on: np.ndarray | bool) -> None:
    """Set or take away the flag of artefacts in some rows, in place; their other flags stay.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
    on : bool, or ndarray of bool, shape (n,)
    """
    if not len(rows):
        return
    if "flags" not in obs:
        # A table without flags knows at most whether a cell is good: that is kept as a flag without a name.
        obs["flags"] = "" if "good" not in obs else np.where(obs["good"].to_numpy(bool), "", "other")
    if "good" not in obs:
        obs["good"] = (obs["flags"].astype(str) == "").to_numpy()
    new = []
    for old, flagged in zip(
        obs["flags"].iloc[rows].astype(str), np.broadcast_to(on, np.shape(rows)), strict=True
    ):
        others = [f for f in old.split(";") if f and f != FLAG]
        new.append(";".join([*others, FLAG] if flagged else others))
    if isinstance(obs["flags"].dtype, pd.CategoricalDtype):
        missing = sorted(set(new) - set(obs["flags"].cat.categories))
        obs["flags"] = obs["flags"].cat.add_categories(missing)
    obs.iloc[rows, obs.columns.get_loc("flags")] = new  # type: ignore[index]
    obs.iloc[rows, obs.columns.get_loc("good")] = [name == "" for name in new]  # type: ignore[index]
