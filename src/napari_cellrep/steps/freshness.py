"""What is out of date: what was made of images, labels or cells that are others now. By the rules of the steps themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_cellrep.data import Project

AT_ONCE = 16  # fields, before it is asked whether anybody still waits
MOST_NUMBERS = 1 << 28  # of an embedding that is hashed to tell whether results are of it: 1 GB


@dataclass(frozen=True)
class OutOfDate:
    """What of a project is out of date.

    Parameters
    ----------
    replaced : tuple of str
        Fields whose images are others than their cells were found in.
    away : tuple of str
        Fields whose images cannot be reached; nothing counts as out of date for that.
    labels, cells : tuple of str
        Fields whose cells were found, or measured and flagged, before the illumination was corrected as it is now.
    vectors : tuple of str
        Embeddings that were made before that.
    lacking : dict of str to int
        Embedding → cells without a vector, where others have one: new, or edited since.
    results : dict of str to tuple of str
        Embedding → what `analyze` would compute anew (`analyze.out_of_date`); only of those that were looked at.
    """

    replaced: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    lacking: dict[str, int] = field(default_factory=dict)
    results: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields to segment again."""
        return tuple(dict.fromkeys((*self.replaced, *self.labels)))

    @property
    def by_light(self) -> str:
        """What was done before the light was changed, in words; "" if nothing."""
        done = [("found", self.labels), ("measured", self.cells), ("embedded", self.vectors)]
        words = [word for word, some in done if some]
        return f"Cells were {' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))}" if words else ""


def look(
    project: Project, embeddings: Sequence[str] = (), goes_on: Callable[[], bool] = lambda: True
) -> OutOfDate:
    """Look what of a project is out of date; nothing is written.

    Parameters
    ----------
    embeddings : sequence of str
        Those whose results are looked at, too.
    goes_on : callable
        Asked now and then; what was found until it says False is returned.
    """
    fields = [f for f in project.measured_from() if not project.field(f).problem]
    replaced: list[str] = []
    away: list[str] = []
    for i in range(0, len(fields), AT_ONCE):
        if not goes_on():
            return OutOfDate(tuple(replaced), tuple(away))
        images = project.look_at_images(fields[i : i + AT_ONCE])
        replaced += images.replaced
        away += images.away
    found = OutOfDate(tuple(replaced), tuple(away))
    if any(line.get("step") == "illumination" for line in project.history) or project.light:
        labels = []
        for i, one in enumerate(project.fields):
            if i % AT_ONCE == 0 and not goes_on():
                return found
            if found_in_other_light(project.label_info(one.id), project.light):
                labels.append(one.id)
        found = dataclasses.replace(
            found, labels=tuple(labels), cells=_measured_in_other_light(project), vectors=_vectors(project)
        )
    found = dataclasses.replace(found, lacking=_lacking(project))
    for key in embeddings:
        if not goes_on() or not project.has_cells or f"X_{key}" not in project.cells.obsm:
            continue
        if project.cells.obsm[f"X_{key}"].size <= MOST_NUMBERS:
            from napari_cellrep.steps.analyze import out_of_date

            found.results[key] = tuple(out_of_date(project, key))
    return found


def found_in_other_light(info: Mapping[str, Any], light: str) -> bool:
    """Whether labels were made while the illumination was corrected otherwise; not those edited by hand, which stay.

    Parameters
    ----------
    info : mapping
        `Project.label_info`.
    light : str
        `Project.light` now.
    """
    image = info.get("image")
    if not image or info.get("edited"):
        return False
    was = next((str(one[1]) for one in image if isinstance(one, list) and one[:1] == ["illumination"]), "")
    return was != light


def _measured_in_other_light(project: Project) -> tuple[str, ...]:
    if not project.has_cells:
        return ()
    noted = project.measured_in_light()
    # Of tables from before it was noted the history says it.
    last = {line.get("step"): i for i, line in enumerate(project.history) if not line.get("undone")}
    since = last.get("illumination", -1) > last.get("crop", -1)
    fields = dict.fromkeys(project.cells.obs["field"].astype(str))
    return tuple(f for f in fields if (noted[f] != project.light if f in noted else since))


def _vectors(project: Project) -> tuple[str, ...]:
    """Embeddings cut from images of another light; tables of numbers that were brought are not."""
    made = {key: project.embedding_info(key) for key in project.embedding_keys()}
    return tuple(
        k for k, how in made.items() if how.get("crop") and (how.get("illumination") or "") != project.light
    )


def _lacking(project: Project) -> dict[str, int]:
    if not project.has_cells:
        return {}
    obs, found = project.cells.obs, {}
    readable = ~obs["field"].astype(str).isin([f.id for f in project.fields if f.problem]).to_numpy()
    for key in project.embedding_keys():
        if f"has_{key}" not in obs or not project.embedding_info(key).get("crop"):
            continue
        has = obs[f"has_{key}"].to_numpy(bool)
        n = int(np.count_nonzero(~has & readable))
        if n and has.any():
            found[key] = n
    return found
