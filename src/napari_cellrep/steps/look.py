"""What a network makes of a cell, at the cell's place: where it looks, what it needs, how it redraws the cell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.data.crops import Place, find_places
from napari_cellrep.specs import EMPTY, InputError, join_words
from napari_cellrep.steps.embed import boxes_of, cut_cells
from napari_cellrep.steps.networks import UNTRAINED, Found, network_of

if TYPE_CHECKING:
    import torch

    from napari_cellrep.models import EmbeddingModel

SQUARES = 12  # squares that hide something, side by side along the crop
AT_ONCE = 32  # crops in one pass
MOST_NAMED = 20  # classes of a cell that are told
PATCHES = 8  # side by side in the window of a network that was not taught with hidden patches
MOST_COMPARED = 1000  # cells whose distances say what is far

ALONE = (
    "Attention alone can mislead: it says where the network looks, not what it uses. "
    "Compare “What does the network need?”."
)


@dataclass(frozen=True)
class Plane:
    """One picture and its place in the field.

    Parameters
    ----------
    part : str
        "mean", "head", "occlusion", "evidence", "tokens", "similar", "input", "masked", "redrawn" or "error".
    name : str
        For people.
    data : ndarray of shape (h, w) or, of "tokens", (h, w, 3), float32
    y0, x0 : float
        Field pixel where its first pixel begins, as in `steps.inpaint`.
    scale : float
        Field pixels per pixel of it.
    limits : tuple of float
        Values to be shown as black and white; of "error" and "evidence", around zero.
    """

    part: str
    name: str
    data: np.ndarray
    y0: float
    x0: float
    scale: float
    limits: tuple[float, float]


@dataclass(frozen=True)
class Look:
    """What came of looking at one cell.

    Parameters
    ----------
    what : str
        "attention", "occlusion", "classes", "reconstruction", "tokens" or "structure".
    cell_id, field, embedding : str
    title : str
        The network's name for people.
    trained : bool
    planes : tuple of Plane
        The first is the one to be shown first.
    words : tuple of str
        What is to be said, a sentence each.
    numbers : dict
        The same for programs, plain JSON types.
    mask : Plane or None
        Of a reconstruction: "mask", (C, h, w), 1 where a patch that shows some of the image is hidden; (1, h, w) where all
        channels share it.
    """

    what: str
    cell_id: str
    field: str
    embedding: str
    title: str
    trained: bool
    planes: tuple[Plane, ...]
    words: tuple[str, ...]
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    mask: Plane | None = None


@dataclass(frozen=True)
class Seen:
    """A cell as its network gets it, and where that lies."""

    cell_id: str
    field: str
    x: torch.Tensor  # (1, planes · k, H, W), preprocessed
    place: Place
    first: float
    step: float
    channels: tuple[str, ...]  # one per plane of the crop

    def span(self, axis: int) -> tuple[int, int]:
        """First and last (exclusive) seen pixel that shows the image, along an axis."""
        ends = ((e - 0.5 - self.first) / self.step + 0.5 for e in self.place.inside[axis::2])
        start, end = (round(e, 6) for e in ends)
        return max(math.floor(start), 0), min(math.ceil(end), self.x.shape[2 + axis])

    def plane(
        self, part: str, name: str, data: np.ndarray, limits: tuple[float, float], at: tuple[float, float], size: float
    ) -> Plane:  # fmt: skip
        """A picture whose first pixel begins at the seen pixel `at` and whose pixels are `size` seen pixels wide."""
        scale = self.place.step * self.step * size
        middle = [self.place.step * (self.first + self.step * (o + (size - 1) / 2)) for o in at]
        y0, x0 = self.place.y0 + middle[0], self.place.x0 + middle[1]
        y0, x0 = y0 - (scale - 1) / 2, x0 - (scale - 1) / 2
        return Plane(part, name, data.astype(np.float32), y0, x0, scale, limits)


def reasons(project: Project, *, embedding: str) -> dict[str, str]:
    """Why the network of an embedding cannot give a look (attention, occlusion, …); "" where it can.

    "patterns" says it of the project's Paired Cell Inpainting. Loads the network, so that the first look is quick.
    """
    from napari_cellrep.steps.inpaint import why_not

    patterns = {"patterns": why_not(project)}
    try:
        net = _network(project, embedding).net
    except InputError as error:
        return dict.fromkeys(ASKED, str(error)) | patterns
    return {what: _why_not(net, what) for what in ASKED} | patterns


def attention(
    project: Project, *, cells: Sequence[str], embedding: str = "", device: str = "auto"
) -> tuple[Look, ...]:
    """Where the class token of a vision transformer looks in its last block: the heads' mean, and each head.

    Parameters
    ----------
    cells : sequence of str
        Cell ids.
    embedding : str
        Whose network; empty: the only one there is.
    device : str
        "auto", "cpu", "cuda", "mps".

    Returns
    -------
    tuple of Look
        Planes "mean", then "head" for each; a pixel is a patch, and its value the share of the token's attention.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, or the network has no attention.
    """
    found, dev = ready(project, embedding, "attention", device)
    net: Any = found.net
    out = []
    for seen in see(project, found, cells, dev):
        with quiet():
            maps = net.attention(seen.x)[0].float().cpu().numpy()  # (heads, h, w)
        patch = patch_px(net, seen.x.shape[-1], maps.shape[-1])
        names = head_names(net, seen.channels, len(maps))
        mean = maps.mean(axis=0)
        planes = [
            seen.plane(part, name, data, _span(data), (0, 0), patch)
            for part, name, data in (
                ("mean", "attention", mean), *(("head", f"attention, {n}", m) for n, m in zip(names, maps, strict=True)),
            )
        ]  # fmt: skip
        least, most = (float(v / max(mean.mean(), 1e-9)) for v in (mean.min(), mean.max()))
        words = (
            f"{len(maps)} heads, patches of {planes[0].scale:.3g} px; the darkest has {least:.2g} times the mean share, the "
            f"brightest {most:.2g} times.",
            ALONE,
        )
        out.append(
            answer(
                "attention",
                project,
                found,
                embedding,
                seen,
                planes,
                words,
                {"least": round(least, 3), "most": round(most, 3)},
            )
        )
    return tuple(out)


def head_names(net: Any, channels: Sequence[str], n: int) -> list[str]:
    """What the heads of a network's attention are called; where each channel goes by itself, with the channel."""
    per = n // len(channels) if getattr(net.config, "as_rgb", False) else n
    return [f"head {i % per + 1}" + (f" {channels[i // per]}" if per < n else "") for i in range(n)]


