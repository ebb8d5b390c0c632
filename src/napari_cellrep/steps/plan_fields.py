"""From drafts and what is in their files to fields: which plane of which file is which channel."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_cellrep.data.fields import Field, safe_id
from napari_cellrep.data.images import GREY, ImageInfo, Plane
from napari_cellrep.data.layouts import role_of
from napari_cellrep.specs import Channel, InputError, find_channel
from napari_cellrep.steps.read_names import Draft, ImportOptions, natural
from napari_cellrep.steps.time_series import frame_id


def is_part(draft: Draft, infos: Mapping[Path, ImageInfo | str]) -> bool:
    """Whether the field is only a further file of a multi-file OME-TIFF whose first file is imported too."""
    if list(draft.files) != [""] or len(draft.files[""]) != 1:
        return False
    path = draft.files[""][0]
    info = infos[path]
    return (
        isinstance(info, ImageInfo)
        and len(info.files) > 1
        and info.files[0] != path.name
        and (path.with_name(info.files[0]) in infos)
    )


def split_frames(draft: Draft, infos: Mapping[Path, ImageInfo | str]) -> list[Draft]:
    """A time series in one file as one field per time point, called ``<name>_t<frame>``; anything else as it is."""
    counts = {i.n_t for some in draft.files.values() for p in some if isinstance(i := infos[p], ImageInfo)}
    if counts <= {1}:
        return [draft]
    if len(counts) > 1:
        words = " and ".join(map(str, sorted(counts)))
        return [
            dataclasses.replace(
                draft, problem=f"Its files have {words} time points; the same number is wanted."
            )
        ]
    if "frame" in draft.metadata:
        problem = "Its file is a time series and one of several time points by its name; only one of the two is possible."
        return [dataclasses.replace(draft, problem=problem)]
    n = counts.pop()
    return [
        dataclasses.replace(
            draft,
            name=frame_id(draft.name, t, n - 1),
            metadata={**draft.metadata, "series": draft.name, "frame": t},
            frame=t,
        )
        for t in range(n)
    ]


def decide_channels(
    drafts: Sequence[Draft],
    infos: Mapping[Path, ImageInfo | str],
    options: ImportOptions,
    by_file: bool,
    present: Sequence[Channel],
    known: Mapping[str, str],
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    """The project's channels, and for each what it is called in the files (value of the pattern, or name).

    `known`: what the layout says of values.
    """
    if by_file:
        return channels_by_file(drafts, options.channels, present, known)
    looks = Counter(_planes_of(d, infos, options) for d in drafts)
    looks.pop((), None)
    if not looks:
        names: tuple[str, ...] = ("channel 0",)  # nothing is readable; said by the caller
        return names, tuple(Channel(n) for n in names)
    if any("=" in text for text in options.channels):
        raise InputError(
            f"{next(t for t in options.channels if '=' in t)!r} is for patterns with a {{channel}}; "
            "without one, give names in plane order."
        )
    given = tuple(Channel.parse(text) for text in options.channels) or tuple(present)
    names = looks.most_common(1)[0][0]
    if given:
        if all(len(look) != len(given) for look in looks):
            colour = [p for p, i in infos.items() if isinstance(i, ImageInfo) and i.colour]
            if colour and not options.rgb and len(given) == 3:
                raise InputError(
                    f"{colour[0].name} is a colour image and there are names for 3 channels; if red, green and blue "
                    "are these channels, say so: split (--rgb split)."
                )
            raise InputError(
                f"There are names for {len(given)} channels ({', '.join(c.name for c in given)}) and the files have "
                f"{len(names)} ({', '.join(names)})."
            )
        names = next(look for look, _ in looks.most_common() if len(look) == len(given))
    if present and len(given) != len(present):
        raise InputError(f"The project has {len(present)} channels and the new files have {len(given)}.")
    if present:
        return names, tuple(present)
    return names, given or tuple(Channel.parse(_channel_text(n)) for n in names)


def _channel_text(name: str) -> str:
    """A file's channel name as `Channel.parse` text: a colon in it is no role."""
    return f"{name}:{role_of(name)}"


