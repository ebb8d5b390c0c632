from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.analysis.profiles import similar_groups
from napari_cellrep.data import Project, create_project, open_project
from napari_cellrep.data.cells import make_table
from napari_cellrep.data.fields import Field
from napari_cellrep.data.sets import read_sets
from napari_cellrep.session import NO_VALUE, Session, categories
from napari_cellrep.specs import Channel, InputError


def table(ids: list[str], flagged: tuple[str, ...] = ()):
    fields = [i.split(":")[0] for i in ids]
    obs = pd.DataFrame(
        {
            "field": fields,
            "label": [int(i.split(":")[1]) for i in ids],
            "group": fields,
            "y_px": np.arange(len(ids), dtype=float),
            "x_px": 5.0,
            "dose_rank": np.arange(len(ids)) % 3,
            "good": [i not in flagged for i in ids],
        },
        index=pd.Index(ids, name="cell_id", dtype=object),
    )
    return make_table(obs)


IDS = ["a:1", "a:2", "a:7", "b:1", "b:2", "b:3"]


@pytest.fixture
def project(tmp_path) -> Project:
    project = create_project(tmp_path / "p", [Field("a", ()), Field("b", ())], [Channel("GFP", "protein")])
    project.write_cells(table(IDS, flagged=("b:3",)))
    return project


@pytest.fixture
def session(project) -> Session:
    session = Session()
    session.open(project)
    return session


def chosen(session: Session) -> list[str]:
    return session.cells.obs_names[session.selected].tolist()


def test_nothing_open() -> None:
    session = Session()
    session.clear()
    session.invert()
    session.select([])
    session.reload()
    assert session.n_cells == session.n_selected == 0
    assert session.map_coordinates() is None
    assert session.rows_of_field("a").tolist() == []
    assert session.row_of("a", 1) == -1
    assert session.cell_id(0) == ""
    assert not session.undo()


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("replace", ["a:2", "b:1"]),
        ("add", ["a:1", "a:2", "b:1"]),
        ("subtract", ["a:1"]),
        ("intersect", ["a:2"]),
    ],
)
def test_modes(session: Session, mode: str, want: list[str]) -> None:
    session.select([0, 1])
    session.select([1, 3], mode)
    assert chosen(session) == want


def test_masks_and_rows_mean_the_same(session: Session) -> None:
    session.select(np.array([False, True, False, True, False, False]))
    by_mask = session.selected.copy()
    session.clear()
    session.select(np.array([1, 3]))
    assert (session.selected == by_mask).all()
    with pytest.raises(ValueError, match="replace, add, subtract, intersect"):
        session.select([0], "toggle")


def test_hidden_cells_are_never_selected(session: Session) -> None:
    session.select(np.ones(6, bool))
    assert chosen(session) == IDS[:5]
    session.invert()
    assert chosen(session) == []
    session.hide_flagged = False
    session.invert()
    assert chosen(session) == IDS
    session.hide_flagged = True
    assert chosen(session) == IDS[:5]
    session.undo()  # what is hidden stays out even if it once was in
    assert chosen(session) == IDS[:5]


def test_hidden_values_leave_what_is_visible(session: Session) -> None:
    session.cells.obs["drug"] = ["x", "x;y", "y", None, "x", "x"]
    session.cells.obs["score"] = [0.5, np.nan, 1.5, np.inf, 2.0, 1.0]
    seen: list[str] = []
    session.visible_changed.connect(lambda: seen.append("visible"))
    session.select(np.ones(6, bool))
    session.hide_values("drug", ["x"])
    assert chosen(session) == ["a:2", "a:7", "b:1"]
    assert session.counted.sum() == 5  # b:3 is flagged; the others count, seen or not
    session.hide_values("score", ["no value"])
    assert session.cells.obs_names[session.visible].tolist() == ["a:7"]
    session.hide_values("drug", ["several", "no value"])
    session.hide_values("drug", ["no value", "several"])  # the same: nobody is told
    assert session.cells.obs_names[session.visible].tolist() == ["a:1", "a:7", "b:2"]
    session.undo()
    assert chosen(session) == ["a:7"]
    session.reload()  # what was added to the table is gone, the rest is as it was
    assert session.n_visible == 5
    session.hide_values("field", ["a"])
    session.hide_flagged = False
    assert session.cells.obs_names[session.visible].tolist() == ["b:1", "b:2", "b:3"]
    session.show_all_values()
    assert session.n_visible == 6
    assert len(seen) == 6
    session.hide_values("field", ["a"])
    session.open(session.project)
    assert session.n_visible == 6


