"""Card 5: groups chosen once, questions answered, and results taken elsewhere."""

import anndata as ad
import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest

from _clicks import LONG, card, choose, click, idle, opened, run
from napari_cellrep.data import open_project
from napari_cellrep.gui.cards._export import KINDS, ExportDialog
from napari_cellrep.gui.cards.explore import first_rows, group_columns, reference_choices, top_groups
from napari_cellrep.gui.views._raster import colours_of
from napari_cellrep.gui.views._words import column_words


@pytest.fixture
def explore(qtbot, dock, project):
    opened(qtbot, dock, project)
    explore = card(dock, "explore")
    explore.embedding.setCurrentIndex(explore.embedding.findData("measured"))
    explore.embedding.activated.emit(explore.embedding.currentIndex())
    qtbot.waitUntil(lambda: explore.question.count() > 0, timeout=LONG)
    return explore


@pytest.mark.slow
def test_every_recipe_is_a_question_with_its_settings(explore):
    found = [explore.question.itemText(i) for i in range(explore.question.count())]
    assert "Which groups vary most from cell to cell?" in found
    for words in found:
        choose(explore.question, words)
        recipe = explore.question.currentData()
        settings = explore.form.value()
        assert settings == {n: r["default"] for n, r in explore._recipes[recipe]["options"].items()}
        explore.form.set_value(settings)
        assert explore.form.value() == settings
        assert explore.answer.text() == explore._recipes[recipe]["button"]
    choose(explore.question, "vary most")
    click(explore.more.button)
    assert explore.form.isVisible()


@pytest.mark.slow
def test_closer_to_a_or_to_b(qtbot, dock, explore, project, viewer):
    choose(explore.question, "closer to A or to B")
    assert explore.groups["a"].isVisible()
    assert explore.groups["b"].isVisible()
    assert not explore.groups["control"].isVisible()
    assert (explore.groups["a"].currentData(), explore.groups["b"].currentData()) == (
        "control=-1",
        "control=1",
    )
    said = run(qtbot, dock, explore.answer)
    assert "Scored" in said
    assert "between control=-1 and control=1" in explore.result.text()
    assert open_project(project.root).comparison == {"a": "control=-1", "b": "control=1", "control": ""}
    assert dock.session.colour_by == "score_measured"
    obs = dock.session.cells.obs
    assert (
        obs["score_measured"][obs["control"] == 1].median()
        > obs["score_measured"][obs["control"] == -1].median()
    )
    click(explore.show_column)
    _, panel = viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")
    assert panel.colour.currentText() == "closer to A or to B (measured)"
    low, high = panel.map.colours.limits
    assert low == -high


@pytest.mark.slow
def test_groups_chosen_once_stay(qtbot, dock, explore, project):
    choose(explore.question, "unlike the control")
    choose(explore.groups["control"], "compound=Wortmannin")
    assert open_project(project.root).comparison["control"] == "compound=Wortmannin"
    said = run(qtbot, dock, explore.answer)
    assert "unlike compound=Wortmannin" in said
    assert dock.session.colour_by == "unlike_measured"
    # Where nothing is chosen and the plate table proposes nothing, the question waits and says for what.
    project.set_comparison(control="")
    project.reload()
    cells = project.cells
    del cells.obs["control"]
    project.write_cells(cells)
    dock.session.reload()
    qtbot.waitUntil(lambda: explore.groups["control"].currentText() == "not chosen", timeout=LONG)
    assert not explore.answer.isEnabled()
    assert explore.answer.toolTip() == "Choose Control first"


@pytest.mark.slow
def test_ranking_of_groups_with_other_settings(qtbot, dock, explore, project):
    choose(explore.question, "vary most")
    click(explore.more.button)
    explore.form.set_value({"by": "compound", "n_draws": 10})
    run(qtbot, dock, explore.answer)
    assert "Ranked 2 of 2 groups (compound)" in explore.result.text()
    assert "Most variable (spread of the numbers): <b>" in explore.result.text()
    assert not explore.show_column.isVisible()  # it is of groups, not of cells
    groups = open_project(project.root).groups.obs
    assert set(groups["by"].astype(str)) == {"compound"}
    # Another embedding: the answer was not about that one.
    choose(explore.embedding, "bare")
    qtbot.waitUntil(lambda: not explore.result.isVisible(), timeout=LONG)


@pytest.mark.slow
def test_results_of_groups_are_shown_as_a_table(qtbot, dock, explore, project):
    choose(explore.question, "moved between two conditions")
    click(explore.answer)
    idle(qtbot, dock)
    assert "No condition is chosen" in dock.strip.message.text()
    click(explore.more.button)
    explore.form.set_value({"by": "compound", "condition": "control", "a": "-1", "b": "1", "n_draws": 50})
    run(qtbot, dock, explore.answer)
    shown = explore.result.text()
    assert "moved between control -1 and 1" in shown
    assert "<th" in shown
    assert "moved p (FDR)" in shown
    assert "<td>Wortmannin</td>" in shown
    table = pd.DataFrame({"x<y": [1.0, np.nan], "n": [1234, 5]}, index=["a&b", "c"])
    assert first_rows(table).count("<tr>") == 3
    for words in ("a&amp;b", "x&lt;y", "1,234", "–"):
        assert words in first_rows(table)
    assert "2 more rows" in first_rows(pd.DataFrame({"x": range(10)}, index=list("abcdefghij")))


