from __future__ import annotations

import dataclasses
import html as html_module
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from napari_cellrep import registry
from napari_cellrep.data import Project, open_project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze, ranking
from napari_cellrep.steps.report import write_report


class Page(HTMLParser):
    """Headings, texts, and everything a browser would fetch."""

    def __init__(self, html: str):
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href") and v]
        self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data.strip())
        if self.open and self.open[-1] == "td":
            self.cells.append(data.strip())

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


@pytest.fixture(scope="module")
def _analysed(_simple: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "simple.cellrep"
    shutil.copytree(_simple, root)
    project = open_project(root)
    for recipe in ("score", "variability", "outliers"):
        drain(analyze(project, recipe=recipe))
    # A map without the half minute of compiling: where it comes from is tested in test_analyze.
    cells = project.cells
    x = np.asarray(cells.obsm["X_simple"])
    cells.obsm["X_umap_simple"] = np.where(cells.obs["good"].to_numpy()[:, None], x[:, :2], np.nan).astype(
        np.float32
    )
    project.write_cells(cells)
    return root


@pytest.fixture
def analysed(_analysed: Path, tmp_path: Path) -> Project:
    """A test's own copy of the project with a score, a ranking, outliers and a map."""
    root = tmp_path / _analysed.name
    shutil.copytree(_analysed, root)
    return open_project(root)


@pytest.mark.slow
def test_the_page_is_whole_and_needs_nothing_else(analysed: Project, tmp_path: Path):
    analysed.log("sample", credit="BBBC013v1, Ilya Ravkin, CC BY 3.0")
    readouts = {"nucleus/ring ratio": {"Wortmannin": {"spearman_with_dose": 0.91, "dose_of_highest_sd": 4}}}
    out = drain(write_report(analysed, tmp_path / "report.html", numbers={"readouts": readouts}))
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert page.sources
    assert all(s.startswith("data:image/") for s in page.sources)
    assert not re.search(r"url\(|@import|<script|<link", html)
    for heading in (
        "What was done", "Score by dose rank", "Which number follows the dose rank best?", "Map of the cells",
        "Where do cells of one well differ from each other?", "Most unusual cells without a quality flag",
        "Ranking of wells", "How many cells, and which were left out", "Please cite",
    ):  # fmt: skip
        assert heading in page.headings
    obs = analysed.cells.obs
    assert f"{len(obs):,}" in html
    assert f"{int(obs['good'].sum()):,}" in html
    assert "Ilya Ravkin, CC BY 3.0" in html
    assert "0.91" in page.cells
    assert {"A01", "A06", "E12"} < set(page.cells)  # the ranking
    assert f"{int(obs['flags'].astype(str).str.contains('edge').sum()):,}" in page.cells


def test_what_came_out_is_said_beside_what_chance_gives(simple_project: Project, tmp_path: Path):
    """Without a score: the first of a ranking is no finding where as many other cells vary as much."""
    drain(analyze(simple_project, recipe="variability", n_draws=200))
    html = drain(write_report(simple_project, tmp_path / "r.html")).read_text(encoding="utf-8")
    table = ranking(simple_project)
    top = table.loc[table["heterogeneity"].idxmax()]
    own, by_chance = top["heterogeneity"], top["heterogeneity_expected"]
    assert f"{own:.2f} on average, where as many cells of the references have {by_chance:.2f}" in html
    sure = "beyond what chance gives" if top["heterogeneity_p_fdr"] <= 0.05 else "which chance gives as well"
    assert sure in html
    page = Page(html)
    assert "heterogeneity by chance" in html
    assert "CV of intensity: coefficient of variation of its cells&#39; intensity" in html
    assert "N profiled" not in html
    assert page.headings


def test_the_same_project_gives_the_same_pictures(analysed: Project, tmp_path: Path):
    pages = [
        Page(drain(write_report(analysed, tmp_path / name)).read_text()) for name in ("a.html", "b.html")
    ]
    assert pages[0].sources == pages[1].sources


def test_before_any_analysis_there_is_still_a_page(sample_project: Project, tmp_path: Path):
    page = Page(drain(write_report(sample_project, tmp_path / "r.html")).read_text())
    assert "How many cells, and which were left out" in page.headings
    assert "Map of the cells" not in page.headings


@pytest.mark.slow
def test_text_of_users_is_text(analysed: Project, tmp_path: Path):
    cells = analysed.cells
    evil = '<script>alert("dose")</script>'
    cells.obs["compound"] = cells.obs["compound"].astype(str).replace("Wortmannin", evil)
    analysed.write_cells(cells)
    html = drain(write_report(analysed, tmp_path / "r.html")).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_lost_images_and_missing_metadata_cost_their_pictures_only(analysed: Project, tmp_path: Path):
    cells = analysed.cells
    cells.obs = cells.obs.drop(columns=["dose_rank", "compound", "control"])
    analysed.write_cells(cells)
    lost = [
        dataclasses.replace(f, planes=tuple(dataclasses.replace(p, path="gone.tif") for p in f.planes))
        for f in analysed.fields
    ]
    analysed.write_fields(lost)
    page = Page(drain(write_report(analysed, tmp_path / "r.html")).read_text())
    assert "Score by group" in page.headings
    assert "The cells themselves" not in page.headings


def test_a_folder_is_not_a_page(analysed: Project, tmp_path: Path):
    with pytest.raises(InputError, match="is a folder"):
        drain(write_report(analysed, tmp_path))


def test_every_model_that_was_used_is_cited_with_its_paper(analysed: Project, tmp_path: Path):
    cells = analysed.cells
    for name in registry.names("models"):
        cells.uns["cellrep"] = {**cells.uns["cellrep"], name: json.dumps({"model": name})}
    analysed.write_cells(cells)
    text = html_module.unescape(
        drain(write_report(analysed, tmp_path / "r.html")).read_text(encoding="utf-8")
    )
    for name in registry.names("models"):
        assert registry.load("models", name).SPEC.paper in text, name
