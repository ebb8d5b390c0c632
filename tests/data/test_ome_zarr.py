"""OME-Zarr 0.4 and 0.5, single images and plates: read like any other image; checked as such by ome-zarr-models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models import open_ome_zarr
from tifffile import imread

from napari_cellrep.data import ome_zarr, open_project
from napari_cellrep.data.images import Plane, inspect_image, read_planes
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.segment import segment

SAMPLE = Path(__file__).parents[2] / "src" / "napari_cellrep" / "sample" / "wells"
VERSIONS = ("0.4", "0.5")


def write_group(path: Path, version: str, **said: Any) -> zarr.Group:
    """A group with its metadata where the version keeps it."""
    if version == "0.5":
        return zarr.open_group(path, mode="a", zarr_format=3, attributes={"ome": {"version": "0.5", **said}})
    return zarr.open_group(path, mode="a", zarr_format=2, attributes=said)


def write_image(
    path: Path, image: np.ndarray, version: str, *, um: float = 0.65, names: tuple[str, ...] = ()
) -> None:
    """An image (C, H, W) with a half-size level, in the chunks that microscopes' software makes."""
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx"),
    ]
    levels = [
        {
            "path": str(i),
            "coordinateTransformations": [{"type": "scale", "scale": [1.0, um * 2**i, um * 2**i]}],
        }
        for i in range(2)
    ]
    more = {"version": "0.4"} if version == "0.4" else {}
    said: dict[str, Any] = {"multiscales": [{**more, "name": "", "axes": axes, "datasets": levels}]}
    if names:
        window = {"min": 0, "max": 255, "start": 0, "end": 255}
        said["omero"] = {"channels": [{"label": n, "color": "FFFFFF", "window": window} for n in names]}
    group = write_group(path, version, **said)
    for i, level in enumerate((image, image[:, ::2, ::2])):
        kwargs = {"dimension_names": list("cyx")} if version == "0.5" else {}
        group.create_array(
            str(i), data=level, chunks=(1, 128, 128), chunk_key_encoding={"name": "v2", "separator": "/"}
            if version == "0.4" else None, **kwargs,
        )  # fmt: skip


def write_plate(path: Path, wells: dict[str, list[np.ndarray]], version: str) -> None:
    """A plate of wells "A/1", each with its fields."""
    rows = sorted({w.split("/")[0] for w in wells})
    columns = sorted({w.split("/")[1] for w in wells}, key=int)
    plate = {
        "name": "drugs", "version": version, "rows": [{"name": r} for r in rows], "columns": [{"name": c} for c in columns],
        "wells": [
            {"path": w, "rowIndex": rows.index(w[0]), "columnIndex": columns.index(w.split("/")[1])} for w in wells
        ],
    }  # fmt: skip
    write_group(path, version, plate=plate)
    for well, images in wells.items():
        write_group(path / well.split("/")[0], version)
        fields = [{"path": str(i)} for i in range(len(images))]
        write_group(path / well, version, well={"version": version, "images": fields})
        for i, image in enumerate(images):
            write_image(path / well / str(i), image, version, names=("FKHR-GFP", "DNA"))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_is_what_it_is_as_tiff(tmp_path: Path, version: str) -> None:
    image = imread(SAMPLE / "A01.ome.tif")
    write_image(tmp_path / "A01.ome.zarr", image, version, names=("FKHR-GFP", "DNA"))
    assert open_ome_zarr(zarr.open_group(tmp_path / "A01.ome.zarr", mode="r")) is not None
    info = inspect_image(tmp_path / "A01.ome.zarr")
    assert (info.n_channels, info.height_px, info.width_px) == image.shape
    assert info.um_per_px == pytest.approx(0.65)
    assert info.channel_names == ("FKHR-GFP", "DNA")
    got = read_planes([Plane("A01.ome.zarr", 1), Plane("A01.ome.zarr", 0)], tmp_path)
    np.testing.assert_array_equal(got, image[::-1])
    assert got.dtype == image.dtype


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_plate_becomes_a_project_and_is_segmented_as_from_tiff(tmp_path: Path, version: str) -> None:
    wells = {"A/1": "A01", "A/12": "A12", "E/12": "E12"}
    pixels = {zarred: imread(SAMPLE / f"{name}.ome.tif") for zarred, name in wells.items()}
    plate = tmp_path / "images" / "week one.zarr"
    write_plate(plate, {w: [image, image[:, ::-1]] for w, image in pixels.items()}, version)
    assert open_ome_zarr(zarr.open_group(plate, mode="r")) is not None
    tifffile.imwrite(tmp_path / "images" / "beside.tif", pixels["A/1"])  # a plain file in the same folder

    project = drain(import_fields(tmp_path / "mine", [tmp_path / "images"]))
    assert sorted(f.id for f in project.fields) == sorted(
        ["beside", *(f"week_one_{name}_{site}" for name in wells.values() for site in (0, 1))]
    )
    field = project.field("week_one_E12_1")
    assert {k: field.metadata[k] for k in ("plate", "well", "site")} == {
        "plate": "week one",
        "well": "E12",
        "site": "1",
    }
    assert field.um_per_px == pytest.approx(0.65)
    np.testing.assert_array_equal(project.read_image(field.id), pixels["E/12"][:, ::-1])

    other = drain(
        import_fields(
            tmp_path / "plain", [SAMPLE / "E12.ome.tif"], channels=("FKHR-GFP:protein", "DNA:nucleus")
        )
    )
    project = drain(import_fields(tmp_path / "plate", [plate], channels=("FKHR-GFP:protein", "DNA:nucleus")))
    drain(segment(project, segmenter="nuclei", fields=["week_one_E12_0"]))
    drain(segment(other, segmenter="nuclei"))
    np.testing.assert_array_equal(project.read_labels("week_one_E12_0"), other.read_labels("E12"))