def test_values_in_words() -> None:
    codes, words = categories(pd.Series(["b", "a;b", None, "c; d", "b", "", "a;"]))
    assert words == ["b", "several", "a;"]
    assert codes.tolist() == [0, 1, -1, 1, 0, -1, 2]
    assert categories(pd.Series([True, False, None], dtype=object))[1] == ["yes", "no"]
    assert categories(pd.Series([1.0, 1234567.0, np.nan, 0.25]))[1] == ["1", "1234567", "0.25"]


def test_the_ends_of_the_colours_are_remembered(session: Session) -> None:
    seen: list[int] = []
    session.limits_changed.connect(lambda: seen.append(1))
    session.set_colour_limits("area_px", (1, 2))
    session.set_colour_limits("area_px", (1.0, 2.0))
    assert session.colour_limits("area_px") == (1.0, 2.0)
    session.set_colour_limits("area_px", None)
    assert session.colour_limits("area_px") is None
    assert len(seen) == 2


def test_undo_and_redo(session: Session) -> None:
    session.select([0])
    session.select([1], "add")
    session.select([1], "add")  # changes nothing, so it is no step
    assert session.undo()
    assert chosen(session) == ["a:1"]
    assert session.undo()
    assert chosen(session) == []
    assert not session.undo()
    assert session.redo()
    assert session.redo()
    assert chosen(session) == ["a:1", "a:2"]
    session.undo()
    session.select([4])
    assert not session.can_redo  # a new branch


def test_signals_fire_once_and_only_on_change(session: Session) -> None:
    seen: list[str] = []
    session.selection_changed.connect(lambda: seen.append("selection"))
    session.colour_changed.connect(lambda: seen.append("colour"))
    session.hover_changed.connect(lambda row: seen.append(f"hover {row}"))
    session.select([0])
    session.select([0])
    session.colour_by = "group"
    session.colour_by = "group"
    session.set_hover(2)
    session.set_hover(2)
    session.set_hover(99)
    assert seen == ["selection", "colour", "hover 2", "hover -1"]


def test_reload_joins_by_id_never_by_row(session: Session, project: Project) -> None:
    session.select([1, 3])  # a:2, b:1
    session.select([4], "add")  # b:2
    session.set_focus(3)
    # Another process: reversed order, a:2 gone, new cells in between.
    new = ["b:9", "b:3", "b:2", "b:1", "a:7", "a:8", "a:1"]
    open_project(project.root).write_cells(table(new))
    session.reload()
    assert sorted(chosen(session)) == ["b:1", "b:2"]
    assert session.cell_id(session.focus) == "b:1"
    session.undo()
    assert chosen(session) == ["b:1"]
    session.redo()
    assert sorted(chosen(session)) == ["b:1", "b:2"]
    open_project(project.root).write_cells(table(["a:1"]))
    session.reload()
    assert session.focus == -1
    assert chosen(session) == []


def test_who_is_who(session: Session) -> None:
    assert session.rows_of_field("b").tolist() == [3, 4, 5]
    assert session.row_of("a", 7) == 2
    assert session.row_of("a", 3) == -1
    assert session.row_of("zzz", 1) == -1
    assert session.row_of_id("b:2") == 4
    assert session.row_of_id("nobody") == -1
    assert session.place(3) == ("b", 3.0, 5.0)


def test_it_finds_the_map_of_the_embedding(session: Session, project: Project) -> None:
    cells = project.cells
    cells.obsm["X_bare"] = np.ones((6, 3), np.float32)
    cells.obsm["X_net"] = np.ones((6, 3), np.float32)
    cells.obsm["X_pca_net"] = np.arange(18, dtype=np.float32).reshape(6, 3)
    project.write_cells(cells)
    session.reload()
    assert session.embeddings == ["bare", "net"]
    assert session.embedding == "net"  # the one that has a map
    assert session.map_name == "PCA"
    assert session.map_coordinates().tolist()[1] == [3, 4]
    cells.obsm["X_umap_net"] = np.zeros((6, 2), np.float32)
    project.write_cells(cells)
    session.reload()
    assert session.map_name == "UMAP"
    umap, pca = session.maps
    assert (umap.name, pca.name) == ("UMAP", "PCA 1 · 2")  # the third component has no fourth
    session.embedding = "bare"
    assert session.map_coordinates() is None
    assert session.map_coordinates(pca).tolist()[1] == [3, 4]
    del cells.obsm["X_pca_net"]
    project.write_cells(cells)
    session.reload()
    assert session.map_coordinates(pca) is None


def test_the_first_colour_is_the_dose(session: Session) -> None:
    assert session.colour_by == "dose_rank"
    assert "label" not in session.colour_choices
    assert session.colour_choices[-2:] == ["y_px", "x_px"]


