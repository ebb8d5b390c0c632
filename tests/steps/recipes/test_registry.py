from __future__ import annotations

import json

from napari_cellrep.steps.analyze import (
    RECIPES,
    check_options,
    describe_recipes,
)


def test_every_recipe_says_what_it_does_in_one_line():
    for recipe in RECIPES.values():
        assert (recipe.__doc__ or "").splitlines()[0].endswith(".")


def test_every_recipe_has_its_question_and_every_option_its_words():
    found = describe_recipes()
    assert set(found) == set(RECIPES)
    assert json.loads(json.dumps(found))
    for recipe, about in found.items():
        assert about["question"].endswith("?"), recipe
        defaults = {name: rule["default"] for name, rule in about["options"].items()}
        assert check_options(recipe, defaults).items() >= defaults.items()
        assert all(rule["label"] for rule in about["options"].values())
