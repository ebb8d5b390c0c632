"""How a model learns: the loop's one hook, and the vote of the neighbours that judges vectors."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from napari_cellrep.models._augment import Draws
from napari_cellrep.models._base import EmbeddingModel
from napari_cellrep.models._processes import ALONE

NEIGHBOURS = 11  # of a held-out cell, whose groups vote


class Learner:
    """How a model learns; here: its own ``losses`` by Adam, after ``preprocess`` and ``augment``.

    This is the loop's one hook. A model that wants more (a teacher, schedules of every step, clipping) has a method
    ``learner(training, steps_per_epoch) -> Learner`` that gives a subclass with what differs overridden; the loop
    calls, per step, `before_step`, `prepare`, `losses`, backward, `before_update`, the optimizer, `after_update`.
    Whatever changes in training is a parameter or a buffer of `module`, or the optimizer's, because these two and
    torch's own random state are what a checkpoint holds; all else follows from the settings and the step's number.

    Parameters
    ----------
    model : EmbeddingModel
        What is saved when training ends, with the weights that it has then.
    training : dataclass
        The model's ``Training``.

    Attributes
    ----------
    module : torch.nn.Module
        Moved to the device; its state goes into the checkpoint.
    notes : list of str
        What a person should know of these settings.
    processes : Processes
        Those that train together.
    rows : tuple of int, or None
        Where a part of a batch is computed: its first row, the one after its last, and the batch's number (`Draws`).
    scores : tuple of str
        What `score` gives, "loss" first: columns of ``history.csv`` with "val_" before them.
    feature_scores : tuple of str
        Further ones, which `score_features` gives.
    judged_lagging : bool
        Whether held-out cells are looked at with batch norm's running means also where these lag far behind
        (`settle_norm`). Otherwise batch norm then takes each batch's own.
    """

    scores: ClassVar[tuple[str, ...]] = ("loss",)
    feature_scores: ClassVar[tuple[str, ...]] = ("knn",)
    judged_lagging: ClassVar[bool] = False

    def __init__(self, model: EmbeddingModel, training: Any):
        self.model, self.training = model, training
        self.notes: list[str] = []
        self.module: torch.nn.Module = model
        self.processes = ALONE
        self.rows: tuple[int, int, int] | None = None
        self.compiled: Any = None  # what `compile` made

    @property
    def learning(self) -> nn.Module:
        """What of `module` gets gradients."""
        return self.module

    def draws(self, *key: int) -> Draws:
        """Random numbers that depend on the training's seed and `key` alone, for the items that are computed now."""
        generator = Draws()
        generator.manual_seed(int(np.random.SeedSequence((self.training.seed, *key)).generate_state(1)[0]))
        generator.rows = self.rows
        return generator

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Called once, when `module` is on its device."""
        return torch.optim.Adam(
            self.module.parameters(),
            lr=self.training.learning_rate,
            betas=(self.training.beta1, 0.999),
            eps=1e-8,
            fused=self.fused,
        )

    @property
    def fused(self) -> bool | None:
        """Whether the optimizer takes its step in one kernel: on a graphics card; None: as torch does otherwise."""
        return True if next(self.module.parameters()).is_cuda else None

    def prepare(self, crops: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Make a batch (images, B × C × H × W) of raw crops on the device; draws come from `generator` alone."""
        batch = {k: self.model.preprocess(x) for k, x in crops.items()}
        return self.model.augment(batch, self.training, generator)

    def to_show(self, crops: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `look` shows of raw crops: preprocessed, and not varied."""
        return {k: self.model.preprocess(x) for k, x in crops.items()}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss"}`` of a batch, or of a part of one; computed in the run's precision."""
        return self.for_gradients(self.model)(batch)  # type: ignore[no-any-return]

    def compile(self) -> None:
        """Have torch make kernels for what the gradients come from; once for every batch size that comes."""
        self.compiled = torch.compile(self.model, dynamic=False)

    def for_gradients(self, plain: Any) -> Any:
        """What was compiled, where there are gradients; held-out cells come in other sizes and go the plain way."""
        return self.compiled if self.compiled is not None and torch.is_grad_enabled() else plain

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Before the batch of step 0, 1, … is prepared: set what is scheduled."""

    def before_update(self, step: int) -> None:
        """Between the gradients and the optimizer's step: clip, freeze."""

    def after_update(self, step: int) -> None:
        """After the optimizer's step: what follows the weights."""

    def judge(self, crops: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """What the network, which is not learning now, says of raw crops that were held out: (k, B).

        Here their loss, as they are varied by draws from `generator`, which are the same after every epoch.
        """
        n = len(next(iter(crops.values())))
        return self.losses(self.prepare(crops, generator))["loss"].float().expand(1, n)

    def score(self, judged: Tensor) -> list[float]:
        """The `scores` of everything `judge` said (k, n)."""
        return [float(row.mean()) for row in judged.double()]

    def score_features(self, held: np.ndarray, knn: float) -> list[float]:
        """The `feature_scores` of the held-out cells' vectors (n, dim), whose neighbours say `knn`."""
        return [knn]

    def warn(self, epochs: list[dict[str, float]]) -> str:
        """What a person should be told of the epochs' scores on held-out cells; "" when nothing."""
        return ""


def knn_accuracy(
    held: np.ndarray, held_groups: np.ndarray, learned: np.ndarray, learned_groups: np.ndarray
) -> float:
    """Mean over groups of how often a held-out cell's nearest learned cells are of its group by majority.

    Parameters
    ----------
    held, learned : ndarray of float, (n, dim), (m, dim)
        Vectors; each number is taken off its mean over `learned` and divided by its standard deviation.
    held_groups, learned_groups : ndarray of int, (n,), (m,)

    Returns
    -------
    float
        NaN when fewer than two groups are known, or none of the held-out cells' groups.
    """
    names, known = np.unique(learned_groups, return_inverse=True)
    fits = np.isin(held_groups, names)
    if len(names) < 2 or not fits.any():
        return float("nan")
    mean, sd = learned.mean(axis=0), learned.std(axis=0)
    a, b = ((torch.from_numpy((x - mean) / np.where(sd > 0, sd, 1))).float() for x in (held[fits], learned))
    near = torch.cdist(a, b).topk(min(NEIGHBOURS, len(b)), largest=False).indices.numpy()
    votes = np.zeros((len(near), len(names)))
    # The weights only break ties, for the nearer cells.
    np.add.at(votes, (np.arange(len(near))[:, None], known[near]), 1 - 1e-4 * np.arange(near.shape[1]))
    right = names[votes.argmax(axis=1)] == held_groups[fits]
    return float(np.mean([right[held_groups[fits] == g].mean() for g in np.unique(held_groups[fits])]))


def make_learner(model: EmbeddingModel, training: Any, steps_per_epoch: int) -> Learner:
    """The model's own learner, or the plain one; what is drawn for it comes from the training's seed."""
    own = getattr(model, "learner", None)
    if own is None:
        return Learner(model, training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        learner: Learner = own(training, steps_per_epoch)
    return learner
