"""`--dry-run configs/ixi.yaml` on a cohort of IXI's size and headers: steps, hours, disk and subjects."""

import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from ixi_like import ixi_cohort, write_ixi_headers

import pipeline.dry_run
from pipeline.run import main

CONFIGS = Path(__file__).parents[2] / "configs"
GIB = 1 << 30


@pytest.fixture(scope="module")
def ixi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ixi")
    write_ixi_headers(folder, ixi_cohort())
    return folder


@pytest.fixture
def plan(ixi, tmp_path, monkeypatch, capsys):
    """What the plan of a shipped configuration prints, on a machine of a known pace and disk."""
    monkeypatch.setattr(pipeline.dry_run, "step_pace", lambda *_: (1.65, "this CPU with 2 threads"))

    free = 500 * GIB

    def printed(name, *options):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=free, free=free))
        where = (f"data.folder={ixi}", f"output={tmp_path / 'run'}", f"preprocess.store={tmp_path / 'store'}")
        assert main([str(CONFIGS / f"{name}.yaml"), *where, "--dry-run", *options]) == 0
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr()

    return printed


def test_the_plan_of_ixi_names_steps_hours_disk_and_subjects(plan):
    output = plan("ixi")
    text = output.out
    assert output.err == ""
    assert "steps      1,250 an epoch × 200 epochs = 250,000, batch 1" in text
    assert "time       training on this CPU with 2 threads some 115 hours, an estimate: 1.65 s a step" in text
    slices = sum(int(row[4]) for row in table_of(text) if row[0] == "train")
    store = slices * 256**2 * 2 / GIB
    assert f"{store:.1f} GiB slice store, in " in text
    assert re.search(r"\d\.\d GiB checkpoints, in \S*/run/checkpoints \(500\.0 GiB free\)", text)
    translated = [int(row[2]) for row in table_of(text) if row[0] == "test" and row[1] != "pairs"]
    voxels = 256**2 * (translated[0] * 150 + translated[1] * 130)
    assert f"{voxels * 2 * 0.4 / GIB:.1f} GiB translated volumes, in " in text
    assert re.search(r"^train T1 +IXI\d{3}-\w+-\d+, .* and 201 more$", text, re.MULTILINE)
    assert "(--verbose names every subject)" in text


def test_every_subject_can_be_named_one_a_line(plan):
    text = plan("ixi", "--verbose").out
    lines = [re.split(r" {2,}", line) for line in text.splitlines() if re.match(r"(train|validation|test) .*IXI", line)]
    assert sorted(subject for _, subject, _ in lines) == sorted(ixi_cohort())
    kinds = Counter((part, contrasts) for part, _, contrasts in lines)
    table = {(row[0], row[1]): int(row[2]) for row in table_of(text)}
    assert kinds["train", "T1"] == table["train", "T1"] and kinds["train", "T2"] == table["train", "T2"]
    assert kinds["test", "T1 T2"] == table["test", "pairs"]


def test_fields_of_view_that_differ_matter_to_methods_without_pairs_alone(plan):
    assert "fields of view differ" in plan("ixi").out
    assert "of field of view" in plan("ixi", "preprocess.coverage_mm=all").err
    paired = plan("ixi_pix2pix", "preprocess.coverage_mm=all")
    assert "field of view" not in paired.err and "fields of view differ" not in paired.out


def table_of(text):
    """The rows of the plan's first table, in cells."""
    rows = (re.split(r" {2,}", line) for line in text.splitlines())
    return [row for row in rows if len(row) == 5 and row[0] in ("train", "validation", "test")]
