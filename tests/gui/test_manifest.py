"""What napari learns of us, and what opening our window costs."""

import importlib
import json
import subprocess
import sys

import pytest
from npe2 import PluginManifest
from npe2.cli import app
from qtpy.QtWidgets import QDialog
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_distribution("napari-cellrep")


@pytest.mark.filterwarnings("default")  # of the validator's own libraries
def test_npe2_validates_it():
    result = CliRunner().invoke(app, ["validate", "napari-cellrep"])
    assert result.exit_code == 0, result.output
    assert "valid" in result.output


def test_top_level_file_is_the_packaged_one():
    from pathlib import Path

    import napari_cellrep

    packaged = Path(napari_cellrep.__file__).with_name("napari.yaml")
    top = Path(__file__).parents[2] / "napari.yaml"
    if not top.exists():
        pytest.skip("not a checkout")
    assert top.read_text(encoding="utf-8") in (
        packaged.read_text(encoding="utf-8"),
        "src/napari_cellrep/napari.yaml",
    )


def test_every_command_exists_and_every_contribution_has_its_command(manifest):
    contributions = manifest.contributions
    commands = {c.id: c.python_name for c in contributions.commands}
    for name in commands.values():
        module, _, function = name.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    used = [c.command for c in (*contributions.widgets, *contributions.sample_data)]
    used += [item.command for items in contributions.menus.values() for item in items]
    assert set(used) <= commands.keys()
    assert {w.display_name for w in contributions.widgets} == {"CellRep", "Explore"}


def test_settings_have_our_defaults():
    from napari.settings import get_plugin_settings

    computing = get_plugin_settings("napari-cellrep").computing
    assert (computing.device, computing.batch_size) == ("auto", 0)


@pytest.mark.slow
def test_opening_both_docks_loads_no_network_library_into_the_window():
    code = """
import json, sys, time
import napari
viewer = napari.Viewer(show=True)
begin = time.perf_counter()
viewer.window.add_plugin_dock_widget("napari-cellrep", "CellRep")
seconds = time.perf_counter() - begin
viewer.window.add_plugin_dock_widget("napari-cellrep", "Explore")
for _ in range(20):
    napari.qt.get_qapp().processEvents()
heavy = [m for m in ("torch", "cellpose", "napari_cellrep.models", "umap") if m in sys.modules]
print(json.dumps({"heavy": heavy, "seconds": seconds}))
viewer.close()
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout.splitlines()[-1])["heavy"] == []


def test_sample_opens_as_two_layers(make_napari_viewer):
    viewer = make_napari_viewer()
    viewer.open_sample("napari-cellrep", "bbbc013")
    assert [layer.name for layer in viewer.layers] == ["DNA", "FKHR-GFP"]
    assert viewer.layers[0].data.shape == (640, 640)
    assert viewer.layers[0].metadata["napari-cellrep"]["sample"]


def test_commands_of_the_menus_open_what_they_say(make_napari_viewer, qtbot, project, monkeypatch):
    """As the command palette runs them: napari hands the viewer over."""
    from napari._app_model import get_app_model

    from napari_cellrep.gui._runner import Runner

    monkeypatch.setattr(Runner, "warm", lambda _: None)
    viewer = make_napari_viewer()

    def run(name):
        get_app_model().commands.execute_command(f"napari-cellrep.{name}")
        return viewer.window.dock_widgets

    for name, card in (("segment", "segment"), ("embed", "model")):
        (dock,) = [w for w in run(name).values() if type(w).__name__ == "CellRepDock"]
        assert dock.cards[card].header.isChecked()
    for name, title in (("gallery", "Gallery"), ("table", "Table"), ("plate", "Plate")):
        (explore,) = [w for w in run(name).values() if type(w).__name__ == "ExploreWidget"]
        assert explore.tabs.tabText(explore.tabs.currentIndex()) == title
    run("tour")
    assert dock.tour.step == 0
    run("export")
    assert "nothing to export yet" in dock.strip.message.text()
    dock.session.open(project)
    run("export")
    assert [w.windowTitle() for w in dock.findChildren(QDialog)] == ["Export"]
    dock.runner.close()
