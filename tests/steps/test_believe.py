"""Every doubt against ranks, ratios and counts made by hand; what cannot be told says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_cellrep.analysis.localisation import nucleus_ring_ratio
from napari_cellrep.analysis.variability import compare_spread
from napari_cellrep.cli import main
from napari_cellrep.data import open_project
from napari_cellrep.jobs import drain
from napari_cellrep.models import create_model, load_model, save_model
from napari_cellrep.models._engine import Embedder
from napari_cellrep.specs import Channel, InputError
from napari_cellrep.steps.analyze import analyze
from napari_cellrep.steps.believe import SHIFTS, believe
from napari_cellrep.steps.believe_group import _group, _sample, believe_group
from napari_cellrep.steps.embed import cut_cells, embed

NET = {"model": "paired_cell_inpainting", "config": {"width": 0.05}, "device": "cpu", "precision": "fp32"}


def rank_by_hand(x, cell, base):
    """Number by the mean distance to the ten nearest, features scaled by the spread of `base`."""
    x = np.asarray(x, float)
    sd = x[base].std(axis=0)
    z = (x[:, sd > 1e-6] - x[base].mean(axis=0)[sd > 1e-6]) / sd[sd > 1e-6]
    distance = np.sqrt(((z[:, None] - z[None]) ** 2).sum(axis=2))
    odd = np.sort(distance, axis=1)[:, 1:11].mean(axis=1)
    return 1 + int((odd > odd[cell]).sum())


def checks_of(project, cell_id, embedding=""):
    found = drain(believe(project, cell_id=cell_id, embedding=embedding, device="cpu"))
    return found, {c.name: c for c in found.checks}


@pytest.fixture
def netted(small):
    """Four small fields embedded by a random network and by measurements."""
    drain(embed(small, **NET, key="net"))
    drain(embed(small, model="measurements", channels=["FKHR-GFP", "DNA"]))
    return open_project(small.root)


@pytest.mark.slow
def test_ranks_are_those_of_the_table(netted):
    cells = netted.cells
    obs, good = cells.obs, cells.obs["good"].to_numpy(bool)
    own = np.flatnonzero((obs["group"] == "A06").to_numpy())
    row = int(own[good[own]][2])
    found, checks = checks_of(netted, str(obs.index[row]), "net")
    assert (found.n_group, found.n_good, found.group) == (len(own), int(good[own].sum()), "A06")
    for name, embedding, rows in (
        ("good", "net", own[good[own]]), ("flagged", "net", own), ("model measurements", "measurements", own[good[own]]),
    ):  # fmt: skip
        x = cells.obsm[f"X_{embedding}"].astype(float)
        z = x / np.where(x[good].std(axis=0) > 1e-6, x[good].std(axis=0), np.inf)
        distance = np.sqrt(((z[rows][:, None] - z[rows][None]) ** 2).sum(axis=2))
        odd = np.sort(distance, axis=1)[:, 1:11].mean(axis=1)
        rank = 1 + int((odd > odd[rows == row]).sum())
        assert (checks[name].numbers["rank"], checks[name].numbers["n"]) == (rank, len(rows))
        holds = rank <= max(1, round(0.05 * len(rows)))
        assert checks[name].verdict == ("holds" if holds else "does not hold")
        assert f"umber {rank:,} of {len(rows):,}" in checks[name].words
    assert found.lines[0].startswith(f"{found.cell_id}, one of {len(own)} cells of group A06")
    assert all(any(c.line == line for line in found.lines) for c in found.checks)


def test_crops_are_changed_for_the_cell_and_all_its_mates(netted):
    obs, good = netted.cells.obs, netted.cells.obs["good"].to_numpy(bool)
    rows = obs[good & (obs["group"] == "A06").to_numpy()]
    cell = 4
    _, checks = checks_of(netted, str(rows.index[cell]), "net")
    net = create_model_like(netted)
    engine = Embedder(net, ["conv4_1"], device="cpu", precision="fp32")
    others = np.arange(len(rows)) != cell

    def rank(rows, change=lambda crops: crops, **crop):
        import dataclasses

        crops = change(cut_cells(netted, "A06", rows, dataclasses.replace(net.crop, **crop), (0, 1)))
        return rank_by_hand(engine.run(crops)["conv4_1"], cell, others)

    def dark(crops):
        crops[:, 0] = 0
        return crops

    assert checks["masked"].numbers["plain"] == rank(rows)
    assert checks["masked"].numbers["ranks"]["masked"] == rank(rows, masked=True)
    assert checks["structure"].numbers["rank"] == rank(rows, dark)
    moved = {
        name: rank(rows.assign(y_px=rows["y_px"] + dy, x_px=rows["x_px"] + dx))
        for name, (dy, dx) in SHIFTS.items()
    }
    assert checks["shift"].numbers["ranks"] == moved
    holds = max(moved.values()) <= max(1, round(0.05 * len(rows)))
    assert checks["shift"].verdict == ("holds" if holds else "does not hold")


def create_model_like(project):
    """The network of the fixture: the first seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model("paired_cell_inpainting", width=0.05)


