import os
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from head_scans import AFFINE, scan, write_scan
from torch import nn

from pipeline.data import pairs as pairing
from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.evaluate import PRELOAD, evaluate
from pipeline.evaluation.translation_writer import without_networks, write_translation, write_viewer_volumes
from pipeline.evaluation.uncertainty_scores import calibrate
from pipeline.inference.model import TranslationModel
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import DiskFull
from pipeline.utils.workers import WorkerPool
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings

CONTRASTS = ("T1", "T2")
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=64, n4=False, percentiles=(0.5, 99.5))
HISTOGRAMS = {contrast: np.arange(256.0) for contrast in CONTRASTS}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two subjects whose two scans lie on different grids, and one, "bad", of whom one scan is damaged."""
    folder, cases = tmp_path_factory.mktemp("cohort"), []
    for number, subject in enumerate(("a", "bad", "c")):
        for contrast, shape in (("T1", (36, 44, 34)), ("T2", (34, 42, 35))):
            path = write_scan(folder / f"{subject}-{contrast}.nii.gz", scan(contrast, shape=shape, seed=number), AFFINE)
            cases.append(Case(subject, "", contrast, path))
    (folder / "bad-T2.nii.gz").write_bytes(b"nothing of the kind")
    return cases


@pytest.fixture(scope="module")
def registrations(tmp_path_factory):
    """The rigid transforms of the pairs, computed once."""
    return tmp_path_factory.mktemp("registrations")


@pytest.fixture(scope="module")
def pools():
    """Pools of one process and of two, by that number; to start one takes seconds."""
    with WorkerPool(2, preload=PRELOAD) as two_workers:
        yield {1: WorkerPool(1), 2: two_workers}


def model():
    facts = {contrast: ContrastStatistics(0.0, 1000.0, integer=True) for contrast in CONTRASTS}
    translators = {contrast: nn.Identity() for contrast in CONTRASTS}
    return TranslationModel(CONTRASTS, translators, SETTINGS, facts, 4, torch.device("cpu"))


def invert(scan, to):
    return -scan.slices


def evaluated(cohort, registrations, folder, workers, capsys, paired):
    """What an evaluation leaves and says, with such workers."""
    test = cohort if paired else [case for case in cohort if (case.subject == "a") == (case.contrast == "T1")]
    products = {
        "translations": partial(write_translation, RunFolder(folder / "run"), without_networks(model())),
        "viewer": partial(write_viewer_volumes, folder, model().statistics),
    }
    shown = []
    scores, made = evaluate(
        [*test, Case("lone", "", "T1", cohort[0].path)] if paired else test,
        pairs(cohort, CONTRASTS) if paired else [],
        CONTRASTS, invert, reader=PairReader(SETTINGS, 4, register=True, registrations=registrations),
        histograms=HISTOGRAMS, protocols=["syndiff", "reggan"], registrations=folder / "registration",
        on_translation=lambda translation: shown.append(translation.case), products=products, all_images=True,
        workers=workers, quiet=True,
    )  # fmt: skip
    scores.save(folder)
    lines = capsys.readouterr().err.splitlines()
    files = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    viewed = {path.name: np.load(path)["translated"] for path in folder.glob("*.npz")}
    return files, lines, shown, list(made["translations"]), viewed


@pytest.fixture
def one_grid(tmp_path):
    """A subject whose two scans lie on one grid, where their heads have different boxes."""
    cases = []
    for contrast, planes in (("T1", 34), ("T2", 26)):
        voxels = scan(contrast)
        voxels[:, :, planes:] = np.random.default_rng(2).normal(0, 8, voxels[:, :, planes:].shape)
        path = write_scan(tmp_path / f"one-{contrast}.nii.gz", voxels, AFFINE)
        cases.append(Case("one", "", contrast, path))
    return cases


@pytest.mark.parametrize("version", [1, CHAIN_VERSION])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_what_is_read_lies_in_memory_as_a_worker_hands_it_over(cohort, one_grid, tmp_path, axis, version):
    # Otherwise sums over many voxels would be rounded in another order.
    reader = PairReader(replace(SETTINGS, axis=axis, version=version), 4, register=False, registrations=tmp_path)
    views = [view for pair in (cohort[:2], one_grid) for view in reader.read(tuple(pair))[:2]]
    for original, copy in zip(views, pickle.loads(pickle.dumps(views)), strict=True):
        for first, second in ((original, copy), (original.source, copy.source)):
            arrays = {name: value for name, value in vars(first).items() if isinstance(value, np.ndarray)}
            assert len(arrays) >= 2
            assert [name for name in arrays if arrays[name].strides != getattr(second, name).strides] == []


@pytest.mark.parametrize("paired", [True, False])
def test_an_evaluation_leaves_and_says_the_same_whatever_the_number_of_processes(
    cohort, registrations, pools, tmp_path, capsys, paired
):
    results = []
    for processes in (1, 2):
        folder = tmp_path / "work"  # of one name, for it stands in what is said
        folder.mkdir()
        results.append(evaluated(cohort, registrations, folder, pools[processes], capsys, paired))
        folder.rename(tmp_path / str(processes))
    (files, lines, shown, volumes, viewed), (others, lines_too, shown_too, volumes_too, viewed_too) = results
    assert lines == lines_too and any("bad" in line and "left out of the evaluation" in line for line in lines)
    assert shown == shown_too and len(shown) == (6 if paired else 2)
    assert volumes == volumes_too and len(volumes) == (6 if paired else 2)
    assert files.keys() == others.keys() and {path.suffix for path in files} >= {".json", ".csv", ".gz", ".png", ".npz"}
    assert [path for path in files if path.suffix != ".npz" and files[path] != others[path]] == []
    assert viewed.keys() == viewed_too.keys() and all(np.array_equal(viewed[name], viewed_too[name]) for name in viewed)


def test_the_calibration_is_the_same_whatever_the_number_of_processes(cohort, registrations, pools, capsys):
    calibrations = []
    reader = PairReader(SETTINGS, 4, register=True, registrations=registrations)
    for workers in pools.values():
        calibrations.append(calibrate(cohort, model(), {}, reader=reader, batch_size=8, workers=workers, quiet=True))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: bad: ") and line.endswith("; left out of the uncertainty's calibration")
    assert calibrations[0] == calibrations[1] and set(calibrations[0][0]) == set(CONTRASTS)


def process_of(translation):
    return os.getpid()


def fail_with(error, translation):
    raise error


def make(product, cohort, folder, workers, *, register=False):
    """Evaluate two subjects with one product; return the scores, and what was made."""
    reader = PairReader(SETTINGS, 4, register=register, registrations=folder / "cache")
    test = [case for case in cohort if case.subject in "ac"]
    return evaluate(
        test, [], CONTRASTS, invert, reader=reader, histograms=HISTOGRAMS, products={"album": product},
        workers=workers, quiet=True,
    )  # fmt: skip


def test_what_takes_long_is_done_by_the_workers_and_remembered_here(cohort, pools, tmp_path):
    _, made = make(process_of, cohort, tmp_path, pools[2])
    assert [case.name for case in made["album"]] == ["a_T1", "a_T2", "c_T1", "c_T2"]
    assert os.getpid() not in made["album"].values()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_picture_that_fails_costs_no_score_and_a_full_disk_ends_the_evaluation(
    cohort, pools, tmp_path, capsys, processes
):
    scores, made = make(partial(fail_with, ZeroDivisionError("no pixels")), cohort, tmp_path, pools[processes])
    assert {score.subject for score in scores.subjects} == {"a", "c"} and not made["album"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(
        line.endswith("left out of the album (no pixels); its scores stand") for line in lines
    )
    with pytest.raises(DiskFull, match="the disk is full"):
        make(partial(fail_with, DiskFull("x: the disk is full")), cohort, tmp_path, pools[processes])


def test_a_disk_that_is_full_is_no_fault_of_a_pair(cohort, pools, tmp_path, monkeypatch):
    def full(*_):
        raise DiskFull("x: the disk is full")

    monkeypatch.setattr(pairing, "register_rigid", lambda *_: np.eye(4))
    monkeypatch.setattr(pairing, "write_rigid_transform", full)
    with pytest.raises(DiskFull):
        make(process_of, cohort, tmp_path, pools[1], register=True)
