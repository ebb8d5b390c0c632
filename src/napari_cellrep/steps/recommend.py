"""A project's channels, groups and cells → which model suits it, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_cellrep import registry
from napari_cellrep.data import Project
from napari_cellrep.specs import (
    STRUCTURE_ROLES,
    Channel,
    InputError,
    ModelSpec,
    Weights,
    join_words,
    match_channels,
)

# Fewer cells than this teach a network little more than noise; the papers trained on hundreds of thousands.
FEW_CELLS = 300
FEW_PER_GROUP = 10
# Columns called so hold classes that a classifier could learn.
LABEL_NAMES = (
    "label",
    "class",
    "localisation",
    "localization",
    "location",
    "compartment",
    "phenotype",
    "phase",
)


@dataclass(frozen=True)
class Facts:
    """What decides which model suits a project.

    Parameters
    ----------
    channels : tuple of Channel
    n_fields, n_groups : int
    n_cells : int
        Good cells; 0 before segmentation.
    labels : tuple of (str, int)
        Columns that look like classes, and how many classes each has.
    um_per_px : float
        Pixel size of the images; 0 when unknown or mixed.
    trained : tuple of str
        Models trained in the project.
    fetched : tuple of str
        Published weights on this machine.
    """

    channels: tuple[Channel, ...]
    n_fields: int = 0
    n_groups: int = 0
    n_cells: int = 0
    labels: tuple[tuple[str, int], ...] = ()
    um_per_px: float = 0.0
    trained: tuple[str, ...] = ()
    fetched: tuple[str, ...] = ()


def facts_of(project: Project) -> Facts:
    """Read the facts of a project; no pixels are read."""
    from napari_cellrep.models._published import find_fetched, list_published

    fields = project.usable_fields
    values: dict[str, set[str]] = {}
    for field in fields:
        for name, value in field.metadata.items():
            if name.lower() in LABEL_NAMES and value is not None and value == value:
                values.setdefault(name, set()).add(str(value))
    sizes = {field.um_per_px for field in fields}
    models = [path for path in sorted((project.root / "models").glob("*/model.json")) if _is_json(path)]
    return Facts(
        channels=project.channels,
        n_fields=len(fields),
        n_groups=len({field.group for field in fields}),
        n_cells=int(project.cells.obs["good"].sum()) if project.has_cells else 0,
        labels=tuple((name, len(found)) for name, found in sorted(values.items()) if len(found) > 1),
        um_per_px=sizes.pop() if len(sizes) == 1 else 0.0,
        trained=tuple(path.parent.name for path in models),
        fetched=tuple(name for name in list_published() if find_fetched(name) is not None),
    )


def _is_json(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False  # a damaged model is nothing to speak for


def recommend(facts: Facts) -> list[str]:
    """Say which models suit the data, the best first: whole sentences, each with what to type.

    The rules are the papers': pairs of cells of one group need a protein and a structure channel; a classifier needs
    classes; published weights need their own channels; a network that looks at one channel at a time takes any.
    """
    specs = {name: registry.load("models", name).SPEC for name in registry.names("models")}
    said: list[str] = []
    roles = {c.role for c in facts.channels}
    if not roles - {"other", "mask"}:
        said.append(
            f"No channel has a role yet ({join_words(c.name for c in facts.channels)}), and most models choose their "
            'channels by role: give roles, for example --channels "protein,nucleus" with cellrep new.'
        )
    if facts.trained:
        said.append(
            f"This project has its own trained {join_words(facts.trained)}: a network trained on the very images is hard "
            f"to beat, so begin with cellrep embed PROJECT --model {facts.trained[0]}."
        )
    for sentence in (_inpainting(facts, specs), _classes(facts, specs)):
        if sentence:
            said.append(sentence)
    said += _published(facts, specs)
    if "measurements" in specs:
        said.append(
            f"{'Nothing is trained yet, so measurements' if not facts.trained else 'Measurements'} (cellrep embed PROJECT "
            "--model measurements) are the baseline to beat: they need no training and no weights, and every number has a "
            "name. A network with random weights says little; do not take one for a result."
        )
    if facts.n_cells == 0:
        said.append(
            "There are no cells yet: begin with cellrep segment PROJECT; what suits depends on their number too."
        )
    return said


@dataclass(frozen=True)
class Advice:
    """One short sentence for the window.

    Parameters
    ----------
    words : str
    model : str
        What it speaks for, as `steps.embed.embed` takes it; "" when there is nothing to choose.
    """

    words: str
    model: str = ""


def advise(project: Project, most: int = 2) -> list[Advice]:
    """Say which models suit a project, the best first, in few and short sentences."""
    return advise_by(facts_of(project))[:most]


def advise_by(facts: Facts) -> list[Advice]:
    """As `recommend`, by the same rules, in sentences that fit into a card of the window."""
    specs = {name: registry.load("models", name).SPEC for name in registry.names("models")}
    said: list[Advice] = []
    if not {c.role for c in facts.channels} - {"other", "mask"}:
        said.append(
            Advice(
                "Your channels have no roles yet, and most models choose by them: say in card 1 what each shows."
            )
        )
    if facts.trained:
        said.append(
            Advice(
                f"{_title(specs, facts.trained[0])} was trained on these very images: hard to beat.",
                facts.trained[0],
            )
        )
    pairs = specs.get("paired_cell_inpainting")
    if pairs is not None and not facts.trained and not _missing(pairs.roles, facts.channels):
        structure = join_words(c.name for c in facts.channels if c.role in STRUCTURE_ROLES)
        have = f"{facts.n_cells:,} good cells in {facts.n_groups:,} group{'s' * (facts.n_groups != 1)}"
        few = facts.n_cells < FEW_CELLS or facts.n_cells < FEW_PER_GROUP * facts.n_groups
        if few:
            said.append(Advice(f"{have} are few to train a network on."))
        elif facts.n_groups == 1:
            said.append(
                Advice(
                    f"All cells are in one group; with one group per well or protein {pairs.title} could learn."
                )
            )
        else:
            words = f"Protein, structure ({structure}) and {have}: {pairs.title} learns from these."
            said.append(Advice(words, pairs.name))
    classes = specs.get("deeploc")
    if classes is not None and classes.trains and facts.labels:
        words = f"Your table has classes ({facts.labels[0][0]}): {classes.title} learns to tell them apart."
        said.append(Advice(words, classes.name))
    if not any(advice.model for advice in said):
        said += _advise_published(facts, specs)
    if "measurements" in specs and facts.channels:
        title = specs["measurements"].title
        said.append(Advice(f"{title} need no training: a good first look.", "measurements"))
    return said


def _title(specs: dict[str, ModelSpec], name: str) -> str:
    return specs[name].title if name in specs else name


def _advise_published(facts: Facts, specs: dict[str, ModelSpec]) -> list[Advice]:
    """The published checkpoint that fits best: made for these very channels, else for any."""
    published = [(spec, w) for spec in specs.values() for w in spec.weights]
    own = [
        (spec, w) for spec, w in published
        if len(w.roles or spec.roles) > 2 and not _missing(w.roles or spec.roles, facts.channels, w)
    ]  # fmt: skip
    if own:
        _, w = min(own, key=lambda item: item[1].name not in facts.fetched)
        return [Advice(f"Your channels are those of the published weights {w.name}.", w.name)]
    any_channel = [(s, w) for s, w in published if s.name == "microsnoop" or w.config.get("as_rgb")]
    if not any_channel or not facts.channels:
        return []
    starters = [w for spec, w in published if w.bundled and not _missing(w.roles, facts.channels)]
    if starters and not any(w.name in facts.fetched for _, w in any_channel):
        w = max(starters, key=lambda w: w.name == "pci-starter")
        return [Advice(f"{w.name} came with this program: a first look at once, not a result.", w.name)]
    spec, w = min(
        any_channel, key=lambda item: (item[1].name not in facts.fetched, item[0].name != "microsnoop")
    )
    return [
        Advice(
            f"Nothing is trained yet: {spec.title}'s published weights take any channels, as they are.",
            w.name,
        )
    ]


def _inpainting(facts: Facts, specs: dict[str, ModelSpec]) -> str:
    """Paired Cell Inpainting: a protein, something structural, and groups with several cells."""
    spec = specs.get("paired_cell_inpainting")
    if spec is None or _missing(spec.roles, facts.channels):
        return ""
    structure = join_words(c.name for c in facts.channels if c.role in STRUCTURE_ROLES)
    per_group = facts.n_cells / max(facts.n_groups, 1)
    data = f"a protein channel, structure ({structure}) and {facts.n_groups:,} groups with {facts.n_cells:,} good cells"
    if facts.n_cells == 0:
        return (
            f"{spec.title} suits a protein channel with structure ({structure}). {spec.when} Segment first."
        )
    if facts.n_cells < FEW_CELLS or per_group < FEW_PER_GROUP:
        return (
            f"{spec.title} suits your channels, but {data} are few to train on (wanted: at least {FEW_CELLS}, and "
            f"{FEW_PER_GROUP} in each group): take published weights or measurements, or add images."
        )
    if facts.n_groups == 1:
        return (
            f"{spec.title} could be trained, but all cells are in one group, so that a cell's partner may show anything: "
            "group the fields by protein or well first (cellrep new … --group-by)."
        )
    return f"Train {spec.title}: you have {data}, which is what it was made for. {spec.when} Type cellrep train PROJECT."


def _classes(facts: Facts, specs: dict[str, ModelSpec]) -> str:
    """DeepLoc: classes are known."""
    spec = specs.get("deeploc")
    if spec is None or not facts.labels:
        return ""
    columns = join_words(f"{name} ({n:,} classes)" for name, n in facts.labels)
    return (
        f"Your table has classes in {columns}: {spec.title} learns to tell them apart and gives every cell's class "
        f"probabilities. Type cellrep train PROJECT --model deeploc --labels {facts.labels[0][0]}."
    )


def _published(facts: Facts, specs: dict[str, ModelSpec]) -> list[str]:
    """Published weights whose channels are all there, one sentence for each model."""
    said = []
    for spec in specs.values():
        fit = [w for w in spec.weights if not _missing(w.roles or spec.roles, facts.channels, w)]
        # One channel at a time: these serve any channels, whatever the role they name.
        any_channel = spec.name in ("imagenet", "microsnoop") and bool(spec.weights) and bool(facts.channels)
        if not fit and not any_channel:
            continue
        fit = fit or list(spec.weights)
        has = [w.name for w in fit if w.name in facts.fetched]
        name = (has or [fit[0].name])[0]
        do = f"cellrep embed PROJECT --weights {name}"
        if not has:
            do = f"cellrep models fetch {name}, then {do}"
        if any_channel:
            channels = ",".join(c.name for c in facts.channels if c.role != "mask")
            said.append(
                f'{spec.title} takes single channels of any kind. {spec.when} Type {do} --channels "{channels}".'
            )
        else:
            said.append(
                f"Published weights of {spec.title} want the channels you have: {_tell(fit)}. They serve as far as your "
                f"cells look like theirs{_sampling(facts, fit)}. Type {do}."
            )
    return said


def _tell(weights: Sequence[Weights]) -> str:
    return "; ".join(f"{w.name} ({w.note.rstrip('.')})" for w in weights)


def _sampling(facts: Facts, weights: Sequence[Weights]) -> str:
    if facts.um_per_px and any(w.um_per_px for w in weights):
        return f" (the window is cut at their sampling from your {facts.um_per_px:g} µm/px)"
    return ", in size on the image too" if not any(w.um_per_px for w in weights) else ""


def _missing(roles: Sequence[str], channels: Sequence[Channel], weights: Weights | None = None) -> bool:
    try:
        match_channels(roles, channels, may_lack=weights.may_lack if weights else ())
    except InputError:
        return True
    return False
