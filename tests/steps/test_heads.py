"""Heads against channels for a network that is known to look at what is bright."""

import json

import numpy as np
import pandas as pd
import pytest

from _made_up import brightness_dino, made_up
from napari_cellrep.cli import main
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, save_model
from napari_cellrep.specs import InputError
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.heads import heads


@pytest.fixture
def bright(tmp_path):
    # Each cell's crop of 32 px has one bright patch in the first channel; of the second cell's, half lies outside.
    project = made_up(tmp_path, [(48, 40), (80, 8)], [(40, 40, 8), (72, 8, 8)])
    save_model(brightness_dino(), project.root / "models" / "mine")
    drain(embed(project, model="mine", device="cpu", precision="fp32"))
    return project


def test_a_head_that_looks_at_a_channel_falls_together_with_it(bright):
    found = heads(bright, cells=["one:1", "one:2"])
    assert found.heads == ("mean", "head 1", "head 2")
    assert found.channels == ("FKHR-GFP", "DNA")
    np.testing.assert_allclose(
        found.each[:, :2, 0], 1
    )  # the head and the mean are the bright patch, to the pixel
    assert (found.iou[:2, 1] < 0.3).all()
    assert np.isnan(found.iou[2]).all()  # the second head looks everywhere alike
    np.testing.assert_allclose(found.iou, found.each.mean(axis=0))
    np.testing.assert_allclose(
        found.chance[1, 0], np.mean([64**2 / 1024 / (128 - 64**2 / 1024), 64**2 / 768 / (128 - 64**2 / 768)])
    )
    assert "head 1 with FKHR-GFP" in found.words[1] or "mean with FKHR-GFP" in found.words[1]
    assert "can mislead" in found.words[2]


def test_cells_are_drawn_from_those_that_count(bright):
    cells = bright.cells
    cells.obs["good"] = [False, True]
    bright.write_cells(cells)
    found = heads(bright, sample=5)
    assert found.cells == ("one:2",)
    assert "1 of 1 cells, drawn at random" in found.words[0]
    cells.obs["good"] = False
    bright.write_cells(cells)
    with pytest.raises(InputError, match="none to draw"):
        heads(bright)


def test_the_command_line_writes_a_table_and_a_figure(bright, tmp_path, capsys):
    words = ["look", str(bright.root), "--device", "cpu", "--what", "heads"]
    assert main([*words, "--sample", "2", "--out", str(tmp_path / "heads.png")]) == 0
    assert "Heads against channels in" in capsys.readouterr().out
    assert (tmp_path / "heads.png").stat().st_size > 2000
    table = pd.read_csv(tmp_path / "heads.csv").set_index(["head", "channel"])
    assert len(table) == 6
    assert np.isnan(table.loc[("head 2", "DNA"), "iou"])
    assert table.loc[("head 2", "DNA"), "n_cells"] == 0
    assert main([*words, "--cell", "one:1", "--out", str(tmp_path / "one.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["iou"]["head 1"]["FKHR-GFP"] == 1
    assert told["iou"]["head 2"]["FKHR-GFP"] is None
    for wrong, said in (
        (["--what", "heads", "--out", "x.npz"], "has to end in .png, .svg, .pdf, .csv"),
        (["--what", "heads", "--cell", "one:1", "--sample", "3", "--out", "x.png"], "not both"),
        (["--what", "attention", "--out", "x.png"], "which cells"),
        (["--what", "attention", "--sample", "3", "--out", "x.png"], "--sample"),
    ):
        assert main([*words[:4], *wrong]) == 2
        assert said in capsys.readouterr().err
    save_model(create_model("autoencoder", width=0.05), bright.root / "models" / "ae")
    drain(embed(bright, model="ae", device="cpu", precision="fp32"))
    with pytest.raises(InputError, match="no attention; DINO has"):
        heads(bright, embedding="ae")
