"""Running a model over many crops: device, precision, batches.

`Embedder` is what a step uses to embed; `choose_device`, `computing` and `trial_form` are shared with training.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_cellrep.jobs import is_out_of_memory
from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.specs import InputError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16")
PLAIN = "fp32, channel after channel"  # torch's own order of numbers; in "fp32" and "bf16" a pixel's channels lie together
TRIAL_S = 1.0  # what finding out which form is fastest may cost, about
COMPARED = (
    96  # cells on which fp32 and bf16 are compared; not by time: a decision must not depend on the hour
)
SHARED = 0.98  # part of their `NEIGHBOURS` nearest ones that cells have to keep in bf16, among `AMONG` cells
AMONG = 512
NEIGHBOURS = 10


def choose_device(device: str = "auto") -> torch.device:
    """The device to compute on.

    Parameters
    ----------
    device : str
        "auto" (CUDA before MPS before the CPU), "cpu", "mps", "cuda" or "cuda:1".

    Raises
    ------
    InputError
        If the device is not there, or the name is none.
    """
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    if torch.cuda.is_available():
        here[:0] = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device == "auto":
        return torch.device(here[0])
    if device not in here:
        raise InputError(
            f"There is no device {device!r} on this machine; devices are auto, {', '.join(here)}."
        )
    return torch.device(device)


def check_precision(precision: str) -> str:
    """`precision`, if it is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InputError(f"The precision is one of {', '.join(PRECISIONS)}; got {precision!r}.")
    return precision


