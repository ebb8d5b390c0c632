"""Embedding: cells per second of each network and of the whole step, against the matrix product; memory.

python benchmarks/embed.py [--quick] [--only PART …] [--networks MODEL …] [--no-compile] [--device cuda] --json FILE

Networks alone: the best time per cell of several passes over real crops, on the CPU with one thread and in CPU
seconds (what else the machine does counts little), on a GPU in wall seconds. The limit is the matrix product of the
same precision in the same process: a network's rate in GFLOP/s (multiplications and additions as torch counts them)
over that of a product of two square matrices. Weights are random: they cost what trained ones cost, but say little
about the agreement of precisions where a network is ill-conditioned (transformers), so give trained ones with
``--weights`` to see that.

The engine's own choice (precision, batch) is shown with the part of their ten nearest neighbours that cells have in
common with fp32, 0.98 asked.

Measurements, on one core, beside reading and cutting the same cells.

Windows that change size (224 px to 64 px) are resized on the device, against numpy before it.

The whole step: `embed` on a project of the bundled sample, against the slower of its two parts (decoding and cutting;
the network). Memory: the peak of a process that embeds a plate, against one
of ten times as many cells.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from _harness import environment, options, report, row
from sklearn.neighbors import NearestNeighbors
from torch.utils.flop_counter import FlopCounterMode

from napari_cellrep.data import open_project
from napari_cellrep.data.crops import resize as resize_here
from napari_cellrep.data.crops import weights_to_size
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model
from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.models._engine import Embedder, computing
from napari_cellrep.models._engine import resize as resize_there
from napari_cellrep.specs import match_channels
from napari_cellrep.steps.crop import crop
from napari_cellrep.steps.embed import cut_cells, embed
from napari_cellrep.steps.import_fields import import_fields
from napari_cellrep.steps.sample import open_sample
from napari_cellrep.steps.segment import segment

# Model → settings and cells per pass; two channels, as the sample has.
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "paired_cell_inpainting": ({}, 64),
    "deeploc": ({}, 64),
    "dino": ({"channels": ("protein", "nucleus"), "image_px": 224}, 8),
    "microsnoop": ({"channels": ("protein",)}, 8),
}
CONVOLUTIONS = ("paired_cell_inpainting", "deeploc", "microsnoop")
FORMS = {  # precision, memory format, compiled
    "fp32 eager": ("fp32", torch.contiguous_format, False),
    "fp32 channels_last": ("fp32", torch.channels_last, False),
    "bf16 eager": ("bf16", torch.contiguous_format, False),
    "bf16 channels_last": ("bf16", torch.channels_last, False),
    "fp32 channels_last compiled": ("fp32", torch.channels_last, True),
    "bf16 channels_last compiled": ("bf16", torch.channels_last, True),
}
K = 10  # neighbours compared between precisions
SHARED = 0.98  # asked of any precision that is chosen
PARTS = ("networks", "measurements", "layers", "attention", "resize", "step", "memory")
MEASURED_PER_S = 150  # cells a core measures in a second: asked


class Clock:
    """Best seconds of a call, as the device is measured."""

    def __init__(self, device: torch.device, budget_s: float):
        self.device, self.budget_s = device, budget_s

    def now(self) -> float:
        """Seconds, once the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def best(self, call: Callable[[], Any]) -> float:
        """Shortest of the calls that fit into the budget, after one that does not count."""
        call()  # the first time of anything is slow
        best, spent = float("inf"), 0.0
        while spent < self.budget_s or best == float("inf"):
            start = self.now()
            call()
            took = self.now() - start
            best, spent = min(best, took), spent + took
        return best


def product_limits(clock: Clock) -> dict[str, float]:
    """GFLOP/s of a matrix product, by precision."""
    n = 8192 if clock.device.type == "cuda" else 1536
    out = {}
    for form, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, dtype=dtype, device=clock.device) for _ in range(2))
        out[form] = 2 * n**3 / clock.best(lambda a=a, b=b: a @ b) / 1e9
    return out


def has_amx() -> bool:
    """Whether this processor has units for products of bf16 tiles."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and "amx_bf16" in info.read_text()


def sample_crops(project: Any, net: EmbeddingModel, n: int) -> torch.Tensor:
    """`n` real crops in the form the network wants, as float32 or the image's integers."""
    planes = match_channels(net.roles, project.channels, net.spec.title)
    obs, crops, found = project.cells.obs, [], 0
    for field, rows in obs.groupby(obs["field"].astype(str), sort=False):
        crops.append(cut_cells(project, field, rows, net.crop, planes))
        found += len(rows)
        if found >= n:
            break
    return torch.from_numpy(np.concatenate(crops)[:n].astype(np.float32))


