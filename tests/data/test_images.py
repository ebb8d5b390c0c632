from __future__ import annotations

import gzip
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_cellrep.data import images
from napari_cellrep.data.images import GREY, Plane, flatten_z, inspect_image, is_grey, read_planes, to_grey
from napari_cellrep.specs import InputError


def pixels(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def read(path: Path, *channels: int, stack: str = "channel", z: str = "") -> np.ndarray:
    return read_planes([Plane(path.name, c, z) for c in channels or (0,)], path.parent, stack=stack)


def agrees(path: Path, image: np.ndarray) -> None:
    """What is told without reading is what reading gives."""
    info = inspect_image(path)
    assert (info.height_px, info.width_px, info.dtype) == (*image.shape[-2:], str(image.dtype))


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", ">u2", "int16", "uint32", "float32", "float64", "float16"]
)
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_dtypes_and_byte_orders(tmp_path, dtype, compression):
    image = pixels(2, 12, 10, dtype=dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="minisblack",
        compression=compression,
        byteorder=">" if ">" in dtype else "<",
    )
    out = read(tmp_path / "a.tif", 0, 1)
    assert np.array_equal(out, image)
    assert out.dtype.isnative
    assert out.dtype != np.float16
    agrees(tmp_path / "a.tif", out)


def test_complex_values_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.complex64))
    with pytest.raises(InputError, match="complex64 values"):
        inspect_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match="complex64 values"):
        read(tmp_path / "a.tif")


def test_axes_that_imagej_names(tmp_path):
    image = pixels(4, 2, 12, 10, dtype="uint16")  # ImageJ's order is TZCYX
    tifffile.imwrite(
        tmp_path / "ij.tif",
        image,
        imagej=True,
        resolution=(1 / 0.5, 1 / 0.5),
        metadata={"axes": "ZCYX", "unit": "um"},
    )
    info = inspect_image(tmp_path / "ij.tif")
    assert (info.n_channels, info.n_z, info.um_per_px) == (2, 4, pytest.approx(0.5))
    assert np.array_equal(read(tmp_path / "ij.tif", 1, z="max")[0], image[:, 1].max(axis=0))
    time = pixels(3, 12, 10, dtype="uint16")
    tifffile.imwrite(tmp_path / "t.tif", time, imagej=True, metadata={"axes": "TYX"})
    assert inspect_image(tmp_path / "t.tif").n_t == 3
    for t in range(3):
        assert np.array_equal(read_planes([Plane(str(tmp_path / "t.tif"), t=t)], tmp_path)[0], time[t])
    with pytest.raises(InputError, match="time points 0 to 2; number 3"):
        read_planes([Plane(str(tmp_path / "t.tif"), t=3)], tmp_path)


def test_unnamed_axes(tmp_path):
    image = pixels(2, 3, 12, 10)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", metadata=None)
    info = inspect_image(tmp_path / "a.tif")
    assert info.n_channels * info.n_z == 6
    tifffile.imwrite(tmp_path / "b.tif", image, photometric="minisblack")  # shape kept, axes not
    assert (inspect_image(tmp_path / "b.tif").n_channels, inspect_image(tmp_path / "b.tif").n_z) == (2, 3)
    assert (
        inspect_image(tmp_path / "b.tif", stack="z").n_z,
        read(tmp_path / "b.tif", 2, stack="z", z="0").shape,
    ) == (2, (1, 12, 10))
    tifffile.imwrite(tmp_path / "c.tif", pixels(2, 2, 2, 12, 10), photometric="minisblack")
    with pytest.raises(InputError, match="along axis"):
        inspect_image(tmp_path / "c.tif")


