"""Asking one recipe of a project, for tests of recipes."""

from __future__ import annotations

import pandas as pd

from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.steps.analyze import AnalyzeResult, analyze


def run(project: Project, recipe: str, **options) -> AnalyzeResult:
    return drain(analyze(project, recipe=recipe, embedding="simple", **options))


def good(project: Project) -> pd.DataFrame:
    obs = open_project(project.root).cells.obs
    return obs[obs["good"]]
