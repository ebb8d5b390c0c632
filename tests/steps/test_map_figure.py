from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest

from napari_cellrep.analysis.profiles import grow
from napari_cellrep.analysis.projection import z_score
from napari_cellrep.cli import main
from napari_cellrep.data import Project
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.export import likeness_table
from napari_cellrep.steps.map_figure import COLOURS, _heat_map, _members, write_likeness, write_map


@pytest.fixture
def project(simple_project: Project) -> Project:
    """With a t-SNE that has the untreated cells left and the fully treated ones right."""
    cells = simple_project.cells
    rng = np.random.default_rng(0)
    xy = np.full((cells.n_obs, 2), np.nan, np.float32)
    good = cells.obs["good"].to_numpy(bool)
    xy[good] = (
        rng.normal(0, 1, (good.sum(), 2))
        + np.c_[cells.obs["control"].to_numpy(float)[good] * 5, np.zeros(good.sum())]
    )
    cells.obsm["X_tsne_simple"] = xy
    cells.obs["term"] = np.where(cells.obs["control"].to_numpy(float) == 0, "even; odd", "odd")
    simple_project.write_cells(cells)
    return simple_project


def place_of(image: np.ndarray, colour: str) -> float:
    """Mean place along the width, 0 to 1, of the pixels of a colour."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    upper = image[: int(0.75 * len(image))]  # the legend is below
    at = np.nonzero((np.abs(upper[..., :3].astype(int) - rgb) < 12).all(axis=-1))[1]
    assert len(at) > 50
    return float(at.mean() / image.shape[1])


def test_densities_lie_where_their_cells_are(project: Project, tmp_path):
    out = drain(write_map(project, out=tmp_path / "map.png", place="tsne", colour="control", values="-1,1"))
    image = iio.imread(out)
    assert place_of(image, COLOURS[0]) < 0.4
    assert place_of(image, COLOURS[1]) > 0.6
    # An annotation with several values in a cell counts for each of them: "odd" is everywhere, "even" in the middle.
    image = iio.imread(
        drain(write_map(project, out=tmp_path / "b.png", place="X_tsne_simple", colour="term", values="even"))
    )
    assert 0.4 < place_of(image, COLOURS[0]) < 0.6


def test_cells_with_one_of_several_values_and_those_without(project: Project, tmp_path):
    """ "even" is said beside "odd" of the middle cells alone."""
    out = drain(
        write_map(project, out=tmp_path / "map.png", place="tsne", colour="term has even", values="yes")
    )
    assert abs(place_of(iio.imread(out), COLOURS[0]) - 0.5) < 0.1
    members = _members(project.cells.obs, "term has even", "")
    assert list(members) == ["no", "yes"]
    assert (members["yes"] == (project.cells.obs["control"].to_numpy(float) == 0)).all()
    with pytest.raises(InputError, match="no column 'place has even'"):
        _members(project.cells.obs, "place has even", "")


def test_from_the_command_line(project: Project, tmp_path, capsys):
    out = tmp_path / "map.pdf"
    assert main(["export", str(project.root), str(out), "--map", "tsne", "--colour", "compound"]) == 0
    assert out.read_bytes().startswith(b"%PDF")
    assert main(["export", str(project.root), str(tmp_path / "points.svg"), "--map", "tsne"]) == 0
    assert "<text" in (tmp_path / "points.svg").read_text()  # words, not the outlines of letters
    assert main(["export", str(project.root), str(tmp_path / "points.pdf"), "--map", "tsne"]) == 0
    pdf = (tmp_path / "points.pdf").read_bytes()
    assert b"/Type3" not in pdf  # journals refuse these
    assert b"/TrueType" in pdf or b"/CIDFontType2" in pdf
    assert main(["export", str(project.root), str(out), "--map", "umap"]) == 2
    assert "cellrep analyze PROJECT map --embedding simple" in capsys.readouterr().err


def test_likeness_as_a_clustered_heat_map(project: Project, tmp_path, capsys):
    out = tmp_path / "alike.png"
    command = ["export", str(project.root), str(out), "--format", "likeness"]
    assert main(command) == 2
    assert "no likeness of groups yet" in capsys.readouterr().err
    drain(analyze(project, recipe="profile"))
    assert main(command) == 0
    assert iio.imread(out).shape[0] > 300
    # The rows stand as the window's tree has them.
    figure = _heat_map(likeness_table(project), "average")
    shown = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    groups = project.groups
    tree = grow(z_score(np.asarray(groups.obsm["X_simple"])))
    order = [str(groups.obs["name"].iloc[i]) for i in tree.order]
    assert shown in (order, order[::-1])
    heat = np.asarray(figure.axes[1].images[0].get_array())
    r = np.asarray(groups.obsp["pearson_simple"])
    at = [list(groups.obs["name"]).index(name) for name in shown]
    np.testing.assert_allclose(heat, r[np.ix_(at, at)], atol=1e-6)
    with pytest.raises(InputError, match="average or ward linkage"):
        drain(write_likeness(project, out=out, linkage="single"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"out": "map.gif"}, "has to end in"),
        ({"place": "densmap"}, "--set method=densmap"),
        ({"place": "X_tsne_other"}, "There is no map"),
        ({"colour": "mood"}, "There is no column 'mood'"),
        ({"values": "a"}, "no column; say which"),
        ({"colour": "control", "values": "7"}, "control has no value '7'"),
        ({"colour": "control", "width": 0.0}, "Scott's rule"),
        ({"colour": "well", "values": "a,b,c,d,e,f,g,h"}, "can be told apart"),
    ],
)
def test_what_cannot_be_drawn_is_said(project: Project, tmp_path, how, sentence):
    with pytest.raises(InputError, match=sentence):
        drain(write_map(project, **{"out": tmp_path / "map.png", "place": "tsne", **how}))
    assert not list(tmp_path.glob("*.png"))
