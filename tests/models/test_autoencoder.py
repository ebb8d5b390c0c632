from __future__ import annotations

import csv

import pytest
import torch
from array_cells import ArrayCells

from napari_cellrep.jobs import drain
from napari_cellrep.models import can, create_model, load_model
from napari_cellrep.models._checkpoint import CHECKPOINT
from napari_cellrep.models._train import train
from napari_cellrep.models.autoencoder import TINY, Model, Training
from napari_cellrep.specs import InputError, field_rules

FP32 = {"device": "cpu", "precision": "fp32"}


def make(width: float = 0.04) -> Model:
    torch.manual_seed(0)
    return create_model("autoencoder", width=width)


@pytest.mark.parametrize("n_structure", [1, 2])
def test_full_width_has_the_parameters_of_encoder_and_decoder_and_no_more(n_structure):
    widths = [96, 256, 384, 384, 256, 256, 384, 384, 256, 96]  # five layers in, five out (models.md §1.1)
    ins = [1 + n_structure, *widths[:-1]]
    expected = sum(9 * a * b + b for a, b in zip(ins, widths, strict=True)) + (96 + 1)
    expected += sum(2 * b for b in widths[:5])  # batch norm after every encoder layer
    model = create_model("autoencoder", n_structure=n_structure)
    assert sum(p.numel() for p in model.parameters()) == expected
    paired = create_model("paired_cell_inpainting", n_structure=n_structure).state_dict()
    mine = model.state_dict()
    assert {k for k in paired if "rfp" not in k} == set(mine)
    assert [k for k in mine if mine[k].shape != paired[k].shape] == ["conv6_1.weight"]
    assert paired["conv6_1.weight"].shape[1] - mine["conv6_1.weight"].shape[1] == 32  # the marker's code


def test_it_reads_and_scales_as_paired_cell_inpainting(cells):
    """With the same weights the taps are the same numbers: only what is learned differs."""
    paired, mine = create_model("paired_cell_inpainting", width=0.125), Model(TINY).eval()
    source = {
        k: v for k, v in paired.state_dict().items() if k in mine.state_dict() and k != "conv6_1.weight"
    }
    mine.load_state_dict(source, strict=False)
    crops = torch.from_numpy(cells.array[:4])
    x = mine.preprocess(crops)
    torch.testing.assert_close(x, paired.preprocess(crops), rtol=0, atol=0)
    with torch.inference_mode():
        a, b = mine.embed_layers(x, mine.layers), paired.embed_layers(x, paired.layers)
    assert mine.layers == paired.layers
    for layer in mine.layers:
        torch.testing.assert_close(a[layer], b[layer], rtol=0, atol=0)


def test_a_cell_is_rebuilt_from_itself_alone(cells):
    model = make()
    x = model.preprocess(torch.from_numpy(cells.array[:3]))
    with torch.inference_mode():
        built = model.reconstruct(x)
        assert built.shape == (3, 1, 64, 64)
        torch.testing.assert_close(model.reconstruct(x[1:2]), built[1:2])
        loss = model.losses({"x": x})["loss"]
    assert loss == pytest.approx(float(((built - x[:, :1]) ** 2).mean()))
    assert can(model, "reconstruct")
    assert not can(model, "inpaint")
    with pytest.raises(InputError, match=r"Autoencoder wants crops .* multiple of 4"):
        model.reconstruct(torch.zeros(1, 2, 50, 50))


def test_settings_of_pairs_are_not_offered():
    assert "min_cells" not in field_rules(Training)


def test_the_loss_goes_down_on_real_cells_without_groups(cells, tmp_path):
    alone = ArrayCells(cells.array, torch.arange(len(cells)).numpy())  # every cell a group of its own
    training = Training(epochs=6, batch_size=16, learning_rate=1e-3)
    result = drain(train(make(0.08), alone, training, tmp_path, **FP32))
    with (tmp_path / "history.csv").open() as f:
        losses = [float(row["loss"]) for row in csv.DictReader(f)]
    x = load_model(tmp_path).preprocess(torch.from_numpy(cells.array))[:, :1]
    assert len(losses) == 6
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < float(x.var())  # better than the best grey
    assert result["loss"] == pytest.approx(losses[-1])


def test_stopped_and_resumed_it_ends_with_the_same_weights(cells, tmp_path):
    few = ArrayCells(cells.array[:32], cells.groups[:32])
    training = Training(epochs=3, batch_size=8, learning_rate=1e-3)
    drain(train(make(), few, training, tmp_path / "whole", **FP32))
    job = train(make(), few, training, tmp_path / "parts", **FP32)
    for progress in job:
        if progress.done == 5:
            break
    job.close()
    assert (tmp_path / "parts" / CHECKPOINT).exists()
    steps = [p.done for p in train(make(), few, training, tmp_path / "parts", **FP32)]
    assert steps[0] == 5
    whole, parts = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    assert isinstance(parts, Model)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key
