"""How microscopes and screens name their files: a lab's file layout = one preset of a file-name pattern and channels.

A new one is one entry in `LAYOUTS`. Facts about names come from the instruments' and the data sets' own descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from napari_cellrep.specs import ROLES, InputError

NONE = "none"  # as the name of a layout: every file is a field

_TIF = r"\.tiff?"
_GUID = r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}"
_OPERA = (
    r"r(?P<row>\d{2})c(?P<column>\d{2})f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)sk(?P<time>\d+)fk\d+fl\d+"
    + _TIF
)
_IMAGEXPRESS = r"(?:_s(?P<site>\d+))?_w(?P<channel>\d{1,2}?)(?:" + _GUID + r")?" + _TIF


@dataclass(frozen=True)
class Layout:
    """How the files of one kind of screen are named.

    Parameters
    ----------
    name : str
        For ``--layout``.
    title : str
        In words.
    pattern : str
        Regular expression, matched to the end of a file's path without regard to case. Named groups as in
        `steps.import_fields.import_fields`: ``row`` and ``column`` are a well, ``time`` counts only where it varies.
    example : str
        A file of it.
    channels : mapping of str to str
        What the pattern's ``channel`` is: ``name:role``. The others keep the name of the file.
    planes : tuple of str
        ``name:role`` of the planes of one file; for layouts with all channels in one file.
    left_out : str
        Regular expression of names that belong to the layout and are no images of cells: thumbnails.
    least_channels : int
        It is guessed only where the names hold that many different channels.
    guessed : bool
        False: only where the user says so.
    rgb : str
        What a colour image is, as in `steps.import_fields.import_fields`.
    crops : bool
        Each file is a cell, not a field.
    harmony : bool
        An index of Harmony's may lie beside the images, which knows channels, pixel size and positions (`data.harmony`).
    stains : tuple of (str, str)
        What such an index may call a channel (regular expression) and its ``name:role``; the first that fits counts.
    """

    name: str
    title: str
    pattern: str
    example: str
    channels: Mapping[str, str] = field(default_factory=dict)
    planes: tuple[str, ...] = ()
    left_out: str = ""
    least_channels: int = 1
    guessed: bool = True
    rgb: str = ""
    crops: bool = False
    harmony: bool = False
    stains: tuple[tuple[str, str], ...] = ()

    @property
    def regex(self) -> re.Pattern[str]:
        """The pattern, compiled; it begins where a name (or a folder's name) begins."""
        return re.compile(f"(?:^|/){self.pattern}$", re.IGNORECASE)

    def leaves_out(self, path: Path) -> bool:
        """Whether a file is a thumbnail or the like."""
        return bool(self.left_out and re.search(self.left_out, path.name, re.IGNORECASE))


# The dyes of JUMP's Cell Painting as Harmony calls them.
_CELL_PAINTING = (
    (r"hoechst|dapi", "DNA:nucleus"),
    (r"647|mitotracker", "Mito:mito"),
    (r"568", "AGP:agp"),
    (r"488 long|488.*6\d\d", "RNA:rna"),
    (r"488", "ER:er"),
)

# Where two explain a file, the first is meant: special ones stand before general ones.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "jump", "JUMP Cell Painting (Opera Phenix; plates called BR…)",
        r"(?P<plate>BR\d{8})[^/]*/(?:Images/)?" + _OPERA,
        "BR00117006__2020-11-08/Images/r01c01f01p01-ch1sk1fk1fl1.tiff",
        # Order as load_data.csv of BR00113255 has it (cpg0001, source_4); plates of other assays have another, which their
        # index tells. Of the three brightfields only the names are known, not which is which number.
        {"1": "Mito:mito", "2": "AGP:agp", "3": "RNA:rna", "4": "ER:er", "5": "DNA:nucleus", "6": "Brightfield 6:brightfield",
         "7": "Brightfield 7:brightfield", "8": "Brightfield 8:brightfield"},
        harmony=True, stains=_CELL_PAINTING,
    ),
    Layout(
        "opera", "Opera Phenix or Operetta (Harmony)",
        r"(?:(?P<plate>[^/]+?)(?:__[^/]*)?/Images/)?" + _OPERA,
        "Plate1__2020-11-08/Images/r01c01f01p01-ch1sk1fk1fl1.tiff",
        harmony=True,
    ),
    Layout(
        "bbbc022", "BBBC022 Cell Painting (ImageXpress)",
        r"(?:(?P<plate>\d{5})(?:_[^/]*)?/)?[^/]*IXMtest_(?P<well>[A-P]\d{2})" + _IMAGEXPRESS,
        "20585/IXMtest_A02_s9_w1FF21FA0C-5E33-4E9A-BA5A-0A4A4A4A4A4A.tif",
        # As BBBC022_v1_image.csv names the files of OrigHoechst, OrigER, OrigSyto, OrigPh_golgi and OrigMito.
        {"1": "DNA:nucleus", "2": "ER:er", "3": "RNA:rna", "4": "AGP:agp", "5": "Mito:mito"},
        left_out=r"_thumb",
    ),
    Layout(
        "bbbc021", "BBBC021 compounds on MCF7 cells (ImageXpress)",
        r"(?:(?P<plate>Week\d+_\d+)/)(?:[^/]*_)?(?P<well>[A-P]\d{2})" + _IMAGEXPRESS,
        "Week1_22123/G10_s1_w1BEDC2073-A983-4B98-95E9-84466707A25D.tif",
        # As BBBC021_v1_image.csv lists them.
        {"1": "DAPI:nucleus", "2": "Tubulin:microtubules", "4": "Actin:actin"},
        left_out=r"_thumb",
    ),
    Layout(
        "imagexpress", "ImageXpress (MetaXpress)",
        r"(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}\d{2})" + _IMAGEXPRESS,
        "Plate1_A01_s1_w1BEDC2073-A983-4B98-95E9-84466707A25D.tif",
        left_out=r"_thumb",
    ),
    Layout(
        "cellvoyager", "CellVoyager (Yokogawa)",
        r"(?:(?P<plate>[^/]+)_)?(?P<well>[A-Z]{1,2}\d{2})_T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+)"
        r"\.(?:tiff?|png)",
        "Plate1_B03_T0001F001L01A01Z01C01.tif",
    ),
    Layout(
        "arrayscan", "ArrayScan (Cellomics)",
        r"(?P<plate>[^/]+)_(?P<well>[A-P]\d{2})f(?P<site>\d{2,3})d(?P<channel>\d)\.(?:tiff?|png)",
        "AS_09125_050116030001_D03f00d0.tif",
    ),
    Layout(
        "bbbc013", "BBBC013 and BBBC014 (IN Cell Analyzer 3000)",
        r"Channel(?P<channel>\d)-\d+-(?P<row>[A-P])-(?P<column>\d{2})\.(?:tiff?|bmp|png)",
        "Channel1-01-A-01.tif",
        {"1": "FKHR-GFP:protein", "2": "DNA:nucleus"},
    ),
    Layout(
        "pci-yeast", "Paired Cell Inpainting's yeast cells, a folder per protein",
        r"(?:(?P<protein>[^/]+)/)?[^/]+?_(?P<site>\d+)_rfp_(?P<cell>\d+)_(?P<channel>gfp|rfp)" + _TIF,
        "AAC1/AAC1_1_rfp_10_gfp.tif",
        {"gfp": "GFP:protein", "rfp": "RFP:structure"},
        least_channels=2, crops=True,
    ),
    Layout(
        "pci-human", "Paired Cell Inpainting's human cells, a folder per protein and well",
        r"(?P<protein>[^/_]+)_[^/]+/(?P<plate>\d+)_(?P<well>[A-P]\d{1,2})_(?P<site>\d+)_(?P<cell>\d+)_"
        r"(?P<channel>green|blue|red|yellow)" + _TIF,
        "A1CF_762_F2/762_F2_1_10_green.tif",
        {"green": "protein:protein", "blue": "DNA:nucleus", "red": "microtubules:microtubules", "yellow": "ER:er"},
        least_channels=2, crops=True,
    ),
    Layout(
        "hpa", "Human Protein Atlas (a file per colour)",
        r"(?:(?P<plate>\d+)_(?P<well>[A-P]\d{1,2})_(?P<site>\d+)|(?P<field>[^/]+))_(?P<channel>blue|green|red|yellow)"
        r"\.(?:tiff?(?:\.gz)?|png|jpe?g)",
        "57_F11_1_green.png",
        {"blue": "DNA:nucleus", "green": "protein:protein", "red": "microtubules:microtubules", "yellow": "ER:er"},
        least_channels=2,
    ),
    Layout(
        "hpa-rgba", "Human Protein Atlas (one PNG: red, green, blue, alpha)",
        r"(?P<field>[^/]+)\.png",
        "57_F11_1.png",
        planes=("microtubules:microtubules", "protein:protein", "DNA:nucleus", "ER:er"),
        guessed=False, rgb="rgba",
    ),
    Layout(
        "leica", "Leica LAS X, exported (a file per channel)",
        r"(?P<field>[^/]+?)(?:_t(?P<time>\d+))?(?:_s(?P<site>\d+))?(?:_z(?P<z>\d+))?_ch(?P<channel>\d{2})" + _TIF,
        "Experiment_s01_z00_ch00.tif",
    ),
)  # fmt: skip