@contextlib.contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in fp32 (true fp32 on CUDA, no TF32) or in bf16 by autocast."""
    with contextlib.ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        elif device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield


def trial_form(
    run: Callable[[str], Any],
    device: torch.device,
    budget_s: float = TRIAL_S,
    others: Sequence[str] = ("bf16",),
    ready: Callable[[str], Any] = lambda form: None,
) -> tuple[str, dict[str, float]]:
    """Which form of computing is fastest here, by running each for a moment.

    Parameters
    ----------
    run : callable
        Does one unit of work in the form it is given.
    device : torch.device
    budget_s : float
        Seconds for the trial, about; two units of work in each form are always done, one where it takes longer than that.
    others : sequence of str
        Forms to try beside "fp32".
    ready : callable
        Is called with a form before its time is taken.

    Returns
    -------
    form : str
        The fastest; "bf16" only if it is at least a tenth faster than the others.
    seconds : dict
        Form → seconds per unit; one is left out where the device cannot do it.
    """
    seconds: dict[str, float] = {}
    ready("fp32")
    run("fp32")  # the first time of anything is slow: imports, kernels made on the spot
    seconds["fp32"] = _time(run, "fp32", device)
    again = ["fp32"]
    for form in others:
        ready(form)
        try:
            seconds[form] = _time(run, form, device)
            if seconds[form] > 4 * seconds["fp32"] + 0.5:
                continue  # emulated: not worth a second look
            if seconds[form] < budget_s:
                seconds[form] = _time(run, form, device)
            again.append(form)
        except (RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            logger.info("%s is left out on %s: %s", form, device, error)  # an operation without bf16 here
    stop = time.perf_counter() + budget_s - 2 * sum(seconds.values())
    while (
        len(again) > 1 and time.perf_counter() < stop
    ):  # in turn, so that what else the machine does meets all
        for form in again:
            ready(form)
            seconds[form] = min(seconds[form], _time(run, form, device))
    best = min((form for form in seconds if form != "bf16"), key=lambda form: seconds[form])
    return ("bf16" if seconds.get("bf16", float("inf")) * 1.1 < seconds[best] else best), seconds


def _time(run: Callable[[str], Any], form: str, device: torch.device) -> float:
    start = time.perf_counter()
    run(form)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


@contextlib.contextmanager
def memory_peak(device: torch.device) -> Iterator[list[int]]:
    """Measure how much memory what is done within takes at its peak; the list holds the bytes afterwards.

    On CUDA torch counts it. Elsewhere what lives of the tensors that are made is counted: the process's own size
    says little, because freed memory stays with it and is used again.
    """
    peak = [0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with _Living() as living:
        yield peak
    peak[0] = living.peak


class _Living(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once, of those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # views share it
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.now -= nbytes


def to_tensor(crops: np.ndarray) -> Tensor:
    """A torch copy of crops of any numpy type and byte order."""
    crops = np.array(crops, dtype=crops.dtype.newbyteorder("="), order="C")
    if crops.dtype == np.float16 or crops.dtype == np.float64:
        crops = crops.astype(np.float32)
    return torch.from_numpy(crops)


class Embedder:
    """One model made ready to embed crops, batch after batch.

    Parameters
    ----------
    model : EmbeddingModel
        Is put on the device and into eval mode.
    layers : sequence of str
        Tap points; empty: the model's default.
    device : str
        See `choose_device`.
    precision : str
        "fp32", "bf16", or "auto": the fastest in a trial on the first crops, of about a second (`performance.md` §2.1).
        Tried are fp32 and bf16 with a pixel's channels side by side in memory, and fp32 as torch computes it by itself,
        so that nothing is slower than that. bf16 is taken where the vectors of 96 cells agree (`vectors_agree`).
    batch_size : int
        Crops per forward pass; 0: chosen from the device and the size of the crops. Halved when memory runs out.

    Attributes
    ----------
    notes : list of str
        Sentences a person should see: halved batches, cells without a finite vector.

    Notes
    -----
    A cell's vector does not depend on the cells it shares a batch with: batches have a fixed size (the last is
    filled up with zeros to a power of two), and every model scales each crop by itself.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        layers: Sequence[str] = (),
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 0,
    ):
        self.layers = tuple(dict.fromkeys(model.check_layer(layer) for layer in layers)) or (model.layers[0],)
        self.precision = check_precision(precision)
        self.device = choose_device(device) if model.on_device else torch.device("cpu")
        self.model = model.eval().to(self.device)
        self._layout = torch.contiguous_format
        if model.on_device:
            self._lay_out("fp32")
        else:
            self.precision = "fp32"
        self.batch_size = batch_size
        self.notes: list[str] = []
        self.n_embedded = 0
        self._seconds = 0.0
        self._trial: dict[str, float] = {}
        self._shared: float | None = None

    def run(self, crops: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Embed crops.

        Parameters
        ----------
        crops : ndarray of shape (n, C, S, S)
            Raw pixels in any dtype, as cut from the field.
        weights : ndarray of shape (size, S), float32, optional
            Resize the crops to this side on the device first, by these weights along both axes.

        Returns
        -------
        dict
            layer → float32 (n, dim). A row that is not finite is NaN as a whole, and `notes` says so.

        Raises
        ------
        InputError
            If the crops have another number of channels than the model wants.
        """
        crops = np.asarray(crops)
        self.model.check_crops(crops)
        out = self._empty(len(crops))
        if not len(crops):
            return out
        if not self.batch_size:
            self.batch_size = self._auto_batch(crops.shape[-1] if weights is None else len(weights))
        there = None if weights is None else torch.from_numpy(weights).to(self.device)
        done = 0
        while self.precision == "auto":
            with self._smaller_if_full():
                done = self._decide(crops, there, out)
        start = time.perf_counter()
        self._run_batches(crops[done:], there, self.precision, {k: v[done:] for k, v in out.items()})
        self._seconds += time.perf_counter() - start
        self.n_embedded += len(crops)
        self._flag(out)
        return out

    @property
    def cells_per_s(self) -> float:
        """Cells embedded per second so far."""
        return self.n_embedded / self._seconds if self._seconds else 0.0

    def describe(self) -> dict[str, Any]:
        """How the vectors were made, in plain values, for the provenance."""
        on_cuda = self.device.type == "cuda"
        return {
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if on_cuda else self.device.type,
            "precision": self.precision,
            "memory_format": str(self._layout).removeprefix("torch."),
            "batch_size": self.batch_size,
            "cells_per_s": round(self.cells_per_s, 1),
            "trial_cells_per_s": {form: round(1 / s, 1) for form, s in self._trial.items()},
            **({} if self._shared is None else {"trial_shared_neighbours": round(self._shared, 4)}),
            "torch": torch.__version__,
        }

    def _auto_batch(self, size_px: int) -> int:
        at_64_px = {"cuda": 1024, "mps": 256}.get(self.device.type, 64)
        return max(4, min(1024, 2 ** int(np.log2(max(1.0, at_64_px * 64**2 / size_px**2)))))

    def _decide(self, crops: np.ndarray, weights: Tensor | None, out: dict[str, np.ndarray]) -> int:
        """Choose a form by time and agreement on the first crops; gives how many rows of `out` that filled."""
        n = min(len(crops), self.batch_size, 16 if self.device.type == "cpu" else 1024)
        batch = to_tensor(crops[:n])
        chosen, seconds = trial_form(
            lambda form: self._forward(batch, weights, form[:4]),
            self.device,
            TRIAL_S,
            (PLAIN, "bf16"),
            self._lay_out,
        )
        self._trial = {form: s / n for form, s in seconds.items()}
        n = 0
        if chosen == "bf16":
            exact = min((form for form in seconds if form != "bf16"), key=lambda form: seconds[form])
            n = min(len(crops), COMPARED)
            found, took = {"fp32": self._empty(n), "bf16": self._empty(n)}, {}
            for form in (exact, "bf16"):
                self._lay_out(form)
                start = time.perf_counter()
                self._run_batches(crops[:n], weights, form[:4], found[form[:4]])
                took[form[:4]] = time.perf_counter() - start
            chosen = "bf16" if self._agree(found) else exact
            self._seconds += took[chosen[:4]]
            for layer, vectors in found[chosen[:4]].items():
                out[layer][:n] = vectors
        self._lay_out(chosen)
        self.precision = chosen[:4]
        logger.info("%s on %s: %s s per cell", chosen, self.device, self._trial)
        return n

    def _lay_out(self, form: str) -> None:
        """Lay the weights in memory as a form of computing wants them."""
        layout = torch.contiguous_format if form == PLAIN else torch.channels_last
        if layout is not self._layout:
            self.model.to(memory_format=layout)  # type: ignore[call-overload]
            self._layout = layout

    def resized(self, crops: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Crops (n, C, S, S) resized on the device as `run` does it first: float32 (n, C, size, size)."""
        with torch.inference_mode():
            there = to_tensor(crops).to(self.device)
            there = resize(there, torch.from_numpy(weights).to(self.device), self.model.crop.mask_plane)
            return there.cpu().numpy()

    def _agree(self, found: dict[str, dict[str, np.ndarray]]) -> bool:
        """Whether bf16 told cells apart as fp32 did, at every layer."""
        pairs = [(found["fp32"][layer], found["bf16"][layer]) for layer in self.layers]
        shared = min(shared_neighbours(*pair) for pair in pairs)
        self._shared = shared if np.isfinite(shared) else None
        return all(vectors_agree(*pair) for pair in pairs)

    def _empty(self, n: int) -> dict[str, np.ndarray]:
        return {layer: np.empty((n, self.model.dim(layer)), np.float32) for layer in self.layers}

    def _forward(self, batch: Tensor, weights: Tensor | None, precision: str) -> dict[str, Tensor]:
        with torch.inference_mode():
            there = batch.to(self.device, non_blocking=True)
            if weights is not None:
                there = resize(there, weights, self.model.crop.mask_plane)
            x = self.model.preprocess(there).contiguous(memory_format=self._layout)
            with computing(self.device, precision):
                return self.model.embed_layers(x, self.layers)

    def _run_batches(
        self, crops: np.ndarray, weights: Tensor | None, precision: str, out: dict[str, np.ndarray]
    ) -> None:
        """Batch after batch; on a GPU a batch is fetched only when the next is under way, so that neither waits."""
        done, waiting = 0, None
        while done < len(crops):
            batch = self._batch(crops[done : done + self.batch_size])
            with self._smaller_if_full():
                found = self._forward(batch, weights, precision)
                n = min(self.batch_size, len(crops) - done)
                if self.device.type != "cuda":  # nothing runs behind our back: let the memory go
                    _fetch(out, done, n, found)
                else:
                    if waiting is not None:
                        _fetch(out, *waiting)
                    waiting = (done, n, found)
                done += n
        if waiting is not None:
            _fetch(out, *waiting)

    def _batch(self, crops: np.ndarray) -> Tensor:
        """Crops as a tensor, filled up to the batch size, or the last batch to a power of two."""
        n = len(crops)
        full = n if n == self.batch_size else min(self.batch_size, max(4, 1 << (n - 1).bit_length()))
        batch = to_tensor(crops)
        if full > n:
            batch = torch.cat([batch, torch.zeros((full - n, *batch.shape[1:]), dtype=batch.dtype)])
        # Pinned memory is copied while the GPU computes; other memory makes the copy wait.
        return batch.pin_memory() if self.device.type == "cuda" else batch

    @contextlib.contextmanager
    def _smaller_if_full(self) -> Iterator[None]:
        """Where the device's memory does not suffice: halve the batch, and the loop around tries again."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.batch_size == 1:
                raise InputError(
                    f"{self.model.spec.title} does not fit into the memory of {self.device} even with one cell "
                    "at a time; choose another device or smaller crops."
                ) from error
            self._halve()

    def _halve(self) -> None:
        before, self.batch_size = self.batch_size, max(1, self.batch_size // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.notes.append(
            f"The memory of {self.device} did not suffice for {before} cells at once; {self.batch_size} are used instead."
        )

    def _flag(self, out: dict[str, np.ndarray]) -> None:
        bad = np.zeros(len(next(iter(out.values()))), bool)
        for vectors in out.values():
            bad |= ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            for vectors in out.values():
                vectors[bad] = np.nan
            self.notes.append(
                f"{bad.sum():,} of {len(bad):,} cells have no finite vector (NaN or infinite pixels, an empty mask, "
                "or weights that overflow); their rows are NaN."
            )


def resize(crops: Tensor, weights: Tensor, has_mask: bool) -> Tensor:
    """Crops (B, C, S, S) of any type as float32 (B, C, size, size); a last plane of 0 and 1 stays one."""
    crops = weights @ crops.float() @ weights.T
    if has_mask:
        crops[:, -1] = (crops[:, -1] >= 0.5).float()
    return crops


def _fetch(out: dict[str, np.ndarray], start: int, n: int, found: dict[str, Tensor]) -> None:
    """Put a batch's vectors into their rows; waits for the device."""
    for layer, vectors in found.items():
        out[layer][start : start + n] = vectors[:n].float().cpu().numpy()


def vectors_agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two versions of the same vectors (n, dim) tell cells apart in the same way.

    Vectors are centred first, so that what all cells share does not count: median cosine at least 0.99 and, from 8
    cells on, neighbours kept so well that `SHARED` of them would be among `AMONG` cells. Among fewer cells fewer are
    lost, by the logarithm of their number (so with DeepLoc and Paired Cell Inpainting, 16 to 512 cells of the sample);
    one standard error is taken off, because a few cells say little.
    """
    whole = np.isfinite(a).all(axis=1)  # what NaN pixels do says nothing about the precision
    a, b = a[whole], b[whole]
    if not len(a) or not np.isfinite(b).all():
        return False
    if len(a) < 3:
        return bool(np.allclose(a, b, rtol=0.05, atol=0.05 * np.abs(a).max()))
    shared = _shared(a, b, NEIGHBOURS)
    least = 1 - (1 - SHARED) * min(1, np.log(len(a)) / np.log(AMONG))
    kept = shared.mean() - shared.std() / np.sqrt(len(shared)) >= least
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1), 1.0)
    return bool(np.median(cosine) >= 0.99 and (len(a) < 8 or kept))


def shared_neighbours(a: np.ndarray, b: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Mean part of their nearest neighbours that cells have in common in two versions (n, dim) of their vectors.

    `k` neighbours by Euclidean distance, or a third of the cells where they are few. NaN where no two cells are whole.
    """
    whole = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return float(_shared(a[whole], b[whole], k).mean()) if whole.sum() > 1 else float("nan")


def _shared(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """The same for each cell, float64 (n,), of finite vectors."""
    k = max(1, min(k, len(a) // 3))
    near = []
    for v in (a, b):
        x = v.astype(np.float64) - v.mean(axis=0, dtype=np.float64)
        squares = (x**2).sum(axis=1)
        distance = squares[:, None] + squares - 2 * (x @ x.T)
        np.fill_diagonal(distance, np.inf)
        near.append(np.argsort(distance, axis=1)[:, :k])
    return np.array([len(set(i) & set(j)) / k for i, j in zip(*near, strict=True)])
