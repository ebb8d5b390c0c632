from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from asking import good, run

from napari_cellrep.data import Project
from napari_cellrep.specs import InputError


@pytest.mark.slow
def test_groups_against_sets_from_a_file(simple_project: Project, tmp_path):
    obs = good(simple_project)
    dose = obs.groupby("well", observed=True)["dose_rank"].first()
    path = tmp_path / "sets.csv"
    rows = [f"{well},{'low' if d < 4 else 'high'}" for well, d in dose.items()]
    path.write_text("well,kind\n" + "\n".join(rows))
    found = run(simple_project, "standard", sets_file=str(path), clusters=2)
    assert found.numbers["n_items"] == 8
    assert found.numbers["average_precision"] > found.numbers["chance"]
    assert found.table["set"].isin(["low", "high"]).all()
    assert run(simple_project, "standard", sets_file=str(path), clusters=2).skipped
    path.write_text("well,kind\n" + "\n".join(rows[::-1]))
    assert not run(simple_project, "standard", sets_file=str(path), clusters=2).skipped  # the file changed
    with pytest.raises(InputError, match="No file of sets"):
        run(simple_project, "standard")


@pytest.mark.slow
def test_groups_of_one_annotation_are_nearer_and_other_data_agree(simple_project: Project, tmp_path):
    cells = simple_project.cells
    dose = cells.obs["dose_rank"].astype(float)
    cells.obs["effect"] = np.where(dose > 6, "moved", np.where(dose < 2, "still", "half; way"))
    simple_project.write_cells(cells)
    found = run(simple_project, "terms", annotation="effect", control_for="compound", n_pairs=50)
    assert set(found.table["term"]) == {"moved", "still"}  # wells of several are of none
    assert found.numbers["overall"] < 0
    assert "SDs nearer to each other" in found.summary
    assert set(found.numbers["overall_where"]) <= {"same", "different"}
    obs = good(simple_project)
    path = tmp_path / "other.csv"
    x = simple_project.cells[obs.index].obsm["X_simple"]
    means = pd.DataFrame(x, index=obs["well"].astype(str)).groupby(level=0).mean()
    (means * 3 + 1).to_csv(path)
    same = run(simple_project, "second", table_file=str(path), n_draws=200)
    assert same.numbers["mantel_r"] == pytest.approx(1)
    assert same.numbers["mantel_p"] < 0.02
    assert same.numbers["cca_accuracy"] == 1
    path.write_text("well,a\nA01,1\nZ,2\n")
    for recipe, options, words in (
        ("terms", {}, "No annotation"),
        ("second", {}, "No table"),
        ("second", {"table_file": str(path)}, "1 groups .group. of 8 are in the first column"),
    ):
        with pytest.raises(InputError, match=words):
            run(simple_project, recipe, **options)


@pytest.mark.slow
def test_annotations_of_chosen_groups(simple_project: Project, tmp_path):
    chosen = "A01,A05,E12"  # little or no dose
    found = run(simple_project, "enrichment", choose=chosen, annotation="control")
    assert found.table["set"][0] == "-1"
    assert found.table["n_set"][0] == 2
    # By hand: of 8 wells 2 are controls; of 3 chosen both.
    assert found.table["p"][0] == pytest.approx(6 / 56)
    assert "background: the 8 groups (group) here" in found.summary
    path = tmp_path / "sets.csv"
    path.write_text("well,kind\nA01,low\nE12,low\nA05,low;odd\nA12,high\n")
    same = run(simple_project, "enrichment", choose=chosen, sets_file=str(path))
    assert same.table["set"][0] == "low"
    assert same.table["p"][0] == pytest.approx(1 / 56)
    assert (
        len(run(simple_project, "enrichment", choose="A01", near=2, annotation="control").table["n"].unique())
        == 1
    )
    by_value = run(simple_project, "enrichment", clustered="compound", annotation="compound")
    assert set(by_value.table["chosen"]) == {"compound=Wortmannin", "compound=LY294002"}
    assert (
        run(simple_project, "enrichment", choose="compound=Wortmannin", annotation="compound").table["n"][0]
        == 5
    )
    for options, words in (
        ({"choose": chosen}, "one of both"),
        ({"annotation": "control"}, "No groups are chosen"),
        ({"choose": "Z99", "annotation": "control"}, "neither a set nor a group"),
        ({"choose": "A01", "annotation": "control"}, "two groups or more"),
    ):
        with pytest.raises(InputError, match=words):
            run(simple_project, "enrichment", **options)
