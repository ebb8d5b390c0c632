"""DINO's student and teacher: views of a cell, projection head, loss with centering, schedules (models.md §3.5).

After Caron et al. 2021 (arXiv:2104.14294) and Doron et al. 2023 (doi:10.1101/2023.06.16.545359), written anew.
Differs: every draw comes from the seed and the step's number, so a run that was stopped goes on exactly; a channel
dropped in one view does not stay dropped in the later ones; where pixels are not 8-bit, each channel of each crop is
scaled from its minimum to its maximum, because the changes of brightness want 0 … 1; no cells are dropped at the end
of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cellrep.models import _augment
from napari_cellrep.models._learner import Learner
from napari_cellrep.specs import InputError

DROP_P = 0.2  # of a channel removed, of the protein rescaled
COLLAPSED_EPOCHS, COLLAPSED_NATS, COLLAPSED_RANK = 3, 0.005, 1.2
WARMUP_SHARE = 0.5  # of the epochs at most: a short training must not end before it has begun


@dataclass(frozen=True)
class Recipe:
    """What happens to the views before they are cut, and after.

    Parameters
    ----------
    first, second, local : tuple of str
        Of "warp", "remove" and "rescale", in order, for the first and second global view and the local ones.
    vertical : bool
        Whether views are flipped up-down as well as left-right.
    jitter_sd : float
        Standard deviation of the factors of brightness and contrast.
    local_share : float
        Side of a local view as a part of a global one's.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    local: tuple[str, ...]
    vertical: bool
    jitter_sd: float
    local_share: float


_ALL = ("warp", "remove", "rescale")
_CHANNELS = ("remove", "rescale")
RECIPES = {
    # The released settings file has its keys twice, and the last ones win; the first ones match the paper's text.
    "hpa_effective": Recipe(("warp",), ("remove",), ("remove",), True, 0.5, 96 / 224),
    "hpa_intended": Recipe(_ALL, _ALL, _ALL, True, 0.5, 96 / 224),
    "cell_painting": Recipe(_CHANNELS, _CHANNELS, _CHANNELS, False, 0.8, 64 / 128),
}


# ---- schedules --------------------------------------------------------------------------------------


def cosine_schedule(
    start: float, end: float, epochs: int, steps_per_epoch: int, warmup_epochs: int = 0
) -> np.ndarray:
    """Values of every step: from 0 to `start` in a straight line, then to `end` by half a cosine.

    Parameters
    ----------
    start, end : float
    epochs, steps_per_epoch : int
    warmup_epochs : int
        Length of the straight line, whose last value is `start`.

    Returns
    -------
    ndarray of float64, (epochs * steps_per_epoch,)
    """
    warm = warmup_epochs * steps_per_epoch
    left = epochs * steps_per_epoch - warm
    falling = end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(left) / max(left, 1)))
    return np.concatenate([np.linspace(0, start, warm), falling])


def temperature_schedule(start: float, end: float, epochs: int, warmup_epochs: int) -> np.ndarray:
    """The teacher's temperature in every epoch: a straight line from `start` to `end`, then `end`; float64."""
    warm = min(warmup_epochs, epochs)
    return np.concatenate([np.linspace(start, end, warmup_epochs)[:warm], np.full(epochs - warm, end)])


# ---- head and loss ----------------------------------------------------------------------------------