@pytest.mark.slow
def test_measurements_do_not_see_beyond_the_outline_and_say_so(netted):
    cell = str(netted.cells.obs.index[netted.cells.obs["good"]][0])
    _, checks = checks_of(netted, cell, "measurements")
    for name in ("masked", "shift"):
        assert checks[name].verdict == "cannot be told"
        assert "inside the outline" in checks[name].words
    assert checks["structure"].verdict != "cannot be told"  # the nucleus is measured without the protein too


def test_the_pixels_alone(netted):
    obs = netted.cells.obs
    ratio = nucleus_ring_ratio(netted.read_image("A06")[0], netted.read_labels("A06"))
    rows = obs[obs["good"] & (obs["group"] == "A06")]
    values = np.array([ratio[int(label)] for label in rows["label"]])
    top = int(np.nanargmax(values))
    _, checks = checks_of(netted, str(rows.index[top]), "net")
    assert checks["readout"].numbers == {"ratio": round(float(values[top]), 4), "percentile": 100.0}
    assert checks["readout"].verdict == "holds"
    middle = int(np.argsort(values)[len(values) // 2])
    _, checks = checks_of(netted, str(rows.index[middle]), "net")
    assert checks["readout"].verdict == "does not hold"


def test_it_recurs_when_odd_cells_like_it_are_in_another_field(simple_project):
    cells = simple_project.cells
    obs, x = cells.obs, cells.obsm["X_simple"]
    first = np.flatnonzero(obs["good"] & (obs["group"] == "A05"))
    second = np.flatnonzero(obs["good"] & (obs["group"] == "A06"))
    cell = str(obs.index[first[0]])
    _, checks = checks_of(simple_project, cell)
    assert checks["recurs"].verdict == "cannot be told"
    assert "compound Wortmannin and dose rank 3) was imaged in one field only" in checks["recurs"].words
    obs["dose_rank"] = 3.0  # all wells of a drug are replicates now
    x[first[0]] = x[obs["good"]].max(axis=0) * 3
    _, checks = checks_of(simple_project, cell)
    assert checks["recurs"].verdict == "does not hold"
    x[second[:3]] = x[first[0]] * np.array([[1.001], [1.002], [1.003]])
    _, checks = checks_of(simple_project, cell)
    assert checks["recurs"].verdict == "holds"
    assert checks["recurs"].numbers["alike"] == 3
    assert checks["recurs"].numbers["other_field"] >= 3
    assert checks["recurs"].numbers["other_well"] == checks["recurs"].numbers["other_field"]


def test_a_cell_that_is_odd_by_one_number_only(simple_project):
    cells = simple_project.cells
    obs, x = cells.obs, cells.obsm["X_simple"]
    own = np.flatnonzero(obs["good"] & (obs["group"] == "A06"))
    usual = np.median(x[own], axis=0)
    spread = x[obs["good"]].std(axis=0)
    x[own[0]] = usual
    x[own[0], 2] += 30 * spread[2]
    check = checks_of(simple_project, str(obs.index[own[0]]))[1]["one number"]
    assert check.verdict == "does not hold"
    assert check.numbers["feature"] == 2
    assert check.numbers["share"] > 0.95
    x[own[0]] = usual + 30 * spread
    check = checks_of(simple_project, str(obs.index[own[0]]))[1]["one number"]
    assert check.verdict == "holds"
    assert (check.numbers["rank"], check.numbers["n"]) == (1, len(own))
    assert check.numbers["share"] < 0.5


def test_chance_is_that_of_as_many_reference_cells(simple_project):
    cells = simple_project.cells
    obs, x = cells.obs, cells.obsm["X_simple"]
    usual = str(obs.index[np.flatnonzero(obs["good"] & (obs["group"] == "A06"))[1]])
    _, checks = checks_of(simple_project, usual)
    chance = checks["chance"]
    assert chance.numbers["reference"] == "the reference control=-1"
    n = int((obs["good"] & (obs["group"] == "A06")).sum())
    if (obs["good"] & (obs["control"] == -1)).sum() < n:
        assert chance.verdict == "cannot be told"
    else:
        assert chance.numbers["n"] == n
        assert chance.numbers["low"] <= chance.numbers["median"] <= chance.numbers["high"]
        assert chance.verdict == "does not hold"
    x[obs.index.get_loc(usual)] = 100 * x[obs["good"]].max(axis=0)
    assert checks_of(simple_project, usual)[1]["chance"].verdict == "holds"
    simple_project.set_comparison(control="compound=LY294002")
    assert (
        checks_of(simple_project, usual)[1]["chance"].numbers["reference"]
        == "the reference compound=LY294002"
    )
    simple_project.set_comparison(control="well=E12")
    few = checks_of(simple_project, str(obs.index[np.flatnonzero(obs["group"] == "E12")[3]]))[1]["chance"]
    assert "all other groups" in few.words or "reference" in few.words  # never its own group


@pytest.mark.slow
def test_what_the_network_was_trained_on(small):
    net = create_model("paired_cell_inpainting", width=0.05)
    folder = small.root / "models" / "mine"
    cell = str(small.cells.obs.index[small.cells.obs["good"] & (small.cells.obs["group"] == "A06")][0])

    def verdict(how=None, **card):
        save_model(net, folder, **card)
        (folder / "run.json").unlink(missing_ok=True)
        if how is not None:
            plain = {"fields": [], "cells": [], "named_set": "", "where": "", "include_flagged": False}
            (folder / "run.json").write_text(json.dumps({"how": {**plain, **how}}))
        check = checks_of(open_project(small.root), cell, "mine")[1]["trained"]
        return check.verdict, check.words

    save_model(net, folder)
    drain(embed(small, model="mine", device="cpu", precision="fp32"))
    assert verdict() == ("cannot be told", "the model does not say what it was trained on.")
    assert verdict(trained_on="elsewhere")[0] == "holds"
    here = {"trained_on": small.name}
    assert verdict({}, **here)[0] == "does not hold"
    assert verdict({}, trained_on="as the project was called before")[0] == "does not hold"
    assert "it among them" in verdict({}, **here)[1]
    assert verdict({"where": "well == 'A01'"}, **here)[0] == "holds"
    assert verdict({"fields": ["A06"]}, **here)[0] == "does not hold"
    assert verdict(chosen={"cells": 7}, **here)[0] == "cannot be told"
    assert load_model(folder).card["trained_on"] == small.name


def test_images_that_changed_since_are_noticed(netted):
    cell = str(netted.cells.obs.index[netted.cells.obs["good"]][0])
    x = netted.cells.obsm["X_net"]
    x[:] = np.random.default_rng(0).permutation(x)
    _, checks = checks_of(netted, cell, "net")
    assert checks["masked"].verdict == checks["shift"].verdict == "cannot be told"
    assert "get other vectors" in checks["masked"].words


def test_flags_missing_channels_and_missing_cells(netted):
    obs = netted.cells.obs
    flagged = str(obs.index[~obs["good"]][0])
    _, checks = checks_of(netted, flagged, "net")
    assert checks["good"].verdict == "does not hold"
    assert "it is flagged itself (" in checks["good"].words
    netted.set_channels([Channel("FKHR-GFP", "er"), Channel("DNA", "nucleus")])
    _, checks = checks_of(netted, str(obs.index[obs["good"]][0]), "net")
    assert checks["readout"].words == "the project has no protein channel."
    assert checks["structure"].words == "the network does not see a protein channel."
    with pytest.raises(InputError, match="no cell called 'nobody'; ids look like"):
        drain(believe(netted, cell_id="nobody", embedding="net"))
    with pytest.raises(InputError, match="say which"):
        drain(believe(netted, cell_id=flagged))


def test_without_a_network_the_rest_is_told(simple_project):
    cell = str(simple_project.cells.obs.index[simple_project.cells.obs["good"]][0])
    found, checks = checks_of(simple_project, cell)
    assert (
        checks["model"].verdict == checks["masked"].verdict == checks["trained"].verdict == "cannot be told"
    )
    assert "does not say by which network" in checks["shift"].words
    assert checks["readout"].verdict in ("holds", "does not hold")
    assert sum(c.verdict == "cannot be told" for c in found.checks) >= 5
    assert f"{sum(c.verdict == 'cannot be told' for c in found.checks)} cannot be told" in found.lines[1]


def test_a_cell_alone_in_its_group_and_one_without_a_vector(netted):
    cells = netted.cells
    obs = cells.obs
    first, second = (str(i) for i in obs.index[obs["good"]][:2])
    obs["group"] = obs["group"].astype(str)
    obs.loc[first, "group"] = "solo"
    found, checks = checks_of(netted, first, "net")
    told = {name for name, check in checks.items() if check.verdict != "cannot be told"}
    assert told <= {"recurs", "trained"}
    assert (found.n_group, found.n_good) == (1, 1)
    cells.obsm["X_net"][obs.index.get_loc(second)] = np.nan
    _, checks = checks_of(netted, second, "net")
    for name in ("good", "one number", "recurs", "chance"):
        assert checks[name].verdict == "cannot be told"
    assert checks["model measurements"].verdict != "cannot be told"
    obs["group"] = obs["group"].astype(object)
    obs.loc[first, "group"] = None
    with pytest.raises(InputError, match="belongs to no group"):
        drain(believe(netted, cell_id=first, embedding="net"))


@pytest.mark.slow
def test_from_the_command_line(netted, capsys):
    cell = str(netted.cells.obs.index[netted.cells.obs["good"]][0])
    words = ["believe", str(netted.root), "--cell", cell, "--embedding", "net", "--device", "cpu"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{cell}, one of ")
    assert "It is odd when every crop is shifted by 5 px: " in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["verdict"] for c in found["checks"]} <= {"holds", "does not hold", "cannot be told"}
    assert main(["believe", str(netted.root), "--cell", "nobody", "--embedding", "net"]) == 2


# ---- groups ---------------------------------------------------------------------------------------------


def group_checks(project, group, **how):
    found = drain(believe_group(project, group=group, device="cpu", **how))
    return found, {c.name: c for c in found.checks}


@pytest.fixture
def mixed(netted):
    """Well A06 made to differ from cell to cell in both embeddings, the other wells drawn from one normal."""
    cells, rng = netted.cells, np.random.default_rng(0)
    of = (cells.obs["group"] == "A06").to_numpy()
    for key, wide in (("net", 3.0), ("measurements", 3.0)):
        x = rng.normal(size=cells.obsm[f"X_{key}"].shape).astype(np.float32)
        x[of] *= wide
        cells.obsm[f"X_{key}"] = x
    netted.write_cells(cells)
    return open_project(netted.root)


@pytest.mark.slow
def test_a_mixed_group_holds_in_every_ranking_and_a_plain_one_does_not(mixed):
    obs = mixed.cells.obs
    names = sorted(obs["group"].astype(str).unique())
    found, checks = group_checks(mixed, "A06", embedding="net")
    own = (obs["group"] == "A06").to_numpy()
    good = obs["good"].to_numpy(bool)
    assert (found.n_group, found.n_good) == (int(own.sum()), int((own & good).sum()))
    chance = checks["chance"]
    assert chance.verdict == "holds"
    assert (chance.numbers["rank"], chance.numbers["n"]) == (1, len(names))
    # By hand: the mean SD of the z-scored features.
    z = mixed.cells.obsm["X_net"][good].astype(float)
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    spread = z[own[good]].std(axis=0).mean()
    assert f"spread {spread:.2f}, of {int((own & good).sum()):,} cells of " in chance.words
    assert "(control −1)" in chance.words
    assert checks["model measurements"].verdict == checks["flagged"].verdict == "holds"
    assert checks["intensity"].verdict == "holds"
    assert checks["recurs"].verdict == "cannot be told"  # one field for each well here
    assert "imaged in one field only" in checks["recurs"].words
    assert checks["score"].words.startswith("there is no score")
    assert "get other vectors" in checks["masked"].words  # these are not the network's
    for name in [n for n in names if n != "A06"]:
        _, plain = group_checks(mixed, name, embedding="net")
        assert plain["chance"].verdict == "does not hold"
        assert "does not vary more than by chance with it either" in plain["intensity"].words
    with pytest.raises(InputError, match="no group called 'Z9'; groups \\(group\\) are A0"):
        group_checks(mixed, "Z9", embedding="net")
    with pytest.raises(InputError, match="no column 'mood'"):
        group_checks(mixed, "A06", by="mood", embedding="net")


def test_between_a_and_b_it_is_the_ranking_of_the_score(simple_project):
    with pytest.raises(InputError, match="no score of simple: place the cells between A and B first"):
        group_checks(simple_project, "A06", by_score=True)
    drain(analyze(simple_project, recipe="score"))
    table = drain(analyze(simple_project, recipe="variability")).table
    for name in ("A06", "A12"):
        found, checks = group_checks(simple_project, name, by_score=True)
        row, of_score = table.loc[name], checks["chance"].numbers
        assert of_score["ratio"] == pytest.approx(row["score_sd"] / row["score_sd_expected"], rel=1e-3)
        assert of_score["p_fdr"] == pytest.approx(row["score_sd_p_fdr"], abs=1e-5)
        assert checks["chance"].verdict == ("holds" if row["score_sd_p_fdr"] <= 0.05 else "does not hold")
        features = checks["features"].numbers
        assert features["p_fdr"] == pytest.approx(row["heterogeneity_p_fdr"], abs=1e-5)
        assert found.lines[1].endswith(
            "Varies means: between A and B more than as many cells of the reference groups, p ≤ 0.05 (FDR)."
        )
        _, by_features = group_checks(simple_project, name)
        assert by_features["score"].numbers == of_score
    it = _group(simple_project, "A06", "group", "simple", by_score=True)
    rows, of = _sample(it, 0)
    control = it.obs["control"].iloc[rows]
    assert (control[of > 0] == -1).all()
    assert (control[of == -1] == 1).all()
    assert (of == -1).sum() >= 10
    placed = it.score(it.z(rows), rows)
    assert np.median(placed[of > 0]) < np.median(placed[of == -1])


def test_fields_treated_alike_are_measured_each_by_itself(mixed):
    """Two wells of one treatment: one mixed, or both; two that only differ from one another are not mixed."""
    cells = mixed.cells
    obs, rng = cells.obs, np.random.default_rng(1)
    fields = sorted(obs["field"].astype(str).unique())
    of = {name: (obs["field"].astype(str) == name).to_numpy() for name in fields}
    reference = obs["field"][(obs["control"] == -1).to_numpy()].astype(str).unique().tolist()
    pair = [name for name in fields if name not in reference][:2]
    for column in ("compound", "dose_rank", "control"):
        obs[column] = obs[column].astype(object)
        obs.loc[of[pair[1]], column] = obs.loc[of[pair[0]], column].iloc[0]
    obs["team"] = np.where(of[pair[0]] | of[pair[1]], "pair", obs["field"].astype(str))

    def recurs(first, second, apart=0.0):
        x = rng.normal(size=cells.obsm["X_net"].shape).astype(np.float32)
        x[of[pair[0]]] *= first
        x[of[pair[1]]] = x[of[pair[1]]] * second + apart
        cells.obsm["X_net"] = x
        return group_checks(mixed, "pair", by="team", embedding="net")[1]

    both = recurs(3, 3)["recurs"]
    assert both.verdict == "holds"
    assert both.numbers["beyond"] == 2
    assert recurs(3, 1)["recurs"].verdict == "does not hold"
    apart = recurs(1, 1, apart=4.0)
    assert apart["chance"].verdict == "holds"  # together they look mixed
    assert apart["recurs"].verdict == "does not hold"
    assert apart["recurs"].numbers["beyond"] == 0


def test_a_sample_of_the_group_and_of_the_references_is_embedded_anew(small):
    """Real images in which the protein of every other cell of one well is noise, then embedded."""
    field = small.field("A06")
    (path,) = {p for plane in field.planes for p in plane.files(small.root)}
    image, labels = tifffile.imread(path), small.read_labels("A06")
    noisy = (labels > 0) & (labels % 2 == 0)
    image[0][noisy] = np.random.default_rng(2).integers(0, image[0].max(), int(noisy.sum()))
    tifffile.imwrite(path, image)
    project = open_project(small.root)
    drain(embed(project, **NET, key="net"))
    project = open_project(small.root)
    obs = project.cells.obs
    _, checks = group_checks(project, "A06", embedding="net")
    assert checks["chance"].verdict == checks["structure"].verdict == "holds"
    assert checks["structure"].numbers["ratio"] < checks["structure"].numbers["plain"]
    # By hand, from the same cells.
    it = _group(project, "A06", "group", "net")
    rows, of = _sample(it, 0)
    assert (np.bincount(of) <= 60).all()
    assert np.bincount(of)[0] == int((obs["good"].to_numpy(bool) & (obs["group"] == "A06")).sum())
    assert set(obs["control"].iloc[rows[of > 0]]) == {-1}
    engine = Embedder(create_model_like(project), ["conv4_1"], device="cpu", precision="fp32")
    x = np.zeros((len(rows), 0))
    for name in dict.fromkeys(obs["field"].astype(str).iloc[rows]):
        at = np.flatnonzero((obs["field"].astype(str).iloc[rows] == name).to_numpy())
        own = obs.iloc[rows[at]]
        ways = np.array(list(SHIFTS.values()))[np.arange(len(at)) % 4]
        own = own.assign(y_px=own["y_px"] + ways[:, 0], x_px=own["x_px"] + ways[:, 1])
        part = engine.run(cut_cells(project, name, own, engine.model.crop, (0, 1)))["conv4_1"]
        x = np.zeros((len(rows), part.shape[1])) if not x.shape[1] else x
        x[at] = part
    sd = x.std(axis=0)
    z = (x - x.mean(axis=0))[:, sd > 1e-6] / sd[sd > 1e-6]
    found = compare_spread(z, of, int(of.max()) + 1, of > 0)
    assert checks["shifted"].numbers["ratio"] == pytest.approx(found.ratio[0], rel=1e-3)
    assert checks["shifted"].verdict == ("holds" if found.beyond[0] else "does not hold")


def test_a_small_group_and_one_without_a_network(mixed, simple_project):
    cells = mixed.cells
    good = cells.obs["good"].to_numpy().copy()
    own = np.flatnonzero((cells.obs["group"] == "A06").to_numpy())
    good[own[5:]] = False
    cells.obs["good"] = good
    _, checks = group_checks(mixed, "A06", embedding="net")
    assert checks["chance"].verdict == "cannot be told"
    assert f"it has {int(good[own].sum())} cells that count, and 10 are needed" in checks["chance"].words
    assert checks["readout"].verdict == checks["masked"].verdict == "cannot be told"
    _, checks = group_checks(simple_project, "A06")
    assert "does not say by which network" in checks["shifted"].words
    assert checks["readout"].verdict in ("holds", "does not hold")
    assert checks["chance"].verdict in ("holds", "does not hold")


def test_groups_from_the_command_line(netted, capsys):
    words = ["believe", str(netted.root), "--group", "A06", "--embedding", "net", "--device", "cpu"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("Group A06: ")
    assert "It varies when every crop is shifted by 5 px, each its own way: " in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["verdict"] for c in found["checks"]} <= {"holds", "does not hold", "cannot be told"}
    with pytest.raises(SystemExit):
        main([*words, "--cell", "x"])