def test_sets_are_kept_with_the_project(session: Session, project: Project) -> None:
    with pytest.raises(InputError, match="Nothing is selected"):
        session.save_set("odd")
    session.select([2, 4])
    with pytest.raises(InputError, match="needs a name"):
        session.save_set(" ")
    session.save_set("odd", how={"lasso": "on the map"})
    again = Session()
    again.open(project.root)
    assert again.sets["odd"] == {"cells": ["a:7", "b:2"], "how": {"lasso": "on the map"}}
    again.select_set("odd")
    assert chosen(again) == ["a:7", "b:2"]
    with pytest.raises(InputError, match="no set called 'even'; sets are odd"):
        again.select_set("even")


def test_words_are_found_as_a_whole_before_in_part(session: Session) -> None:
    obs = session.cells.obs
    obs["protein"] = pd.Categorical(["NUP49", "NUP4", "Nop1;NUP4", None, "Nop1", "NUP49"])
    assert session.find("nup4").tolist() == [1, 2]  # one of several counts; NUP49 is another protein
    assert session.find("NUP").tolist() == [0, 1, 2, 5]
    assert session.find("b:2").tolist() == [4]
    assert session.find("b").tolist() == [3, 4, 5]
    assert session.find(" ").size == session.find("nothing").size == 0
    assert Session().find("a").size == 0


def test_sets_grow_and_are_forgotten(session: Session, project: Project) -> None:
    with pytest.raises(InputError, match="Nothing is selected"):
        session.add_to_set("odd")
    session.select([0])
    session.add_to_set("odd")
    session.select([0, 3])
    session.add_to_set("odd")
    session.add_to_set("even")
    assert open_session(project).sets["odd"]["cells"] == ["a:1", "b:1"]
    session.remove_set("odd")
    assert list(open_session(project).sets) == ["even"]


def test_several_sets_at_once_leave_the_selection_alone(session: Session, project: Project) -> None:
    session.select([3])
    session.add_to_set("mine")
    heard: list[int] = []
    session.sets_changed.connect(lambda: heard.append(1))
    session.save_sets({"one": np.array([4, 2]), "two": np.array([0])}, how={"made": "branch of a tree"})
    assert chosen(session) == [session.cell_id(3)]
    assert heard == [1]
    again = open_session(project)
    assert list(again.sets) == ["mine", "one", "two"]
    assert again.sets["one"] == {"cells": ["b:2", "a:7"], "how": {"made": "branch of a tree"}}
    with pytest.raises(InputError, match="no cells yet"):
        Session().save_sets({"one": np.array([0])})


def on_disk(project: Project) -> dict[str, list[str]]:
    return {name: made["cells"] for name, made in read_sets(project.root).items()}


def test_sets_are_undone_in_the_order_things_were_done(session: Session, project: Project) -> None:
    heard: list[str] = []
    session.sets_changed.connect(lambda: heard.append("sets"))
    session.selection_changed.connect(lambda: heard.append("selection"))
    session.select([0])
    session.save_set("one", {"made": "by hand"})
    session.select([0, 3])
    session.add_to_set("one")
    session.add_to_set("one")  # they are in it: nothing to undo
    session.save_sets({"two": np.array([4]), "three": np.array([2])})
    session.judge("a:2", "real")
    session.save_set("two")  # replaced
    session.remove_set("one")
    session.remove_set("one")
    end = on_disk(project)
    assert end == {"two": ["a:1", "b:1"], "three": ["a:7"]}

    states = []
    while session.can_undo:
        heard.clear()
        assert session.undo()
        assert on_disk(project) == {name: made["cells"] for name, made in session.sets.items()}
        states.append((on_disk(project), chosen(session), dict(session.verdicts) != {}, list(heard)))
    three = {"one": ["a:1", "b:1"], "two": ["b:2"], "three": ["a:7"]}
    both, sets = ["a:1", "b:1"], ["sets"]
    assert states == [
        ({**three, "two": both}, both, True, sets), (three, both, True, sets),
        (three, both, False, ["selection"]),  # the verdict
        ({"one": both}, both, False, sets), ({"one": ["a:1"]}, both, False, sets),
        ({"one": ["a:1"]}, ["a:1"], False, ["selection"]), ({}, ["a:1"], False, sets), ({}, [], False, ["selection"]),
    ]  # fmt: skip
    assert list(states[0][0]) == ["one", "two", "three"]  # the keys 1-9 go by the order
    while session.can_redo:
        session.redo()
    assert on_disk(project) == end
    assert session.verdicts["a:2"]["verdict"] == "real"
    session.undo()
    session.save_set("four")
    assert not session.can_redo


