"""A real project (three wells of the bundled sample) and a viewer whose settings are nobody's."""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pytestqt.qtbot import QtBot
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed
from sklearn.decomposition import PCA

import napari_cellrep
from napari_cellrep.data import Project, create_project, open_project
from napari_cellrep.data.fields import Field, with_groups
from napari_cellrep.data.images import Plane
from napari_cellrep.gui._runner import Runner
from napari_cellrep.jobs import drain
from napari_cellrep.specs import Channel
from napari_cellrep.steps.crop import crop

PATIENCE_MS = 30_000
WELLS = {"A01": -1, "A12": 1, "E12": -1}  # as the sample's plate table has it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let warnings of other people's packages pass that we can do nothing about; try again what a screen lost."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            # vispy and napari open sockets and event loops that are collected after the window has closed.
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:vispy"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:npe2"))
            # A virtual screen on a busy machine now and then loses a press or a move of the pointer. A second
            # loss in a row is a defect; the summary names each test that needed its second try.
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True, scope="module")
def _swept() -> Iterator[None]:
    """Keep garbage collection to what a file's own tests make.

    napari collects three times after every window, and each time would walk all of torch's and its own modules: a
    fifth of these tests' time.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def qtbot(qtbot: QtBot) -> QtBot:
    """Waits longer than pytest-qt's 5 s where a test names no time of its own: machines differ by ten."""
    qtbot.waitUntil = functools.partial(qtbot.waitUntil, timeout=PATIENCE_MS)
    qtbot.waitSignal = functools.partial(qtbot.waitSignal, timeout=PATIENCE_MS)
    return qtbot


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))


def quick_nuclei(plane: np.ndarray) -> np.ndarray:
    """Otsu and a watershed on distances: enough for cells to click."""
    smooth = ndimage.gaussian_filter(plane.astype(float), 1.5)
    mask = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1)
    peaks = peak_local_max(distance, min_distance=6, labels=mask.astype(int))
    seeds = np.zeros(mask.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-distance, seeds, mask=mask).astype(np.uint16)


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wells = Path(napari_cellrep.__file__).parent / "sample" / "wells"
    fields, images = [], {}
    for well, control in WELLS.items():
        path = wells / f"{well}.ome.tif"
        image = images[well] = tifffile.imread(path)
        fields.append(
            Field(
                well, (Plane(str(path), 0), Plane(str(path), 1)), *image.shape[1:], str(image.dtype),
                metadata={"well": well, "control": control, "compound": "LY294002" if well[0] == "E" else "Wortmannin"},
            )
        )  # fmt: skip
    channels = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"))
    project = create_project(tmp_path_factory.mktemp("p") / "three", with_groups(fields), channels)
    for well, image in images.items():
        project.write_labels(well, quick_nuclei(image[1]), {"segmenter": "test"})
    drain(crop(project))
    cells = project.cells
    # The map: two components of what was measured in every nucleus; the drug brightens GFP there.
    x = []
    for well, image in images.items():
        labels, own = project.read_labels(well), cells.obs.loc[cells.obs["field"] == well]
        ids = own["label"].to_numpy()
        ring = image[0].astype(float) / (ndimage.uniform_filter(image[0].astype(float), 25) + 1)
        x.append(np.stack([*(ndimage.mean(p, labels, ids) for p in (*image, ring)), own["area_px"]], axis=1))
    x = np.concatenate(x).astype(np.float32)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    cells.obsm["X_measured"] = x
    cells.obsm["X_umap_measured"] = PCA(2, random_state=0).fit_transform(x).astype(np.float32)
    cells.obsm["X_bare"] = x[:, :2].copy()  # an embedding nobody has made a map of
    cells.obs["has_measured"] = True
    cells.obs["brightness"] = x[:, 0]
    project.write_cells(cells)
    return project.root


@pytest.fixture
def project(_built: Path, tmp_path: Path) -> Project:
    """A01 and E12 (untreated), A12 (full dose): two channels, labels, cells and a map."""
    return open_project(shutil.copytree(_built, tmp_path / "three.cellrep"))


@pytest.fixture
def viewer(make_napari_viewer_proxy, qtbot):
    """A window that is on the screen, as a plugin gets it."""
    viewer = make_napari_viewer_proxy(show=True)
    yield viewer
    from napari_cellrep.gui._image import canvas_of

    canvas_of(viewer).close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """What the models are is asked once; a person's cache is warm after the first start, too."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_folders(tmp_path, cache, monkeypatch):
    """Nobody's own projects; no window loads torch ahead of a job."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_: str(tmp_path / "data"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(cache))
    monkeypatch.setattr(Runner, "warm", lambda _: None)


@pytest.fixture
def dock(own_folders, viewer, qtbot):
    """The dock as napari opens it."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")
    yield dock
    dock.runner.close()
