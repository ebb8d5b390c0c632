"""Every recipe, asked for what cannot be done: it ends in a result that says what was left out, or in a sentence."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from _corners import corners
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.sets import write_sets
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import RECIPES, AnalyzeResult, analyze, describe_recipes
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.recipes.registry import CHOSEN_ONCE, OF_OTHER_THINGS

WELLS = ("A01", "A05", "A06", "A09", "A12", "E01", "E06", "E12")
EMBEDDINGS = {"classes": "deep", "inpainting": "tiny"}  # of the others: measurements
# Options with which each recipe works on the project below; {FOLDER} is where its tables lie.
WORKS: dict[str, dict[str, object]] = {
    "map": {"n_neighbors": 5, "pca_components": 5},
    "neighbours": {"label": "compound"},
    "score": {},
    "variability": {"n_draws": 20},
    "profile": {},
    "similar": {"group": "A06"},
    "outliers": {},
    "unlike": {"control": "control=-1"},
    "learn": {},
    "classes": {},
    "inpainting": {"sources": 2},
    "mixture": {},
    "kinds": {"most": 2, "min_cells": 10},
    "order": {"root": "control=-1"},
    "rare": {"number": "q_signal", "tail": 0.1},
    "fields": {"n_draws": 20, "quality": "q_signal"},
    "moved": {"by": "compound", "condition": "control", "a": "-1", "b": "1", "n_draws": 20},
    "treatments": {"n_null": 20, "label": "plate", "compound": "compound"},
    "knows": {"label": "compound", "n_draws": 20},
    "information": {},
    "standard": {"sets_file": "{FOLDER}/sets.csv", "clusters": 3},
    "enrichment": {"choose": "A01,A05", "annotation": "compound"},
    "terms": {"annotation": "compound", "n_pairs": 20},
    "second": {"table_file": "{FOLDER}/doses.csv", "n_draws": 20},
}
# Options that make another one count.
TOGETHER = {"clustered": {"choose": ""}, "apart": {"label": "half"}}
# What takes a column's name, or COLUMN=VALUE, besides the options that say so.
COLUMNS, VALUES = ("number", "quality", "columns"), ("root", "control", "known", "choose", "a", "b")
# Options whose column has to have a value in a cell for the cell to count.
COUNTS = ("by", "within", "per", "label", "apart", "held_out", "batch")


@pytest.fixture(scope="module")
def _asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corners of eight real wells, segmented, with measurements and the vectors of two untrained networks."""
    base = tmp_path_factory.mktemp("contract")
    project = corners(base / "p.cellrep", WELLS, 224)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        deep = create_model("deeploc", width=0.0625, d1=8, d2=8, n_classes=4)
        deep.card = {"classes": ["nucleus", "rim", "both", "dead"]}
        deep.roles = ("FKHR-GFP", "DNA")
        save_model(deep, project.root / "models" / "deep")
        tiny = create_model("paired_cell_inpainting", width=0.0625)
        save_model(tiny, project.root / "models" / "tiny")
    drain(embed(project, model="measurements"))
    for name in ("deep", "tiny"):
        drain(embed(project, model=name, device="cpu", precision="fp32"))
    cells = project.cells
    obs = cells.obs
    n = len(obs)
    obs["good"], obs["flags"] = True, pd.Categorical([""] * n)  # half of them lie at an edge of their corner
    rng = np.random.default_rng(0)
    lacks = rng.random(n) < 0.3
    obs["one"] = pd.Categorical(["same"] * n)
    obs["empty"] = np.full(n, np.nan)
    obs["alone"] = pd.Categorical([f"c{i}" for i in range(n)])
    obs["half"] = pd.Categorical(np.where(np.arange(n) % 2, "odd", "even"))
    obs["gaps"] = pd.Categorical(obs["well"].astype(object).where(~lacks, None))
    obs["infinite"] = np.where(np.arange(n) < 3, np.inf, rng.normal(size=n))
    project.write_cells(cells)
    sets = {name: list(obs.index[obs["control"] == at]) for name, at in (("low", -1), ("high", 1))}
    write_sets(project.root, {name: {"cells": ids, "made": "by the test"} for name, ids in sets.items()})
    known = "".join(f"{well},{term}\n" for well, term in zip(WELLS, "aababbab", strict=True))
    (base / "sets.csv").write_text(f"item,sets\n{known}")
    numbers = rng.normal(size=(len(WELLS), 3)).round(3)
    pd.DataFrame(numbers, index=pd.Index(WELLS, name="well")).to_csv(base / "doses.csv")
    return base


@pytest.fixture
def project(_asked: Path, tmp_path: Path) -> Project:
    shutil.copytree(_asked, tmp_path / "lab")
    return open_project(tmp_path / "lab" / "p.cellrep")


