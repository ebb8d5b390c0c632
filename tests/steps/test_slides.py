"""Fields larger than memory, which are segmented, measured and embedded in parts: as if they were done whole."""

import gzip
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import roifile
import tifffile
import zarr
from scipy import ndimage
from skimage import measure

from napari_cellrep import registry
from napari_cellrep.data import Project, create_project, slides
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane, read_planes
from napari_cellrep.jobs import drain
from napari_cellrep.segmenters import Scales, _label_files
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import embed
from napari_cellrep.steps.estimate import estimate
from napari_cellrep.steps.preview import what_it_sees
from napari_cellrep.steps.segment import prepare, preview, segment, segment_in_parts

SAMPLE = Path(__file__).parents[2] / "src" / "napari_cellrep" / "sample" / "wells"
CHANNELS = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
IN_PARTS = [
    n for n in registry.names("segmenters") if n in ("nuclei", "cells", "bodies", "centres")
]  # without weights


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
    assert takes == sorted([*IN_PARTS, "cellpose"])


@pytest.mark.slow
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
    assert result.notes == ()
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


@pytest.mark.slow
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
    for column in (c for c in mine if c.startswith("q_") and c != "q_window_over_edge"):
        np.testing.assert_allclose(
            mine[column].to_numpy(float), theirs[column].to_numpy(float), rtol=1e-3, err_msg=column
        )
    assert (mine["flags"] == theirs["flags"]).all()
    assert mine["flags"].nunique() > 2
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
    module = type("Whole", (), {"segment": staticmethod(lambda image, channels, config: None)})
    module.__name__ = "lab.whole"
    with pytest.raises(InputError, match="in parts, which whole cannot"):
        drain(segment_in_parts(cut_up, cut_up.field("slide"), module, None, "cpu", {}))
    with pytest.raises(InputError, match="too many to try on"):
        drain(preview(cut_up, field="slide"))


def drawn(mosaic):
    """Labels of the real field with gaps in their numbers, and some that lie in several parts."""
    module, settings = prepare("nuclei", {})
    labels = module.segment(mosaic, CHANNELS, settings).astype(np.int64) * 200
    labels[200:203, 20:880][labels[200:203, 20:880] == 0] = 77  # a thread across parts
    return labels


@pytest.fixture(scope="module")
def labels(mosaic):
    return drawn(mosaic)


def write_tiff(path, array, **how):
    tifffile.imwrite(path, array, photometric="minisblack", **how)


def write_zarr(path, array):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["multiscales"] = [{"axes": [{"name": n} for n in "yx"], "datasets": [{"path": "0"}]}]
    group.create_array("0", data=array, chunks=(100, 130))


