"""The papers' small network on top of vectors: which classes a cell has, of which it may have several."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

HIDDEN = (512, 256)
DROPOUT, WEIGHT_DECAY = 0.5, 0.04
BATCH, LEARNING_RATE = 512, 2e-4  # 1e-4 · 512 / 256
FEW, STEPS, LEAST_BATCH = 24 * BATCH, 24, 32  # cells; steps of an epoch of fewer, whose batches are smaller
FEW_RATE = 1e-3  # what few steps learn at 2e-4 is little


def head(n_features: int, n_classes: int) -> nn.Sequential:
    """The network: two hidden layers with ReLU and dropout, then a logit for each class."""
    layers: list[nn.Module] = []
    for wide in HIDDEN:
        layers += [nn.Linear(n_features, wide), nn.ReLU(), nn.Dropout(DROPOUT)]
        n_features = wide
    return nn.Sequential(*layers, nn.Linear(n_features, n_classes))


def head_probabilities(
    x: np.ndarray, member: np.ndarray, ask: np.ndarray, *, epochs: int = 30, seed: int = 0
) -> np.ndarray:
    """Train the head and ask it for other cells.

    As DINO4Cells: features scaled by the training cells' mean and SD, every draw a class first and then one of its cells, binary
    cross-entropy, AdamW with decoupled weight decay, the learning rate falling to 0 along a cosine. Ours, because an epoch of a
    few steps teaches little: fewer than 12,288 cells make batches of a 24th of them instead of 512, and the learning rate is
    1e-3 instead of 2e-4.

    Parameters
    ----------
    x : ndarray of shape (n, d), float
        Finite.
    member : ndarray of shape (n, n_classes), bool
        Which classes each cell has.
    ask : ndarray of shape (m, d), float
    epochs : int
        Draws of n cells each.
    seed : int
        The same seed gives the same head on the same machine.

    Returns
    -------
    ndarray of shape (m, n_classes), float32
        Probability of each class by itself.

    References
    ----------
    .. [1] ``models.md`` §3.7 (MLP of the HPA data; 529,939 parameters for 768 features and 19 classes).
    """
    x = np.asarray(x, np.float32)
    n = len(x)
    mean, sd = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    sd = np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1e-30), sd, np.inf)

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((np.asarray(rows, np.float64) - mean) / sd).astype(np.float32))

    has = [np.flatnonzero(column) for column in member.T]
    there = np.array([c for c, rows in enumerate(has) if len(rows)])
    if not len(there):  # none was seen
        return np.zeros((len(ask), member.shape[1]), np.float32)
    rng = np.random.default_rng(seed)
    batch = int(np.clip(n // STEPS, LEAST_BATCH, BATCH))
    steps = -(-n // batch)
    z, y = scaled(x), torch.from_numpy(member.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = head(x.shape[1], member.shape[1])
        optimizer = torch.optim.AdamW(
            net.parameters(), FEW_RATE if n < FEW else LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
        loss = nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            own = rng.choice(there, n)
            rows = np.array([has[c][rng.integers(len(has[c]))] for c in own])
            for part in np.array_split(rows, steps):
                optimizer.zero_grad()
                loss(net(z[part]), y[part]).backward()
                optimizer.step()
                course.step()
        net.eval()
        with torch.inference_mode():
            return torch.sigmoid(net(scaled(ask))).numpy()
