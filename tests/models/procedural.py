"""Weights that follow from names, so that networks of any width can be made again anywhere (golden/README.md).

`fill(model, names)` sets a network's tensors; `names(key)` says the native name, the framework and the native shape.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

# native name, and the axes that bring a tensor from torch's layout to the framework's
Native = Callable[[str, int], tuple[str, tuple[int, ...]]]

_TENSORFLOW = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,), 0: ()}


def draw(name: str, shape: tuple[int, ...], kind: str, torch_layout: bool) -> np.ndarray:
    """A tensor by its native name and layout; kind: gain, bias, mean, variance, token, one, zero or matrix."""
    seed = zlib.crc32(name.encode()) & 0xFFFFFFFF
    if kind == "variance":
        return (0.5 + np.random.RandomState(seed).random_sample(shape)).astype(np.float32)
    z = np.random.RandomState(seed).standard_normal(shape)
    if kind == "matrix":
        fan_in = np.prod(shape[1:] if torch_layout else shape[:-1])
        gain = 1 if torch_layout and len(shape) == 2 else 2
        return (z * np.sqrt(gain / fan_in)).astype(np.float32)
    values = {"gain": 1 + 0.1 * z, "bias": 0.1 * z, "mean": 0.1 * z, "token": 0.2 * z, "one": np.ones(shape)}
    return np.asarray(values.get(kind, np.zeros(shape))).astype(np.float32)


def kind_of(key: str, ndim: int) -> str:
    """What a tensor of ours is, by its name."""
    last = key.rpartition(".")[2]
    known = {
        "running_mean": "mean", "running_var": "variance", "num_batches_tracked": "zero", "bias": "bias",
        "cls_token": "token", "pos_embed": "token", "weight_g": "one",
    }  # fmt: skip
    return known.get(last) or ("gain" if ndim == 1 else "matrix")


def fill(model: nn.Module, native: Native, torch_layout: bool) -> None:
    """Set every tensor of a network."""
    state = model.state_dict()
    for key, tensor in state.items():
        name, axes = native(key, tensor.ndim)
        shape = tuple(tensor.shape[i] for i in axes)
        values = draw(name, shape, kind_of(key, tensor.ndim), torch_layout)
        back = np.argsort(axes) if axes else ()
        state[key] = torch.from_numpy(np.ascontiguousarray(values.transpose(back))).to(tensor.dtype)
    model.load_state_dict(state)


def torch_names(prefix: str = "") -> Native:
    """Names of a network whose files are torch's own."""
    return lambda key, ndim: (prefix + key, tuple(range(ndim)))


def _flat(key: str) -> tuple[str, str, bool]:
    layer, _, part = key.rpartition(".")
    return layer.removeprefix("bn_"), part, layer.startswith("bn_")


def keras_names(prefix: str, norm: Callable[[str], str] = lambda layer: f"bn_{layer}") -> Native:
    """Names as in Keras: kernel, bias, gamma, beta, moving_mean, moving_variance."""
    normed = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }

    def native(key: str, ndim: int) -> tuple[str, tuple[int, ...]]:
        layer, part, is_norm = _flat(key)
        plain = {"weight": "kernel", "bias": "bias"}
        end = f"{norm(layer)}/{normed.get(part, part)}" if is_norm else f"{layer}/{plain.get(part, part)}"
        return f"{prefix}/{end}", _TENSORFLOW[ndim]

    return native


def deeploc_names(prefix: str = "deeploc") -> Native:
    """Short names of DeepLoc's variables: weights, biases, beta, gamma, ema_mean, ema_var."""
    normed = {"weight": "gamma", "bias": "beta", "running_mean": "ema_mean", "running_var": "ema_var"}

    def native(key: str, ndim: int) -> tuple[str, tuple[int, ...]]:
        layer, part, is_norm = _flat(key)
        plain = {"weight": "weights", "bias": "biases"}
        return f"{prefix}/{layer}/{(normed if is_norm else plain).get(part, part)}", _TENSORFLOW[ndim]

    return native