def channels_by_file(
    drafts: Sequence[Draft], texts: Sequence[str], present: Sequence[Channel], known: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[Channel, ...]]:
    """The channels where each file is one, and the value of each in the names; `known`: what a layout says of values."""
    counts = Counter(value for d in drafts for value in d.files)
    values = sorted((v for v, n in counts.items() if n * 2 >= len(drafts)), key=natural)
    values = values or sorted(counts, key=natural)
    pairs = [text.partition("=") for text in texts]
    if pairs and all(sep for _, sep, _ in pairs):
        order = [value.strip() for value, _, _ in pairs]
        lower = {v.casefold(): v for v in counts}
        for i, value in enumerate(order):
            if value.casefold() not in lower:
                raise InputError(f"No file has the channel {value!r}; there are {', '.join(sorted(counts))}.")
            order[i] = lower[value.casefold()]
        channels = [Channel.parse(text) for _, _, text in pairs]
    elif any(sep for _, sep, _ in pairs):
        raise InputError("Write every channel as value=name:role, or none of them.")
    elif texts:
        channels = [Channel.parse(text) for text in texts]
        by_name = {v.casefold(): v for v in counts}
        if all(c.name.casefold() in by_name for c in channels):
            order = [by_name[c.name.casefold()] for c in channels]
        elif len(channels) == len(values):
            order = values
        else:
            raise InputError(
                f"There are names for {len(channels)} channels and files for {len(values)} ({', '.join(values)}); "
                "say which is which: value=name:role."
            )
    else:
        words = [known.get(v.lower().lstrip("0") or v) for v in values]
        order = values
        channels = [
            Channel.parse(word or _channel_text(v or "channel 0"))
            for word, v in zip(words, values, strict=True)
        ]
    if present:
        called = {c.name.casefold(): v for c, v in zip(channels, order, strict=True)}
        if known and all(
            c.name.casefold() in called for c in present
        ):  # this plate may number them differently
            order = [called[c.name.casefold()] for c in present]
        if len(order) != len(present):
            raise InputError(f"The project has {len(present)} channels and the new files have {len(order)}.")
        channels = list(present)
    return tuple(order), tuple(channels)


def _planes_of(
    draft: Draft, infos: Mapping[Path, ImageInfo | str], options: ImportOptions
) -> tuple[str, ...]:
    """Names of a file's planes, as the file calls them; () when it is not readable."""
    first = next(iter(draft.files.values()))[0]
    info = infos[first]
    if isinstance(info, str):
        return ()
    if info.colour:
        if options.rgb not in ("split", "rgba"):
            return ("grey",)
        return ("red", "green", "blue", "alpha")[: info.n_channels if options.rgb == "rgba" else 3]
    if len(set(info.channel_names)) == info.n_channels:
        return info.channel_names
    return tuple(f"channel {i}" for i in range(info.n_channels))


def make_field(
    draft: Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: ImportOptions,
    root: Path,
    by_file: bool,
) -> Field:
    """A field of a draft, or one with a problem, and then without planes: no step shall read half of it."""
    info: ImageInfo | None
    try:
        planes, info = _plan(draft, infos, order, channels, options, root, by_file)
        planes = tuple(dataclasses.replace(p, t=max(draft.frame, 0)) for p in planes)
        problem = draft.problem
    except InputError as error:
        files = [p for some in draft.files.values() for p in some]
        planes = ()
        info = next((i for p in files if isinstance(i := infos[p], ImageInfo)), None)
        problem = draft.problem = draft.problem or str(error)
    return Field(
        id=safe_id(draft.name),
        planes=planes,
        height_px=info.height_px if info else 0,
        width_px=info.width_px if info else 0,
        dtype=info.dtype if info else "",
        um_per_px=options.um_per_px or (info.um_per_px if info else 0.0) or draft.um_per_px,
        metadata=draft.metadata,
        problem=problem,
        stack=options.stack,
    )