def test_colour_and_its_alpha(tmp_path):
    rgb = pixels(12, 10, 3)
    rgba = np.dstack([rgb, pixels(12, 10, seed=1)])
    for path, image in (("a.tif", rgb), ("b.tif", rgba), ("c.png", rgb), ("d.png", rgba)):
        if path.endswith("tif"):
            tifffile.imwrite(tmp_path / path, image, photometric="rgb", planarconfig="contig")
        else:
            iio.imwrite(tmp_path / path, image)
        info = inspect_image(tmp_path / path)
        assert (info.colour, info.n_channels) == (True, image.shape[-1])
        assert np.array_equal(read(tmp_path / path, 0, 1, 2), rgb.transpose(2, 0, 1))
        assert np.array_equal(read(tmp_path / path, GREY)[0], rgb.mean(axis=2).round().astype(np.uint8))
        assert not is_grey(tmp_path / path)
    tifffile.imwrite(
        tmp_path / "planar.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    )
    assert np.array_equal(read(tmp_path / "planar.tif", 0, 1, 2), rgb.transpose(2, 0, 1))


def test_interleaved_channels_of_a_microscope_are_no_colour(tmp_path):
    image = pixels(12, 10, 3, dtype="uint16")
    tifffile.imwrite(
        tmp_path / "a.tif", image, photometric="minisblack", planarconfig="contig", extrasamples=[0, 0]
    )
    info = inspect_image(tmp_path / "a.tif")
    assert (info.n_channels, info.colour) == (3, False)
    assert np.array_equal(read(tmp_path / "a.tif", 2)[0], image[..., 2])


def test_png_kinds(tmp_path):
    grey = pixels(12, 10)
    Image.fromarray(grey > 100).save(tmp_path / "bit.png")
    assert np.array_equal(read(tmp_path / "bit.png")[0] > 0, grey > 100)
    palette = Image.fromarray(np.dstack([grey, grey // 2, grey])).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert inspect_image(tmp_path / "palette.png").colour
    assert np.array_equal(
        read(tmp_path / "palette.png", 0, 1, 2), np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    )
    Image.fromarray(np.dstack([grey, grey]), mode=None).save(tmp_path / "alpha.png")  # grey with alpha
    assert np.array_equal(read(tmp_path / "alpha.png")[0], grey)
    deep = (grey.astype(np.uint16) << 8) + 7
    iio.imwrite(tmp_path / "deep.png", deep)
    assert np.array_equal(read(tmp_path / "deep.png")[0], deep)


def test_sixteen_bit_colour_png_keeps_its_bits(tmp_path):
    import imagecodecs

    image = pixels(12, 10, 3, dtype="uint16") * 300
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    assert np.array_equal(read(tmp_path / "a.png", 0, 1, 2), image.transpose(2, 0, 1))


def test_bilevel_and_palette_tiff(tmp_path):
    image = pixels(16, 16) > 100
    tifffile.imwrite(tmp_path / "bit.tif", image, photometric="minisblack")
    out = read(tmp_path / "bit.tif")
    assert np.array_equal(out[0], image)
    assert out.dtype == np.uint8
    lut = pixels(16, 16)
    tifffile.imwrite(tmp_path / "lut.tif", lut, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert not inspect_image(tmp_path / "lut.tif").colour  # a display table is no colour image
    assert np.array_equal(read(tmp_path / "lut.tif")[0], lut)


def test_jpeg(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 3
    iio.imwrite(tmp_path / "a.jpg", smooth, quality=98)
    assert np.abs(read(tmp_path / "a.jpg")[0].astype(int) - smooth).max() < 6
    tifffile.imwrite(tmp_path / "b.tif", smooth, compression="jpeg")
    assert np.abs(read(tmp_path / "b.tif")[0].astype(int) - smooth).max() < 12


def test_previews_are_left_and_several_images_refused(tmp_path):
    image = pixels(64, 48, dtype="uint16")
    with tifffile.TiffWriter(tmp_path / "preview.tif") as tif:
        tif.write(pixels(8, 6), photometric="minisblack")
        tif.write(image, photometric="minisblack")
    assert np.array_equal(read(tmp_path / "preview.tif")[0], image)
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as tif:
        for seed in (0, 1):
            tif.write(pixels(2, 16, 16, seed=seed), photometric="minisblack", metadata={"axes": "CYX"})
    for look in (inspect_image, read):
        with pytest.raises(InputError, match="2 separate images"):
            look(tmp_path / "two.ome.tif")


def test_pyramid_is_read_at_full_size(tmp_path):
    image = pixels(2, 64, 64)
    with tifffile.TiffWriter(tmp_path / "p.ome.tif", ome=True) as tif:
        tif.write(image, subifds=1, photometric="minisblack", metadata={"axes": "CYX"})
        tif.write(image[:, ::2, ::2], subfiletype=1, photometric="minisblack")
    assert np.array_equal(read(tmp_path / "p.ome.tif", 0, 1), image)


@pytest.mark.parametrize("cut", [100, 1000, 2400])
@pytest.mark.parametrize("kind", ["plain", "ome", "zlib"])
def test_cut_short(tmp_path, cut, kind):
    path, image = tmp_path / "a.ome.tif", pixels(3, 40, 40)
    options = {"ome": True, "metadata": {"axes": "CYX"}} if kind == "ome" else {}
    tifffile.imwrite(
        path, image, photometric="minisblack", compression="zlib" if kind == "zlib" else None, **options
    )
    path.write_bytes(path.read_bytes()[:-cut])
    if cut == 100 and np.array_equal(tifffile.imread(path), image):
        assert np.array_equal(read(path, 0, 1, 2), image)  # the last bytes of a file need not be pixels
    else:
        with pytest.raises(InputError, match=r"a\.ome\.tif"):
            read(path, 0, 1, 2)


def test_no_image_at_all(tmp_path):
    (tmp_path / "zero.tif").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "movie.avi").write_text("hello")
    (tmp_path / "folder.tif").mkdir()
    for name, words in (
        ("zero.tif", "0 bytes"), ("text.png", "cannot be read"), ("text.tif", "cannot be read as TIFF"),
        ("movie.avi", "not an image we read"), ("folder.tif", "not an image we read"), ("none.tif", "is not there"),
    ):  # fmt: skip
        for look in (inspect_image, read):
            with pytest.raises(InputError, match=words):
                look(tmp_path / name)


def rewrite_ome(path: Path, old: str, new: str) -> None:
    assert len(old) == len(new)
    raw = path.read_bytes()
    assert old.encode() in raw
    path.write_bytes(raw.replace(old.encode(), new.encode()))


def test_ome_xml_that_lies(tmp_path):
    path = tmp_path / "a.ome.tif"

    def write(**metadata) -> None:
        tifffile.imwrite(
            path, pixels(2, 16, 16), ome=True, photometric="minisblack", metadata={"axes": "CYX", **metadata}
        )

    write()
    rewrite_ome(path, 'SizeC="2"', 'SizeC="3"')
    with pytest.raises(InputError, match=r"planes|cannot be read"):
        read(path, 0, 1)
    write(Channel={"Name": ["DAPI", "GFP"]})
    rewrite_ome(path, 'Name="GFP"', 'Nome="GFP"')
    assert inspect_image(path).channel_names == ()
    write(PhysicalSizeX=0.25, PhysicalSizeY=0.25)
    assert inspect_image(path).um_per_px == 0.25
    rewrite_ome(path, 'PhysicalSizeX="0.25"', 'PhysicalSizeX="nano"')
    assert inspect_image(path).um_per_px == 0
    write(PhysicalSizeX=250, PhysicalSizeXUnit="nm", PhysicalSizeY=250, PhysicalSizeYUnit="nm")
    assert inspect_image(path).um_per_px == pytest.approx(0.25)


def test_ome_set_whose_second_file_is_gone(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels(2, 16, 16), ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(path) as tif:
        xml = tif.ome_metadata
    uuid = 'UUID FileName="{}">urn:uuid:{}</UUID'
    import re

    parts = [
        uuid.format(n, u)
        for n, u in (
            ("x1.ome.tif", "11111111-1111-1111-1111-111111111111"),
            ("x2.ome.tif", "22222222-2222-2222-2222-222222222222"),
        )
    ]
    blocks = "".join(
        f'<TiffData FirstC="{c}" FirstT="0" FirstZ="0" IFD="0" PlaneCount="1"><{part}></TiffData>'
        for c, part in enumerate(parts)
    )
    xml = re.sub(r"<TiffData.*?(/>|</TiffData>)", blocks, xml, count=1)
    images = pixels(2, 16, 16)
    for c, u in ((0, "11111111-1111-1111-1111-111111111111"), (1, "22222222-2222-2222-2222-222222222222")):
        own = re.sub(r"<OME ", f'<OME UUID="urn:uuid:{u}" ', re.sub(r' UUID="[^"]*"', "", xml, count=1))
        tifffile.imwrite(
            tmp_path / f"x{c + 1}.ome.tif",
            images[c],
            photometric="minisblack",
            description=own.encode(),
            metadata=None,
        )
    info = inspect_image(tmp_path / "x1.ome.tif")
    assert info.files == ("x1.ome.tif", "x2.ome.tif")
    assert np.array_equal(read(tmp_path / "x1.ome.tif", 0, 1), images)
    (tmp_path / "x2.ome.tif").unlink()
    with pytest.raises(InputError, match="may be missing"):
        read(tmp_path / "x1.ome.tif", 0, 1)


def test_channels_of_different_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", pixels(8, 8))
    tifffile.imwrite(tmp_path / "b.tif", pixels(8, 9))
    with pytest.raises(InputError, match=r"a\.tif 8×8, b\.tif 9×8"):
        read_planes([Plane("a.tif"), Plane("b.tif")], tmp_path)
    with pytest.raises(InputError, match="has 1 channels; number 3"):
        read(tmp_path / "a.tif", 3)


def test_flattening_stacks():
    stack = pixels(3, 32, 32)
    from scipy.ndimage import gaussian_filter

    stack[0] = gaussian_filter(stack[0], 3)
    stack[2] = gaussian_filter(stack[2], 2)
    assert np.array_equal(flatten_z(stack, "sharpest"), stack[1])
    assert np.array_equal(flatten_z(stack, "2"), stack[2])
    assert flatten_z(stack, "mean").dtype == np.uint8
    assert np.array_equal(flatten_z(stack[:1], ""), stack[0])
    for word in ("", "3", "-1", "median"):
        with pytest.raises(InputError, match="max, mean, sharpest"):
            flatten_z(stack, word)


def test_grey_of_wide_integers_does_not_wrap():
    rgb = np.full((3, 4, 4), 65_000, np.uint16)
    assert (to_grey(rgb) == 65_000).all()


@pytest.mark.parametrize("how", [{"tile": (16, 16), "compression": "zlib"}, {}], ids=["tiles", "plain"])
def test_a_large_packed_tiff_is_unpacked_to_the_disk_once_and_read_in_parts(tmp_path, monkeypatch, how):
    monkeypatch.setattr(images, "UNPACKED_IN_MEMORY", 1000)
    image = np.random.default_rng(0).integers(0, 999, (2, 70, 90)).astype(np.uint16)
    opened = []

    class Gzip:
        @staticmethod
        def open(path):
            opened.append(path.name)
            return gzip.open(path)

    monkeypatch.setattr(images, "gzip", Gzip)

    def write(name, pixels):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **how)
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "a.tif").read_bytes()))
        return tmp_path / name

    path = write("a.tif.gz", image)
    assert inspect_image(path).files == ("a.tif.gz",)
    box = (10, 20, 60, 85)
    for _ in range(3):
        part = read_planes([Plane(str(path), 0), Plane(str(path), 1)], tmp_path, box=box)
        np.testing.assert_array_equal(part, image[:, 10:60, 20:85])
    np.testing.assert_array_equal(read_planes([Plane(str(path), 1)], tmp_path)[0], image[1])
    assert opened == ["a.tif.gz"]
    write("a.tif.gz", image + 1)  # replaced: it is unpacked again
    np.testing.assert_array_equal(
        read_planes([Plane(str(path), 1)], tmp_path, box=box)[0], image[1, 10:60, 20:85] + 1
    )
    for name in ("b", "c", "d"):
        inspect_image(write(f"{name}.tif.gz", image))
    assert len(images._ON_DISK) == images.MOST_UNPACKED
    assert len(opened) == 5

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(InputError, match=r"e.tif.gz does not fit on the disk unpacked .* is full"):
        inspect_image(write("e.tif.gz", image))
    images._ON_DISK.clear()


def test_a_jpeg_too_large_for_its_decoder_says_what_to_do(tmp_path, monkeypatch):
    iio.imwrite(tmp_path / "a.jpg", np.zeros((40, 40), np.uint8))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="more pixels than a JPEG is decoded with; convert it to OME-TIFF"):
        inspect_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("ome", [False, True])
def test_a_file_that_lacks_its_last_pages_is_cut_short_and_not_one_of_fewer(tmp_path, bigtiff, ome):
    image = np.random.default_rng(0).integers(0, 99, (3, 40, 50)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, image, ome=ome, bigtiff=bigtiff, photometric="minisblack", contiguous=False, rowsperstrip=40
    )
    with tifffile.TiffFile(path) as tif:
        ends = [page.offset for page in tif.pages]
    whole = path.read_bytes()
    assert inspect_image(path).n_channels == 3
    for end in (*ends[1:], *(end + 5 for end in ends[1:])):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"cut short|corrupted"):
            inspect_image(path)
