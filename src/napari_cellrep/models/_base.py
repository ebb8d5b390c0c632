"""What every embedding model answers, and what a model file has to hold.

A model file (``models/<name>.py``) holds, at module level:

- a docstring: paper, source, licence, what differs;
- ``SPEC``: a `ModelSpec`;
- ``Config``: a frozen dataclass, what the network *is* (channels, widths, recipe); every field has a default, and those
  that may be set for weights that are there (scaling, not width) say ``"same_weights": True``;
- ``Model``: an `EmbeddingModel` built as ``Model(config)``;
- ``TINY``: a small ``Config`` that a test can afford;
- ``TINY_OTHERS``: further ones, if some of its networks come from an optional library;
- ``Training``: a frozen dataclass, how it is trained, if it trains; `_train` wants the fields epochs, batch_size,
  learning_rate, beta1, seed, min_cells, max_steps and max_seconds, and hands the whole to ``Model.augment``. A model
  whose training is more than Adam on its ``losses`` has the method ``learner`` instead (`_learner.Learner`, the one
  hook); beta1 and, where batches are single cells, min_cells are then not wanted;
- ``read_checkpoint(path) -> Model`` for published files in the authors' format, and
  ``recognise(path) -> bool`` that says whether a file is one, if there are any.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from napari_cellrep import registry
from napari_cellrep.models import _published
from napari_cellrep.specs import CropSpec, InputError, ModelSpec, field_rules, join_words, make_config

FORMAT = 1  # of a model's folder; a newer one is refused with a sentence, one that does not say it is 1

# Settings that models share, with their rules for forms and the command line.
Width = Annotated[
    float, {"min": 0.03, "max": 4, "step": 0.125, "label": "Width", "help": "1 is the paper's network."}
]
Seed = Annotated[int, {"min": 0, "max": 2**31 - 1, "label": "Seed"}]
MaxSteps = Annotated[
    int, {"min": 0, "max": 10**9, "label": "Steps, at most", "help": "0: no limit; else training ends there."}
]
MaxSeconds = Annotated[
    float, {"min": 0, "max": 1e9, "step": 10, "label": "Seconds, at most", "help": "0: no limit."}
]
HeldOut = Annotated[
    float,
    {
        "min": 0.0,
        "max": 0.5,
        "step": 0.05,
        "label": "Held out",
        "help": "Part of the cells, in whole images where groups have several, that is not learned from but says after "
        "every epoch how well it goes; ours, not the papers'. 0: none.",
    },
]
Keep = Annotated[
    str,
    {
        "choices": ("last", "val_loss", "val_knn"),
        "label": "Keep the weights of",
        "help": "last: the last epoch, as in the papers; val_loss, val_knn: the epoch with the least loss of the "
        "held-out cells, or with the most whose nearest neighbours are of their group.",
    },
]
Patience = Annotated[
    int,
    {
        "min": 0,
        "max": 10_000,
        "label": "Patience (epochs)",
        "help": "End when held-out cells have fared no better for so many epochs; 0: never.",
    },
]

# Capability → the methods that give it. A model has those of which it defines a method.
CAPABILITIES = {
    "train": ("losses", "learner"),
    "inpaint": ("inpaint",),
    "reconstruct": ("reconstruct",),
    "attention": ("attention",),
    "patch_tokens": ("patch_tokens",),
    "classify": ("classify",),
}


class EmbeddingModel(nn.Module):
    """Crops in, one vector per cell out.

    Parameters
    ----------
    config : dataclass
        The module's ``Config``.

    Attributes
    ----------
    spec : ModelSpec
    roles : tuple of str
        Channel roles (or names) of this instance, in the order of the crop's planes.
    crop : CropSpec
        The crop this instance wants; its ``channels`` are `roles`.
    layers : tuple of str
        Tap points; the first is the default of `embed`.
    may_lack : tuple of str
        Roles of which one may be missing (a black plane is fed in its place).
    batch : tuple of str
        What a training batch holds: ("source", "target") for pairs of one group, ("x",) for single cells.
    on_device : bool
        Whether it computes in torch; False: in numpy, where a device and a precision mean nothing.
    """

    spec: ClassVar[ModelSpec]
    batch: ClassVar[tuple[str, ...]] = ("x",)
    on_device: ClassVar[bool] = True

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.roles: tuple[str, ...] = self.spec.roles
        self.crop: CropSpec = dataclasses.replace(self.spec.crop, channels=self.roles)
        self.layers: tuple[str, ...] = self.spec.layers
        self.may_lack: tuple[str, ...] = ()
        self.card: dict[str, Any] = {}  # what model.json says beside spec and config

    @property
    def n_planes(self) -> int:
        """Planes of a crop: channels, and the mask where the crop carries one."""
        return len(self.roles) + self.crop.mask_plane

    @property
    def field_px(self) -> int:
        """Side that a whole field is brought to where it is embedded as one crop."""
        return self.crop.size_px

    def dim(self, layer: str | None = None) -> int:
        """Length of the vector at a tap point."""
        raise NotImplementedError

    def preprocess(self, crops: Tensor) -> Tensor:
        """Scale raw crops (B, C, H, W) of any dtype to what the network takes. The one place of scaling.

        Each crop is scaled by itself, so a cell's vector does not depend on its batch-mates.
        """
        raise NotImplementedError

    def seen_grid(self, side_px: int, seen_px: int) -> tuple[float, float]:
        """Where the pixels that `preprocess` gives lie in the raw crop.

        Parameters
        ----------
        side_px, seen_px : int
            Side of the raw crop and of the preprocessed one.

        Returns
        -------
        first, step : float
            Place of the middle of the first pixel, and from one pixel to the next, in raw crop pixels; the middle of
            the crop's first pixel is 0. Here: kept, or resized evenly.
        """
        step = side_px / seen_px
        return (step - 1) / 2, step

    def embed(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Vectors (B, dim) float32 of preprocessed crops."""
        layer = self.check_layer(layer)
        return self.embed_layers(x, [layer])[layer]

    def embed_layers(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Vectors at several tap points in one pass."""
        raise NotImplementedError

    def augment(
        self, batch: Mapping[str, Tensor], training: Any, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Vary a batch of preprocessed crops for training, on its device; as it is by default."""
        return dict(batch)

    def training_crop(self, training: Any) -> CropSpec:
        """The crop it learns from, given its ``Training``; by default the one it is embedded from."""
        return self.crop

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of a batch, so that data-parallel wrappers need no special case."""
        if not hasattr(self, "losses"):
            other = "learns with a teacher; call its learner" if can(self, "train") else "is not trained"
            raise InputError(f"{self.spec.title} {other}; by itself it can only embed.")
        return self.losses(batch)  # type: ignore[no-any-return,operator]

    def check_crops(self, crops: Tensor | np.ndarray) -> None:
        """Refuse crops of another channel count or size than the network can take, in words."""
        if crops.ndim != 4:
            raise InputError(f"Crops are a batch (B, C, H, W); got shape {tuple(crops.shape)}.")
        if crops.shape[1] != self.n_planes:
            planes = ", ".join(self.roles) + (", mask" if self.crop.mask_plane else "")
            raise InputError(
                f"{self.spec.title} wants {self.n_planes} channels ({planes}); these crops have {crops.shape[1]}."
            )

    def check_layer(self, layer: str | None) -> str:
        """The layer, or the default; unknown ones are refused with the known."""
        if layer is not None and layer not in self.layers:
            raise InputError(
                f"{self.spec.title} has no layer {layer!r}; layers are {', '.join(self.layers)}."
            )
        return layer or self.layers[0]


def can(model: EmbeddingModel | type[EmbeddingModel], capability: str) -> bool:
    """Whether a model has a capability of `CAPABILITIES`."""
    return any(hasattr(model, method) for method in CAPABILITIES[capability])


def list_models() -> tuple[str, ...]:
    """Names of all models."""
    return registry.names("models")


def create_model(name: str, **config: Any) -> EmbeddingModel:
    """Make a model with random weights (the global torch seed decides which).

    Parameters
    ----------
    name : str
        One of `list_models`.
    **config
        Fields of the model's ``Config``.

    Raises
    ------
    InputError
        If the name or a setting is unknown or out of bounds.
    """
    try:
        module = registry.load("models", name)
    except KeyError as error:
        raise InputError(str(error.args[0])) from None
    model: EmbeddingModel = module.Model(make_config(module.Config, config))
    return model.eval()


def change_settings(model: EmbeddingModel, settings: Mapping[str, Any]) -> EmbeddingModel:
    """Use the same weights under other settings: how channels are joined, how crops are brought to the network's side.

    Parameters
    ----------
    settings : mapping
        Fields of the model's ``Config`` that are about how it is used and say "same_weights"; others as they are.

    Raises
    ------
    InputError
        If a setting is unknown, out of bounds, or one that makes another network, be it of weights of the same shape
        (a transformer's number of heads).
    """
    config = make_config(type(model.config), {**dataclasses.asdict(model.config), **settings})
    if config == model.config:
        return model
    free = [k for k, rule in field_rules(type(model.config)).items() if rule.get("same_weights")]
    odd = [k for k in settings if k not in free and getattr(config, k) != getattr(model.config, k)]
    if odd:
        raise InputError(
            f"With {', '.join(f'{k}={getattr(config, k)}' for k in odd)} {model.spec.title} would be another network than "
            f"its weights are of; what may be set for weights that are there is {join_words(free) or 'nothing'}."
        )
    made: EmbeddingModel = type(model)(config)
    made.load_state_dict(model.state_dict())
    made.card, made.may_lack = model.card, model.may_lack
    if made.crop == type(model)(model.config).crop:  # the crop does not follow from what was changed
        made.crop = model.crop
    made.roles = model.roles
    made.crop = dataclasses.replace(made.crop, channels=made.roles, um_per_px=model.crop.um_per_px)
    return made.eval()


def start_from(model: EmbeddingModel, loaded: EmbeddingModel) -> str:
    """Give a network the weights of another one of its kind, also when channels or classes differ in number.

    Weights of a first convolution go by the channels' names where both have the same ones; a channel that the other
    network did not have gets the mean over its channels. All are then scaled by the ratio of the channel counts, so that
    sums stay as large. Outputs of convolutions are averaged and repeated likewise; a linear layer with another number of
    outputs keeps its fresh weights.

    Parameters
    ----------
    model : EmbeddingModel
        Changed in place.
    loaded : EmbeddingModel

    Returns
    -------
    str
        What was not taken over as it was, in a sentence; "" when all was.

    Raises
    ------
    InputError
        If the networks differ in more.
    """
    if loaded.spec.name != model.spec.name:
        raise InputError(
            f"These weights are of {loaded.spec.title}, and {model.spec.title} is to be trained; choose that network "
            f"(--model {loaded.spec.name})."
        )
    mine, theirs = model.state_dict(), loaded.state_dict()
    said: dict[str, None] = {}  # in order, each once
    taken: dict[str, Tensor] = {}
    for key, new in mine.items():
        old = theirs.get(key)
        layer = key.rpartition(".")[0]
        if old is not None and old.shape == new.shape:
            taken[key] = old
            continue
        weight = mine.get(f"{layer}.weight", new)
        if (
            old is not None
            and new.ndim == 4
            and old.shape[0] == new.shape[0]
            and old.shape[2:] == new.shape[2:]
        ):
            taken[key], words = _other_channels(old, loaded.roles, new.shape[1], model.roles)
            said[f"{layer} sees {new.shape[1]} channels instead of {old.shape[1]}: {words}"] = None
        elif old is not None and old.shape[1:] == new.shape[1:] and weight.ndim == 4:
            taken[key] = old.mean(dim=0, keepdim=True).expand_as(new).clone()
            said[f"{layer} makes {len(new)} channels instead of {len(old)}: each the mean of those"] = None
        elif old is not None and old.shape[1:] == new.shape[1:] and weight.ndim <= 2:
            taken[key] = new
            said[f"{layer} has {len(new)} outputs instead of {len(old)} and starts anew"] = None
        else:
            raise InputError(
                f"The weights to start from have another form than {model.spec.title} as it is set ({key}: "
                f"{tuple(old.shape) if old is not None else 'missing'} instead of {tuple(new.shape)}); leave its settings "
                "away, so that they are those of the weights."
            )
    model.load_state_dict(taken)
    return "; ".join(said) + "." if said else ""


def _other_channels(
    old: Tensor, old_roles: Sequence[str], n: int, roles: Sequence[str]
) -> tuple[Tensor, str]:
    """Convolution weights (O, I, h, w) for `n` inputs, the last `n` of `roles`; and how, in words."""
    have, want = list(old_roles[-old.shape[1] :]), list(roles[-n:])
    left = dict(enumerate(have))
    planes, mean, alike = [], old.mean(dim=1), []
    for role in want:
        at = next((i for i, name in left.items() if name == role), None)
        planes.append(mean if at is None else old[:, at])
        if at is not None:
            left.pop(at)
            alike.append(role)
    rest = "the mean of all" if not alike else "any other the mean of all"
    words = (f"{join_words(alike)} as before, " if alike else "") + ("" if len(alike) == n else f"{rest}, ")
    return torch.stack(planes, dim=1) * (old.shape[1] / n), f"{words}times {old.shape[1] / n:.2g}"


def save_model(model: EmbeddingModel, folder: Path, **card: Any) -> None:
    """Write ``weights.safetensors`` and ``model.json`` to `folder`, each by rename.

    Parameters
    ----------
    **card
        What else to remember: data, seed, versions, scores.

    Raises
    ------
    InputError
        If a newer version's model is there, the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    _check_format(folder)  # a model that a newer version put there is not overwritten
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    info = {
        "format": FORMAT,
        "model": model.spec.name,
        "config": dataclasses.asdict(model.config),
        "roles": list(model.roles),
        "crop": dataclasses.asdict(model.crop),
        **model.card,
        **card,
    }
    text = json.dumps(info, indent=1, default=str, ensure_ascii=False)
    replace_file(folder / "weights.safetensors", lambda tmp: save_file(state, tmp))
    replace_file(folder / "model.json", lambda tmp: tmp.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a temporary file beside `path`, then rename it: `path` is never half written.

    Raises
    ------
    InputError
        If the disk is full or the folder cannot be written; what was there stays.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(tmp)
        tmp.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap the system's error
        if _disk_is_full(error, path.parent):
            raise InputError(
                f"The disk is full: {path.name} could not be written. What was finished before is kept; free some space "
                "and run the same step again."
            ) from error
        raise InputError(
            f"{path} could not be written ({error}); what was finished before is kept."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)


def _disk_is_full(error: Exception, folder: Path) -> bool:
    """Whether an error is a full disk's; torch only says that writing failed, while the disk is still full."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 2**16
    return False


def load_model(path_or_name: str | Path, model: str | None = None) -> EmbeddingModel:
    """Load a model: a folder or file written by `save_model`, a published checkpoint, or a name.

    A model's name gives the untrained network, a published checkpoint's ("pci-yeast") its weights, once fetched.

    Parameters
    ----------
    path_or_name : str or Path
        Where the weights are, one of `list_models`, or a published checkpoint's name.
    model : str, optional
        Which model the file is for, when it cannot be told from the file.

    Raises
    ------
    InputError
        If there is nothing there, the file is broken, of no known kind, its weights are not finite, or the named
        checkpoint has not been fetched.
    """
    path = Path(path_or_name).expanduser()
    if not path.exists() and path.with_name(f"{path.name}.index").is_file():
        path = path.with_name(f"{path.name}.index")  # a TensorFlow checkpoint is called by its prefix
    if not path.exists():
        if str(path_or_name) in list_models():
            return create_model(str(path_or_name))
        if str(path_or_name) in (published := _published.list_published()):
            return _load_by_name(str(path_or_name), model)
        raise InputError(
            f"{path_or_name} is neither a file nor a model's name; models are {', '.join(list_models())}; "
            f"published weights are {', '.join(published)}."
        )
    if path.is_file() and path.name == "weights.safetensors":
        path = path.parent
    loaded = _load_folder(path) if path.is_dir() else _load_published(path, model)
    return _check_finite(loaded, path).eval()


def _load_by_name(name: str, model: str | None) -> EmbeddingModel:
    """A fetched checkpoint, with its name, licence and sampling."""
    spec, weights, path = _published.find_published(name)
    if model not in (None, spec.name):
        raise InputError(f"The weights {name} are of the model {spec.name}, not of {model}.")
    if path.is_dir():  # comes with this package
        loaded = _load_folder(path)
    else:
        loaded = registry.load("models", spec.name).read_checkpoint(path)
    _check_finite(loaded, path)
    set_channels: Any = getattr(loaded, "set_channels", None)  # weights that serve any channels
    if set_channels and weights.roles and len(weights.roles) != len(loaded.roles):
        set_channels(weights.roles)
    loaded.may_lack = weights.may_lack
    loaded.card = {**loaded.card, "published": name, "licence": weights.licence}
    if weights.um_per_px > 0:
        loaded.crop = dataclasses.replace(loaded.crop, um_per_px=weights.um_per_px)
    return loaded.eval()


def _check_finite(model: EmbeddingModel, path: Path) -> EmbeddingModel:
    bad = [k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise InputError(
            f"The weights in {path} hold NaN or infinite values ({bad[0]}); the file is not usable."
        )
    return model


def _check_format(folder: Path) -> None:
    """Refuse a model of a newer version."""
    try:
        said = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("format", 1)
    except (OSError, ValueError, AttributeError):
        return  # none, or a damaged one
    if isinstance(said, int) and said > FORMAT:
        raise InputError(
            f"The model in {folder} was written by a newer version (format {said}, this one reads up to {FORMAT}); "
            "update napari-cellrep."
        )


def _load_folder(folder: Path) -> EmbeddingModel:
    _check_format(folder)
    try:
        info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        name, roles = str(info["model"]), tuple(info["roles"])
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in info["config"].items()}
        crop = CropSpec(**info["crop"])
        state = load_file(folder / "weights.safetensors")
    except FileNotFoundError as error:
        file = Path(str(error.filename)).name if error.filename else "weights.safetensors"
        raise InputError(f"{folder} is not a trained model: {file} is missing.") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"The model in {folder} is damaged ({error}).") from error
    loaded = create_model(name, **config)
    _set_state(loaded, state, folder)
    loaded.roles, loaded.crop = roles, crop
    loaded.card = {k: v for k, v in info.items() if k not in ("format", "model", "config", "roles", "crop")}
    return loaded


def _set_state(model: EmbeddingModel, state: dict[str, Tensor], path: Path) -> None:
    mine = model.state_dict()
    missing, extra = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
    if missing or extra:
        raise InputError(
            f"The weights in {path} are not of {model.spec.title} as configured: "
            f"{len(missing)} tensors missing{f' ({missing[0]}, …)' if missing else ''}, "
            f"{len(extra)} too many{f' ({extra[0]}, …)' if extra else ''}."
        )
    for key, tensor in state.items():
        if tensor.shape != mine[key].shape:
            raise InputError(
                f"The weights in {path} have {key} of shape {tuple(tensor.shape)}; {tuple(mine[key].shape)} is wanted "
                "(made for another number of channels, or another width)."
            )
    model.load_state_dict(state)


def _load_published(path: Path, name: str | None) -> EmbeddingModel:
    names = [name] if name else list(list_models())
    for candidate in names:
        module = registry.load("models", candidate)
        if hasattr(module, "read_checkpoint") and (name or module.recognise(path)):
            loaded: EmbeddingModel = module.read_checkpoint(path)
            return loaded
    raise InputError(
        f"{path.name} is not a checkpoint any of our models reads; say which model with --model if it is."
    )