def patch_px(net: Any, seen_px: int, n: int) -> int:
    """Side of a patch in pixels of the crop as the network sees it, of which `n` lie side by side."""
    return int(getattr(net.config, "patch_px", seen_px // n))


def occlusion(
    project: Project, *, cells: Sequence[str], embedding: str = "", squares: int = SQUARES, device: str = "auto"
) -> tuple[Look, ...]:  # fmt: skip
    """What a network needs of a cell: how far its vector moves when a square, or a whole channel, is hidden.

    Hidden pixels get the mean of their channel in the crop, as the network gets it. A square is two pixels of the
    result wide and moves by one; a pixel's value is the mean over the squares that hide it.

    Parameters
    ----------
    cells, embedding, device
        As in `attention`; any network will do.
    squares : int
        Pixels of the result along the longer side of what the crop shows.

    Returns
    -------
    tuple of Look
        Distances, as multiples of the median distance from this cell to others; ``numbers["channels"]`` has them by
        channel.
    """
    found, dev = ready(project, embedding, "occlusion", device)
    net, out = found.net, []
    for seen in see(project, found, cells, dev):
        unit = _usual_distance(project, _key(project, embedding), seen.cell_id)
        hiding = _Hiding.of(seen, squares)
        own, without = _without(lambda x: net.embed(x, found.layer).float(), seen.x[0], hiding)
        moved = np.linalg.norm(without - own, axis=1) / unit
        by_channel, by_spot = moved[: len(seen.channels)], moved[len(seen.channels) :]
        data = hiding.spread(by_spot)
        plane = hiding.plane("occlusion", "occlusion", data, (0.0, float(max(data.max(), 1e-9))))
        far = "the usual distance from this cell to another"
        words = [
            f"Without {name} the cell moves {d:.2f} times {far}."
            for name, d in zip(seen.channels, by_channel, strict=True)
        ]
        words.append(
            f"Without the square that counts most ({2 * plane.scale:.3g} px) it moves {by_spot.max():.2f} times that "
            f"distance, without an average one {by_spot.mean():.2f}."
        )
        numbers = {
            "channels": {n: round(float(d), 4) for n, d in zip(seen.channels, by_channel, strict=True)},
            "largest": round(float(by_spot.max()), 4), "mean": round(float(by_spot.mean()), 4), "usual_distance": unit,
        }  # fmt: skip
        out.append(answer("occlusion", project, found, embedding, seen, [plane], tuple(words), numbers))
    return tuple(out)


def classes(
    project: Project, *, cells: Sequence[str], embedding: str = "", of: str = "", squares: int = SQUARES,
    device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """Which class a network takes a cell for, and which squares and channels speak for a class.

    Parameters
    ----------
    cells, embedding, device
        As in `attention`.
    of : str
        The class whose evidence is wanted; empty: each cell's most probable one.
    squares : int
        As in `occlusion`.

    Returns
    -------
    tuple of Look
        One plane "evidence": by how many powers of ten the odds of the class, p / (1 - p), fall while a square is
        hidden; positive speaks for the class, negative against it. (The probability itself hardly moves where a network
        is sure.) ``numbers["probabilities"]``: the `MOST_NAMED` most probable classes and `of`, most probable first, as
        the network's test mode has it (for DeepLoc 2017 the mean over five windows; the evidence is of the central one,
        which costs a fifth). ``numbers["channels"]``: the same for each channel.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, the network knows no classes, or not this one.
    """
    found, dev = ready(project, embedding, "classes", device)
    net: Any = found.net
    names = class_names(net)
    if of and of not in names:
        raise InputError(f"{net.spec.title} knows no class {of!r}; it knows {join_words(names, 12)}.")
    out = []
    for seen in see(project, found, cells, dev):
        with quiet():
            share = net.classify(seen.x)[0].float().cpu().numpy()
        order = [int(i) for i in np.argsort(-share, kind="stable")]
        c = names.index(of) if of else order[0]
        hiding = _Hiding.of(seen, squares)
        own, without = _without(net.logits, seen.x[0], hiding)
        odds, fall = _log_odds(own, c)[0], _log_odds(own, c) - _log_odds(without, c)
        by_channel, by_spot = fall[: len(seen.channels)], fall[len(seen.channels) :]
        data = hiding.spread(by_spot)
        top = float(max(np.abs(data).max(), 1e-6))
        plane = hiding.plane("evidence", f"evidence for {names[c]}", data, (-top, top))
        shown = order[:MOST_NAMED] + ([c] if c not in order[:MOST_NAMED] else [])
        first = ", ".join(f"{names[i]} {share[i]:.1%}" for i in order[:3])
        words = (
            f"Most probable of {len(names):,} classes: {first}.",
            f"For {names[c]} the odds are {_odds(odds)}. The square that speaks most for it, hidden, leaves "
            f"{_odds(odds - by_spot.max())}, the one that speaks most against it {_odds(odds - by_spot.min())}; "
            + ", ".join(
                f"without {n} {_odds(odds - d)}" for n, d in zip(seen.channels, by_channel, strict=True)
            )
            + ".",
        )
        numbers = {
            "class": names[c],
            "probabilities": {names[i]: round(float(share[i]), 6) for i in shown},
            "n_classes": len(names),
            "channels": {n: round(float(d), 6) for n, d in zip(seen.channels, by_channel, strict=True)},
            "largest": round(float(by_spot.max()), 6),
        }
        out.append(answer("classes", project, found, embedding, seen, [plane], words, numbers))
    return tuple(out)


def _log_odds(logits: np.ndarray, c: int) -> np.ndarray:
    """Decimal logarithm of p / (1 - p) of a class, (n,), from logits (n, classes)."""
    others = np.delete(logits.astype(np.float64), c, axis=1)
    return np.asarray((logits[:, c] - np.logaddexp.reduce(others, axis=1)) / math.log(10))


def _odds(log10: float) -> str:
    """Odds as people say them: 12 to 1."""
    if abs(log10) > 6:
        return "over a million to 1" if log10 > 0 else "1 to over a million"
    return f"{10**log10:,.3g} to 1" if log10 >= 0 else f"1 to {10**-log10:,.3g}"


def class_names(net: Any) -> tuple[str, ...]:
    """What a network's classes are called; "class 1" … where its file does not say."""
    said = tuple(str(name) for name in net.card.get("classes", ()))
    return said if len(said) == net.n_classes else tuple(f"class {i + 1}" for i in range(net.n_classes))


def reconstruction(
    project: Project, *, cells: Sequence[str], embedding: str = "", ratio: float | None = None,
    seed: int | None = None, hidden: np.ndarray | None = None, device: str = "auto",
) -> tuple[Look, ...]:  # fmt: skip
    """How a network redraws a cell: what it gets, with patches hidden (black), and what it makes of it.

    Microsnoop was taught with hidden patches of 16 pixels, in each channel others. Another network, such as the
    autoencoder, was not, and is shown the whole cell unless something is to be hidden; then a patch, of which `PATCHES`
    lie side by side in its window, is hidden in all channels at once, because it sees all of them at once.

    Parameters
    ----------
    cells, embedding, device
        As in `attention`.
    ratio : float, optional
        Fraction to hide of all patches of the network's window, as in the paper (models.md §4.5), those outside of the
        image or beyond a small crop too; by default that of its training: a quarter for Microsnoop, else none.
    seed : int, optional
        Of the mask; 0 by default.
    hidden : ndarray of shape (C, h, w), bool, optional
        For one cell: which patches to hide instead, on the grid of ``mask`` of a look at this cell.

    Returns
    -------
    tuple of Look
        For each channel "redrawn", "input", "masked" and "error" (redrawn − input), on the scale of the network, cut to
        what shows the image; ``numbers["channels"]`` has mean squared errors and how many of the patches that show some
        of the image are hidden, ``mask`` which; ``numbers["taught"]``: the fraction hidden in the training.

    Raises
    ------
    InputError
        If a cell is unknown, the weights are gone, the network cannot redraw a cell or not with this mask.
    """
    import torch

    found, dev = ready(project, embedding, "reconstruction", device)
    net: Any = found.net
    module = registry.load("models", net.spec.name)
    mask_patches = getattr(module, "mask_patches", None)
    if ratio is not None and not 0 <= ratio <= 1:
        raise InputError(f"The fraction of patches to hide is {ratio}; it has to lie between 0 and 1.")
    if hidden is not None and len(cells) != 1:
        raise InputError(f"A painted mask is for one cell; {len(cells)} are asked about.")
    out = []
    for seen in see(project, found, cells, dev):
        with quiet():
            if mask_patches is not None:
                how: dict[str, Any] = {} if ratio is None else {"ratio": ratio}
                mask = mask_patches(seen.x, generator=torch.Generator().manual_seed(seed or 0), **how)
                drawn = _painted(seen, mask, module.PATCH_PX, hidden)
                redrawn = net.reconstruct(seen.x, mask)
            else:
                mask, patch = _hide_in_all(seen.x, ratio or 0.0, seed or 0)
                drawn = _painted(seen, mask, patch, hidden)
                mask = mask.expand(seen.x.shape)
                redrawn = net.reconstruct(seen.x * mask)
            shown = {"input": seen.x, "masked": seen.x * mask}
        (ya, yb), (xa, xb) = seen.span(0), seen.span(1)
        planes, words, by_channel = [], [], {}
        for c, name in enumerate(seen.channels[: redrawn.shape[1]]):
            part = {k: v[0, c, ya:yb, xa:xb].float().cpu().numpy() for k, v in shown.items()}
            part = {"redrawn": redrawn[0, c, ya:yb, xa:xb].float().cpu().numpy(), **part}
            error = part["redrawn"] - part["input"]
            visible = mask[0, c, ya:yb, xa:xb].cpu().numpy()
            own = drawn.data[min(c, len(drawn.data) - 1)]
            n, of = int(own.sum()), own.size
            top = float(max(np.abs(error).max(), 1e-6))
            low, high = float(part["input"].min()), float(part["input"].max())
            both = (low, max(high, low + 1e-6))
            said = {
                "redrawn": "redrawn", "input": "as the network sees it", "error": "error of redrawing",
                "masked": f"with {'patches' if n else 'no patch'} hidden",
            }  # fmt: skip
            planes += [seen.plane(k, f"{name} {said[k]}", v, both, (ya, xa), 1) for k, v in part.items()]
            planes.append(seen.plane("error", f"{name} {said['error']}", error, (-top, top), (ya, xa), 1))
            by_channel[name] = {"mse": float(np.mean(error**2))}
            line = f"{name}: mean squared error {by_channel[name]['mse']:.3g}"
            by_channel[name].update(n_hidden=n, n_patches=of)
            line += f", {n} of {of} patches hidden" if n or mask_patches is not None else ""
            if n:
                for key, where in (("hidden", ~visible), ("visible", visible)):
                    if where.any():
                        by_channel[name][f"mse_{key}"] = float(np.mean(error[where] ** 2))
                        line += f", {by_channel[name][f'mse_{key}']:.3g} where patches were {key}"
            words.append(f"{line}.")
        if mask_patches is None and drawn.data.any():
            words.append(
                f"{net.spec.title} was not taught with hidden patches: to it they are black parts of the cell."
            )
        numbers = {"channels": by_channel, "taught": 0.0 if mask_patches is None else module.HIDDEN}
        one = answer("reconstruction", project, found, embedding, seen, planes, tuple(words), numbers)
        out.append(dataclasses.replace(one, mask=drawn))
    return tuple(out)


def _hide_in_all(x: torch.Tensor, ratio: float, seed: int) -> tuple[torch.Tensor, int]:
    """Draw which patches all channels may be seen in, (1, 1, H, W) of bool, and the side of a patch."""
    import torch

    h, w = x.shape[2:]
    patch = max(1, max(h, w) // PATCHES)
    rows, columns = math.ceil(h / patch), math.ceil(w / patch)
    keep = np.zeros(rows * columns, bool)
    keep[np.random.default_rng(seed).permutation(keep.size)[: int(keep.size * (1 - ratio))]] = True
    whole = keep.reshape(rows, columns).repeat(patch, 0).repeat(patch, 1)[:h, :w]
    return torch.from_numpy(whole)[None, None].to(x.device), patch


def _painted(seen: Seen, mask: torch.Tensor, patch: int, hidden: np.ndarray | None) -> Plane:
    """The patches that show some of the image, 1 where hidden; those of `hidden` are put into the mask (1, C, H, W)."""
    import torch

    ends = [seen.span(axis) for axis in (0, 1)]
    first, last = zip(*((start // patch, math.ceil(end / patch)) for start, end in ends), strict=True)
    rows, columns = (slice(a * patch, b * patch) for a, b in zip(first, last, strict=True))
    part = mask[0, :, rows, columns]
    if hidden is not None:
        wanted = torch.from_numpy(np.ascontiguousarray(hidden, dtype=bool))
        if wanted.shape != part[:, ::patch, ::patch].shape:
            raise InputError(
                f"The painted mask has shape {tuple(wanted.shape)}; this cell's patches are "
                f"{tuple(part[:, ::patch, ::patch].shape)}."
            )
        whole = ~wanted.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        part[:] = whole[:, : part.shape[1], : part.shape[2]].to(mask.device)  # the last patch may be cut off
    data = (~part[:, ::patch, ::patch]).cpu().numpy()
    at = (float(first[0] * patch), float(first[1] * patch))
    return seen.plane("mask", "hidden patches", data, (0.0, 1.0), at, patch)


_LOOKS = {
    "attention": attention,
    "occlusion": occlusion,
    "classes": classes,
    "reconstruction": reconstruction,
}


ASKED = (*_LOOKS, "tokens", "structure", "apart")  # the last three are `steps.tokens`


def look(project: Project, *, what: str, cells: Sequence[str], **settings: Any) -> tuple[Look, ...]:
    """One of `ASKED`, by its name."""
    if what not in ASKED:
        raise InputError(f"There is nothing called {what!r} to look at; there are {', '.join(ASKED)}.")
    if what not in _LOOKS:
        from napari_cellrep.steps import tokens

        return getattr(tokens, what)(project, cells=cells, **settings)  # type: ignore[no-any-return]
    return _LOOKS[what](project, cells=cells, **settings)  # type: ignore[operator,no-any-return]


# ---- the network and its cells ---------------------------------------------------------------------

_kept: dict[tuple[Any, ...], Found] = {}  # the one that was asked last, with its weights


def _key(project: Project, embedding: str) -> str:
    from napari_cellrep.steps.analyze import choose_embedding

    return choose_embedding(project.cells, embedding)


def _network(project: Project, embedding: str) -> Found:
    """The network of an embedding, kept while it is the last that was asked for and nothing of it was written."""
    embedding = _key(project, embedding)
    files = [
        project.embedding_folder(embedding) / "key.json",
        *sorted((project.root / "models").glob("*/model.json")),
    ]
    stamps = tuple((str(f), f.stat().st_mtime_ns) for f in files if f.is_file())
    key = (str(project.root), embedding, stamps, project.channels)
    found = _kept.get(key)
    if found is None:
        found = network_of(project, embedding)
        _kept.clear()
        _kept[key] = found
    return found


def _why_not(net: EmbeddingModel, what: str) -> str:
    from napari_cellrep.models import can

    title = net.spec.title
    if what == "attention" and not can(net, "attention"):
        return f"{title} has no attention; DINO has. “What does the network need?” works for every network."
    if what in ("tokens", "structure", "apart") and not can(net, "patch_tokens"):
        return f"{title} has no patches with vectors of their own; DINO has."
    if what == "classes" and not can(net, "classify"):
        return f"{title} knows no classes; DeepLoc does, and card Explore learns from your own sets of cells."
    if what == "reconstruction" and not can(net, "reconstruct"):
        return f"{title} does not redraw a cell; Microsnoop and the autoencoder do."
    if what == "occlusion" and not net.on_device:
        return f"{title}: these numbers are measured, there is no network to be asked."
    return ""


def ready(project: Project, embedding: str, what: str, device: str) -> tuple[Found, torch.device]:
    """The network of an embedding on its device, if it can answer; a sentence if it cannot."""
    from napari_cellrep.models._engine import choose_device

    found = _network(project, embedding)
    if why := _why_not(found.net, what):
        raise InputError(why)
    dev = choose_device(device)
    found.net.to(dev)
    return found, dev


def check_cells(project: Project, cells: Sequence[str]) -> None:
    """Raise `InputError` if one of the cells is not there."""
    if gone := [cell for cell in dict.fromkeys(cells) if cell not in project.cells.obs.index]:
        raise InputError(
            f"There is no cell {join_words(gone)}: it may have been deleted or renumbered by an edit."
        )


def quiet() -> Any:
    """Without what learning would need."""
    import torch

    return torch.inference_mode()


def see(project: Project, found: Found, cells: Sequence[str], device: torch.device) -> Iterator[Seen]:
    """Cells as the network gets them, one after the other."""
    from napari_cellrep.models._engine import to_tensor

    obs, net = project.cells.obs, found.net
    check_cells(project, cells)
    names = [
        f"no {role} channel" if i == EMPTY else project.channels[i].name
        for role, i in zip(net.roles, found.planes, strict=True)
    ]
    if net.crop.mask_plane:
        names.append("outline")
    for cell in cells:
        row = obs.loc[[cell]]
        where = project.field(str(row["field"].iloc[0]))
        crops = cut_cells(project, where.id, row, net.crop, found.planes)
        x = net.preprocess(to_tensor(crops).to(device)).float()
        place = find_places(boxes_of(row), net.crop, (where.height_px, where.width_px), where.um_per_px)[0]
        first, step = net.seen_grid(crops.shape[-1], x.shape[-1])
        yield Seen(cell, where.id, x, place, first, step, tuple(names))


def answer(
    what: str, project: Project, found: Found, embedding: str, seen: Seen, planes: Sequence[Plane],
    words: tuple[str, ...], numbers: dict[str, Any],
) -> Look:  # fmt: skip
    """A look, with what is to be said of a network that has learned nothing."""
    key = _key(project, embedding)
    trained = bool(project.embedding_info(key).get("trained", True))
    if not trained:
        words = (*words, UNTRAINED)
    return Look(
        what, seen.cell_id, seen.field, key, found.net.spec.title, trained, tuple(planes), words, numbers
    )


@dataclass(frozen=True)
class _Hiding:
    """What is hidden of a cell, one after the other: each channel, then each square."""

    seen: Seen
    at: tuple[int, int]  # first seen pixel that shows the image
    size: int  # seen pixels per pixel of the result
    shape: tuple[int, int]  # of the result
    spots: tuple[tuple[int, int], ...]  # first pixel of the result that a square hides
    shown: tuple[slice, ...]
    parts: tuple[tuple[slice, ...], ...]

    @classmethod
    def of(cls, seen: Seen, squares: int) -> _Hiding:
        (ya, yb), (xa, xb) = seen.span(0), seen.span(1)
        size = max(1, math.ceil(max(yb - ya, xb - xa) / max(squares, 1)))
        h, w = math.ceil((yb - ya) / size), math.ceil((xb - xa) / size)
        per = seen.x.shape[1] // len(seen.channels)  # planes of the network per channel
        every, whole = slice(None), (slice(ya, yb), slice(xa, xb))
        spots = tuple((i, j) for i in range(max(h - 1, 1)) for j in range(max(w - 1, 1)))
        parts = [(slice(c * per, (c + 1) * per), *whole) for c in range(len(seen.channels))]
        for i, j in spots:
            y, x = ya + i * size, xa + j * size
            parts.append((every, slice(y, min(y + 2 * size, yb)), slice(x, min(x + 2 * size, xb))))
        return cls(seen, (ya, xa), size, (h, w), spots, (every, *whole), tuple(parts))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Mean over the squares that hide a pixel: (h, w) of one value per square."""
        total, count = np.zeros(self.shape), np.zeros(self.shape)
        for (i, j), value in zip(self.spots, values, strict=True):
            total[i : i + 2, j : j + 2] += value
            count[i : i + 2, j : j + 2] += 1
        return total / count

    def plane(self, part: str, name: str, data: np.ndarray, limits: tuple[float, float]) -> Plane:
        return self.seen.plane(part, name, data, limits, self.at, self.size)


def _without(
    ask: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, hiding: _Hiding
) -> tuple[np.ndarray, np.ndarray]:
    """Answers to a crop as it is (1, d), and with each part at its plane's mean over what is shown (parts, d)."""
    import torch

    mean = torch.zeros_like(x) + x[hiding.shown].mean(dim=(1, 2), keepdim=True)
    answers = []
    with quiet():
        own = ask(x[None]).float().cpu().numpy()
        for i in range(0, len(hiding.parts), AT_ONCE):
            parts = hiding.parts[i : i + AT_ONCE]
            crops = x.repeat(len(parts), 1, 1, 1)
            for crop, part in zip(crops, parts, strict=True):
                crop[part] = mean[part]
            answers.append(ask(crops).float().cpu().numpy())
    return own, np.concatenate(answers)


def _span(data: np.ndarray) -> tuple[float, float]:
    low, high = float(data.min()), float(data.max())
    return low, max(high, low + 1e-9)


def _usual_distance(project: Project, embedding: str, cell: str) -> float:
    """Median distance from a cell to others in an embedding; 1 where there is nothing to measure it by."""
    table = project.cells
    x = np.asarray(table.obsm[f"X_{embedding}"], np.float32)
    row = int(table.obs.index.get_loc(cell))
    rows = np.flatnonzero(np.isfinite(x).all(axis=1) & (np.arange(len(x)) != row))
    if not len(rows) or not np.isfinite(x[row]).all():
        return 1.0
    rows = np.random.default_rng(0).permutation(rows)[:MOST_COMPARED]
    found = float(np.median(np.linalg.norm(x[rows] - x[row], axis=1)))
    return found if found > 0 else 1.0
