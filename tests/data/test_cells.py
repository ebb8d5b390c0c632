from __future__ import annotations

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from napari_cellrep.data import slides
from napari_cellrep.data.cells import (
    FLAGS,
    OBS_COLUMNS,
    Measuring,
    QualityRules,
    Quantiles,
    measure_field,
    reconcile_labels,
    set_flags,
)
from napari_cellrep.data.crops import find_cells
from napari_cellrep.data.fields import Field
from napari_cellrep.specs import Channel

CHANNELS = (Channel("GFP", "protein"), Channel("DNA", "nucleus"))


def two_cells() -> np.ndarray:
    labels = np.zeros((20, 30), np.int32)
    labels[2:12, 2:12], labels[2:12, 12:22] = 1, 2
    return labels


def test_repainted_cell_keeps_its_number():
    old, new = two_cells(), two_cells()
    new[12:14, 2:12] = 1  # grown
    new[2:4, 12:22] = 0  # shrunk
    new[5:7, 12:13] = 1  # took a little of its neighbour
    assert np.array_equal(reconcile_labels(old, new), new)


def test_merged_cells_get_a_new_number():
    old = two_cells()
    new = np.where(old == 2, 1, old)
    assert set(np.unique(reconcile_labels(old, new))) == {0, 3}


def test_split_cells_get_new_numbers():
    old, new = two_cells(), two_cells()
    new[2:12, 7:12] = 9
    out = reconcile_labels(old, new)
    assert set(np.unique(out)) == {0, 2, 9, 10}  # 1 is no more; 2 was not touched
    assert (out[2:12, 2:7] == 10).all()


def test_swapped_numbers_do_not_come_to_mean_other_cells():
    old = two_cells()
    new = np.select([old == 1, old == 2], [2, 1], 0)
    assert not {1, 2} & set(np.unique(reconcile_labels(old, new)))


def test_erased_and_drawn_cells():
    old, new = two_cells(), two_cells()
    new[new == 2] = 0
    new[15:18, 15:18] = 7
    assert np.array_equal(reconcile_labels(old, new), new)
    assert np.array_equal(reconcile_labels(np.zeros_like(old), old), old)


def test_number_used_again_elsewhere_is_another_cell():
    old, new = two_cells(), two_cells()
    new[new == 2] = 0
    new[14:19, 24:29] = 2
    assert set(np.unique(reconcile_labels(old, new))) == {0, 1, 3}


def test_reconciling_does_not_overflow_small_dtypes():
    old = np.zeros((4, 4), np.uint8)
    old[0], old[1] = 254, 255
    new = np.where(old == 255, 254, old).astype(np.uint8)
    out = reconcile_labels(old, new)
    assert out.max() == 256
    assert set(np.unique(out)) == {0, 256}


def test_rows_of_a_field(shared, quick_nuclei):
    image = tifffile.imread(shared / "data" / "bbbc013" / "wells" / "A06.ome.tif")
    labels = quick_nuclei(image)
    frame = measure_field(
        Field("A06", (), group="A06", metadata={"well": "A06", "dose": 5}), image, labels, CHANNELS, 64
    )
    assert list(frame.columns) == [*OBS_COLUMNS, "well", "dose"]
    assert frame.index.is_unique
    assert frame.index[0] == "A06:1"
    assert len(frame) == labels.max() > 150
    row = frame.loc["A06:20"]
    assert row["area_px"] == (labels == 20).sum()
    assert labels[labels == 20].size
    assert np.isfinite(frame.select_dtypes("number").to_numpy(float)).all()
    empty = measure_field(Field("A06", ()), image, np.zeros_like(labels), CHANNELS, 64)
    assert len(empty) == 0
    assert set(OBS_COLUMNS) <= set(empty.columns)
    assert len(set_flags(empty, QualityRules())) == 0


@pytest.mark.parametrize("kind", ["uint8", "12 of 16 bits", "uint16", "float"])
def test_rows_and_flags_do_not_depend_on_how_a_field_is_cut(shared, quick_nuclei, kind):
    image = tifffile.imread(shared / "data" / "bbbc013" / "wells" / "A06.ome.tif")[:, :400, :600].copy()
    labels = quick_nuclei(image)
    image[:, :150, :200] //= 4  # what is dim here is so beside the whole field only
    image[1, 300:, 400:][labels[300:, 400:] > 0] = 255
    image = {"uint8": image, "12 of 16 bits": (image.astype(np.uint16) * 17).clip(0, 4095).astype(np.uint16),
             "uint16": image.astype(np.uint16) * 257, "float": image.astype(np.float32) / 7 - 3}[kind]  # fmt: skip
    field = Field("A06", (), *labels.shape)
    whole = measure_field(field, image, labels, CHANNELS, 64)
    measuring = Measuring(field, CHANNELS, 64, find_cells(labels), labels.shape)
    for tile in slides.tiles(*labels.shape, 60, side_px=133):
        y0, x0, y1, x1 = tile.box
        measuring.add(image[:, y0:y1, x0:x1], labels[y0:y1, x0:x1], box=tile.box, core=tile.core)
    parts = measuring.table()
    assert list(parts.index) == list(whole.index)
    assert list(parts.columns) == list(whole.columns)
    for column in whole.columns:
        if whole[column].dtype.kind == "f":
            np.testing.assert_allclose(parts[column], whole[column], rtol=1e-3, atol=1e-6, err_msg=column)
        else:
            assert (parts[column] == whole[column]).all(), column
    flags = [set_flags(f, QualityRules())["flags"] for f in (parts, whole)]
    assert (flags[0] == flags[1]).all()
    found = set(";".join(flags[1]).split(";"))
    assert found >= ({"no_signal", "edge"} if kind == "float" else {"no_signal", "edge", "saturated"})


