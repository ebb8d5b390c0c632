"""Which model for which data, in words."""

from __future__ import annotations

import dataclasses

import pytest

from napari_cellrep.cli import OK, main
from napari_cellrep.specs import Channel
from napari_cellrep.steps.recommend import Facts, advise, advise_by, facts_of, recommend

PROTEIN, NUCLEUS = Channel("GFP", "protein"), Channel("DNA", "nucleus")
PLATE = Facts(channels=(PROTEIN, NUCLEUS), n_fields=48, n_groups=48, n_cells=9600)


def said(facts: Facts, word: str) -> str:
    """The one sentence with this word."""
    found = [text for text in recommend(facts) if word in text]
    assert len(found) == 1, recommend(facts)
    return found[0]


def test_protein_structure_and_groups_are_for_inpainting():
    assert recommend(PLATE)[0].startswith("Train Paired Cell Inpainting")
    assert "9,600" in recommend(PLATE)[0]
    assert "cellrep train PROJECT" in recommend(PLATE)[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n_cells": 60}, "are few to train on"),
        ({"n_cells": 400}, "are few to train on"),  # eight in each group
        ({"n_groups": 1}, "all cells are in one group"),
        ({"n_cells": 0}, "begin with cellrep segment"),
        ({"channels": (Channel("a"), Channel("b"))}, "No channel has a role yet (a and b)"),
        ({"trained": ("mine",)}, "cellrep embed PROJECT --model mine"),
        ({"labels": (("phase", 7),)}, "phase (7 classes)"),
    ],
)
def test_what_is_missing_is_said(change, word):
    facts = dataclasses.replace(PLATE, **change)
    assert said(facts, word)
    assert not [text for text in recommend(PLATE) if word in text]


def test_without_structure_nothing_is_said_of_inpainting():
    facts = dataclasses.replace(PLATE, channels=(PROTEIN,))
    assert not [text for text in recommend(facts) if "Paired Cell" in text]
    assert "pifia" in said(facts, "weights of DeepLoc")  # one channel is enough for these
    assert "deeploc-2017" not in said(facts, "weights of DeepLoc")


def test_published_weights_are_named_by_the_channels_there_are():
    assert "pci-human" not in " ".join(recommend(PLATE))
    assert "dino-hpa" not in " ".join(recommend(PLATE))
    assert "models fetch pci-yeast" in said(PLATE, "weights of Paired")
    hpa = [Channel(role, role) for role in ("protein", "nucleus", "microtubules", "er")]
    facts = dataclasses.replace(PLATE, channels=tuple(hpa))
    assert "pci-human" in said(facts, "weights of Paired")
    assert "dino-hpa-cell" in said(facts, "weights of DINO")
    facts = dataclasses.replace(facts, fetched=("dino-hpa-cell",))
    assert "Type cellrep embed PROJECT --weights dino-hpa-cell" in said(facts, "weights of DINO")


def test_single_channels_of_any_kind_are_for_microsnoop():
    facts = Facts(channels=(Channel("phase", "brightfield"),), n_fields=3, n_groups=3, n_cells=900)
    text = said(facts, "Microsnoop")
    assert "Academic use only" in text
    assert '--channels "phase"' in text


def test_a_real_project(small, capsys):
    facts = facts_of(small)
    assert (facts.n_fields, facts.n_groups) == (4, 4)
    assert facts.n_cells == int(small.cells.obs["good"].sum()) > 0
    assert facts.channels == small.channels
    assert main(["models", "recommend", str(small.root)]) == OK
    assert capsys.readouterr().out.count("\n") == len(recommend(facts))


# ---- short, for the window ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "models"),
    [
        ({}, ["paired_cell_inpainting", "measurements"]),
        ({"trained": ("mine",)}, ["mine", "measurements"]),
        ({"n_cells": 60}, ["", "pci-starter", "measurements"]),
        ({"n_groups": 1}, ["", "pci-starter", "measurements"]),
        (
            {"n_groups": 1, "fetched": ("microsnoop-published", "pci-starter")},
            ["", "microsnoop-published", "measurements"],
        ),
        ({"channels": (Channel("a"), Channel("b"))}, ["", "microsnoop-published", "measurements"]),
        ({"channels": (PROTEIN,)}, ["microsnoop-published", "measurements"]),
        (
            {"channels": (PROTEIN,), "fetched": ("dino-imagenet-small16",)},
            ["dino-imagenet-small16", "measurements"],
        ),
        (
            {"channels": tuple(Channel(r, r) for r in ("nucleus", "rna", "er", "agp", "mito"))},
            ["dino-cell-painting-base", "measurements"],
        ),
    ],
)
def test_advice_for_the_window(change, models):
    said = advise_by(dataclasses.replace(PLATE, **change))
    assert [advice.model for advice in said] == models
    for advice in said:
        assert len(advice.words) < 140
        assert advice.words.endswith(".")
        assert "cellrep" not in advice.words


def test_advice_is_short(small):
    said = advise(small)
    assert 1 <= len(said) <= 2
    assert len(advise(small, most=1)) == 1