def test_sets_another_window_wrote_stay_and_come_back(session: Session, project: Project) -> None:
    session.select([0])
    session.save_set("mine")
    other = open_session(project)
    other.select([5, 4])
    other.save_set("theirs")
    other.add_to_set("mine")
    session.select([1])
    session.add_to_set("mine")
    grown = {"mine": ["a:1", "b:2", "a:2"], "theirs": ["b:2"]}
    assert on_disk(project) == grown
    session.undo()
    assert on_disk(project) == {**grown, "mine": ["a:1", "b:2"]}
    other.remove_set("mine")
    session.redo()
    assert on_disk(project) == grown
    session.undo()
    assert on_disk(project) == {"theirs": ["b:2"]}  # what was there before the redo
    assert list(session.sets) == ["theirs"]


def test_undo_of_sets_outlives_a_table_written_anew(session: Session, project: Project) -> None:
    session.select([0, 4])
    session.save_set("one")
    session.select([3])
    session.add_to_set("one")
    project.write_cells(table(["b:1", "b:2", "c:9"]))  # a:1 is gone
    session.reload()
    session.undo()
    assert on_disk(project) == {"one": ["a:1", "b:2"]}
    session.redo()
    assert on_disk(project) == {"one": ["a:1", "b:2", "b:1"]}


def test_a_set_that_cannot_be_written_leaves_all_as_it_was(session: Session, project: Project) -> None:
    session.select([0])
    session.save_set("one")
    session.remove_set("one")
    (project.root / "sets.json").write_text("[")
    for do in (session.undo, lambda: session.save_set("two"), lambda: session.add_to_set("two")):
        with pytest.raises(InputError, match="damaged"):
            do()
    assert session.sets == {}
    assert (session.can_undo, session.can_redo) == (True, False)
    (project.root / "sets.json").unlink()
    session.undo()
    assert on_disk(project) == {"one": ["a:1"]}


def test_undo_keeps_so_many_cells_of_sets_and_no_more(session: Session, monkeypatch) -> None:
    monkeypatch.setattr("napari_cellrep.session.UNDO_IDS", 7)
    for rows in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        session.select(rows)
        session.save_set("one")
    steps = 0
    while session.undo():
        steps += 1
    assert steps == 4  # the set of 4 and of 3, and the selections between
    assert len(session.sets["one"]["cells"]) == 3
    monkeypatch.setattr("napari_cellrep.session.UNDO_IDS", 0)
    session.remove_set("one")
    assert session.undo()  # the last one always


def open_session(project: Project) -> Session:
    session = Session()
    session.open(project.root)
    return session


def test_rows_of_groups_follow_the_table(session: Session, project: Project) -> None:
    assert session.row_columns() == ["group", "field", "dose_rank"]
    rows = session.rows_by("field")
    assert rows.names == ("a", "b")
    assert session.cells.obs_names[rows.cells(1, session.visible)].tolist() == [
        "b:1",
        "b:2",
    ]  # b:3 is flagged
    assert session.rows_by("field") is rows
    project.write_cells(table(["b:2", "a:1", "a:9", "c:1"]))
    session.reload()
    assert session.rows_by("field").names == ("b", "a", "c")
    assert session.profile_map("field") is None
    with pytest.raises(InputError, match="no column 'gone'"):
        session.rows_by("gone")
    session.open(None)
    assert session.row_columns() == []


def test_a_ranking_of_groups_is_announced_and_goes_with_the_project(
    session: Session, project: Project
) -> None:
    heard = []
    session.similar_changed.connect(lambda: heard.append(session.similar))
    x, members = np.random.default_rng(0).normal(size=(9, 4)), [np.arange(i, i + 3) for i in (0, 3, 6)]
    session.similar = found = similar_groups(x, members, ["a", "b", "c"], "a", "field")
    session.similar = found
    session.open(project)
    assert heard == [found, None]


def test_cells_are_coloured_and_hidden_by_one_of_several_values(session: Session) -> None:
    cells = session.cells
    assert cells is not None
    place = np.array(["cytosol", "cytosol;nucleus", "nucleus", ""] * session.n_cells)[: session.n_cells]
    cells.obs["place"] = place
    session._read_table()
    assert [c for c in session.colour_choices if c.startswith("place")] == [
        "place", "place has cytosol", "place has nucleus",
    ]  # fmt: skip
    assert "place has cytosol" not in session.columns
    session.colour_by = "place has cytosol"
    told = session.column(session.colour_by)
    assert told is not None
    assert told.tolist()[:4] == [True, True, False, None]
    assert session.value(1, "place has cytosol") is True
    assert categories(told)[1] == ["yes", "no"]
    shown = session.visible.copy()
    session.hide_values("place has cytosol", ["no", NO_VALUE])
    np.testing.assert_array_equal(session.visible, shown & np.isin(place, ["cytosol", "cytosol;nucleus"]))
