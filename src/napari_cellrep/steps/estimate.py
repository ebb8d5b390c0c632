"""How long a step would take here, and how much memory: from about a second of the real thing, written nowhere."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_cellrep.data import Project, slides
from napari_cellrep.data.cells import measure_field
from napari_cellrep.data.crops import weights_to_size
from napari_cellrep.specs import InputError
from napari_cellrep.steps import embed as embedding
from napari_cellrep.steps import segment as segmenting
from napari_cellrep.steps import train as training_step
from napari_cellrep.steps.segment_slides import source_of

if TYPE_CHECKING:
    import torch

STEPS = ("segment", "embed", "train")
TRIAL_S = 1.0
TILE_PX = 256  # of a field, for a first look
TABLE_S, TABLE_CELL_S = (
    0.7,
    1e-4,
)  # what writing the table of cells took on a laptop's disk, at first and per cell
WINDOW_PX = 64  # about each cell, when its flags are measured


@dataclass(frozen=True)
class Estimate:
    """What a step would cost.

    Parameters
    ----------
    what : str
        "segment", "embed" or "train".
    n : int
        Fields (segment) or cells that are still to be done; 0 when all is up to date.
    seconds : float
        Good to a factor of two or so: a machine that does other things meanwhile takes longer.
    memory_bytes : int
        Of the device, at the peak, beside what Python and torch take themselves; of a large field it may be said two
        to four times too high, because a part of it was tried; 0: nothing is to be done.
    device : str
    why : str
        Why this device: "no graphics card was found".
    faster : str
        What would be faster, where something is known to be; else "".
    time : str
        The time for people: "about 6 min".
    sentence : str
        All of it.
    """

    what: str
    n: int
    seconds: float
    memory_bytes: int
    device: str
    why: str
    faster: str
    time: str
    sentence: str


def estimate(project: Project, what: str, **arguments: Any) -> Estimate:
    """Try a step on a few real cells or one field, and say what all of it would cost. Nothing is written.

    Parameters
    ----------
    what : {"segment", "embed", "train"}
    **arguments
        Those of the step.

    Raises
    ------
    InputError
        If the step would refuse these arguments, or cannot be tried at once.
    """
    if what not in STEPS:
        raise InputError(f"What can be estimated is {', '.join(STEPS)}; got {what!r}.")
    return {"segment": _segment, "embed": _embed, "train": _train}[what](project, **arguments)


# ---- segment ---------------------------------------------------------------------------------------


def _segment(
    project: Project,
    *,
    segmenter: str = "nuclei",
    config: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    device: str = "auto",
    overwrite: bool = False,
    **_: Any,
) -> Estimate:
    module, settings = segmenting.prepare(segmenter, config)
    not_here = getattr(module, "not_here", None)
    if not_here and (sentence := not_here(settings)):
        raise InputError(sentence)
    chosen = [project.field(f) for f in (fields or [f.id for f in project.fields])]
    todo = [
        f for f in chosen
        if overwrite  # what is in the files of images is asked only where there are labels that may stay
        or not (info := project.label_info(f.id))
        or not segmenting.stands(
            project, f, info, segmenting.how_made(project, f, segmenter, settings), overwrite
        )
    ]  # fmt: skip
    todo = [f for f in todo if not f.problem] or todo
    where, why, faster = _place(device, bool(getattr(module, "ON_DEVICE", False)))
    if not todo:
        return _made("segment", 0, 0, 0, where, why, faster, "Every field is segmented this way already.")
    field = todo[len(todo) // 2]
    start = perf_counter()
    times, brought = 1.0, None
    if project.is_big(field.id):
        shape = (field.height_px, field.width_px)
        if hasattr(module, "in_regions"):
            brought = module.in_regions(settings, shape, field.id, source_of(project, field))
        if brought is None:  # a sample of it, of about the size of a part
            image = slides.sample(partial(project.read_region, field.id), shape)
        else:
            box = slides.tiles(*shape, 0)[-1].core
            image = project.read_region(field.id, box)
        times = shape[0] * shape[1] / image[0].size
    else:
        image = project.read_image(field.id)
    read_s = (perf_counter() - start) * times

    if where == "cpu":
        watched = _resident_peak
    else:
        import torch

        from napari_cellrep.models._engine import memory_peak

        watched = partial(memory_peak, torch.device(where))

    def one(part: np.ndarray) -> tuple[float, int]:
        start = perf_counter()
        with watched() as peak:
            if brought is None:
                labels = segmenting.find_in(project, field, module, settings, device, part).labels
            else:
                labels = brought.read(box)
            measure_field(field, part, labels, project.channels, WINDOW_PX)
        return perf_counter() - start, peak[0]

    seconds, memory = _try_field(one, image) if brought is None else one(image)
    seconds *= times
    if where == "cpu":
        memory += image.nbytes
    return _made("segment", len(todo), (read_s + seconds) * len(todo), memory, where, why, faster)


def _try_field(one: Any, image: np.ndarray) -> tuple[float, int]:
    """Seconds and bytes of a whole field: tried as such if a part of it says that this is quick."""
    part = _middle(image, TILE_PX)
    share = part[0].size / image[0].size
    try:
        # The first time of anything is slow, and imports stay in memory.
        again, memory = one(part)
        if again < 4 * TRIAL_S:
            again, memory = one(part)
    except (
        InputError
    ):  # a segmenter that wants the field as it is (imported labels), or nothing in the middle
        return one(image)  # type: ignore[no-any-return]
    if again / share < 2 * TRIAL_S:
        return one(image)  # type: ignore[no-any-return]
    return again / share, int(memory / share)


@contextlib.contextmanager
def _resident_peak() -> Iterator[list[int]]:
    """Bytes by which this process grows at most meanwhile, looked at every 2 ms; the list holds them afterwards.

    Arrays that fit into memory the process holds but does not use are not seen, so that is given back first where
    the C library can (glibc); elsewhere the number is too small after a long session.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    process, peak, over = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def look() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss - before)
            if over.wait(0.002):
                return

    watcher = threading.Thread(target=look, name="cellrep-memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    h, w = image.shape[1:]
    y, x = max(0, (h - side) // 2), max(0, (w - side) // 2)
    return np.ascontiguousarray(image[:, y : y + side, x : x + side])


# ---- embed -----------------------------------------------------------------------------------------


def _embed(
    project: Project,
    *,
    model: str = "paired_cell_inpainting",
    config: dict[str, Any] | None = None,
    key: str = "",
    layers: Sequence[str] = (),
    channels: Sequence[str] = (),
    crop: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    fields: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 0,
    seed: int = 0,
    **_: Any,
) -> Estimate:
    from napari_cellrep.models._engine import COMPARED, Embedder, memory_peak

    begin = perf_counter()
    ready = embedding.prepare(
        project, model=model, config=config, key=key, layers=layers, channels=channels, crop=crop, settings=settings,
        seed=seed,
    )  # fmt: skip
    todo = embedding.cells_to_do(project, ready, fields)
    n = sum(map(len, todo.values()))
    once_s = (
        perf_counter()
        - begin
        + (TRIAL_S if ready.net.on_device else 0)
        + TABLE_S
        + TABLE_CELL_S * project.cells.n_obs
    )
    where, why, faster = _place(device, ready.net.on_device)
    if not n:
        return _made("embed", 0, 0, 0, where, why, faster, "Every cell is embedded this way already.")
    field = max(todo, key=lambda f: len(todo[f]))
    start = perf_counter()
    crops = embedding.cut_cells(project, field, todo[field], ready.net.crop, ready.planes, resized=False)
    weights = weights_to_size(crops, ready.net.crop)
    cut_s = (perf_counter() - start) / len(crops)

    engine = Embedder(ready.net, ready.taps, device=device, precision="fp32", batch_size=1)
    batch = batch_size or engine._auto_batch(ready.net.crop.size_px)
    engine.run(crops[:1], weights)
    one_s = _timed(engine, crops[:1], weights)
    # As many as make the choice of the precision, about five passes, last a second.
    few = int(np.clip(TRIAL_S / 5 / max(one_s, 1e-4), 1, batch))
    few = 1 << (few.bit_length() - 1)
    trial = np.resize(crops, (few, *crops.shape[1:]))  # the same cells again, where there are not enough
    engine.precision, engine.batch_size = precision, few
    with memory_peak(engine.device) as peak:
        engine.run(trial, weights)
    if precision == "auto" and engine.precision == "bf16":
        once_s += min(n, COMPARED) * engine._trial["fp32"]  # those are embedded in both forms
    net_s = min(_timed(engine, trial, weights) for _ in range(3 if one_s * few < TRIAL_S else 1)) / few
    memory = peak[0] * max(1, batch // few) + sum(
        t.nbytes for t in (*ready.net.parameters(), *ready.net.buffers())
    )
    # The next field is read and cut while the network has this one; on a CPU they share the cores.
    per_cell = net_s + cut_s if engine.device.type == "cpu" else max(net_s, cut_s)
    return _made("embed", n, once_s + per_cell * n, memory, where, why, faster)


def _timed(engine: Any, crops: np.ndarray, weights: np.ndarray | None) -> float:
    """Seconds of one pass; the vectors come back to the CPU, so the device has done with it."""
    start = perf_counter()
    engine.run(crops, weights)
    return perf_counter() - start


# ---- train -----------------------------------------------------------------------------------------


def _train(
    project: Project,
    *,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    seeds: Sequence[int] = (),
    learning_rates: Sequence[float] = (),
    training: dict[str, Any] | None = None,
    **arguments: Any,
) -> Estimate:
    from napari_cellrep.models._checkpoint import steps_done
    from napari_cellrep.models._trial import try_out

    how = {"model": "paired_cell_inpainting", **{k: v for k, v in arguments.items() if k != "finish"}}
    runs = training_step.runs_of(seeds, learning_rates)
    several = bool(seeds or learning_rates)
    seconds = whole = 0.0
    begun = steps = 0
    for i, values in enumerate(runs):
        made = training_step.prepare(project, **how, training={**(training or {}), **values})
        folder = training_step.run_folder(made) if several else made.folder
        if not i:  # the others take as long
            found = try_out(made.net, made.cells, made.settings, folder, device, precision, made.card)
            done = found.steps_done
        else:
            done = steps_done(made.net, made.cells, made.settings, folder, made.card)
        done = done if resume else 0
        left = max(0, found.steps - done)
        begun, steps, whole = begun + done, steps + left, whole + left * found.step_s
        seconds += min(left * found.step_s, made.settings.max_seconds or float("inf"))
    where, why, faster = _place(device, made.net.on_device)
    more = []
    if several:
        more.append(f"{len(runs):,} run{'s' if len(runs) > 1 else ''}, one after the other")
    if seconds < whole:
        limit = "their limits" if len(runs) > 1 else "its limit"
        more.append(f"{limit}; all {made.settings.epochs:,} epochs would take {about(whole)}")
    if begun:
        more.append(f"goes on at step {begun:,} of {len(runs) * found.steps:,}")
    aside = f" ({'; '.join(more)})" if more else ""
    nothing = "" if steps else "All epochs are done already; more epochs would go on."
    n = len(made.cells) if steps else 0
    return _made("train", n, seconds, found.memory_bytes, where, why, faster, nothing, aside)


# ---- words -----------------------------------------------------------------------------------------


def machine() -> str:
    """Say what this machine computes with: a card and its free memory, or the processor's cores and why no card."""
    import os

    from napari_cellrep.models._engine import choose_device

    best = choose_device("auto")
    here = f"{os.cpu_count()} cores, {_size(psutil.virtual_memory().available)} free"
    if best.type == "cuda":
        import torch

        card = torch.cuda.mem_get_info(best)[0]
        return f"{_name(best)}, {_size(card)} of its memory free; {here}"
    if best.type == "mps":
        return f"{_name(best)}; {here}"
    return f"CPU, {here}; no graphics card was found"


def _place(device: str, on_device: bool) -> tuple[str, str, str]:
    """Where it would run, why, and what would be faster as far as this machine knows."""
    if not on_device:
        return "cpu", "", ""
    from napari_cellrep.models._engine import choose_device

    where, best = choose_device(device), choose_device("auto")
    if where.type != "cpu":
        return str(where), _name(where), ""
    if best.type != "cpu":
        return "cpu", "as chosen", f"The graphics card here is not used ({_name(best)})."
    return "cpu", "no graphics card was found", ""


def _name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple's Metal"


def _made(
    what: str,
    n: int,
    seconds: float,
    memory: int,
    device: str,
    why: str,
    faster: str,
    nothing: str = "",
    aside: str = "",
) -> Estimate:
    if nothing:
        return Estimate(what, 0, 0.0, 0, device, why, "", "", nothing)
    place = "the CPU" if device == "cpu" else "the graphics card"
    parts = [
        about(seconds) + aside,
        *([_size(memory)] if memory else []),
        f"on {place}" + (f" ({why})" if why else ""),
    ]
    sentence = ", ".join(parts) + "."
    return Estimate(
        what, n, seconds, int(memory), device, why, faster, about(seconds),
        " ".join(filter(None, (sentence[0].upper() + sentence[1:], _tight(memory, device), faster))),
    )  # fmt: skip


def _tight(memory: int, device: str) -> str:
    """A warning where the graphics card has not that much free."""
    if not device.startswith("cuda"):
        return ""
    import torch

    free = torch.cuda.mem_get_info(device)[0]
    if free > memory:
        return ""
    return f"Only {_size(free)} of the graphics card's memory are free; choose a smaller batch size."


def about(seconds: float) -> str:
    """Say a time as coarsely as it is known: "about 20 s", "about 6 min", "about 2.5 h"."""
    if seconds < 5:
        return "a few seconds"
    if seconds < 55:
        return f"about {max(1, round(seconds / 10)) * 10} s"
    minutes = seconds / 60
    if minutes < 10:
        return f"about {max(1, round(minutes))} min"
    if minutes < 90:
        return f"about {round(minutes / 5) * 5} min"
    hours = minutes / 60
    if hours < 48:
        return f"about {round(2 * hours) / 2:g} h"
    return f"about {round(hours / 24)} days"


def _size(memory: int) -> str:
    if memory < 0.95e9:
        return f"{max(10, round(memory / 1e6, -1 if memory < 1e8 else -2)):.0f} MB"
    return f"{memory / 1e9:.1f} GB"