def stain_of(name: str, layout: Layout) -> str:
    """``name:role`` of a channel that an index calls `name`."""
    for words, text in layout.stains:
        if re.search(words, name, re.IGNORECASE):
            return text
    return f"{name}:{role_of(name)}"


@dataclass(frozen=True)
class Guess:
    """The layout that explains most files, and the sentence that says so."""

    layout: Layout
    why: str


def find_layout(name: str) -> Layout:
    """The layout called `name`.

    Raises
    ------
    InputError
        If there is none; the sentence lists those there are.
    """
    for layout in LAYOUTS:
        if layout.name == name.strip().lower():
            return layout
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise InputError(f"There is no layout {name!r}; layouts are {names}, and {NONE} (each file is a field).")


def guess_layout(files: Sequence[Path], crops: bool = False) -> Guess | None:
    """The layout that explains most of the files, if it explains at least half of them.

    Parameters
    ----------
    files : sequence of Path
        Image files, whatever their order.
    crops : bool
        Whether each file is a cell: layouts of crops count only then.
    """
    best: tuple[int, int, Layout] | None = None
    for layout in LAYOUTS:
        if not layout.guessed or (layout.crops and not crops):
            continue
        regex, values, n, n_left = layout.regex, set(), 0, 0
        for path in files:
            if layout.leaves_out(path):
                n_left += 1
            elif match := regex.search(path.as_posix()):
                n += 1
                values.add((match.groupdict().get("channel") or "").casefold())
        enough = n and len(values) >= layout.least_channels and 2 * n >= len(files) - n_left
        if enough and (best is None or n > best[0]):
            best = (n, n_left, layout)
    if best is None:
        return None
    n, n_left, layout = best
    why = f"{n:,} of {len(files):,} files are named as by {layout.title}, like {layout.example.rpartition('/')[2]}"
    if n_left:
        why += f"; {n_left:,} thumbnail{'s' * (n_left != 1)} left out"
    return Guess(layout, why + ".")