@pytest.mark.slow
def test_groups_like_one_of_them(qtbot, dock, explore, project):
    choose(explore.question, "groups are like this one")
    click(explore.answer)
    idle(qtbot, dock)
    assert "No group is chosen" in dock.strip.message.text()
    click(explore.more.button)
    explore.form.set_value({"group": "A12"})
    run(qtbot, dock, explore.answer)
    assert "Most like A12 (1 − correlation of the mean profiles): " in explore.result.text()
    assert "distance_measured" in open_project(project.root).groups.obs


@pytest.mark.slow
def test_odd_cells_and_a_users_mistake(qtbot, dock, explore):
    choose(explore.question, "odd in their own group")
    run(qtbot, dock, explore.answer)
    assert dock.session.colour_by == "outlier_measured"
    choose(explore.question, "closer to A or to B")
    choose(explore.groups["b"], "control=-1")
    assert "they must differ" in run(qtbot, dock, explore.answer)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "h5ad"])
def test_export_by_the_dialog(qtbot, dock, explore, project, tmp_path, kind):
    click(explore.export)
    dialog = explore.findChild(ExportDialog)
    assert not dialog.kind.model().item(list(KINDS).index("ranking")).isEnabled()
    choose(dialog.kind, KINDS[kind][0])
    dialog.place.setText("")
    assert not dialog.ok.isEnabled()
    out = tmp_path / f"cells{KINDS[kind][1]}"
    dialog.place.setText(str(out))
    dialog.embedding.setCurrentIndex(dialog.embedding.findData("measured"))
    click(dialog.ok)
    idle(qtbot, dock)
    assert dock.strip.message.text() == f"✓ Written: {out}"
    n = project.cells.n_obs
    if kind == "csv":
        assert len(pd.read_csv(out)) == n
    else:
        assert [k for k in ad.read_h5ad(out).obsm if k.startswith("X_")] == [
            "X_measured",
            "X_umap",  # the newest map by the name that other programs begin with
            "X_umap_measured",
        ]


@pytest.mark.slow
def test_export_of_a_map_with_densities(qtbot, dock, explore, tmp_path):
    click(explore.export)
    dialog = explore.findChild(ExportDialog)
    choose(dialog.kind, KINDS["map"][0])
    assert dialog.map_.isVisible()
    assert not dialog.embedding.isVisible()
    dialog.colour.setCurrentIndex(dialog.colour.findData("group"))
    dialog.place.setText(str(tmp_path / "map.png"))
    click(dialog.ok)
    idle(qtbot, dock)
    assert dock.strip.message.text() == f"✓ Written: {tmp_path / 'map.png'}"
    assert iio.imread(tmp_path / "map.png").shape[0] > 300


@pytest.mark.slow
def test_export_of_the_report(qtbot, dock, explore, tmp_path):
    click(explore.export)
    dialog = explore.findChild(ExportDialog)
    dialog.place.setText(str(tmp_path / "page.html"))
    click(dialog.ok)
    idle(qtbot, dock)
    assert (tmp_path / "page.html").stat().st_size > 10_000
    # Where a file is there, the button says so.
    click(explore.export)
    dialog = explore.findChildren(ExportDialog)[-1]
    dialog.place.setText(str(tmp_path / "page.html"))
    assert dialog.ok.text() == "Replace it"
    dialog.reject()


def test_words_and_colours_of_what_lies_between_a_and_b():
    assert column_words("score_dino.cls") == "closer to A or to B (dino.cls)"
    assert column_words("outlier_measured") == "how odd (measured)"
    assert column_words("dose_rank") == "dose rank"
    rng = np.random.default_rng(0)
    score = pd.Series(rng.normal(1, 0.5, 500), name="score_x")
    colours = colours_of(score, 500)
    assert colours.limits[0] == -colours.limits[1]
    assert np.median(colours.codes) > 128  # most are nearer B
    zero = colours_of(pd.Series([-2.5, 0.0, 1.25], name="score_x"), 3)
    r, g, b = (int(v) for v in zero.palette[zero.codes[1]])
    assert max(r, g, b) - min(r, g, b) < 15  # grey in the middle
    plain = colours_of(score.rename("area"), 500)
    assert plain.limits[0] > -colours.limits[1]


def test_columns_that_can_be_groups(project):
    obs = project.cells.obs
    assert reference_choices(obs)[:2] == ["control=-1", "control=1"]
    assert "compound" in group_columns(obs)
    assert "group" not in group_columns(obs)
    table = pd.DataFrame(
        {"heterogeneity": [2.0, 1.0], "rank_heterogeneity": [1, None]}, index=pd.Index(["A01", "A02"])
    )
    assert top_groups(table) == "Most variable (spread of the numbers): <b>A01</b> 2."
    assert "enough cells" in top_groups(table.assign(rank_heterogeneity=None))