def make(name: str, weights: dict[str, str]) -> EmbeddingModel:
    torch.manual_seed(0)
    net = load_model(Path(weights[name])) if name in weights else create_model(name, **NETWORKS[name][0])
    return net.eval()


def forward(
    net: EmbeddingModel, layers: tuple[str, ...], device: torch.device, form: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A call from preprocessed crops to vectors in one of `FORMS`."""
    precision, layout, compiled = FORMS[form]
    net = net.to(device=device, memory_format=layout)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([v.float() for v in net.embed_layers(x, layers).values()], dim=1)

    call = torch.compile(plain, dynamic=False) if compiled else plain

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), computing(device, precision):
            return call(x.contiguous(memory_format=layout))

    return run


def shared_neighbours(a: np.ndarray, b: np.ndarray) -> float:
    """Mean share of the `K` nearest neighbours that two versions of the same cells have in common."""
    k = min(K, len(a) - 2)
    near = [
        NearestNeighbors(n_neighbors=k + 1).fit(v).kneighbors(v, return_distance=False)[:, 1:] for v in (a, b)
    ]
    return float(np.mean([len(set(i) & set(j)) / k for i, j in zip(*near, strict=True)]))


def network_rows(
    project: Any,
    clock: Clock,
    limits: dict[str, float],
    compiled: bool,
    weights: dict[str, str],
    quick: bool,
    names: list[str],
) -> list[dict[str, Any]]:
    """Every network in every form."""
    rows = []
    for name in names:
        net = make(name, weights)
        batch = NETWORKS[name][1] * (16 if clock.device.type == "cuda" else 1)
        layers = net.layers[:1]
        n_compared = 32 if quick else (512 if name in ("paired_cell_inpainting", "deeploc") else 128)
        with torch.inference_mode():
            crops = net.preprocess(sample_crops(project, net, max(batch, n_compared))).to(clock.device)
        x = crops[:batch]
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            net.to(clock.device).embed_layers(x[:1], layers)
        gflop = counter.get_total_flops() / 1e9
        reference, eager = None, None
        for form, (precision, _, is_compiled) in FORMS.items():
            if is_compiled and not compiled:
                continue
            run = forward(net, layers, clock.device, form)
            start = time.perf_counter()
            try:
                rate = len(x) / clock.best(lambda run=run, x=x: run(x))
            except (
                RuntimeError,
                ImportError,
                OSError,
            ) as error:  # no compiler, or an operation without this form
                print(
                    f"{name}, {form}: left out ({type(error).__name__}: {str(error).splitlines()[0]})",
                    file=sys.stderr,
                )
                continue
            agreement = None
            if not is_compiled:
                vectors = np.concatenate([run(part).cpu().numpy() for part in crops.split(batch)])
                reference = vectors if reference is None else reference
                agreement = shared_neighbours(reference, vectors)
            eager = eager or rate
            goal, note = None, "trained" if name in weights else "random weights"
            if (
                form == "bf16 channels_last"
                and name in CONVOLUTIONS
                and clock.device.type == "cpu"
                and has_amx()
            ):
                goal = 4 * eager
            rows.append(
                row(f"{name}: network, {form}", rate, "cells/s", goal=goal, limit=limits[precision] / gflop,
                    peer=("fp32 eager", eager), agreement=agreement, gflop_per_cell=round(gflop, 2), batch=len(x),
                    first_call_and_trials_s=round(time.perf_counter() - start, 1), note=note)
            )  # fmt: skip
        rows += engine_rows(project, name, weights, clock, eager, n_compared)
    return rows


def engine_rows(
    project: Any, name: str, weights: dict[str, str], clock: Clock, eager: float | None, n_compared: int
) -> list[dict[str, Any]]:
    """What the engine chooses by its own trial, preprocessing and copies included; and how it agrees with fp32."""
    net = make(name, weights)
    many = sample_crops(project, net, n_compared).numpy()
    layer, device = net.layers[0], str(clock.device)
    engine = Embedder(net, [layer], device=device)
    chosen = engine.run(many)[layer]
    exact = Embedder(copy.deepcopy(net), [layer], device, "fp32")  # the engine's network keeps its form
    agreement = shared_neighbours(exact.run(many)[layer], chosen)
    crops = many[: NETWORKS[name][1] * 4]
    seconds = clock.best(lambda: engine.run(crops))
    said = engine.describe()
    note = "trained" if name in weights else "random weights"
    peer = None if eager is None else ("network alone, fp32 eager", eager)
    return [
        row(f"{name}: the engine's own choice", len(crops) / seconds, "cells/s", goal=eager, peer=peer, agreement=agreement,
            precision=engine.precision, memory_format=said["memory_format"], batch=engine.batch_size, note=note),
        row(f"{name}: neighbours that choice shares with fp32", agreement, "part", goal=SHARED, precision=engine.precision,
            n_cells=len(many), on_its_trial=said.get("trial_shared_neighbours"), note=note),
    ]  # fmt: skip


def one_pass_row(project: Any, clock: Clock, limits: dict[str, float], quick: bool) -> dict[str, Any]:
    """All five layers of Paired Cell Inpainting in one pass, against the authors' form.

    That is one network per layer, cell after cell in fp32: each reads the cell's crop (a float32 TIFF), scales it, and
    adds a row of text to the layer's own table (models.md §1.4, §1.7). The Python around each call is torch's; Keras's,
    which costs more, is not counted. The limit is what the forms' multiplications allow: those of the five passes over
    those of the one, times the rates of the matrix product in our precision and in theirs.
    """
    net = make("paired_cell_inpainting", {})
    crops = sample_crops(project, net, 16 if quick else 64).numpy()
    engine = Embedder(net, net.layers, device=str(clock.device))
    ours = len(crops) / clock.best(lambda: engine.run(crops))
    net = make("paired_cell_inpainting", {}).to(clock.device)
    n = 8

    def each_by_itself(folder: Path) -> None:
        with torch.inference_mode():
            for layer in net.layers:
                with (folder / f"{layer}.txt").open("w") as table:
                    for i in range(n):
                        crop_ = tifffile.imread(folder / f"cell{i}.tif")
                        x = net.preprocess(torch.from_numpy(crop_[None]).to(clock.device))
                        vector = net.embed_layers(x, (layer,))[layer][0].cpu().numpy()
                        table.write("\t".join([f"cell{i}", *(str(v) for v in vector), "\n"]))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(n):
            tifffile.imwrite(folder / f"cell{i}.tif", crops[i].astype(np.float32), photometric="minisblack")
        theirs = n / clock.best(lambda: each_by_itself(folder))
    with torch.inference_mode():
        x = net.preprocess(torch.from_numpy(crops[:1]).to(clock.device))
    flops = []
    for layers in (net.layers, *((layer,) for layer in net.layers)):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            net.embed_layers(x, layers)
        flops.append(counter.get_total_flops())
    passes, product = sum(flops[1:]) / flops[0], limits[engine.precision] / limits["fp32"]
    note = (
        f"five passes multiply {passes:.2f} times as much as one, and a matrix product in {engine.precision} is {product:.2f} "
        f"times as fast as in fp32 here: {passes * product:.1f} times is what that allows on this processor"
        + (
            ""
            if clock.device.type != "cpu" or has_amx()
            else "; 15 times needs units for products of bf16 tiles (AMX)"
        )
    )
    return row("paired_cell_inpainting: five layers in one pass", ours, "cells/s", goal=15 * theirs,
               peer=("one network per layer, cell by cell, fp32, crop files, text rows", theirs), precision=engine.precision,
               ratio_allowed=round(passes * product, 2), note=note)  # fmt: skip


def resize_rows(project: Any, clock: Clock, quick: bool) -> list[dict[str, Any]]:
    """Windows of 224 px for a network that wants 64 px: raw pixels to the device and resized there, or in numpy."""
    net = make("paired_cell_inpainting", {})
    spec = net.crop = dataclasses.replace(net.crop, window_px=224)
    planes = match_channels(net.roles, project.channels, net.spec.title)
    obs = project.cells.obs
    rows = obs[obs["field"].astype(str) == str(obs["field"].iloc[0])].iloc[: 32 if quick else 128]
    field = str(rows["field"].iloc[0])

    def windows(resized: bool) -> np.ndarray:
        return cut_cells(project, field, rows, spec, planes, resized)

    raw = windows(False)
    engine = Embedder(net, net.layers[:1], device=str(clock.device), precision="fp32")
    layer, n = net.layers[0], len(raw)

    def device() -> np.ndarray:
        raw = windows(False)
        return engine.run(raw, weights_to_size(raw, spec))[layer]

    def numpy_first() -> np.ndarray:
        return engine.run(windows(True))[layer]

    on_device, before = device(), numpy_first()
    difference = float(np.abs(on_device - before).max() / np.abs(before).max())
    weights = torch.from_numpy(weights_to_size(raw, spec)).to(clock.device)
    parts = np.array_split(raw, max(1, n // 16))
    calls: dict[str, Callable[[], Any]] = {
        "device": lambda: [resize_there(torch.from_numpy(p).to(clock.device), weights, False) for p in parts],
        "numpy": lambda: [resize_here(p, spec.size_px) for p in parts],
        "whole, device": device,
        "whole, numpy": numpy_first,
    }
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(2 if quick else 6):  # in turn, so that what else the machine does meets all
        for key, call in calls.items():
            start = clock.now()
            call()
            seconds[key] = min(seconds[key], clock.now() - start)
    rate = {key: n / s for key, s in seconds.items()}
    shared = {"agreement": shared_neighbours(before, on_device), "largest_relative_difference": difference}
    return [
        row("windows of 224 px to 64 px, resizing alone on the device", rate["device"], "cells/s",
            peer=("numpy", rate["numpy"]),
            **shared),
        row("windows of 224 px to 64 px, cut, resized on the device and embedded", rate["whole, device"],
            "cells/s", peer=("resized in numpy", rate["whole, numpy"]), precision="fp32", **shared),
    ]  # fmt: skip


def attention_rows(project: Any, clock: Clock) -> list[dict[str, Any]]:
    """Vectors and attention together, against the vectors of the whole network and of the shortened last block."""
    net = make("dino", {}).to(clock.device)
    with torch.inference_mode():
        x = net.preprocess(sample_crops(project, net, 8).to(clock.device))
        both = clock.best(lambda: net.embed_and_attend(x))  # type: ignore[operator]
        whole = clock.best(lambda: net.tokens(x)[:, 0])  # type: ignore[operator]
        alone = clock.best(lambda: net.embed_layers(x, ("cls",)))
    return [
        row("dino: vectors and attention, time", both / len(x), "s/cell", goal=whole / len(x), more_is_better=False,
            peer=("vectors of the whole last block", whole / len(x))),
        row("dino: vectors alone, time", alone / len(x), "s/cell", more_is_better=False,
            peer=("with attention", both / len(x))),
    ]  # fmt: skip


def step_row(project: Any, name: str, weights: dict[str, str], device: str, quick: bool) -> dict[str, Any]:
    """The whole step, loading and writing the table included, against the slower of its parts, with all cores.

    Its wall time is held against the time its own network took within the same run: a run of the network by itself
    meets another moment of a shared machine. That the network is no slower within the step than alone, because the next
    field is decoded beside it, is told by the CPU seconds of both.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    slow = NETWORKS[name][1] < 64
    turns = 1 if quick or slow else 3
    net = make(name, weights)
    planes = match_channels(net.roles, project.channels, net.spec.title)
    obs = project.cells.obs
    fields = list(dict.fromkeys(obs["field"].astype(str)))[: (1 if quick else 2) if slow else None]
    obs = obs[obs["field"].astype(str).isin(fields)]
    model = {"model": weights[name]} if name in weights else {"model": name, "config": NETWORKS[name][0]}
    engine = Embedder(net, device=device)
    decode = alone = 0.0
    best: tuple[float, float, float] | None = (
        None  # the step's share of its limit, its rate and its network's
    )
    cpu_alone = cpu_whole = float("inf")
    for turn in range(turns):  # in turn, so that what else the machine does meets all three
        start = time.perf_counter()
        crops = [cut_cells(project, f, obs[obs["field"].astype(str) == f], net.crop, planes) for f in fields]
        decode = max(decode, len(obs) / (time.perf_counter() - start))
        if not turn:
            engine.run(crops[0])  # chooses the precision
        start, cpu = time.perf_counter(), time.process_time()
        for c in crops:
            engine.run(c)
        alone = max(alone, len(obs) / (time.perf_counter() - start))
        cpu_alone = min(cpu_alone, time.process_time() - cpu)
        start, cpu = time.perf_counter(), time.process_time()
        drain(
            embed(
                project,
                **model,
                key=f"{name}{turn}",
                fields=fields,
                device=device,
                precision=engine.precision,
            )
        )
        whole = len(obs) / (time.perf_counter() - start)
        cpu_whole = min(cpu_whole, time.process_time() - cpu)
        within = min(decode, project.last("embed")["engine"]["cells_per_s"])
        best = max(best or (0.0, 0.0, 0.0), (whole / within, whole, within))
    assert best is not None
    _, whole, within = best
    return row(f"embed, {name}: the whole step", whole, "cells/s", goal=0.85 * within, limit=within,
               decode_and_cut_cells_per_s=round(decode, 1), network_alone_cells_per_s=round(alone, 1),
               cpu_of_network_alone_to_step=round(cpu_alone / cpu_whole, 3), n_cells=len(obs),
               precision=engine.precision)  # fmt: skip


def make_plate(root: Path, n_fields: int) -> None:
    """A plate of noise with 25 discs per field, labelled."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:320, :320]
    labels = np.zeros((320, 320), np.int32)
    for i in range(25):
        cy, cx = 32 + 64 * (i // 5), 32 + 64 * (i % 5)
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 15**2] = i + 1
    images = root / "images"
    images.mkdir(parents=True)
    for i in range(n_fields):
        image = rng.poisson(40 + 60 * (labels > 0), (2, 320, 320)).astype(np.uint16)
        tifffile.imwrite(images / f"f{i:04d}.ome.tif", image, metadata={"axes": "CYX"}, compression="zlib")
    project = drain(import_fields(root / "plate.cellrep", [images], channels=("GFP:protein", "DNA:nucleus")))
    for field in project.fields:
        project.write_labels(field.id, labels, {"segmenter": "synthetic"})
    drain(crop(project))


def peak_mib(n_fields: int) -> tuple[int, float]:
    """Cells of a plate of `n_fields`, and the peak memory of a process that embeds it."""
    with tempfile.TemporaryDirectory() as folder:
        make_plate(Path(folder), n_fields)
        code = (
            "import json, resource, sys\n"
            "from napari_cellrep.data import open_project\n"
            "from napari_cellrep.jobs import drain\n"
            "from napari_cellrep.steps.embed import embed\n"
            "project = open_project(sys.argv[1])\n"
            "done = drain(embed(project, model='paired_cell_inpainting', config={'width': 0.125}, device='cpu', "
            "precision='fp32'))\n"
            "print(json.dumps([done.n_cells, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, f"{folder}/plate.cellrep"],
            check=True,
            capture_output=True,
            text=True,
        )
        n_cells, peak = json.loads(run.stdout.splitlines()[-1])
    return n_cells, peak


def measurements_row(project: Any, clock: Clock) -> dict[str, Any]:
    """Shape, intensity and texture of cells, on one core, against cutting them."""
    net = create_model("measurements")
    planes = match_channels(net.roles, project.channels, net.spec.title)
    obs = project.cells.obs
    field = str(obs["field"].iloc[0])
    rows = obs[obs["field"] == field]
    crops = cut_cells(project, field, rows, net.crop, planes)
    x = net.preprocess(torch.from_numpy(crops))
    cut_s = clock.best(lambda: cut_cells(project, field, rows, net.crop, planes))
    return row("measurements", len(x) / clock.best(lambda: net.embed(x)), "cells/s", goal=MEASURED_PER_S,
               peer=("reading and cutting them", len(x) / cut_s))  # fmt: skip


def memory_row(quick: bool) -> dict[str, Any]:
    n = 4 if quick else 40
    few, small = peak_mib(n)
    many, large = peak_mib(10 * n)
    return row("embed: peak memory", large, "MiB", goal=1.1 * small, more_is_better=False,
               peer=(f"a plate of {few:,} cells", small), n_cells=many)  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … for the networks")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="MODEL",
        help=f"of {', '.join(NETWORKS)}",
    )  # fmt: skip
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument(
        "--weights",
        nargs="*",
        default=[],
        metavar="MODEL=FILE",
        help="trained weights instead of random ones",
    )
    args = parser.parse_args()
    weights = dict(w.split("=", 1) for w in args.weights)
    torch.set_num_threads(1)
    clock = Clock(torch.device(args.device), 0.5 if args.quick else 3.0)
    with tempfile.TemporaryDirectory() as folder:
        project = drain(open_sample(Path(folder) / "sample.cellrep"))
        drain(
            segment(
                project, segmenter="nuclei", fields=[f.id for f in project.fields[: 2 if args.quick else 6]]
            )
        )
        drain(crop(project))
        project = open_project(project.root)
        limits = product_limits(clock)
        rows = [row(f"matrix product, {form}", v, "GFLOP/s") for form, v in limits.items()]
        if "networks" in args.only:
            compiled = not (args.quick or args.no_compile)
            rows += network_rows(project, clock, limits, compiled, weights, args.quick, args.networks)
        if "measurements" in args.only:
            rows.append(measurements_row(project, clock))
        if "layers" in args.only:
            rows.append(one_pass_row(project, clock, limits, args.quick))
        if "attention" in args.only:
            rows += attention_rows(project, clock)
        if "resize" in args.only:
            rows += resize_rows(project, clock, args.quick)
        if "step" in args.only:
            rows += [step_row(project, name, weights, args.device, args.quick) for name in args.networks]
    if "memory" in args.only:
        rows.append(memory_row(args.quick))
    report(rows, environment("torch", "scikit-learn"), args.json)


if __name__ == "__main__":
    main()