class _UnitRows(nn.Module):
    """Linear layer without bias whose rows have the length `weight_g`; names as the authors' files have them."""

    def __init__(self, n_in: int, n_out: int, fixed: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(n_out, 1), requires_grad=not fixed)
        self.weight_v = nn.Parameter(torch.empty(n_out, n_in))
        bound = n_in**-0.5
        nn.init.uniform_(self.weight_v, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        v = self.weight_v
        return F.linear(x, v * (self.weight_g / v.norm(dim=1, keepdim=True)))


class Head(nn.Module):
    """Three layers, the unit sphere, and as many prototypes as there are outputs (models.md §3.1).

    Parameters
    ----------
    n_in, hidden, bottleneck, n_out : int
        Widths: of the class token, the two hidden layers, the sphere and the outputs.
    norm_last : bool
        Whether the prototypes keep the length 1.
    """

    def __init__(self, n_in: int, hidden: int, bottleneck: int, n_out: int, norm_last: bool):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(n_in, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = _UnitRows(bottleneck, n_out, norm_last)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, n_out) of class tokens (B, n_in)."""
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))  # type: ignore[no-any-return]


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    teacher_temperature: float,
    student_temperature: float = 0.1,
) -> Tensor:
    """Cross-entropy of the student's views with the teacher's centred ones, the same view left out.

    Parameters
    ----------
    student : Tensor of shape (V * B, K)
        Outputs of all views, view by view, the global ones first.
    teacher : Tensor of shape (2 * B, K)
        Outputs of the two global views.
    center : Tensor of shape (1, K)
    teacher_temperature, student_temperature : float

    Returns
    -------
    Tensor of shape (), float32
        Mean over cells and over the 2 · (V - 1) pairs of views.
    """
    n = len(teacher) // 2
    views = (student.float() / student_temperature).log_softmax(-1).unflatten(0, (-1, n))  # (V, B, K)
    truth = ((teacher.detach().float() - center) / teacher_temperature).softmax(-1).unflatten(0, (2, n))
    others = views.sum(dim=0) - views[:2]  # (2, B, K): the loss is linear in the student's views
    return -(truth * others).sum(-1).mean(dim=1).sum() / (2 * (len(views) - 1))


def moved_center(center: Tensor, teacher: Tensor, momentum: float) -> Tensor:
    """The center (1, K) after a batch of the teacher's outputs (2 * B, K)."""
    return center * momentum + teacher.detach().float().mean(dim=0, keepdim=True) * (1 - momentum)


def clip_each(parameters: Sequence[nn.Parameter], norm: float) -> None:
    """Scale the gradient of each tensor by itself to at most a norm."""
    grads = [p.grad for p in parameters if p.grad is not None]
    factors = [(norm / (n + 1e-6)).clamp(max=1.0) for n in torch._foreach_norm(grads)]
    torch._foreach_mul_(grads, factors)


# ---- views ------------------------------------------------------------------------------------------


def make_view(
    x: Tensor,
    does: Sequence[str],
    recipe: Recipe,
    side_px: int,
    scale: tuple[float, float],
    protein: int,
    generator: torch.Generator,
) -> Tensor:
    """One random view of each cell.

    Parameters
    ----------
    x : Tensor of shape (B, C, H, W)
        Images from 0 to 1.
    does : sequence of str
        What is done before the view is cut: "warp", "remove", "rescale".
    recipe : Recipe
    side_px : int
        Of the view.
    scale : tuple of float
        Least and largest area, as parts of the image's.
    protein : int
        The channel that is rescaled and never removed.
    generator : torch.Generator

    Returns
    -------
    Tensor of shape (B, C, side, side)
        From 0 to 1 where nothing was rescaled, not yet standardised.
    """
    removable = tuple(c for c in range(4) if c != protein)
    for step in does:
        if step == "warp":
            x = _augment.random_warp(x, generator)
        elif step == "remove" and x.shape[1] >= 4:
            x = _augment.random_removal(x, DROP_P, removable, generator)
        elif step == "rescale" and x.shape[1] > protein:
            x = _augment.random_rescale(x, DROP_P, protein, generator)
    boxes = _augment.draw_boxes(len(x), x.shape[2], x.shape[3], scale, generator)
    x = _augment.crop_resized(x, boxes, side_px)
    x = _augment.random_flips(x, generator, vertical=recipe.vertical)
    return _augment.random_jitter(x, recipe.jitter_sd, generator)


# ---- the learner ------------------------------------------------------------------------------------


def entropy(p: Tensor) -> Tensor:
    """Entropy (nats) of distributions along the last axis."""
    return -(p * p.clamp(min=1e-30).log()).sum(dim=-1)


def effective_rank(x: np.ndarray) -> float:
    """How many directions vectors (n, dim) spread in: e to the entropy of the normalised singular values.

    After Roy & Vetterli 2007 (EUSIPCO), of the vectors less their mean; 1 when they are all the same to a part in a
    thousand of their length.
    """
    x = np.asarray(x, np.float64)
    if not len(x):
        return float("nan")
    spread = x - x.mean(axis=0)
    if (spread**2).mean() <= 1e-6 * (x**2).mean():
        return 1.0
    values = np.linalg.svd(spread, compute_uv=False)
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


class DinoLearner(Learner):
    """Student and teacher; the teacher's backbone is the model that is saved.

    Parameters
    ----------
    model : napari_cellrep.models.dino.Model
        Becomes the teacher; the student starts as its copy.
    training : napari_cellrep.models.dino.Training
    steps_per_epoch : int

    Raises
    ------
    InputError
        If the settings contradict one another.
    """

    scores = ("loss", "entropy", "joint_entropy")
    feature_scores = ("knn", "rank")

    def __init__(self, model: Any, training: Any, steps_per_epoch: int):
        super().__init__(model, training)
        self.net = model
        t, config = training, model.config
        if config.as_rgb:
            raise InputError(
                "A network that sees each channel as a photograph is not trained here; set as_rgb to false."
            )
        warmup_epochs = min(t.warmup_epochs, int(t.epochs * WARMUP_SHARE))
        if warmup_epochs < t.warmup_epochs:
            self.notes.append(
                f"The learning rate warms up for {warmup_epochs} of the {t.epochs} epochs instead of "
                f"{t.warmup_epochs}: half of them at most."
            )
        if t.local_scale_min >= t.scale_split:
            raise InputError(
                f"The smallest local view ({t.local_scale_min:g}) has to be smaller than the largest "
                f"({t.scale_split:g}); lower local_scale_min."
            )
        self.recipe = RECIPES[t.recipe]
        patch = config.patch_px
        self.global_px = t.global_px or config.image_px
        self.local_px = t.local_px or patch * max(1, round(self.recipe.local_share * self.global_px / patch))
        if min(self.global_px, self.local_px) < patch:
            raise InputError(
                f"Views of {min(self.global_px, self.local_px)} px are smaller than a patch of {patch} px; "
                "make global_px and local_px larger."
            )
        # The authors' number 1 is the protein of the Human Protein Atlas; elsewhere the protein has another place.
        self.protein = model.roles.index("protein") if "protein" in model.roles else 1

        def head() -> Head:
            return Head(model.width, t.hidden_dim, t.bottleneck_dim, t.out_dim, t.norm_last_layer)

        backbone = type(model)(config)
        backbone.load_state_dict(model.state_dict())
        self.student: Any = nn.ModuleDict({"backbone": backbone, "head": head()})
        self.teacher: Any = nn.ModuleDict({"backbone": model, "head": head()})
        self.teacher["head"].load_state_dict(self.student["head"].state_dict())
        self.module = nn.ModuleDict({"student": self.student, "teacher": self.teacher})
        self.module.register_buffer("center", torch.zeros(1, t.out_dim))

        self.steps_per_epoch = steps_per_epoch
        n, warm = steps_per_epoch, warmup_epochs
        peak = t.learning_rate * t.batch_size / 256
        self.learning_rates = cosine_schedule(peak, t.final_learning_rate, t.epochs, n, warm)
        self.weight_decays = cosine_schedule(t.weight_decay, t.final_weight_decay, t.epochs, n)
        self.momenta = cosine_schedule(t.momentum, 1.0, t.epochs, n)
        self.temperatures = temperature_schedule(
            t.warmup_teacher_temperature, t.teacher_temperature, t.epochs, t.warmup_teacher_epochs
        )
        self._step = 0
        self._taught: list[tuple[int, Tensor]] = []  # rows and mean of the teacher's outputs in this step
        self._said = torch.zeros(
            t.out_dim, dtype=torch.float64
        )  # sum of the teacher's outputs while it is judged

    @property
    def learning(self) -> nn.Module:
        """The student: the teacher only follows."""
        return self.student  # type: ignore[no-any-return]

    @property
    def center(self) -> Tensor:
        """What is taken off the teacher's outputs: (1, K)."""
        return self.module.get_buffer("center")

    def groups(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The student's parameters by name, with weight decay and without (biases and all of one dimension)."""
        named = {k: p for k, p in self.student.named_parameters() if p.requires_grad}
        free = {k: p for k, p in named.items() if p.ndim == 1 or k.endswith(".bias")}
        return {k: p for k, p in named.items() if k not in free}, free

    def make_optimizer(self) -> torch.optim.Optimizer:
        decayed, free = self.groups()
        both: list[dict[str, Any]] = [
            {"params": list(decayed.values())},
            {"params": list(free.values()), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(both, lr=self.training.learning_rate, fused=self.fused)

    def prepare(self, crops: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Global views (2 · B, C, …) and local ones, view by view; the keys' order is that of the drawing."""
        t, recipe = self.training, self.recipe
        x = self.net.to_unit(crops["x"])
        whole, part = (t.scale_split, 1.0), (t.local_scale_min, t.scale_split)
        plan = [(recipe.first, self.global_px, whole), (recipe.second, self.global_px, whole)]
        plan += [(recipe.local, self.local_px, part)] * t.n_local
        views = [
            self.net.standardise(make_view(x, does, recipe, side, scale, self.protein, generator))
            for does, side, scale in plan
        ]
        batch = {"global": torch.cat(views[:2])}
        if t.n_local:
            batch["local"] = torch.cat(views[2:])
        return batch

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``{"loss"}``; the center moves on with `before_update`, by all that was computed since `before_step`."""
        student, teacher = self._outputs(batch, self.draws(self._step, 1))
        loss = self._distillation(student, teacher)
        self._taught.append((len(teacher), teacher.detach().float().mean(dim=0, keepdim=True)))
        return {"loss": loss}

    def _outputs(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of the student for all views, and of the teacher for the global ones."""
        kept = [self._kept(len(x), generator).to(x.device) for x in batch.values()]
        found: tuple[Tensor, Tensor] = self.for_gradients(self._networks)(batch, kept)
        return found

    def compile(self) -> None:
        """Student and teacher."""
        self.compiled = torch.compile(self._networks, dynamic=False)

    def _networks(self, batch: dict[str, Tensor], kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        tokens = [self._student_tokens(x, k) for x, k in zip(batch.values(), kept, strict=True)]
        student = self.student["head"](torch.cat(tokens))
        with torch.no_grad():
            teacher = self.teacher["head"](self.teacher["backbone"].embed(batch["global"], "cls"))
        return student, teacher

    @property
    def temperature(self) -> float:
        """The teacher's, of the step."""
        return float(self.temperatures[min(self._step // self.steps_per_epoch, self.training.epochs - 1)])

    def _distillation(self, student: Tensor, teacher: Tensor) -> Tensor:
        t = self.training
        return distillation_loss(student, teacher, self.center, self.temperature, t.student_temperature)

    def judge(self, crops: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Loss, and entropy of the teacher's output for the first global view (nats): (2, B); the center stays."""
        student, teacher = self._outputs(self.prepare(crops, generator), generator)
        n = len(crops["x"])
        said = ((teacher[:n].float() - self.center) / self.temperature).softmax(-1)
        self._said += said.sum(dim=0).double().cpu()
        return torch.stack([self._distillation(student, teacher).expand(n), entropy(said)])

    def score(self, judged: Tensor) -> list[float]:
        """Loss, mean entropy of one cell's output, and entropy of the mean output."""
        together = float(entropy(self._said / max(float(self._said.sum()), 1e-12)))
        self._said.zero_()
        return [*super().score(judged), together]

    def score_features(self, held: np.ndarray, knn: float) -> list[float]:
        """Neighbours, and how many directions the class tokens use."""
        return [knn, effective_rank(held)]

    def warn(self, epochs: list[dict[str, float]]) -> str:
        """Whether student and teacher have collapsed: all cells get the same output, or the same class token.

        The entropy of the mean output is that of one cell's output when the output says nothing of the cell
        (their difference is what it says, in nats). Fresh networks say little, too: it has to be so three times.
        """
        last = epochs[-COLLAPSED_EPOCHS:]
        if len(last) < COLLAPSED_EPOCHS:
            return ""
        if all(e["rank"] < COLLAPSED_RANK for e in last):
            what = f"the vectors of all cells lie in one direction (effective rank {last[-1]['rank']:.2f})"
        elif all(e["joint_entropy"] - e["entropy"] < COLLAPSED_NATS for e in last):
            most = float(np.log(self.training.out_dim))
            what = "the teacher says the same of every cell"
            if last[-1]["entropy"] < 0.05 * most:
                what += " (always one prototype, entropy 0)"
            elif last[-1]["entropy"] > 0.95 * most:
                what += f" (all prototypes alike, entropy {last[-1]['entropy']:.2f} of at most {most:.2f})"
        else:
            return ""
        return (
            f"DINO has collapsed: {what}, so it learns nothing of the cells. Start anew with a lower learning rate, a "
            "teacher momentum nearer to 1, or the paper's temperatures (0.04, student 0.1) and centering (0.9)."
        )

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self._step = step
        self._taught.clear()
        at = min(step, len(self.learning_rates) - 1)
        for group in optimizer.param_groups:
            group["lr"] = float(self.learning_rates[at])
        optimizer.param_groups[0]["weight_decay"] = float(self.weight_decays[at])

    def before_update(self, step: int) -> None:
        if self._taught:  # the parts of a batch, here and in other processes, which may differ in size
            (n,) = self.processes.sum([sum(k for k, _ in self._taught)])
            mean = torch.stack([mean * (k / n) for k, mean in self._taught]).sum(dim=0)
            mean = self.processes.add_up(mean)
            self.center.copy_(moved_center(self.center, mean, self.training.center_momentum))
            self._taught.clear()
        if self.training.clip_norm:
            clip_each(list(self.student.parameters()), self.training.clip_norm)
        if step < self.training.freeze_last_layer_epochs * self.steps_per_epoch:
            for p in self.student["head"].last_layer.parameters():
                p.grad = None  # so that weight decay does not touch it either

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        momentum = float(self.momenta[min(step, len(self.momenta) - 1)])
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_mul_(teacher, momentum)
        torch._foreach_add_(teacher, student, alpha=1 - momentum)

    def _kept(self, n: int, generator: torch.Generator) -> Tensor:
        """By what the student's branches are multiplied, 0 where they are left out: (depth, 2, n, 1, 1)."""
        depth = len(self.student["backbone"].blocks)
        kept = torch.ones(depth, 2, n)
        if self.student.training:
            keep = 1 - torch.linspace(0, self.training.drop_path, depth)[:, None, None]
            kept = (_augment.draw(torch.rand, (depth, 2, n), generator, axis=2) + keep).floor() / keep
        return kept[..., None, None]

    def _student_tokens(self, x: Tensor, kept: Tensor) -> Tensor:
        """Class tokens (B, D) of the student, whose blocks' branches are left out at random."""
        net: Any = self.student["backbone"]
        y, _ = net._tokens_in(x)
        depth = len(net.blocks)
        for i, block in enumerate(net.blocks):
            rows = (
                slice(0, 1) if i + 1 == depth else slice(None)
            )  # of the last block only the class token is used
            y = y[:, rows] + kept[i, 0] * block.attn(block.norm1(y), rows)
            y = y + kept[i, 1] * block.mlp(block.norm2(y))
        return net.norm(y)[:, 0]  # type: ignore[no-any-return]
