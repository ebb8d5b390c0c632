"""What every benchmark here shares: its options, the machine it ran on, and how a row looks (design.md §6)."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def options(doc: str) -> argparse.ArgumentParser:
    """``--quick``, ``--json FILE`` and ``--shared FOLDER``; add your own to the parser returned."""
    parser = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the data, in seconds")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the result goes (default: only shown)"
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("CELLREP_SHARED", Path(__file__).parents[1] / ".." / "shared")),
        metavar="FOLDER",
        help="the folder that holds data/ (default: shared/ beside the checkout)",
    )
    return parser


def environment(*packages: str) -> dict[str, Any]:
    """Where and when: system, processor, cores, Python, and the versions of `packages`."""
    versions = {}
    for name in ("napari-cellrep", "numpy", *packages):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def row(
    name: str,
    value: float,
    unit: str,
    *,
    goal: float | None = None,
    more_is_better: bool = True,
    limit: float | None = None,
    peer: tuple[str, float] | None = None,
    agreement: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One number, and what it is measured against.

    Parameters
    ----------
    name, value, unit
        What was measured.
    goal : float, optional
        What was asked for; ``meets`` follows from it.
    more_is_better : bool, default True
        False for times and sizes.
    limit : float, optional
        The best anything could do here, measured in the same process.
    peer : (name, value), optional
        Another tool, measured in the same process.
    agreement : float, optional
        What makes a speed valid: share of equal results.
    **more
        Further keys of the row.
    """
    meets = None if goal is None else bool(value >= goal if more_is_better else value <= goal)
    return {
        "name": name,
        "value": _short(value),
        "unit": unit,
        "goal": goal,
        "meets": meets,
        "limit": _short(limit),
        "ratio_to_limit": _short(value / limit) if limit else None,
        "peer": None if peer is None else {"name": peer[0], "value": _short(peer[1])},
        "ratio_to_peer": _short(value / peer[1]) if peer and peer[1] else None,
        "agreement": _short(agreement),
        **more,
    }


def epochs_that_fit(net: Any, cells: Any, training: Any, seconds: float, precision: str = "fp32") -> int:
    """How many epochs of a training fit into a time here; schedules are those of the epochs, so it is decided before."""
    from napari_cellrep.models._sampling import make_sampler
    from napari_cellrep.models._trial import time_step

    steps = make_sampler(net, cells, training, training.batch_size).n_batches
    step_s = time_step(net, cells, training, precision=precision, seconds=1)
    return max(1, int(seconds / (steps * step_s)))


def report(rows: list[dict[str, Any]], env: dict[str, Any], path: Path | None) -> None:
    """Show the rows, and write them with the environment to `path`."""
    for r in rows:
        goal = "" if r["goal"] is None else f"  goal {r['goal']}: {'met' if r['meets'] else 'NOT met'}"
        peer = "" if r["peer"] is None else f"  ({r['peer']['name']}: {r['peer']['value']})"
        print(f"{r['name']:<58} {r['value']:>9} {r['unit']}{peer}{goal}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": env, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
