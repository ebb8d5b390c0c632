from dataclasses import dataclass
from typing import Annotated

import pytest

from napari_cellrep.specs import (
    EMPTY,
    Channel,
    CropSpec,
    InputError,
    check_config,
    field_rules,
    find_channel,
    join_words,
    make_config,
    match_channels,
)

CHANNELS = (Channel("FKHR-GFP", "protein"), Channel("DNA", "nucleus"), Channel("Tubulin", "microtubules"))


@dataclass(frozen=True)
class Config:
    rate: Annotated[float, {"min": 0.0, "max": 1.0, "step": 1e-5, "label": "Learning rate"}] = 1e-4
    epochs: Annotated[int, {"min": 1, "label": "Epochs"}] = 30
    recipe: Annotated[str, {"choices": ("yeast", "human"), "label": "Recipe"}] = "yeast"
    flip: bool = True
    names: tuple[str, ...] = ("a",)


@pytest.mark.parametrize(
    ("text", "name", "role"),
    [("nucleus", "nucleus", "nucleus"), ("FKHR-GFP:protein", "FKHR-GFP", "protein"), ("GFP", "GFP", "other"),
     ("a:b:er", "a:b", "er"), (" DNA : Nucleus ", "DNA", "nucleus")],
)  # fmt: skip
def test_channels_are_read_from_words(text, name, role):
    assert Channel.parse(text) == Channel(name, role)


def test_a_wrong_role_is_told_the_roles():
    with pytest.raises(InputError, match="roles are protein, nucleus"):
        Channel.parse("GFP:protien")


def test_a_channel_is_found_by_name_then_role_then_any_structure():
    assert find_channel(CHANNELS, "dna") == 1
    assert find_channel(CHANNELS, "microtubules") == 2
    assert find_channel(CHANNELS, "structure") == 1
    with pytest.raises(InputError, match="FKHR-GFP \\(protein\\)"):
        find_channel(CHANNELS, "er")


def test_channels_are_matched_once_each_and_in_order():
    assert match_channels(("structure", "protein", "structure"), CHANNELS) == (1, 0, 2)
    with pytest.raises(InputError, match="DINO wants the channels protein, er"):
        match_channels(("protein", "er"), CHANNELS, "DINO")


def test_a_window_is_cut_at_the_sampling_the_network_knows():
    spec = CropSpec(size_px=64, window_px=100, um_per_px=0.5)
    assert spec.side_px() == 100
    assert spec.side_px(0.25) == 128
    assert CropSpec(size_px=64, window_px=100).side_px(0.25) == 100


def test_equal_specs_have_equal_digests_and_others_do_not():
    assert CropSpec(channels=("a",)).digest() == CropSpec(channels=["a"]).digest()
    assert CropSpec().digest() != CropSpec(masked=True).digest()


@pytest.mark.parametrize("kwargs", [{"mode": "x"}, {"padding": "x"}, {"size_px": 1}])
def test_an_impossible_crop_is_refused(kwargs):
    with pytest.raises(InputError):
        CropSpec(**kwargs)


def test_a_config_is_described_for_forms():
    rules = field_rules(Config)
    assert rules["rate"] == {
        "type": "float", "default": 1e-4, "min": 0.0, "max": 1.0, "step": 1e-5, "label": "Learning rate"
    }  # fmt: skip
    assert [r["type"] for r in rules.values()] == ["float", "int", "str", "bool", "tuple"]


def test_a_config_is_made_from_text_and_from_values():
    made = make_config(Config, {"rate": "0.5", "epochs": "3", "flip": "no", "names": "x, y"})
    assert made == Config(0.5, 3, "yeast", False, ("x", "y"))
    assert make_config(Config, {"rate": 1, "names": ["x"]}) == Config(rate=1.0, names=("x",))
    assert make_config(Config) == Config()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rate": 2.0}, "between 0.0 and 1.0"),
        ({"epochs": 0}, "between 1 and"),
        ({"recipe": "fly"}, "yeast, human"),
        ({"epochs": "many"}, "type int"),
        ({"epochs": 1.5}, "type int"),
        ({"epochs": True}, "type int"),
        ({"flip": "perhaps"}, "type bool"),
        ({"speed": 1}, "settings are rate, epochs"),
    ],
)
def test_a_wrong_setting_is_told_what_is_right(values, match):
    with pytest.raises(InputError, match=match):
        make_config(Config, values)


def test_check_config_returns_what_is_right():
    config = Config()
    assert check_config(config) is config


def test_lists_are_written_as_sentences():
    assert join_words([]) == ""
    assert join_words(["a"]) == "a"
    assert join_words(["a", "b", "c"]) == "a, b and c"
    assert join_words(map(str, range(1007)), most=2) == "0, 1 and 1,005 more"


def test_one_channel_of_those_that_may_be_missing_is_left_empty():
    wanted, dropped = ("microtubules", "protein", "nucleus"), ("microtubules", "nucleus")
    protein, nucleus = Channel("a", "protein"), Channel("b", "nucleus")
    assert match_channels(wanted, (nucleus, protein), may_lack=dropped) == (EMPTY, 1, 0)
    for channels in (
        (protein,),
        (nucleus, Channel("c", "microtubules")),
    ):  # two are too many; the protein is needed
        with pytest.raises(InputError, match=r"there is no (nucleus|protein)"):
            match_channels(wanted, channels, may_lack=dropped)
