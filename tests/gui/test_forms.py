"""Forms show a config and give back what it takes."""

from dataclasses import dataclass
from typing import Annotated

from qtpy.QtWidgets import QLabel

from napari_cellrep import registry
from napari_cellrep.data.cells import QualityRules
from napari_cellrep.gui._forms import Form
from napari_cellrep.specs import field_rules, make_config


@dataclass(frozen=True)
class Everything:
    rate: Annotated[
        float, {"min": 1e-7, "max": 1.0, "step": 1e-5, "label": "Learning rate", "help": "How fast."}
    ] = 1e-4
    small: float = 0.001
    whole: Annotated[int, {"min": 0, "max": 2**31 - 1}] = 5
    negative: int = -3
    on: bool = True
    kind: Annotated[str, {"choices": ("yeast", "human")}] = "yeast"
    word: str = "nucleus"
    channels: tuple[str, ...] = ("protein", "DNA")


def test_shows_the_defaults_and_gives_them_back(qtbot):
    form = Form(field_rules(Everything))
    qtbot.addWidget(form)
    assert make_config(Everything, form.value()) == Everything()


def test_round_trip_of_other_values(qtbot):
    other = {
        "rate": 3.5e-6, "small": 0.0123, "whole": 2**31 - 1, "negative": -1000, "on": False, "kind": "human",
        "word": "", "channels": ("a b", "c"),
    }  # fmt: skip
    form = Form(field_rules(Everything))
    qtbot.addWidget(form)
    with qtbot.waitSignal(form.changed):
        form.set_value({**other, "unknown": 1})
    assert form.value() == other


def test_labels_tips_and_bounds_are_on_the_screen(qtbot):
    form = Form(field_rules(Everything))
    qtbot.addWidget(form)
    label = next(w for w in form.findChildren(QLabel) if w.text() == "Learning rate")
    assert label.toolTip() == "How fast."
    assert form._widgets["rate"].native.accessibleName() == "Learning rate"
    assert form._widgets["rate"].native.text().startswith("0.0001")
    assert form._widgets["rate"].max == 1.0


def test_quality_rules_and_every_segmenter_fit_in_a_form(qtbot):
    configs = [QualityRules] + [
        registry.load("segmenters", name).Config for name in registry.names("segmenters")
    ]
    for config in configs:
        form = Form(field_rules(config))
        qtbot.addWidget(form)
        assert make_config(config, form.value()) == config()
