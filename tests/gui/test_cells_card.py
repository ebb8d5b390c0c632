"""Card 3: reasons that select their cells, rules whose limits are drawn, and the one button that is bold."""

import numpy as np
import pytest

from _clicks import LONG, card, click, idle, opened, run
from napari_cellrep.data import open_project


def bold(cells):
    return [made.text() for made in (cells.edits, cells.apply) if made.font().bold()]


@pytest.mark.slow
def test_a_reason_selects_its_cells(qtbot, dock, project):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    session = dock.session
    assert session.hide_flagged
    flags = project.cells.obs["flags"].astype(str)
    for flag, made in cells.reason_buttons.items():
        click(made)
        mask = np.array([flag in text.split(";") for text in flags])
        np.testing.assert_array_equal(session.selected, mask)
        assert made.text() == f"{mask.sum():,}"
        here = (mask & (project.cells.obs["field"] == dock.shown_field()).to_numpy()).sum()
        assert (
            f"{mask.sum():,} cells selected, {here:,} of them in field" in dock.strip.message.text()
            or not here
        )
    assert not session.hide_flagged
    qtbot.waitUntil(lambda: not cells.hide_flagged.isChecked(), timeout=LONG)


def test_a_reason_shows_a_field_that_has_such_cells(qtbot, dock, project):
    cells = project.cells
    only = (cells.obs["field"] == "E12").to_numpy() & (np.arange(cells.n_obs) % 3 == 0)
    cells.obs["flags"], cells.obs["good"] = np.where(only, "focus", ""), ~only
    project.write_cells(cells)
    opened(qtbot, dock, project)
    assert dock.shown_field() == "A01"
    made = card(dock, "cells").reason_buttons["focus"]
    click(made)
    qtbot.waitUntil(lambda: dock.shown_field() == "E12", timeout=LONG)
    assert dock.session.n_selected == only.sum()


@pytest.mark.slow
def test_limits_follow_the_rules_and_say_what_they_would_do(qtbot, dock, project):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    click(cells.more.button)
    assert bold(cells) == []
    chart, obs = cells.charts["area_px"], project.cells.obs
    assert chart.isVisible()
    assert chart.counts.sum() == len(obs)
    assert chart.low == max(0.35 * obs["area_px"].median(), 0.5 * obs["area_px"].median())
    assert not cells.charts["q_saturated_share"].isVisible() or obs["q_saturated_share"].max() > 0
    now = (~obs["good"]).sum()
    assert cells.judged.text().endswith(f"{now:,} flagged.")
    cells.form.set_value({"debris_share": 0.9})
    qtbot.waitUntil(lambda: bold(cells) == ["Flag again by these rules"], timeout=LONG)
    assert chart.low == 0.9 * obs["area_px"].median()
    promised = cells.judged.text()
    assert f"(now {now:,})" in promised
    run(qtbot, dock, cells.apply)
    fresh = open_project(project.root).cells.obs
    assert f"{fresh['good'].sum():,} cells are good and {(~fresh['good']).sum():,} flagged" in promised
    assert bold(cells) == []
    # Opened again, the form has the rules that the flags were decided by.
    dock.close_project()
    dock.open_project(project.root)
    assert cells.form.value()["debris_share"] == 0.9


@pytest.mark.slow
def test_edits_are_the_button_to_press(qtbot, dock, project, viewer):
    opened(qtbot, dock, project)
    cells = card(dock, "cells")
    assert not cells.edits.isEnabled()
    assert "No label was changed" in cells.edits.toolTip()
    session = dock.session
    row = int(session.rows_of_field(dock.shown_field())[5])
    cell = session.cell_id(row)
    viewer.layers["cells"].fill(tuple(round(v) for v in session.place(row)[1:]), 0)
    qtbot.waitUntil(lambda: cells.edits.isEnabled(), timeout=LONG)
    assert bold(cells) == ["Save label edits"]
    click(cells.edits)
    qtbot.waitUntil(lambda: session.row_of_id(cell) < 0, timeout=LONG)
    idle(qtbot, dock)
    qtbot.waitUntil(lambda: not cells.edits.isEnabled(), timeout=LONG)
    assert bold(cells) == []
