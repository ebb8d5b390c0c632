"""How long napari's window waits for us: importing the package, opening the CellRep and Explore panels.

python benchmarks/window.py [--quick] --json FILE     (needs a screen, or a virtual one: xvfb-run -a)

Each figure is of a fresh process, the least of some; agreement is 1 where neither torch nor cellpose was loaded into
the window's process. The peer of opening is napari's own features table, opened in the same process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from _harness import environment, options, report, row

GOAL_S = 1.5
_IMPORT = """
import json, sys, time
begin = time.perf_counter()
import napari_cellrep
took = time.perf_counter() - begin
print(json.dumps({"import": took, "heavy": [m for m in ("torch", "cellpose", "qtpy") if m in sys.modules]}))
"""
_OPEN = """
import json, sys, time
import napari
from qtpy.QtWidgets import QApplication
viewer = napari.Viewer(show=True)
app = QApplication.instance()

def rest(seconds):
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        app.processEvents()

def opened(plugin, name):
    begin = time.perf_counter()
    viewer.window.add_plugin_dock_widget(plugin, name)
    app.processEvents()
    return time.perf_counter() - begin

rest(2)
took = {"table": opened("napari", "Features table widget")}
rest(1)
took["CellRep"] = opened("napari-cellrep", "CellRep")
heavy = [m for m in ("torch", "cellpose") if m in sys.modules]
took["Explore"] = opened("napari-cellrep", "Explore")
rest(1)
heavy += [m for m in ("torch", "cellpose") if m in sys.modules]
print(json.dumps({**took, "heavy": heavy}))
viewer.close()
"""


def fresh(code: str) -> dict:
    """What a fresh process prints."""
    with tempfile.TemporaryDirectory() as folder:
        own = {
            **os.environ,
            "NAPARI_CONFIG": f"{folder}/napari.yaml",
            "XDG_CACHE_HOME": folder,
            "XDG_DATA_HOME": folder,
        }
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=own
        )
    return json.loads(out.stdout.splitlines()[-1])


def main() -> int:
    """Run, print, write."""
    args = options(__doc__).parse_args()
    times = 2 if args.quick else 5
    imports = [fresh(_IMPORT) for _ in range(times)]
    opens = [fresh(_OPEN) for _ in range(times)]

    def light(found: list[dict]) -> float:
        return float(not any(one["heavy"] for one in found))

    table = min(one["table"] for one in opens)
    rows = [
        row("import napari_cellrep", min(one["import"] for one in imports), "s", goal=GOAL_S, more_is_better=False,
            agreement=light(imports)),
        row("open CellRep", min(one["CellRep"] for one in opens), "s", goal=GOAL_S, more_is_better=False,
            agreement=light(opens), peer=("napari's features table", table)),
        row("open Explore after it", min(one["Explore"] for one in opens), "s", goal=GOAL_S, more_is_better=False,
            agreement=light(opens), peer=("napari's features table", table)),
    ]  # fmt: skip
    report(rows, environment("napari", "PyQt6"), args.json)
    return 0 if all(r["agreement"] == 1.0 for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