def well_of(row: str, column: str) -> str:
    """The well of a row (number from 1, or letters) and a column: 1 and 1 are A01, 28 and 2 are AB02."""
    row = str(row).strip()
    if re.fullmatch(r"\d+(?:\.0)?", row):
        number = int(float(row)) - 1
        if number < 0:
            return ""
        row = (chr(64 + number // 26) if number >= 26 else "") + chr(65 + number % 26)
    digits = re.fullmatch(r"0*(\d+)(?:\.0)?", str(column).strip())
    return f"{row.upper()}{int(digits[1]):02d}" if digits and re.fullmatch(r"[A-Za-z]{1,2}", row) else ""


# Words in a channel's name → the role it probably has; the first that fits counts.
_ROLE_WORDS = (
    ("nucleus", r"dapi|hoechst|dna|nucl|draq|h2b|histone"),
    ("brightfield", r"bright|\bbf\b|\bdic\b|phase|trans"),
    ("microtubules", r"tubul|\bmt\b"),
    ("mito", r"mito|tomm?20"),
    ("actin", r"actin|phalloidin"),
    ("agp", r"\bagp\b"),
    ("er", r"\ber\b|calnexin|conca|endoplasm"),
    ("rna", r"\brna\b|syto"),
    ("membrane", r"membrane|wga|cellmask"),
    ("structure", r"rfp|mcherry|cytosol|marker|tdtomato"),
    ("protein", r"gfp|protein|yfp|venus|neon|fitc|antibody|488"),
)


def role_of(name: str) -> str:
    """The role that a channel's name suggests; "other" where it suggests none."""
    if name.strip().lower() in ROLES:
        return name.strip().lower()
    spoken = name.replace("_", " ")
    return next((role for role, words in _ROLE_WORDS if re.search(words, spoken, re.IGNORECASE)), "other")


def guess_roles(names: Sequence[str]) -> list[str]:
    """Roles that channel names suggest; the first without one is taken for the protein if none is."""
    roles = [role_of(name) for name in names]
    if "protein" not in roles and "other" in roles:
        roles[roles.index("other")] = "protein"
    return roles
