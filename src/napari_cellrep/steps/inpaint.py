"""What a source cell's pattern would look like in a target cell (Paired Cell Inpainting)."""

from __future__ import annotations

import numpy as np

from napari_cellrep.data import Project
from napari_cellrep.jobs import Job, Progress
from napari_cellrep.specs import InputError, match_channels
from napari_cellrep.steps.embed import cut_cells, find_model


def inpaint(
    project: Project, *, source: str, target: str = "", model: str = "paired_cell_inpainting", seed: int = 0
) -> Job[dict[str, object]]:
    """Predict the target cell's protein from a source cell and the target's structural channels.

    Parameters
    ----------
    source, target : str
        Cell ids; they may lie in different fields and groups. Without a target, one is drawn at random from the
        source's group.
    model : str
        A trained model of this project, or a path.
    seed : int
        Of the draw.

    Yields
    ------
    Progress
        Once before and once after the network ran.

    Returns
    -------
    dict
        ``target``, ``prediction``, ``error`` (prediction − target): float32 (H, W) crops of the first protein
        channel as the network scales it; ``structure`` (C, H, W); ``y0``, ``x0``: field pixel of the crop's
        first pixel; ``scale``: field pixels per crop pixel; ``field``, ``source_cell``, ``target_cell``;
        ``mse``: mean squared error; ``trained``: whether the weights are.

    Raises
    ------
    InputError
        If a cell is unknown, the model cannot inpaint, or the group has no other cell.
    """
    import torch

    from napari_cellrep.models import can

    obs = project.cells.obs
    for cell in filter(None, (source, target)):
        if cell not in obs.index:
            raise InputError(f"There is no cell {cell!r}: it may have been deleted or renumbered by an edit.")
    if not target:
        mates = obs.index[(obs["group"] == obs.loc[source, "group"]) & obs["good"] & (obs.index != source)]
        if not len(mates):
            raise InputError(
                f"The group {obs.loc[source, 'group']!r} has no other good cell to predict; click a target."
            )
        target = str(np.random.default_rng(seed).choice(mates))
    yield Progress(0, 1, "Predicting the pattern")
    net, trained = find_model(project, model)
    if not can(net, "inpaint"):
        raise InputError(
            f"{net.spec.title} cannot predict a protein pattern; choose a Paired Cell Inpainting model."
        )
    planes = match_channels(net.roles, project.channels, net.spec.title)

    def prepared(cell: str) -> torch.Tensor:
        row = obs.loc[[cell]]
        crops = cut_cells(project, str(row["field"].iloc[0]), row, net.crop, planes)
        return net.preprocess(torch.from_numpy(crops))

    n_protein = len([r for r in net.spec.roles if r == "protein"])
    n_protein = getattr(net.config, "n_protein", n_protein)
    with torch.inference_mode():
        x, y = prepared(source), prepared(target)
        predicted = net.inpaint(x, y[:, n_protein:])[0, 0].float().numpy()  # type: ignore[operator]
    real = y[0, 0].float().numpy()
    row = obs.loc[target]
    side = net.crop.side_px(project.field(str(row["field"])).um_per_px)
    yield Progress(1, 1, "Predicted the pattern")
    return {
        "target": real,
        "prediction": predicted,
        "error": predicted - real,
        "structure": y[0, n_protein:].float().numpy(),
        "y0": float(int(row["y_px"]) - side // 2),
        "x0": float(int(row["x_px"]) - side // 2),
        "scale": side / net.crop.size_px,
        "field": str(row["field"]),
        "source_cell": source,
        "target_cell": target,
        "mse": float(np.mean((predicted - real) ** 2)),
        "trained": trained,
    }
