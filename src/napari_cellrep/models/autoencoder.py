"""Convolutional autoencoder: rebuild a cell's own protein channel from a small code. A baseline, not a method.

Paper: Lu, Kraus, Cooper & Moses 2019, doi:10.1371/journal.pcbi.1007348, compare Paired Cell Inpainting with the source
encoder and the decoder of that network, trained on the same data to reproduce the cell itself. The blocks, the
scaling, the tap points and the training are those of `paired_cell_inpainting`; no weights are published.
Differs: which channels the paper's autoencoder rebuilds and which layer it is read at are not stated; here it sees
all channels, rebuilds the protein, and is read where Paired Cell Inpainting is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from torch import Tensor
from torch.nn import functional as F

from napari_cellrep.models import paired_cell_inpainting as pci
from napari_cellrep.models._base import HeldOut, Keep, MaxSeconds, MaxSteps, Patience, Seed
from napari_cellrep.specs import ModelSpec, Preset

SPEC = replace(
    pci.SPEC,
    name="autoencoder",
    title="Autoencoder",
    paper="Lu et al. 2019, PLoS Computational Biology, doi:10.1371/journal.pcbi.1007348 (its baseline)",
    licence="Method published in PLoS Computational Biology (CC BY 4.0); there are no published weights.",
    when=(
        "As a baseline: what a network learns that only copies the cell it sees. It needs neither labels nor groups; "
        "with a structural channel and groups of cells, Paired Cell Inpainting tells protein patterns apart far better."
    ),
    presets=(
        Preset(
            "small",
            "For hundreds to some ten thousand cells; ours, not the paper's: a larger learning rate for fewer steps, batch norm "
            "settled, and the epoch kept whose held-out cells lie best among their own group.",
            pci.FEW_CELLS,
        ),
    ),
    weights=(),
)  # fmt: skip


@dataclass(frozen=True)
class Config(pci.Config):
    """What the network is: as Paired Cell Inpainting, whose scaling recipes it shares."""


TINY = Config(width=0.125)


@dataclass(frozen=True)
class Training:
    """How it is trained: as Paired Cell Inpainting (models.md §1.6), but on single cells."""

    min_cells: ClassVar[int] = 1  # single cells need no group

    epochs: Annotated[int, {"min": 1, "max": 10_000, "label": "Epochs", "help": "Passes over all cells."}] = (
        30
    )
    batch_size: Annotated[
        int,
        {"min": 1, "max": 4096, "label": "Batch size", "help": "Cells per step; less needs less memory."},
    ] = 64
    learning_rate: Annotated[float, {"min": 1e-7, "max": 1.0, "step": 1e-5, "label": "Learning rate"}] = 1e-4
    beta1: Annotated[float, {"min": 0.0, "max": 0.999, "step": 0.05, "label": "Adam β1"}] = 0.5
    flips: Annotated[bool, {"label": "Flip cells", "help": "Mirror cells at random."}] = True
    seed: Seed = 0
    settle_norm: Annotated[
        bool,
        {
            "label": "Settle batch norm",
            "help": "After a run of under 1,000 steps, measure batch norm's running means again on the training cells.",
        },
    ] = False
    held_out: HeldOut = 0.1
    keep: Keep = "last"
    patience: Patience = 0
    max_steps: MaxSteps = 0
    max_seconds: MaxSeconds = 0.0


class Model(pci.EncoderDecoder):
    """Encoder and decoder of one cell.

    Parameters
    ----------
    config : Config

    References
    ----------
    .. [1] Lu et al. 2019, doi:10.1371/journal.pcbi.1007348; models.md §1.1 and §1.6.
    """

    spec: ClassVar[ModelSpec] = SPEC

    def reconstruct(self, x: Tensor) -> Tensor:
        """Rebuild the protein of cells from their codes.

        Parameters
        ----------
        x : Tensor of shape (B, n_protein + n_structure, H, W)
            Preprocessed crops; H and W multiples of 4.

        Returns
        -------
        Tensor of shape (B, n_protein, H, W), float32
        """
        self.check_crops(x)
        return self.decode(self.encode(x))

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared error of the rebuilt protein: ``{"loss"}``.

        Parameters
        ----------
        batch : mapping
            ``x``, preprocessed crops (B, C, H, W).
        """
        x = batch["x"]
        return {"loss": F.mse_loss(self.reconstruct(x), x[:, : self.config.n_protein].float())}