@pytest.mark.parametrize("kind", ["counts", "large", "around 0", "one value"])
def test_percentiles_of_parts_are_those_of_all(kind):
    rng = np.random.default_rng(0)
    values = {"counts": rng.poisson(30, 50_000), "large": rng.normal(40_000, 900, 50_000).round(),
              "around 0": rng.normal(0, 2, 50_000), "one value": np.full(50_000, 7.25)}[kind].astype(np.float32)  # fmt: skip
    whole, parts = Quantiles(), Quantiles()
    whole.add(values)
    for part in np.array_split(values, 7):
        parts.add(part)
    for percent in (0, 5, 50, 99.9, 100):
        exact = float(np.percentile(values, percent))
        assert whole.at(percent) == exact
        if kind in ("counts", "one value"):
            assert parts.at(percent) == exact
        else:
            assert parts.at(percent) == pytest.approx(exact, rel=5e-4, abs=1e-3)
    assert Quantiles().at(50) == 0


@pytest.fixture(scope="module")
def plate(shared, quick_nuclei):
    """Cells of four real wells with their flags, and each well's labels."""
    frames, labels, images = [], {}, {}
    for well in ("A01", "A06", "A12", "E12"):
        images[well] = tifffile.imread(shared / "data" / "bbbc013" / "wells" / f"{well}.ome.tif")
        labels[well] = quick_nuclei(images[well])
        frames.append(measure_field(Field(well, (), group=well), images[well], labels[well], CHANNELS, 64))
    return set_flags(pd.concat(frames), QualityRules()), labels, images


def test_flags_are_of_use_on_real_cells(plate):
    obs, _, _ = plate
    shares = {flag: obs["flags"].str.split(";").map(lambda have, f=flag: f in have).mean() for flag in FLAGS}
    assert 0.1 < shares["edge"] < 0.3
    assert 0.1 < shares["no_signal"] < 0.35
    for flag in ("area", "debris"):
        assert 0 < shares[flag] < 0.15
    assert shares["focus"] < 0.02
    assert shares["saturated"] < 0.02
    assert 0.5 < obs["good"].mean() < 0.8
    assert (obs["good"] == (obs["flags"] == "")).all()


def test_no_signal_agrees_with_people(shared, plate):
    """Hand labels of the Piximi authors; their crops lie pixel for pixel in the wells."""
    from scipy.signal import fftconvolve
    from skimage.io import imread

    obs, labels, images = plate
    folder = shared / "data" / "bbbc013_cells"
    table = pd.read_csv(folder / "labels.csv").dropna(subset="label")
    flagged = {"NoGFP": [], "CytoplasmicGFP": [], "NuclearGFP": []}
    seen = set()
    with zipfile.ZipFile(folder / "crops.zip") as archive:
        for row in table.groupby(["well", "label"]).head(22).itertuples():
            gfp, dna = (
                imread(io.BytesIO(archive.read(name)))[..., 0].astype(float) for name in (row.gfp, row.dna)
            )
            own = (gfp > 0) | (dna > 0)
            field = images[row.well][1].astype(float)
            error = fftconvolve(field**2, own[::-1, ::-1].astype(float), "valid")
            error -= 2 * fftconvolve(field, (dna * own)[::-1, ::-1], "valid")
            y, x = np.unravel_index(error.argmin(), error.shape)
            inside = labels[row.well][y : y + own.shape[0], x : x + own.shape[1]][own]
            if not inside.any():
                continue
            label = np.bincount(inside[inside > 0]).argmax()
            whole = (labels[row.well] == label).sum()
            if (inside == label).sum() < 0.8 * whole or (row.well, label) in seen:
                continue
            seen.add((row.well, label))
            flagged[row.label].append("no_signal" in obs.loc[f"{row.well}:{label}", "flags"])
    assert min(map(len, flagged.values())) >= 15
    assert np.mean(flagged["NoGFP"]) > 0.7
    assert np.mean(flagged["CytoplasmicGFP"]) == 0  # GFP kept out of the nucleus is signal
    assert np.mean(flagged["NuclearGFP"]) < 0.1


