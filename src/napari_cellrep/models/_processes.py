"""Several processes that train one network together, started by torchrun (`torch.distributed`)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from napari_cellrep.models._engine import choose_device
from napari_cellrep.specs import InputError

PATIENCE = timedelta(days=1)  # of those that wait while the first one looks at held-out cells


class Processes:
    """Those that train together; by default one alone, which has nobody to send anything to.

    Every process does the same steps with its own part of every batch, and gets the mean gradient of all. The first
    one (rank 0) also judges and writes; what the course of the training depends on comes from it.

    Parameters
    ----------
    rank, world : int
        Which one this is, and how many there are.
    device : torch.device, optional
        Where this one computes; None: to be chosen.
    """

    def __init__(self, rank: int = 0, world: int = 1, device: torch.device | None = None):
        self.rank, self.world, self.device = rank, world, device
        self.stop_asked = False

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def part(self, n: int) -> tuple[int, int]:
        """Rows of a batch of `n` that are this one's: from, and up to."""
        return self.rank * n // self.world, (self.rank + 1) * n // self.world

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all, number by number; waits for all."""
        if self.world == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(together)
        return together.tolist()  # type: ignore[no-any-return]

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor on the device over all."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def share(self, value: Any) -> Any:
        """What the first one has; what the others give does not count."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def averaging(self, net: nn.Module) -> nn.Module:
        """`net`, whose gradients become the mean over all while they are computed."""
        ids = [self.device] if self.device is not None and self.device.type == "cuda" else None
        # Buffers need no sending: batch norm is synchronised or stands still, and centers are moved alike.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the argument has another name since torch 2.13
            return DistributedDataParallel(net, device_ids=ids, broadcast_buffers=False)


ALONE = Processes()


def n_started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts; alone without it.

    SIGINT and SIGTERM then only set `Processes.stop_asked`: all stop after the same step.

    Parameters
    ----------
    device : str
        "auto" or "cuda": a graphics card for each process of this machine, over NCCL; "cpu": over Gloo.

    Raises
    ------
    InputError
        If there are fewer graphics cards than processes, or one card is named for all.
    """
    if n_started() == 1:
        yield Processes()
        return
    where = choose_device("auto" if device == "cuda" else device)
    local, beside = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ":" in device or where.type not in ("cuda", "cpu"):
        raise InputError(
            f"{beside} processes cannot all train on {device if device != 'auto' else where}; give --device cpu, or leave it "
            "away: then each takes a graphics card of its own."
        )
    if where.type == "cuda":
        if beside > torch.cuda.device_count():
            raise InputError(
                f"{beside} processes were started and there are {torch.cuda.device_count()} graphics cards; start at most one "
                "process per card (--nproc-per-node), or give --device cpu."
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
    processes = Processes(dist.get_rank(), dist.get_world_size(), where)

    def ask(*_: Any) -> None:
        processes.stop_asked = True

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield processes
        processes.sum([0])  # nobody leaves before all are done
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    dist.destroy_process_group()  # not after an error: the others may not be there any more


def first_to_fail() -> bool:
    """Whether this process is the one to say what went wrong: the first to ask, of those that torchrun started."""
    if n_started() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=10),
        )
        key = f"napari-cellrep/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return bool(store.add(key, 1) == 1)
    except (RuntimeError, KeyError, ValueError):
        return True
