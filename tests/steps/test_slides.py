"""Fields larger than memory, which are segmented, measured and embedded in parts: as if they were done whole."""

import gzip
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import tifffile
import zarr

from napari_cellrep import registry
from napari_cellrep.data import Project, create_project, slides
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane, read_planes
from napari_cellrep.jobs import drain
from napari_cellrep.segmenters import Scales
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.estimate import estimate
from napari_cellrep.steps.preview import what_it_sees
from napari_cellrep.steps.segment import prepare, preview, segment, segment_in_parts

SAMPLE = Path(__file__).parents[2] / "src" / "napari_cellrep" / "sample" / "wells"
CHANNELS = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
IN_PARTS = [n for n in registry.names("segmenters") if n in ("nuclei", "cells", "bodies", "centres")]


@pytest.fixture(scope="module")
def mosaic():
    """A real field put together of parts of two wells."""
    wells = [tifffile.imread(p) for p in sorted(SAMPLE.glob("*.ome.tif"))[:2]]
    return np.concatenate(wells, axis=2)[:, :401, 200:1100]


@pytest.fixture
def slide(tmp_path, mosaic):
    tifffile.imwrite(
        tmp_path / "slide.tif", mosaic, tile=(256, 256), compression="zlib", photometric="minisblack"
    )
    planes = tuple(Plane(str(tmp_path / "slide.tif"), i) for i in range(2))
    field = Field("slide", planes, *mosaic.shape[1:], "uint8")
    return create_project(tmp_path / "p", with_groups([field]), CHANNELS)


def test_the_registry_says_who_works_in_parts():
    import inspect

    takes = [
        n for n in registry.names("segmenters")
        if "scales" in inspect.signature(registry.load("segmenters", n).segment).parameters
    ]  # fmt: skip
    assert takes == IN_PARTS


@pytest.mark.parametrize("name", IN_PARTS)
def test_parts_give_the_cells_that_the_whole_gives(name, slide, mosaic, monkeypatch):
    module, settings = prepare(name, {"channel": "nucleus"} if name == "bodies" else {})
    scales = Scales()
    monkeypatch.setattr(
        slides, "sample", lambda *_, **__: mosaic
    )  # the numbers of the whole: only seams can differ
    whole = module.segment(mosaic, CHANNELS, settings, scales=scales)
    result = drain(segment_in_parts(slide, slide.field("slide"), module, settings, "cpu", {}, side_px=450))
    found = slide.read_labels("slide")
    assert result.n_cells == whole.max() > 100
    assert result.n_cut == 0
    pairs = np.unique(np.stack([whole.ravel(), found.ravel()]), axis=1)
    assert pairs.shape[1] == whole.max() + 1, "a cell was parted or joined, or has other pixels"


@pytest.fixture
def cut_up(slide, monkeypatch):
    """The slide, worked on in parts of 300 px from now on."""
    monkeypatch.setattr(slides, "BIG_PX", 1)
    monkeypatch.setattr(slides, "TILE_PX", 300)
    monkeypatch.setattr(slides, "CHUNK_PX", 128)
    monkeypatch.setattr(slides, "SMALLEST_PX", 256)
    return slide


def whole_project(slide, tmp_path, labels):
    other = create_project(tmp_path / "whole", slide.fields, CHANNELS)
    other.write_labels("slide", labels, {})
    return other