def ask(project: Project, recipe: str, **options: object) -> AnalyzeResult | str:
    """The result, or the sentence; anything else, warnings included, is a fault."""
    folder = str(project.root.parent)
    chosen = {k: v.replace("{FOLDER}", folder) if isinstance(v, str) else v for k, v in WORKS[recipe].items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = drain(
                analyze(
                    project,
                    recipe=recipe,
                    embedding=EMBEDDINGS.get(recipe, "measurements"),
                    **{**chosen, **options},
                )
            )
        except InputError as error:
            said = str(error)
        else:
            assert not found.skipped
            assert not re.search(r"\b(nan|inf)\b", found.summary), found.summary
            return found
    assert re.match(r"[A-Z0-9'].{20,}\.\)?$", said, re.DOTALL), said
    assert len(said) < 700, said
    return said


def change(project: Project, how: Callable[[ad.AnnData], None]) -> None:
    cells = project.cells.copy()
    how(cells)
    project.write_cells(cells)


def vectors(recipe: str, cells: ad.AnnData, how: Callable[[np.ndarray], None]) -> None:
    key = f"X_{EMBEDDINGS.get(recipe, 'measurements')}"
    x = np.array(cells.obsm[key])
    how(x)
    cells.obsm[key] = x


def columns_of(recipe: str) -> list[str]:
    """Options of a recipe that name a column."""
    options = describe_recipes()[recipe]["options"]
    return [name for name, rule in options.items() if rule.get("column") or name in COLUMNS]


def values_of(recipe: str) -> list[str]:
    """Options of a recipe that are written COLUMN=VALUE."""
    options = describe_recipes()[recipe]["options"]
    named = [*options, *CHOSEN_ONCE.get(recipe, ())]
    return [name for name in VALUES if name in named and (name not in ("a", "b") or recipe != "moved")]


def test_every_recipe_is_asked():
    assert set(WORKS) == set(RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_column_that_is_not_there_or_empty_is_named(project: Project, recipe):
    for option in columns_of(recipe):
        for column in ("nowhere", "empty"):
            said = ask(project, recipe, **{**TOGETHER.get(option, {}), option: column})
            if (option, column) == ("dose", "empty"):
                assert isinstance(said, AnalyzeResult)
                assert "No well has one value of empty" in said.summary
                continue
            assert isinstance(said, str), f"{option}={column}: {said}"
            assert column in said, f"{option}: {said}"
    for option in values_of(recipe):
        for value in ("nowhere=1", "empty=1", "control=99", "no column"):
            if option == "control" and value == "no column" and recipe == "treatments":
                continue
            said = ask(project, recipe, **{option: value})
            assert isinstance(said, str), f"{option}={value}: {said}"
            assert value.partition("=")[0] in said, f"{option}: {said}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_choice_there_is_not_is_told_with_those_there_are(project: Project, recipe):
    for option, rule in describe_recipes()[recipe]["options"].items():
        if choices := [c for c in rule.get("choices", ()) if c]:
            said = ask(project, recipe, **{option: "sideways"})
            assert isinstance(said, str), option
            assert "'sideways'" in said
            assert all(choice in said for choice in choices), said


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_cells_with_infinite_vectors_are_left_out_and_counted(project: Project, recipe):
    rows = [5, 50, 100]

    def spoil(x: np.ndarray) -> None:
        x[rows[0], 0], x[rows[1], 1], x[rows[2]] = np.inf, np.nan, -np.inf

    change(project, lambda cells: vectors(recipe, cells, spoil))
    found = ask(project, recipe)
    assert isinstance(found, AnalyzeResult), found
    assert "3 cells whose vectors hold infinite numbers" in found.summary
    obs = project.cells.obs
    for place, key in (w.split("/", 1) for w in found.written):
        if place == "obs" and key in obs:
            assert obs[key].iloc[rows].isna().all(), key
            assert obs[key].notna().any(), key


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_columns_of_one_value_of_gaps_and_of_infinite_numbers(project: Project, recipe):
    lacking = int(project.cells.obs["gaps"].isna().sum())
    for option in columns_of(recipe):
        for column in ("one", "alone", "gaps", "infinite"):
            found = ask(project, recipe, **{**TOGETHER.get(option, {}), option: column})
            if column == "gaps" and option in COUNTS and isinstance(found, AnalyzeResult):
                said = re.findall(r"Left out: ([\d,]+) |([\d,]+) cells of the sets without", found.summary)
                assert said, f"{option}: {found.summary}"
                if recipe not in ("learn", "treatments"):
                    assert f"{lacking}" in said[0], f"{option}: {found.summary}"
    for option in values_of(recipe):
        for value in ("one=same", "alone=c1", "gaps=A05"):
            ask(project, recipe, **{option: value})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_few_cells_and_vectors_that_say_nothing(project: Project, recipe):
    before = project.cells.copy()
    for n in (1, 2, 3, 9):
        good = np.isin(np.arange(before.n_obs), np.linspace(0, before.n_obs - 1, n).astype(int))
        cells = before.copy()
        cells.obs["good"] = good
        project.write_cells(cells)
        ask(project, recipe)
    project.write_cells(before.copy())

    def a_third(x: np.ndarray) -> None:
        x[::3] = np.nan

    change(project, lambda cells: vectors(recipe, cells, a_third))
    found = ask(project, recipe)
    assert isinstance(found, AnalyzeResult), found
    assert "infinite" not in found.summary  # not embedded is not broken
    project.write_cells(before.copy())

    def alike(x: np.ndarray) -> None:
        x[:] = x[0]

    change(project, lambda cells: vectors(recipe, cells, alike))
    said = ask(project, recipe)
    if recipe not in OF_OTHER_THINGS:
        assert isinstance(said, str)
        assert "the same numbers" in said
    project.write_cells(before.copy())

    def nothing(x: np.ndarray) -> None:
        x[:, 0] = np.inf

    change(project, lambda cells: vectors(recipe, cells, nothing))
    said = ask(project, recipe)
    assert isinstance(said, str)
    assert f"{before.n_obs} cells hold infinite numbers" in said