def _plan(
    draft: Draft,
    infos: Mapping[Path, ImageInfo | str],
    order: Sequence[str],
    channels: Sequence[Channel],
    options: ImportOptions,
    root: Path,
    by_file: bool,
) -> tuple[tuple[Plane, ...], ImageInfo]:
    """Where each channel of a field is."""
    if draft.problem:
        raise InputError(draft.problem)
    planes, first, size = [], None, None
    for i, channel in enumerate(channels):
        value = order[i] if by_file else ""
        if value not in draft.files:
            have = ", ".join(sorted(draft.files))
            raise InputError(f"It has no file for channel {value or channel.name} (there are: {have}).")
        files = draft.files[value]
        for file in files:
            info = infos[file]
            if isinstance(info, str):
                raise InputError(info)
            if info.colour and not options.rgb:
                draft.asks = True
                raise InputError(
                    f"{file.name} is a colour image; say what to make of it: grey (one channel), or split "
                    "(red, green and blue are channels)."
                )
            if size and size != (info.height_px, info.width_px):
                raise InputError(
                    f"Its channels differ in size: {file.name} is {info.width_px}×{info.height_px} px, another "
                    f"{size[1]}×{size[0]} px."
                )
            size = (info.height_px, info.width_px)
        info = infos[files[0]]
        assert not isinstance(info, str)
        first = first or info
        n_z = info.n_z if len(files) == 1 else len(files)
        if len(files) > 1 and info.n_z > 1:
            raise InputError(
                f"{files[0].name} is a z-stack and one of several z files; only one of the two is possible."
            )
        word = _z_word(options.z, channel, channels) if n_z > 1 else ""
        if n_z > 1 and info.n_channels == 1 and draft.pages.get(value, -1) >= 0:
            word = str(draft.pages[value])
        if n_z > 1 and not word:
            draft.asks = True
            raise InputError(
                f"{files[0].name} is {'a stack' if len(files) == 1 else 'one of a stack'} of {n_z} planes; say how to "
                f"flatten it: max, mean, sharpest, or a plane from 0 to {n_z - 1}."
            )
        if word.isdigit() and int(word) >= n_z:
            raise InputError(f"It has z planes 0 to {n_z - 1}; number {word} is not among them.")
        where = "\n".join(_where(p, root) for p in files)
        if by_file:
            if len(info.files) > 1:
                raise InputError(
                    f"{files[0].name} is part of a multi-file OME-TIFF; import it without a pattern."
                )
            grey = info.colour and options.rgb == "grey"
            page = draft.pages.get(value, -1)
            if page >= 0 and info.n_channels > 1:
                if page >= info.n_channels:
                    raise InputError(
                        f"{files[0].name} has planes 0 to {info.n_channels - 1}; number {page} is not among them."
                    )
                planes.append(Plane(where, page, word))
                continue
            if info.n_channels > 1 and not grey:
                raise InputError(
                    f"{files[0].name} holds {info.n_channels} channels; the pattern says that each file is one channel."
                )
            planes.append(Plane(where, GREY if grey else 0, word))
        else:
            names = _planes_of(draft, infos, options)
            planes.append(Plane(where, _plane_index(names, order, i, options), word))
            if info.colour and options.rgb == "grey":
                planes[-1] = dataclasses.replace(planes[-1], channel=GREY)
    assert first is not None
    return tuple(planes), first


def _plane_index(names: Sequence[str], order: Sequence[str], i: int, options: ImportOptions) -> int:
    """Index in this file of what is plane `i` elsewhere: by name where the names say so, else by place."""
    if len(names) != len(order):
        raise InputError(
            f"It has {len(names)} channel{'s' * (len(names) != 1)} ({', '.join(names)}); the others have "
            f"{len(order)} ({', '.join(order)})."
        )
    if set(names) == set(order):
        return list(names).index(order[i])  # a file may hold them in another order
    if not options.channels and not all(n.startswith("channel ") for n in (*names, *order)):
        raise InputError(
            f"Its channels are {', '.join(names)}; those of the others are {', '.join(order)}. If they are the same, name "
            "the channels (--channels; in the window: Channels) to take them in this order."
        )
    return i


def _z_word(z: str, channel: Channel, channels: Sequence[Channel]) -> str:
    """How this channel's stack is flattened."""
    if not z:
        return ""
    if "=" not in z:
        words = {"": z}
    else:
        pairs = [part.partition("=") for part in z.split(",") if part.strip()]
        words = {key.strip(): value for key, _, value in pairs}
        for key in words:
            if key:
                find_channel(channels, key)
    mine = [w for k, w in words.items() if k and channels[find_channel(channels, k)] == channel]
    word = (mine[0] if mine else words.get("", "")).strip().lower()
    if word and word not in ("max", "mean", "sharpest") and not word.isdigit():
        raise InputError(
            f"A z-stack is flattened by max, mean, sharpest or the number of a plane, not {word!r}."
        )
    return word


def _where(path: Path, root: Path) -> str:
    """Path as the project keeps it: relative where both can be moved together, else absolute."""
    if path.is_relative_to(root.parent):
        return Path(os.path.relpath(path, root)).as_posix()
    return path.as_posix()
