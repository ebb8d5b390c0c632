"""Frozen descriptions that data, models and forms share: channels, crops, models, weights.

Standard library only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

C = TypeVar("C")


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one sentence: what, why, and what to do.

    The command line prints it and exits with 2; the window shows it; neither shows a traceback.
    """


# ---- channels ------------------------------------------------------------------------------------

ROLES = (
    "protein", "nucleus", "microtubules", "er", "membrane", "structure", "rna", "agp", "mito", "actin",
    "brightfield", "mask", "other",
)  # fmt: skip

# A model may ask for "structure": any channel that shows the cell rather than the protein of interest.
STRUCTURE_ROLES = (
    "structure", "nucleus", "microtubules", "er", "membrane", "actin", "mito", "agp", "rna", "brightfield",
)  # fmt: skip


@dataclass(frozen=True)
class Channel:
    """One plane of a field: what the lab calls it, and what it shows.

    Parameters
    ----------
    name : str
        The lab's name, unique within a project: "FKHR-GFP".
    role : str, default "other"
        One of `ROLES`; models and segmenters ask for channels by role.
    """

    name: str
    role: str = "other"

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("A channel needs a name.")
        if self.role not in ROLES:
            raise InputError(
                f"Channel {self.name!r} has the role {self.role!r}; roles are {', '.join(ROLES)}."
            )

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Read ``"name:role"``, or one word that is a role or a name ("nucleus", "FKHR-GFP:protein")."""
        name, _, role = text.strip().rpartition(":")
        if not name:
            name, role = role, role if role in ROLES else "other"
        return cls(name.strip(), role.strip().lower())


def find_channel(channels: Sequence[Channel], key: str) -> int:
    """Index of the channel called `key`: a name first, else the first of that role.

    The role "structure" accepts any channel of `STRUCTURE_ROLES`.

    Raises
    ------
    InputError
        If there is none; the sentence lists what there is.
    """
    wanted = key.strip().casefold()
    for i, channel in enumerate(channels):
        if channel.name.casefold() == wanted:
            return i
    for i, channel in enumerate(channels):
        if channel.role == wanted:
            return i
    if wanted == "structure":
        for role in STRUCTURE_ROLES:
            for i, channel in enumerate(channels):
                if channel.role == role:
                    return i
    have = ", ".join(f"{c.name} ({c.role})" for c in channels) or "none"
    raise InputError(f"There is no channel with the name or role {key!r}; the channels are: {have}.")


EMPTY = -1  # in place of a channel's index: no channel, a black plane


def match_channels(
    wanted: Sequence[str],
    channels: Sequence[Channel],
    model: str = "This model",
    may_lack: Sequence[str] = (),
) -> tuple[int, ...]:
    """Indices of the channels a model gets, one for each name or role in `wanted`, in that order.

    No channel is used twice: ("structure", "structure") takes two different ones. One of `may_lack` may be missing
    (networks were trained with one dropped, not more): its index is then `EMPTY`.

    Raises
    ------
    InputError
        If a wanted channel is missing; the sentence says what the model wants and what there is.
    """
    left = list(range(len(channels)))
    found: list[int] = []
    for key in wanted:
        try:
            i = left[find_channel([channels[j] for j in left], key)]
        except InputError:
            if key in may_lack and EMPTY not in found:
                found.append(EMPTY)
                continue
            have = ", ".join(f"{c.name} ({c.role})" for c in channels) or "none"
            raise InputError(
                f"{model} wants the channels {', '.join(wanted)} in this order; there is no {key} among: {have}. "
                "Give channels roles, or name them with --channels."
            ) from None
        left.remove(i)
        found.append(i)
    return tuple(found)


# ---- crops ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CropSpec:
    """All that decides a crop's pixels. Its digest is stored with whatever was computed from it.

    Parameters
    ----------
    mode : str
        "window": a square of fixed size about the cell's centre, ``int(centroid)``.
        "box": a square about the middle of the cell's bounding box, as large as the cell asks for
        (Microsnoop's cell-region mode, `models.md` §4.4), zero-padded to `size_px`.
    size_px : int
        Side of the crop that the network gets, in crop pixels.
    window_px : int
        Mode "window": side cut from the field, in field pixels, resized to `size_px` when they differ.
    um_per_px : float
        Mode "window": sampling the network was made for, in µm per crop pixel. When this and the field's own
        pixel size are known (> 0), the side cut is ``size_px * um_per_px`` µm and `window_px` is not used.
    box_scale : float
        Mode "box": half side of the box as a multiple of the cell's longer side, at most ``size_px / 2``; 0: the
        cell's bounding box itself, without its last row and column as the authors have it.
    box_shrink : bool
        Mode "box": boxes may be larger than `size_px` and are then shrunk to it, instead of cut off there.
    masked : bool
        Whether pixels outside the cell's own mask are set to zero.
    padding : str
        What lies beyond the image: "zero", "edge" or "reflect".
    channels : tuple of str
        Channel names or roles in the order of the crop's planes; empty: all channels as they are.
    mask_plane : bool
        Whether the cell's own mask (0/1) is added as the crop's last plane.
    """

    mode: str = "window"
    size_px: int = 64
    window_px: int = 64
    um_per_px: float = 0.0
    box_scale: float = 2.0
    box_shrink: bool = False
    masked: bool = False
    padding: str = "zero"
    channels: tuple[str, ...] = ()
    mask_plane: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.mode not in ("window", "box"):
            raise InputError(f'A crop\'s mode is "window" or "box", not {self.mode!r}.')
        if self.padding not in ("zero", "edge", "reflect"):
            raise InputError(f'A crop\'s padding is "zero", "edge" or "reflect", not {self.padding!r}.')
        if not (4 <= self.size_px <= 4096 and 4 <= self.window_px <= 16384):
            raise InputError(
                f"A crop is 4 to 4096 px wide (window 4 to 16384); got size_px={self.size_px}, "
                f"window_px={self.window_px}."
            )

    def side_px(self, field_um_per_px: float = 0.0) -> int:
        """Side of the window in field pixels, for a field of the given sampling (µm/px, 0 if unknown)."""
        if self.um_per_px > 0 and field_um_per_px > 0:
            return max(1, round(self.size_px * self.um_per_px / field_um_per_px))
        return self.window_px

    def digest(self) -> str:
        """Short hash of every value; equal specs have equal digests."""
        return digest(dataclasses.asdict(self))


# ---- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """One published checkpoint: where it is, under which licence, how it is checked and used.

    Parameters
    ----------
    name : str
        What the user types: "pci-yeast". Never a model's name, which stands for the untrained network.
    url : str
        The authors' own host: the file itself, a zip with the checkpoint in it, or the page of a Zenodo record
        (``…/records/<number>``), whose files and MD5 sums are asked for when it is fetched.
    licence : str
        Shown before the download, in words, restrictions included.
    check : str
        "md5:…", "sha256:…", "git:<blob id>" of what is at `url`, or "" when the authors publish none (then the first
        download's sha256 is recorded).
    config : dict
        The model configuration it needs, as keyword arguments.
    note : str
        What it was trained on, channels and sampling included.
    more : tuple of (url, check)
        Further files that belong beside the first, where a checkpoint is several.
    check_inside : str
        The same, also "sha1:…", of the checkpoint in the zip, where that is what the authors vouch for.
    inside : str
        Path of the checkpoint in the zip or the Zenodo record; files that are called so with something added after
        a dot (TensorFlow's ``.index`` and ``.data-…``) belong to it. "": what is at `url` is the checkpoint.
    roles : tuple of str
        Channels it wants, in order; empty: the model's.
    size_px : int
        Side of the crop it was made for; 0: the model's.
    um_per_px : float
        Sampling it was trained at, µm per pixel of the crop as the network gets it, its source in the note; 0: unknown.
    may_lack : tuple of str
        Roles of which one may be missing, because it was trained with one of them dropped now and then.
    bundled : bool
        Whether it comes with this package, in ``weights/<name>/`` as `save_model` writes it; `url` is then "".
    """

    name: str
    url: str
    licence: str
    check: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    more: tuple[tuple[str, str], ...] = ()
    inside: str = ""
    check_inside: str = ""
    roles: tuple[str, ...] = ()
    size_px: int = 0
    um_per_px: float = 0.0
    may_lack: tuple[str, ...] = ()
    bundled: bool = False


@dataclass(frozen=True)
class Preset:
    """Values for a model's ``Training`` beside its defaults, which are its paper's recipe.

    Parameters
    ----------
    name : str
        What the user types: "small".
    note : str
        Whose it is and what for, in a sentence.
    values : dict
        Field of ``Training`` → value.
    """

    name: str
    note: str
    values: dict[str, Any]


@dataclass(frozen=True)
class ModelSpec:
    """What a person must know to choose a model, and a program to feed it.

    Parameters
    ----------
    name : str
        The file's name; also the embedding's key.
    title : str
        For people: "Paired Cell Inpainting".
    roles : tuple of str
        Channels of the default configuration, in order.
    crop : CropSpec
        The window it wants by default.
    paper, licence : str
        Where it is from, and under which terms (of the method and its published weights).
    when : str
        The recommender's words: which data it suits.
    layers : tuple of str
        Tap points of the default configuration, the first is the default.
    trains : bool
        Whether it can be trained here.
    labels : bool
        Whether training needs a class for each cell (a column of the table).
    weights : tuple of Weights
        Published checkpoints it can read.
    presets : tuple of Preset
        Ways to train it beside the paper's.
    """

    name: str
    title: str
    roles: tuple[str, ...]
    crop: CropSpec
    paper: str = ""
    licence: str = ""
    when: str = ""
    layers: tuple[str, ...] = ()
    trains: bool = False
    labels: bool = False
    weights: tuple[Weights, ...] = ()
    presets: tuple[Preset, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dict, for the window and for ``model.json``."""
        return dataclasses.asdict(self)


# ---- configs: one frozen dataclass is the form, the options and the file ---------------------------


def field_rules(cls: type) -> dict[str, dict[str, Any]]:
    """Name → {type, default, rules…} of a config dataclass.

    A field is annotated ``Annotated[float, {"min": 0, "max": 1, "step": 1e-5, "label": "…", "help": "…"}]``;
    "choices" lists allowed values; "same_weights" marks a network's setting that leaves its weights as they are.
    Fields are int, float, bool, str or tuple of str; never optional.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    rules: dict[str, dict[str, Any]] = {}
    for f in dataclasses.fields(cls):
        hint, extra = hints[f.name], {}
        if typing.get_origin(hint) is typing.Annotated:
            hint, extra = typing.get_args(hint)[0], dict(typing.get_args(hint)[1])
        if f.default is not dataclasses.MISSING:
            default: Any = f.default
        elif f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        else:
            default = dataclasses.MISSING
        kind = "tuple" if typing.get_origin(hint) is tuple else getattr(hint, "__name__", str(hint))
        rules[f.name] = {"type": kind, "default": default, **extra}
    return rules


def check_config(config: C) -> C:
    """Return `config` if every value is of its field's type and within its bounds, else say which is not.

    Raises
    ------
    InputError
        Naming the field, what was given and what is allowed.
    """
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str, "tuple": tuple}
    for name, rule in field_rules(type(config)).items():
        value, label = getattr(config, name), rule.get("label", name)
        kind = kinds.get(rule["type"])
        if kind and (not isinstance(value, kind) or (rule["type"] != "bool" and isinstance(value, bool))):
            raise InputError(f"{label} ({name}) is {value!r}; it has to be of type {rule['type']}.")
        if ("min" in rule and value < rule["min"]) or ("max" in rule and value > rule["max"]):
            low, high = rule.get("min", "−∞"), rule.get("max", "∞")
            raise InputError(f"{label} ({name}) is {value}; it has to lie between {low} and {high}.")
        if "choices" in rule and value not in rule["choices"]:
            raise InputError(
                f"{label} ({name}) is {value!r}; it can be {', '.join(map(str, rule['choices']))}."
            )
    return config


def make_config(cls: type[C], values: dict[str, Any] | None = None) -> C:
    """Build and check a config from plain values (a file's, a form's or the command line's).

    Strings are read as the field's type, lists become tuples. Unknown names are refused with the known ones.

    Raises
    ------
    InputError
        If a name is unknown or a value is out of bounds.
    """
    rules, clean = field_rules(cls), {}
    for name, value in (values or {}).items():
        if name not in rules:
            raise InputError(
                f"There is no setting called {name!r}; settings are {', '.join(rules) or 'none'}."
            )
        clean[name] = _read_value(name, value, rules[name]["type"])
    return check_config(cls(**clean))


def _read_value(name: str, value: Any, kind: str) -> Any:
    if kind == "tuple":
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else tuple(value)
        )
    if not isinstance(value, str) or kind == "str":
        return (
            float(value)
            if kind == "float" and isinstance(value, int) and not isinstance(value, bool)
            else value
        )
    try:
        if kind == "bool":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                value.lower()
            ]
        return {"int": int, "float": float}[kind](value)
    except (KeyError, ValueError):
        raise InputError(f"{name} is {value!r}; it has to be of type {kind}.") from None


def digest(value: Any) -> str:
    """Short stable hash of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_numbers(text: str, kind: Callable[[str], Any], name: str) -> list[Any]:
    """Numbers with commas between them; `name` is what the text stands for, in the words of an error.

    Raises
    ------
    InputError
        If there is something else.
    """
    try:
        return [kind(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"{name} is {text!r}; it has to be numbers with commas between them.") from None


def join_words(words: Iterable[str], most: int = 5) -> str:
    """Write "a, b and c", or "a, b, c, d, e and 7 more": for sentences that list things."""
    items = list(words)
    if len(items) > most:
        return ", ".join(items[:most]) + f" and {len(items) - most:,} more"
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def first_line(error: BaseException, most: int | None = 120) -> str:
    """What an error of a library says first, or else its kind, for a sentence of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:most]


def counted(names: Sequence[str], what: str) -> str:
    """How many, and the first of them: "3 fields (A01, A02, A03)"."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} {what}{'s' * (len(names) != 1)} ({shown})"


def how_many(n: int, what: str) -> str:
    """A number of things: "1 field", "1,200 fields"."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def p_words(p: float) -> str:
    """A p-value as people read it: "p = 0.003", "p < 0.001"."""
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"