def test_an_image_written_again_makes_what_came_of_it_old(tmp_path: Path) -> None:
    image = imread(SAMPLE / "A01.ome.tif")
    write_image(tmp_path / "A01.zarr", image, "0.5")
    project = drain(import_fields(tmp_path / "mine", [tmp_path / "A01.zarr"]))
    before = project.image_stamp("A01")
    assert before
    assert before == open_project(project.root).image_stamp("A01")
    shutil.rmtree(tmp_path / "A01.zarr")
    assert project.image_stamp("A01") == ""
    with pytest.raises(InputError, match="is not there"):
        project.read_image("A01")
    write_image(tmp_path / "A01.zarr", image, "0.5")
    assert project.image_stamp("A01") != before


def test_series_without_a_plate(tmp_path: Path) -> None:
    """What bioformats2raw makes of a file of several images."""
    image = imread(SAMPLE / "A01.ome.tif")
    write_group(tmp_path / "slide.zarr", "0.4", **{"bioformats2raw.layout": 3})
    for i in range(2):
        write_image(tmp_path / "slide.zarr" / str(i), image[:, i:], "0.4")
    project = drain(import_fields(tmp_path / "mine", [tmp_path / "slide.zarr"]))
    assert [f.height_px for f in project.fields] == [image.shape[1], image.shape[1] - 1]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    image = imread(SAMPLE / "A01.ome.tif")
    write_image(tmp_path / "good.zarr", image, "0.5")

    for zarr_format in (2, 3):
        array = tmp_path / f"array{zarr_format}.zarr"
        zarr.create_array(array, data=image, zarr_format=zarr_format)
        with pytest.raises(InputError, match="There are no images"):
            drain(import_fields(tmp_path / "a", [array]))
        with pytest.raises(InputError, match="without an OME-Zarr image"):
            inspect_image(array)

    shutil.copytree(tmp_path / "good.zarr", tmp_path / "lies.zarr")
    about = json.loads((tmp_path / "lies.zarr" / "zarr.json").read_text())
    about["attributes"]["ome"]["multiscales"][0]["axes"].pop()
    (tmp_path / "lies.zarr" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="names the axes c, y; its array has 3 dimensions"):
        inspect_image(tmp_path / "lies.zarr")

    shutil.copytree(tmp_path / "good.zarr", tmp_path / "cut.zarr")
    chunk = tmp_path / "cut.zarr" / "0" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(InputError, match=r"cut\.zarr cannot be read as OME-Zarr"):
        read_planes([Plane("cut.zarr", 0)], tmp_path)

    (tmp_path / "good.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(InputError, match=r"good\.zarr cannot be read as OME-Zarr"):
        inspect_image(tmp_path / "good.zarr")
    with pytest.raises(InputError, match=r"good\.zarr cannot be read as OME-Zarr"):
        drain(import_fields(tmp_path / "b", [tmp_path / "good.zarr"]))

    group = zarr.open_group(tmp_path / "films.zarr", mode="w", zarr_format=2)
    film = np.arange(3 * 64, dtype=np.uint16).reshape(3, 1, 1, 8, 8)
    group.create_array("0", data=film)
    group.attrs["multiscales"] = [{"version": "0.3", "axes": list("tczyx"), "datasets": [{"path": "0"}]}]
    assert inspect_image(tmp_path / "films.zarr").n_t == 3
    np.testing.assert_array_equal(
        read_planes([Plane(str(tmp_path / "films.zarr"), t=2)], tmp_path)[0], film[2, 0, 0]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_metadata_of_a_plate_is_read_once(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = imread(SAMPLE / "A01.ome.tif")[:, :64, :64]
    write_plate(tmp_path / "p.zarr", {well: [image] * 4 for well in ("A/1", "B/12")}, version)
    asked: list[Path] = []
    read = ome_zarr._metadata
    monkeypatch.setattr(ome_zarr, "_metadata", lambda path: asked.append(path) or read(path))
    places = ome_zarr.find_images(tmp_path / "p.zarr")
    assert len(places) == 8
    assert places[tmp_path / "p.zarr" / "B" / "12" / "3"] == {"plate": "p", "well": "B12", "site": "3"}
    assert len(asked) == 3  # the plate and its two wells, however many fields they have
    # A well or a field that is given alone knows its place, too.
    assert ome_zarr.find_images(tmp_path / "p.zarr" / "A" / "1") == {
        p: place for p, place in places.items() if place["well"] == "A01"
    }
    one = tmp_path / "p.zarr" / "A" / "1" / "2"
    assert ome_zarr.find_images(one) == {one: places[one]}