def test_focus_finds_blurred_wells_and_ignores_brightness(plate):
    obs, labels, images = plate
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.7, images["A06"].shape)
    blurred = (
        np.round(ndimage.gaussian_filter(images["A06"].astype(float), (0, 2.5, 2.5)) + noise)
        .clip(0)
        .astype(np.uint8)
    )
    bad = measure_field(Field("bad", ()), blurred, labels["A06"], CHANNELS, 64)
    both = set_flags(pd.concat([obs[list(OBS_COLUMNS)], bad]), QualityRules())
    in_bad = both["field"] == "bad"
    focus = both["flags"].str.contains("focus")
    assert focus[in_bad].mean() > 0.9
    assert focus[~in_bad].mean() < 0.02
    dim = measure_field(Field("dim", ()), images["A06"] // 2, labels["A06"], CHANNELS, 64)
    sharp = obs[obs["field"] == "A06"]
    assert abs(np.median(dim["q_focus"]) - np.median(sharp["q_focus"])) < 0.1


def test_saturated_cells():
    labels = two_cells()
    for top, dtype in ((255, "uint8"), (65_535, "uint16"), (4095, "uint16")):
        image = np.full((2, 20, 30), 100).astype(dtype)
        image[0, 2:4, 2:12] = top
        frame = set_flags(measure_field(Field("f", ()), image, labels, CHANNELS, 8), QualityRules())
        assert "saturated" in frame.loc["f:1", "flags"]
        assert "saturated" not in frame.loc["f:2", "flags"]


def test_no_protein_channel_no_flag():
    image = np.random.default_rng(0).integers(0, 200, (2, 20, 30)).astype(np.uint8)
    frame = measure_field(Field("f", ()), image, two_cells(), (Channel("a"), Channel("b", "nucleus")), 8)
    assert not set_flags(frame, QualityRules())["flags"].str.contains("no_signal").any()


def test_cells_that_fill_the_field_and_float_images():
    image = np.random.default_rng(0).random((2, 20, 30)).astype(np.float32)
    labels = np.ones((20, 30), np.uint16)
    frame = set_flags(measure_field(Field("f", ()), image, labels, CHANNELS, 8), QualityRules())
    assert len(frame) == 1
    assert np.isfinite(frame["q_focus"]).all()


def test_fields_that_are_no_good_as_a_whole_are_flagged(sample_project):
    """Blurred, overexposed, or with a channel that was never switched on; their cells are hidden, nothing is lost."""
    rng = np.random.default_rng(0)
    labels = sample_project.read_labels("A06")
    good = sample_project.read_image("A06")
    blurred = np.stack([ndimage.gaussian_filter(p.astype(float), 4) for p in good])
    blurred = np.clip(blurred + rng.normal(0, 1, good.shape), 0, 255).astype(np.uint8)
    bright = np.clip(good.astype(int) * 6, 0, 255).astype(np.uint8)
    dark = good.copy()
    dark[0] = np.clip(rng.normal(6, 1.5, dark[0].shape), 0, 255)
    channels = sample_project.channels
    frames = []
    for field in sample_project.fields:
        one = measure_field(
            field, sample_project.read_image(field.id), sample_project.read_labels(field.id), channels, 64
        )
        frames.append(one)
    for name, image in (("blurred", blurred), ("bright", bright), ("dark", dark)):
        frames.append(measure_field(Field(name, (), *labels.shape), image, labels, channels, 64))
    obs = set_flags(pd.concat(frames), QualityRules())
    flagged = obs["flags"].str.split(";").map(lambda have: "field" in have)
    assert set(obs["field"][flagged]) == {"blurred", "bright", "dark"}
    assert flagged[obs["field"].isin(["blurred", "bright", "dark"])].all()
    assert not obs["good"][flagged].any()
    first = obs.groupby("field")[["q_field_focus", "q_field_saturated", "q_field_contrast"]].first()
    assert first["q_field_saturated"].idxmax() == "bright"
    assert first["q_field_contrast"].idxmin() == "dark"
    assert first["q_field_focus"].idxmin() == "blurred"
    lenient = QualityRules(field_focus=5.0, field_saturated_share=1.0, field_contrast=0.0)
    assert not set_flags(obs, lenient)["flags"].str.split(";").map(lambda have: "field" in have).any()


def test_tables_made_before_fields_were_judged_can_be_flagged_again(sample_project):
    obs = sample_project.cells.obs
    old = obs.drop(columns=[c for c in obs if c.startswith("q_field_")])
    again = set_flags(old, QualityRules())
    assert not again["flags"].astype(str).str.contains("field").any()
    mixed = pd.concat([old[old["field"] == "A01"], obs[obs["field"] != "A01"]])  # one field measured again
    assert len(set_flags(mixed, QualityRules())) == len(obs)