def test_a_slide_from_segmenting_to_its_vectors_is_as_if_done_whole(cut_up, tmp_path, monkeypatch):
    result = drain(segment(cut_up, segmenter="centres", config={"radius_px": 6}))
    assert result.problems == {}
    assert cut_up.labels_path("slide").name == "slide.ome.zarr"
    assert cut_up.labelled() == {"slide"}
    labels = cut_up.read_labels("slide")
    np.testing.assert_array_equal(np.unique(labels), np.arange(result.n_cells + 1))
    assert cut_up.label_info("slide")["n_cells"] == result.n_cells > 150
    levels = slides.label_levels(cut_up.labels_path("slide"))
    assert [a.shape for a in levels] == [(401, 900), (201, 450), (101, 225)]
    np.testing.assert_array_equal(levels[1][...], labels[::2, ::2])
    assert drain(segment(cut_up, segmenter="centres", config={"radius_px": 6})).skipped == 1

    drain(crop(cut_up))
    masked = {"masked": True, "mask_plane": False}
    drain(embed(cut_up, model="measurements", key="m", precision="fp32"))
    drain(embed(cut_up, model="autoencoder", key="a", crop=masked, precision="fp32"))
    drain(embed(cut_up, model="autoencoder", key="b", crop={"window_px": 40}, precision="fp32"))
    parts = cut_up.cells
    seen = what_it_sees(cut_up, embedding="m", cell_id="slide:7")

    monkeypatch.setattr(slides, "BIG_PX", 10**12)
    whole = whole_project(cut_up, tmp_path, labels)
    drain(crop(whole))
    drain(embed(whole, model="measurements", key="m", precision="fp32"))
    drain(embed(whole, model="autoencoder", key="a", crop=masked, precision="fp32"))
    drain(embed(whole, model="autoencoder", key="b", crop={"window_px": 40}, precision="fp32"))
    rows = whole.cells.obs_names
    assert sorted(rows) == sorted(parts.obs_names)
    mine, theirs = parts[rows].obs, whole.cells.obs
    for column in ("y_px", "x_px", "box_y0", "box_x0", "box_y1", "box_x1", "area_px", "mask_hash", "q_window_over_edge",
                   "q_saturated_share"):  # fmt: skip
        np.testing.assert_array_equal(mine[column].to_numpy(), theirs[column].to_numpy(), err_msg=column)
    np.testing.assert_allclose(mine["q_focus"].to_numpy(), theirs["q_focus"].to_numpy(), atol=0.05)
    for key in ("X_m", "X_a", "X_b"):
        np.testing.assert_allclose(
            parts[rows].obsm[key], whole.cells.obsm[key], rtol=1e-4, atol=1e-4, err_msg=key
        )
    np.testing.assert_array_equal(
        seen.pictures, what_it_sees(whole, embedding="m", cell_id="slide:7").pictures
    )


def test_what_a_slide_would_take_is_told_from_a_sample(cut_up, monkeypatch):
    monkeypatch.setattr(Project, "read_image", lambda *_: pytest.fail("the whole slide was read"))
    told = estimate(cut_up, "segment", segmenter="centres")
    assert told.seconds > 0


def test_what_cannot_be_done_in_parts_is_a_sentence(cut_up, tmp_path):
    with pytest.raises(InputError, match="in parts, which cellpose cannot"):
        drain(segment(cut_up, segmenter="cellpose"))
    with pytest.raises(InputError, match="too many to try on"):
        drain(preview(cut_up, field="slide"))


def test_labels_brought_for_a_slide_are_written_in_chunks(cut_up, tmp_path):
    labels = np.zeros((401, 900), np.uint32)
    labels[10:20, 10:800], labels[300:390, 5:9] = 70_000, 3
    tifffile.imwrite(tmp_path / "slide_mask.tif", labels)
    assert drain(segment(cut_up, segmenter="imported")).n_cells == 2
    assert cut_up.labels_path("slide").is_dir()
    np.testing.assert_array_equal(cut_up.read_labels("slide"), labels)
    assert drain(crop(cut_up)) == 2
    np.testing.assert_array_equal(cut_up.cells.obs["area_px"], [360, 7900])


@pytest.mark.parametrize("kind", ["tiled", "strips", "plain", "packed", "pages", "zarr", "png"])
def test_a_part_is_read_as_the_whole_has_it(tmp_path, mosaic, kind):
    path, image = tmp_path / "a.tif", mosaic.astype(np.uint16) * 3
    if kind == "zarr":
        path = tmp_path / "a.zarr"
        axes = [{"name": n} for n in "cyx"]
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
        group.create_array("0", data=image, chunks=(1, 100, 100))
    elif kind == "png":
        path, image = tmp_path / "a.png", image[:1]
        imageio.v3.imwrite(path, image[0])
    else:
        how = {"tiled": {"tile": (64, 64), "compression": "zlib"}, "strips": {"rowsperstrip": 50, "compression": "lzw"},
               "plain": {}, "packed": {}, "pages": {"compression": "zlib"}}[kind]  # fmt: skip
        tifffile.imwrite(
            path, image, photometric="minisblack", metadata={"axes": "CYX"}, byteorder=">", **how
        )
    if kind == "packed":
        path.with_name("a.tif.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_name("a.tif.gz")
    planes = [Plane(str(path), i) for i in range(len(image))]
    part = read_planes(planes, tmp_path, box=(37, 411, 290, 900))
    np.testing.assert_array_equal(part, image[:, 37:290, 411:])
    assert part.dtype == np.uint16


def test_tiles_cover_a_field_once():
    seen = np.zeros((1000, 1700), int)
    for tile in slides.tiles(1000, 1700, 50, side_px=333, align_px=7):
        y0, x0, y1, x1 = tile.core
        seen[y0:y1, x0:x1] += 1
        assert all(v % 7 == 0 for v in (*tile.core[:2], *tile.box[:2]))
        assert tile.box[0] == max(0, y0 - 56)
    assert (seen == 1).all()
