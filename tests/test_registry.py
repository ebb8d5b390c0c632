import json
import subprocess
import sys

import pytest

from napari_cellrep import registry


def test_every_file_of_a_room_is_found_and_private_ones_are_not():
    assert {"measurements", "paired_cell_inpainting"} <= set(registry.names("models"))
    assert {"nuclei", "cells", "bodies", "centres", "imported", "cellpose"} <= set(
        registry.names("segmenters")
    )
    assert not [n for n in registry.names("models") if n.startswith("_")]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(KeyError, match="paired_cell_inpainting"):
        registry.load("models", "resnet")
    with pytest.raises(ValueError, match="models, segmenters"):
        registry.names("readers")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_descriptions_are_plain_json_with_a_default_for_every_setting(kind):
    found = registry.describe(kind)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == set(registry.names(kind))
    for name, told in found.items():
        assert told["doc"], name
        for key, rule in told["config"].items():
            assert "default" in rule, (name, key)


def test_the_stamp_is_stable():
    assert registry.stamp("models") == registry.stamp("models")
    assert registry.stamp("models") != registry.stamp("segmenters")


def test_importing_the_package_loads_neither_torch_nor_qt():
    code = (
        "import sys, napari_cellrep, napari_cellrep.cli, napari_cellrep.session\n"
        "heavy = {'torch', 'qtpy', 'PyQt6', 'napari', 'cellpose', 'umap'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_broken_extension_of_another_package_does_not_hide_the_others(tmp_path, monkeypatch, caplog):
    (tmp_path / "their_segmenter.py").write_text("import a_package_that_is_not_there\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[napari_cellrep.segmenters]\ntheirs = their_segmenter\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        assert "theirs" in registry.names("segmenters")
        found = registry.describe("segmenters")
        assert "theirs" not in found
        assert "nuclei" in found
        assert "a_package_that_is_not_there" in caplog.text
        with pytest.raises(ModuleNotFoundError):
            registry.load("segmenters", "theirs")
    finally:
        registry._entry_points.cache_clear()
