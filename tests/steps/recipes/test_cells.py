from __future__ import annotations

import numpy as np
import pytest
from asking import good, run
from noise import add_noise_embedding
from scipy.stats import spearmanr

from napari_cellrep.analysis.outliers import control_distance
from napari_cellrep.data import Project, open_project
from napari_cellrep.data.cells import embedding_names, provenance
from napari_cellrep.jobs import drain
from napari_cellrep.specs import InputError
from napari_cellrep.steps.analyze import (
    analyze,
)


def test_score_separates_the_controls_and_leaves_flagged_cells_out(simple_project: Project):
    before = list(simple_project.cells.obs.columns)
    result = drain(analyze(simple_project, recipe="score"))
    assert not result.skipped
    obs = open_project(simple_project.root).cells.obs  # from the disk
    assert set(before) < set(obs.columns)
    assert np.array_equal(np.isfinite(obs["score_simple"]), obs["good"])
    means = obs.groupby(["compound", "control"], observed=True)["score_simple"].mean().unstack()
    assert np.all(means[-1] < -0.2)
    assert np.all(means[1] > 0.2)
    made = provenance(simple_project.cells)["score_simple"]
    assert made["numbers"]["per"] == "compound"
    assert "numpy" in made["versions"]


def test_the_score_says_what_the_wells_are_worth_as_an_assay(simple_project: Project):
    numbers = run(simple_project, "score").numbers["assay"]
    assert numbers["BBBC013"]["n_negative"] == numbers["BBBC013"]["n_positive"] == 2
    mean = good(simple_project).groupby(["control", "well"], observed=True)["score_simple"].mean()
    a, b = mean[-1].to_numpy(), mean[1].to_numpy()
    z = 1 - 3 * (a.std(ddof=1) + b.std(ddof=1)) / abs(b.mean() - a.mean())
    assert numbers["BBBC013"]["z_prime"] == pytest.approx(z)
    assert numbers["BBBC013 Wortmannin"]["z_prime"] is None  # one well of each control
    assert "Not enough data" in numbers["BBBC013 Wortmannin"]["why_not"]
    assert numbers["BBBC013"]["v_factor"] is None
    found = run(simple_project, "score", per="none", dose="control")
    assert "Z′ of the wells' means: BBBC013" in found.summary
    with pytest.raises(InputError, match="no column 'x'"):
        run(simple_project, "score", dose="x")


def test_vectors_that_are_all_alike_have_no_score(simple_project: Project):
    add_noise_embedding(simple_project, "flat", fill=0.5)
    with pytest.raises(InputError, match="same mean features"):
        drain(analyze(simple_project, recipe="score", embedding="flat"))
    for recipe in ("map", "neighbours", "variability", "outliers", "treatments", "similar", "kinds"):
        with pytest.raises(InputError, match="nothing tells them apart"):
            drain(analyze(simple_project, recipe=recipe, embedding="flat"))


@pytest.mark.slow
def test_outliers_within_groups_and_among_all(simple_project: Project):
    drain(analyze(simple_project, recipe="outliers"))
    own = simple_project.cells.obs["outlier_simple"].to_numpy().copy()
    drain(analyze(simple_project, recipe="outliers", within="all", k=5))
    everyone = simple_project.cells.obs["outlier_simple"].to_numpy()
    good = simple_project.cells.obs["good"].to_numpy()
    assert np.array_equal(np.isfinite(own), good)
    assert np.median(own[good]) > np.median(everyone[good])
    few = drain(analyze(simple_project, recipe="outliers", within="well", k=1000))
    assert few.numbers["n_small"] == simple_project.cells.obs.loc[good, "well"].nunique()
    assert (
        f"{few.numbers['n_small']} values of the column well have fewer than 1001 usable cells" in few.summary
    )
    assert "usable cells" not in drain(analyze(simple_project, recipe="outliers", within="all")).summary


def test_odd_cells_by_density_and_by_their_own_group(simple_project: Project):
    values = {}
    for how in ("neighbours", "lof", "own"):
        assert run(simple_project, "outliers", how=how).numbers["how"] == how
        values[how] = good(simple_project)["outlier_simple"]
        assert np.isfinite(values[how]).all()
    assert spearmanr(values["neighbours"], values["own"]).statistic > 0.5
    assert values["lof"].median() == pytest.approx(1, abs=0.15)
    with pytest.raises(InputError, match="one of neighbours, lof"):
        run(simple_project, "outliers", how="x")


def test_cells_of_the_full_dose_are_unlike_the_untreated(simple_project: Project):
    with pytest.raises(InputError, match="No control group is chosen"):
        drain(analyze(simple_project, recipe="unlike"))
    simple_project.set_comparison(control="control=-1")
    result = drain(analyze(simple_project, recipe="unlike"))
    obs = simple_project.cells.obs
    far = obs["unlike_simple"]
    assert far[obs["good"]].notna().all()
    assert far[~obs["good"]].isna().all()
    assert far[obs["control"] == 1].median() > far[obs["control"] == -1].median()
    assert "farther from it" in result.summary
    assert "usable cells" not in result.summary
    assert drain(analyze(simple_project, recipe="unlike")).skipped
    few = int((obs["good"] & (obs["control"] == -1)).sum())
    found = drain(analyze(simple_project, recipe="unlike", k=1000))
    assert f"The control has {few} usable cells, so cells are compared with {few - 1} of it" in found.summary


def test_distance_to_the_control_is_the_plain_definition():
    rng = np.random.default_rng(0)
    z, control = rng.normal(size=(40, 3)), np.arange(40) < 9
    found = control_distance(z, control, k=4)
    for i in range(40):
        d = sorted(np.linalg.norm(z[i] - z[j]) for j in range(9) if j != i)[:4]
        assert found[i] == pytest.approx(np.mean(d) / np.sqrt(3), rel=1e-5)
    assert np.isnan(control_distance(z, np.arange(40) < 3)).all()


def test_cells_between_the_controls_lie_between_them(simple_project: Project):
    result = run(simple_project, "mixture")
    obs = good(simple_project)
    mean = obs.groupby(["compound", "control"], observed=True)["mixing_simple"].mean().unstack()
    np.testing.assert_allclose(mean[-1], 0, atol=1e-6)
    np.testing.assert_allclose(mean[1], 1, atol=1e-6)
    assert ((mean[0] > 0) & (mean[0] < 1)).all()
    assert "compound on its own" in result.summary
    assert run(simple_project, "mixture").skipped
    with pytest.raises(InputError, match="they must differ"):
        run(simple_project, "mixture", a="control=1")


def test_the_fraction_follows_the_dose(simple_project: Project):
    run(simple_project, "mixture")
    obs = good(simple_project)
    wells = obs.groupby("well", observed=True).agg(
        dose=("dose_rank", "first"), mean=("mixing_simple", "mean")
    )
    assert spearmanr(wells["dose"], wells["mean"]).statistic > 0.7


@pytest.mark.slow
def test_cells_are_ordered_from_the_untreated_ones(simple_project: Project):
    result = run(simple_project, "order", root="control=-1")
    obs = good(simple_project)
    time = obs.groupby("control", observed=True)["time_simple"].mean()
    assert time[-1] < time[0] < time[1]
    assert result.numbers["root"] in obs.index
    assert obs.loc[result.numbers["root"], "time_simple"] == 0
    cells = open_project(simple_project.root).cells
    assert embedding_names(cells) == ["simple"]  # diffusion components are no embedding
    assert np.isfinite(cells.obsm["X_diffmap_simple"][cells.obs["good"]]).any()
    with pytest.raises(InputError, match="No root is chosen"):
        run(simple_project, "order")