def write_outlines(path, array):
    """QuPath's GeoJSON of the labels' outlines, as it would be after some were drawn too large."""
    features = []
    for i, box in enumerate(ndimage.find_objects(array // 200), start=1):
        if box is not None:
            ring = measure.find_contours(np.pad(array[box] == 200 * i, 1), 0.5)[0][:, ::-1] - 0.5
            ring = (ring - ring.mean(axis=0)) * 1.2 + ring.mean(axis=0) + (box[1].start, box[0].start)
            ring = ring.clip(0, array.shape[::-1]).tolist()
            kind = {"classification": {"name": "odd"}} if i % 2 else {}
            features.append(
                {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
                 "properties": {"objectType": "cell", **kind}}
            )  # fmt: skip
    around = [[[1, 1], [890, 1], [890, 395], [1, 395]]]  # the tissue, as a cell that is larger than any part
    features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": around},
                     "properties": {"objectType": "cell"}})  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_rois(path, array):
    with zipfile.ZipFile(path, "w") as z:
        for i, box in enumerate(ndimage.find_objects(array // 200), start=1):
            if box is not None:
                ring = measure.find_contours(np.pad(array[box] == 200 * i, 1), 0.5)[0][:, ::-1]
                ring = ring.round() + np.array([box[1].start - 1, box[0].start - 1])
                z.writestr(f"{i}.roi", roifile.ImagejRoi.frompoints(ring.clip(0)).tobytes())


BROUGHT = {
    "tiled.tif": lambda p, a: write_tiff(p, a.astype(np.uint32), tile=(128, 128), compression="zlib"),
    "strips.tif": lambda p, a: write_tiff(p, a.astype(np.uint32), rowsperstrip=30, compression="lzw"),
    "one-strip.tif": lambda p, a: write_tiff(p, a.astype(np.uint32), rowsperstrip=401, compression="zlib"),
    "plain.tif": lambda p, a: write_tiff(p, a.astype(np.uint32), byteorder=">"),
    "stack.tif": lambda p, a: write_tiff(p, a.astype(np.uint16)[None, None], tile=(64, 64)),
    "cellprofiler.tif": lambda p, a: write_tiff(p, (a / 65_535).astype(np.float32), tile=(64, 64)),
    "fiji.tif": lambda p, a: write_tiff(p, a.astype(np.float32)),
    "mask.tif": lambda p, a: write_tiff(p, (255 * (a > 0)).astype(np.uint8), tile=(64, 64)),
    "grey.tif": lambda p, a: tifffile.imwrite(
        p, np.stack([(255 * (a > 0)).astype(np.uint8)] * 3, axis=-1), tile=(64, 64), photometric="rgb"
    ),
    "lost.tif": lambda p, a: write_tiff(p, (a // 200).clip(0, 255).astype(np.uint8), tile=(64, 64)),
    "mask.png": lambda p, a: imageio.v3.imwrite(p, a.astype(np.uint16)),
    "labels.zarr": lambda p, a: write_zarr(p, a.astype(np.int32)),
    "a_seg.npy": lambda p, a: np.save(p, {"masks": a.astype(np.uint16), "outlines": a[:5]}),
    "plain.npy": lambda p, a: np.save(p, a),
    "cells.geojson": write_outlines,
    "RoiSet.zip": write_rois,
}


OTHERWISE = {"relabel": "always", "min_area_px": 30, "drop_border": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [*((kind, {}) for kind in BROUGHT), *((k, OTHERWISE) for k in ("tiled.tif", "cells.geojson"))],
)
def test_labels_brought_in_parts_are_those_of_the_whole_file(
    kind, config, cut_up, mosaic, labels, tmp_path, monkeypatch
):
    BROUGHT[kind](tmp_path / kind, labels)
    module, settings = prepare("imported", {"pattern": str(tmp_path / kind), **config})
    whole = module.bring(mosaic, CHANNELS, settings, "slide")
    monkeypatch.setattr(Project, "read_image", lambda *_: pytest.fail("the whole slide was read"))
    monkeypatch.setattr(_label_files, "read_file", lambda *_: pytest.fail("the whole file was read"))
    result = drain(segment(cut_up, segmenter="imported", config={"pattern": str(tmp_path / kind), **config}))
    found = cut_up.read_labels("slide")
    np.testing.assert_array_equal(found, whole.labels)
    assert result.n_cells == len(np.unique(whole.labels)) - 1 > 50
    assert result.notes == ({"slide": f"Field slide: {' '.join(whole.notes)}"} if whole.notes else {})
    told = {int(k): v for k, v in cut_up.label_info("slide").get("classes", {}).items()}
    assert told == whole.classes
    if kind in ("cells.geojson", "lost.tif") and not config:
        assert whole.notes


def test_brought_labels_of_another_size_or_of_colours_are_a_sentence(cut_up, labels, tmp_path):
    write_tiff(tmp_path / "turned.tif", labels.T.astype(np.uint16), tile=(64, 64))
    with pytest.raises(InputError, match=r"401×900 px and field slide is 900×401 px. It looks turned"):
        drain(segment(cut_up, segmenter="imported", config={"pattern": str(tmp_path / "turned.tif")}))
    picture = np.stack([labels % 251, labels % 13, labels % 7], axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "picture.tif", picture, photometric="rgb")
    with pytest.raises(InputError, match="colour"):
        drain(segment(cut_up, segmenter="imported", config={"pattern": str(tmp_path / "picture.tif")}))
    assert not cut_up.has_labels("slide")
    assert [p.name for p in (cut_up.root / "labels").iterdir() if p.suffix != ".lock"] == []


def test_centres_of_a_table_are_drawn_in_parts(cut_up, mosaic, tmp_path):
    rng = np.random.default_rng(0)
    table = np.stack([rng.uniform(0, 400, 900), rng.uniform(0, 899, 900)], axis=1).round(1)
    lines = "\n".join(f"{y},{x}" for y, x in table)
    (tmp_path / "centres.csv").write_text(f"y,x\n{lines}\n")
    config = {"csv": str(tmp_path / "centres.csv"), "radius_px": 7}
    module, settings = prepare("centres", config)
    whole = module.segment(mosaic, CHANNELS, settings)
    result = drain(segment(cut_up, segmenter="centres", config=config))
    np.testing.assert_array_equal(cut_up.read_labels("slide"), whole)
    assert result.n_cells == len(np.unique(whole)) - 1
    assert drain(crop(cut_up)) == result.n_cells


class Uneven:
    """A segmenter that draws a cell a little differently in every part, as networks do: a pixel larger, smaller, or as it is."""

    __name__ = "x.uneven"

    def __init__(self, whole):
        self.whole = whole

    def segment(self, image, channels, config, device="cpu", field_id="", scales=None):
        (y, x), (h, w) = scales.origin, image.shape[1:]
        found = self.whole[y : y + h, x : x + w]
        scales.looks(60)
        if (by := (y // 130 + x // 130) % 3 - 1) > 0:
            return np.where(found == 0, ndimage.maximum_filter(found, 3), found)
        return np.where(ndimage.minimum_filter(found, 3) == found, found, 0) if by else found


def test_cells_that_every_part_draws_differently_are_neither_lost_nor_there_twice(slide, labels, monkeypatch):
    monkeypatch.setattr(slides, "sample", lambda *_, **__: np.zeros((2, *labels.shape)))
    numbers, areas = np.unique(labels, return_counts=True)
    whole = np.where(np.isin(labels, numbers[(areas > 60) & (numbers % 200 == 0)]), labels // 200, 0)
    job = segment_in_parts(slide, slide.field("slide"), Uneven(whole), None, "cpu", {}, side_px=130)
    assert drain(job).n_cells == len(np.unique(whole)) - 1 > 200
    found = slide.read_labels("slide")
    for i in np.unique(whole[whole > 0]):
        numbers, counts = np.unique(found[whole == i], return_counts=True)
        assert (counts[numbers > 0] > 0.4 * (whole == i).sum()).sum() == 1


def calls_of(monkeypatch, stop_after=10**9):
    """The parts that *Centres* is asked for from now on; it breaks off after some."""
    module, seen = registry.load("segmenters", "centres"), []
    inner = module.segment

    def segment(image, channels, config, device="cpu", field_id="", source=None, scales=None):
        if scales.known:
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(scales.origin)
        return inner(image, channels, config, scales=scales)

    monkeypatch.setattr(module, "segment", segment)
    return seen


def unfinished(project):
    return list((project.root / "labels").glob(".*.unfinished"))


@pytest.mark.slow
def test_stopped_in_the_middle_of_a_slide_the_same_again_goes_on_from_there(cut_up, monkeypatch, tmp_path):
    other = create_project(tmp_path / "other", cut_up.fields, CHANNELS)
    drain(segment(other, segmenter="centres"))
    with monkeypatch.context() as patch:
        seen = calls_of(patch, stop_after=4)
        with pytest.raises(KeyboardInterrupt):
            drain(segment(cut_up, segmenter="centres"))
        assert len(seen) == 4
        assert not cut_up.has_labels("slide")
        assert cut_up.labelled() == set()
        assert len(unfinished(cut_up)) == 1
    job = segment(cut_up, segmenter="centres")  # and once more, by closing the job as the window does
    told = next(p.message for p in job if p.done == 5)
    assert told == "Segmented part 5 of 6 of slide"
    job.close()
    seen = calls_of(monkeypatch)
    messages = [p.message for p in segment(cut_up, segmenter="centres")]
    assert "Going on with slide after 5 of 6 parts" in messages
    assert len(seen) == 1
    np.testing.assert_array_equal(cut_up.read_labels("slide"), other.read_labels("slide"))
    assert cut_up.label_info("slide") == other.label_info("slide")
    assert unfinished(cut_up) == []


def test_parts_that_were_made_another_way_do_not_count(cut_up, monkeypatch):
    with monkeypatch.context() as patch:
        calls_of(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            drain(segment(cut_up, segmenter="centres"))
    with monkeypatch.context() as patch:
        seen = calls_of(patch)
        drain(segment(cut_up, segmenter="centres", config={"radius_px": 3}))
        assert len(seen) == 6
    assert unfinished(cut_up) == []


def test_what_a_killed_process_wrote_of_a_part_is_taken_out(cut_up, monkeypatch):
    with monkeypatch.context() as patch:
        calls_of(patch, stop_after=3)
        with pytest.raises(KeyboardInterrupt):
            drain(segment(cut_up, segmenter="centres"))
    array = zarr.open_group(unfinished(cut_up)[0], mode="r+")["0"]
    array[310:400, 10:300] = 9_999
    n = drain(segment(cut_up, segmenter="centres")).n_cells
    assert cut_up.read_labels("slide").max() == n < 9_999


def test_two_processes_do_not_write_one_slide(cut_up):
    job = segment(cut_up, segmenter="centres")
    while not unfinished(cut_up):
        next(job)
    with pytest.raises(InputError, match="Another process is writing the labels of field slide"):
        drain(segment(Project(cut_up.root, cut_up._info), segmenter="centres"))
    job.close()


@pytest.mark.slow
def test_killed_in_the_middle_of_a_slide_it_goes_on(cut_up, monkeypatch, tmp_path):
    other = create_project(tmp_path / "other", cut_up.fields, CHANNELS)
    drain(segment(other, segmenter="centres"))
    script = (
        "import sys, time\n"
        "from napari_cellrep.data import open_project, slides\n"
        "from napari_cellrep.steps.segment import segment\n"
        "slides.BIG_PX, slides.TILE_PX, slides.CHUNK_PX, slides.SMALLEST_PX = 1, 300, 128, 256\n"
        "for p in segment(open_project(sys.argv[1]), segmenter='centres'):\n"
        "    time.sleep(0.2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(cut_up.root)])
    state = cut_up.root / "labels" / ".slide.ome.zarr.unfinished" / ".unfinished.json"
    end = time.monotonic() + 240
    while not (state.is_file() and json.loads(state.read_text())["n_done"] >= 2):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not cut_up.has_labels("slide")
    told = [p.message for p in segment(cut_up, segmenter="centres")]
    assert any(m.startswith("Going on with slide after") for m in told)
    np.testing.assert_array_equal(cut_up.read_labels("slide"), other.read_labels("slide"))
    assert unfinished(cut_up) == []


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
