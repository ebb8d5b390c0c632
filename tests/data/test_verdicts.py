import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data import create_project, open_project
from napari_cellrep.data.cells import make_table
from napari_cellrep.data.fields import Field
from napari_cellrep.data.verdicts import (
    apply_verdicts,
    make_verdict,
    read_verdicts,
    valid,
    write_verdicts,
)
from napari_cellrep.session import Session
from napari_cellrep.specs import Channel, InputError

IDS = ["a:1", "a:2", "a:7", "b:1", "b:2"]


def table(flags=("", "", "edge", "", "")) -> pd.DataFrame:
    fields = [i.split(":")[0] for i in IDS]
    return pd.DataFrame(
        {
            "field": fields, "group": fields, "label": [int(i.split(":")[1]) for i in IDS], "y_px": 1.0, "x_px": 2.0,
            "mask_hash": np.arange(len(IDS), dtype=np.uint64) + np.uint64(2**63), "flags": list(flags),
            "good": [f == "" for f in flags],
        },
        index=pd.Index(IDS, name="cell_id", dtype=object),
    )  # fmt: skip


@pytest.fixture
def project(tmp_path):
    project = create_project(tmp_path / "p", [Field("a", ()), Field("b", ())], [Channel("GFP", "protein")])
    project.write_cells(make_table(table()))
    return open_project(project.root)


def says(obs: pd.DataFrame) -> dict[str, str]:
    return dict(zip(obs.index, obs["flags"].astype(str), strict=True))


@pytest.mark.parametrize("kind", [object, "category"])
def test_an_artefact_is_a_flag_beside_the_others(kind):
    obs = table().astype({"flags": kind})
    mask = int(obs["mask_hash"].iloc[1])
    verdicts = {
        "a:2": make_verdict("artefact", "debris", "ann", mask),
        "a:7": make_verdict("artefact"),
        "b:1": make_verdict("real"),
        "c:9": make_verdict("artefact"),  # a cell that is gone
    }
    apply_verdicts(obs, verdicts)
    assert says(obs) == {"a:1": "", "a:2": "artefact", "a:7": "edge;artefact", "b:1": "", "b:2": ""}
    assert obs["good"].tolist() == [True, False, False, True, True]
    del verdicts["a:2"], verdicts["a:7"]
    apply_verdicts(obs, verdicts)
    assert says(obs) == says(table())
    assert obs["good"].tolist() == table()["good"].tolist()


def test_a_verdict_is_of_the_mask_that_was_judged():
    obs = table()
    verdicts = {"a:2": make_verdict("artefact", mask_hash=12345)}
    apply_verdicts(obs, verdicts)
    assert obs["good"].tolist() == table()["good"].tolist()
    assert valid(obs, verdicts) == {}


def test_a_table_without_flags():
    obs = table().drop(columns=["flags", "mask_hash"])
    apply_verdicts(obs, {"a:1": make_verdict("artefact")})
    assert obs["good"].tolist() == [False, True, False, True, True]
    apply_verdicts(obs, {})
    assert obs["good"].tolist() == table()["good"].tolist()


def test_two_windows_write_one_file(project):
    write_verdicts(project.root, {"a:1": make_verdict("real")})
    write_verdicts(project.root, {"a:2": make_verdict("unsure")})
    write_verdicts(project.root, {"a:1": None})
    assert list(read_verdicts(project.root)) == ["a:2"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a:1": 3}', '{"a:1": {"verdict": "nice"}}'])
def test_a_damaged_file_says_what_to_do(project, text):
    (project.root / "verdicts.json").write_text(text)
    with pytest.raises(InputError, match="rename it"):
        _ = project.cells


def test_unknown_words_and_cells(project):
    with pytest.raises(InputError, match="real, artefact or unsure"):
        make_verdict("nice")
    session = Session()
    session.open(project)
    with pytest.raises(InputError, match="no cell x:1"):
        session.judge("x:1", "real")


def test_an_artefact_leaves_at_once_and_stays_out(project):
    session = Session()
    session.open(project)
    session.select([0, 1, 3])
    session.judge("a:2", "artefact", "debris", "ann")
    assert session.visible.tolist() == [True, False, False, True, True]
    assert session.cells.obs_names[session.selected].tolist() == ["a:1", "b:1"]
    kept = json.loads((project.root / "verdicts.json").read_text())["a:2"]
    assert (kept["verdict"], kept["reason"], kept["rater"]) == ("artefact", "debris", "ann")
    assert kept["mask_hash"] == str(2**63 + 1)
    # Another process, and a table that is made anew with other rules.
    other = open_project(project.root)
    assert not other.cells.obs["good"]["a:2"]
    other.merge(table(flags=("edge", "", "", "", "")))
    assert says(open_project(project.root).cells.obs)["a:2"] == "artefact"
    session.reload()
    assert session.visible.tolist() == [False, False, True, True, True]


def test_undo_and_redo_go_through_selections_and_verdicts_in_turn(project):
    session = Session()
    session.open(project)
    session.select([1, 3])
    session.judge("a:2", "artefact")
    session.judge("b:1", "real")
    session.select([4])
    assert session.undo()
    assert session.undo()
    assert session.verdict("b:1") == {}
    session.reload()  # a job has ended meanwhile
    assert session.undo()
    assert session.verdicts == read_verdicts(project.root) == {}
    assert session.cells.obs_names[session.selected].tolist() == ["a:2", "b:1"]
    assert session.redo()
    assert session.verdict("a:2")["verdict"] == "artefact"
    assert not session.visible[1]
    assert session.redo()
    assert session.verdict("b:1")["verdict"] == "real"
    assert open_project(project.root).cells.obs["good"].tolist() == [True, False, False, True, True]


def test_what_cannot_be_written_is_not_shown_as_said(project, monkeypatch):
    session = Session()
    session.open(project)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("napari_cellrep.data.files.write_text", full)
    with pytest.raises(InputError, match="could not be kept"):
        session.judge("a:1", "artefact")
    assert session.verdict("a:1") == {}
    assert session.visible[0]
    assert not session.can_undo


def test_a_mask_that_was_edited_has_no_verdict_any_more(project):
    session = Session()
    session.open(project)
    session.judge("a:1", "artefact", "mask wrong")
    obs = table()
    obs.loc["a:1", "mask_hash"] = np.uint64(77)
    project.merge(obs)
    session.reload()
    assert session.verdict("a:1") == {}
    assert session.visible[0]
    assert Path(project.root / "verdicts.json").is_file()
