from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import QualityRules, measure_field, set_flags
from napari_cellrep.data.crops import find_cells, mask_hashes
from napari_cellrep.specs import InputError


def _embed(project: Project, key: str, value: float) -> None:
    project.begin_step("embed")
    project.start_embedding(key, {"value": value})
    for field in project.fields:
        labels = project.read_labels(field.id)
        cells = find_cells(labels)
        x = np.full((len(cells), 3), value, np.float32)
        project.write_rows(key, field.id, cells.label, mask_hashes(labels, cells), x)
    project.merge()
    project.log("embed", model="made up", keys=[key])


def _contents(root: Path) -> dict[str, bytes]:
    """Everything that counts: not the history, locks, or what is kept aside."""
    skip = ("project.json",)
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
        and p.name not in skip
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    }


def test_a_new_embedding_is_taken_back(sample_project: Project):
    before = _contents(sample_project.root)
    _embed(sample_project, "k", 1.0)
    assert sample_project.undoable["step"] == "embed"
    assert sample_project.undoable["of"] == "made up"
    assert open_project(sample_project.root).undo() == "embed (made up)"
    again = open_project(sample_project.root)
    assert _contents(again.root) == before
    assert again.embedding_keys() == []
    assert "X_k" not in again.cells.obsm
    assert [line["step"] for line in again.history if line.get("undone")] == ["embed", "undo"]
    assert again.last("embed") == {}
    assert again.undoable == {}
    with pytest.raises(InputError, match="nothing to take back"):
        again.undo()


def test_what_was_replaced_comes_back(sample_project: Project):
    _embed(sample_project, "k", 1.0)
    before = _contents(sample_project.root)
    _embed(sample_project, "k", 2.0)
    assert (sample_project.cells.obsm["X_k"] == 2).all()
    sample_project.undo()
    assert _contents(sample_project.root) == before
    assert (open_project(sample_project.root).cells.obsm["X_k"] == 1).all()


@pytest.mark.slow
def test_finding_cells_is_a_part_of_segmenting_and_a_new_flagging_is_not(sample_project: Project):
    project, before = sample_project, _contents(sample_project.root)

    def find(step_follows: tuple[str, ...] = ("segment", "edit")) -> None:
        project.begin_step("crop", follows=step_follows)
        frames = [
            measure_field(f, project.read_image(f.id), project.read_labels(f.id), project.channels, 64)
            for f in project.fields
        ]
        project.merge(set_flags(pd.concat([f for f in frames if len(f)]), QualityRules()))
        project.log("crop")

    project.begin_step("segment")
    labels = project.read_labels("A01").copy()
    labels[labels == 1] = 0
    project.write_labels("A01", labels, {"segmenter": "other"})
    project.log("segment", segmenter="other")
    find()
    n = project.cells.n_obs
    middle = _contents(project.root)
    find()  # the rules changed: a step of its own
    assert project.undoable["step"] == "crop"
    project.undo()
    assert _contents(project.root) == middle
    project.begin_step("segment")
    project.write_labels("A01", np.zeros_like(labels), {"segmenter": "none"})
    project.log("segment", segmenter="none")
    find()
    assert project.cells.n_obs < n
    project.undo()
    assert _contents(project.root) == middle != before


def test_added_images_are_never_taken_back(sample_project: Project):
    import dataclasses

    _embed(sample_project, "k", 1.0)
    more = dataclasses.replace(sample_project.fields[0], id="new")
    sample_project.write_fields([*sample_project.fields, more])
    assert sample_project.undoable == {}


def test_killed_while_it_takes_back_it_can_go_on(sample_project: Project, monkeypatch):
    _embed(sample_project, "k", 1.0)
    before = _contents(sample_project.root)
    _embed(sample_project, "k", 2.0)
    real, calls = Path.replace, []

    def dies(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        sample_project.undo()
    monkeypatch.undo()
    again = open_project(sample_project.root)
    again.undo()
    assert _contents(again.root) == before


def test_a_disk_without_links_copies(sample_project: Project, monkeypatch):
    _embed(sample_project, "k", 1.0)
    before = _contents(sample_project.root)

    real = os.link

    def refuse(source: str | Path, target: str | Path) -> None:
        if ".undo" in str(target):  # zarr links, too, and has its own ways without
            raise OSError(95, "Operation not supported")
        real(source, target)

    monkeypatch.setattr(os, "link", refuse)
    _embed(sample_project, "k", 2.0)
    sample_project.undo()
    assert _contents(sample_project.root) == before


@pytest.mark.slow
def test_one_step_is_kept_and_no_more(sample_project: Project):
    for value in (1.0, 2.0, 3.0):
        _embed(sample_project, "k", value)
    assert [p.name for p in sample_project.root.glob(".undo*")] == [".undo"]
    sample_project.undo()
    assert (sample_project.cells.obsm["X_k"] == 2).all()
    assert not list(sample_project.root.glob(".undo*"))
