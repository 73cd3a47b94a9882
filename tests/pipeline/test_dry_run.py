import json
import re
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline import dry_run as plan
from pipeline.config.schema import Config
from pipeline.data.sources import phantom
from pipeline.data.sources.phantom_anatomy import grid
from pipeline.data.split_file import split_to_json
from pipeline.data_builders import planned_cases, split_cases
from pipeline.dry_run import print_dry_run
from pipeline.engines.builders import build_engine
from pipeline.engines.cyclegan import ENGINE
from pipeline.run_config import open_run_folder, save_config
from pipeline.runs.folder import RunFolder, json_text
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text


def config(**sections):
    base = {
        "name": "small",
        "data": {"source": "phantom", "subjects": 10},
        "split": {"validation": 1, "test": 3},
        "preprocess": {"size": 64},
        "generator": {"width": 4},
        "discriminator": {"width": 4, "layers": 2},
        "training": {"epochs": 3, "decay_epochs": 2, "batch_size": 4},
    }
    return Config.model_validate(base | sections)


def printed(capsys, settings):
    print_dry_run(settings)
    return capsys.readouterr().out


def rows(text):
    """Return the cells of every line that has a table's gaps."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.search(r"\S\s{2,}\S", line)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, which must stay empty, on a machine whose pace and disk do not change."""
    monkeypatch.setattr(plan, "step_pace", lambda *_: (0.05, "this CPU"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=8 << 40, free=4 << 40))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert list(folder.iterdir()) == []


def test_a_saved_split_counts_once_something_was_trained_by_it(tmp_path, capsys):
    settings = config(output=str(tmp_path / "run"))
    save_config(RunFolder(tmp_path / "run"), settings)
    known = sorted({case.subject for case in planned_cases(settings)})
    names = {"train": {"T1": known[:1], "T2": known[1:2]}, "validation": [], "test": known[2:3]}
    (tmp_path / "run" / "split.json").write_text(json.dumps(names))
    assert ["test", "pairs", "3", "3"] in [row[:4] for row in rows(printed(capsys, settings))]
    (tmp_path / "run" / "scores.json").write_text("{}")  # of a training
    assert ["test", "pairs", "1", "1"] in [row[:4] for row in rows(printed(capsys, settings))]


def test_the_plan_of_a_phantom_that_is_not_made_yet(capsys):
    text = printed(capsys, config())
    slices = round(0.75 * grid(2.0)[0][2])
    assert text.startswith("small: phantom data → runs/small\n")
    assert rows(text)[1:10] == [
        ["─" * 10, "─" * 8, "─" * 8, "─" * 6, "─" * 17],
        ["train", "T1", "3", "3", str(3 * slices)],
        ["train", "T2", "3", "3", str(3 * slices)],
        ["validation", "T1", "1", "1", str(slices)],
        ["validation", "T2", "1", "1", str(slices)],
        ["validation", "pairs", "1", "1", str(slices)],
        ["test", "T1", "3", "3", str(3 * slices)],
        ["test", "T2", "3", "3", str(3 * slices)],
        ["test", "pairs", "3", "3", str(3 * slices)],
    ]
    steps = -(-3 * slices // 4)
    assert f"steps      {steps} an epoch × 5 epochs = {5 * steps}, batch 4" in text
    assert text.endswith("dry run: nothing was written\n")


def test_the_parameters_are_those_of_the_real_networks(capsys):
    text = printed(capsys, config())
    networks = build_engine(config(), torch.device("cpu")).networks()
    counts = {name: sum(weight.numel() for weight in network.parameters()) for name, network in networks.items()}
    assert [row for row in rows(text) if row[0] in counts] == [[name, f"{count:,}"] for name, count in counts.items()]
    assert list(counts) == ["G", "F", "D_A", "D_B"]


def test_full_size_networks_are_counted_without_being_made():
    settings = config(preprocess={"size": 256}, generator={"width": 64}, discriminator={"width": 64})
    before = torch.get_rng_state()
    assert plan.parameter_count(plan.meta_engine(settings).networks()["G"]) == 54_407_809
    assert torch.equal(torch.get_rng_state(), before)  # no weight was drawn


def test_ten_thousand_subjects_are_planned_without_one_being_made_or_looked_for(capsys, monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a plan makes no volume and looks for none")

    for made in ("make_subject", "write_subject", "is_whole"):
        monkeypatch.setattr(phantom, made, refused)
    text = printed(capsys, config(data={"source": "phantom", "subjects": 10_000}))
    assert ["train", "T1", "4998", "4998"] in [row[:4] for row in rows(text)]


def test_what_the_run_would_be_refused_for_is_said(tmp_path, capsys):
    print_dry_run(config(output=tmp_path / "run", device="mps"))
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: device mps: not available on this machine; use one of: auto, ")
    assert captured.out.endswith("dry run: nothing was written\n") and not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").touch()
    with pytest.raises(UserError, match="holds files that are not of a run"):
        print_dry_run(config(output=tmp_path / "run"))


def test_a_disk_without_room_is_warned_of(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=8 << 40, free=0))
    print_dry_run(config())
    assert capsys.readouterr().err.startswith("warning: the disk of ")


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"split": {"validation": 5, "test": 5}}, "leaves too few"),
        ({"contrasts": ["T1", "CT"]}, "phantom: no contrast CT; it can make T1, T2"),
        ({"data": {"source": "ixi", "folder": "nowhere"}}, "nowhere"),
    ],
)
def test_what_would_stop_the_run_stops_the_plan(sections, reason):
    with pytest.raises(UserError, match=reason):
        print_dry_run(config(**sections))


def volumes(folder, shape, affine, count=6):
    folder.mkdir()
    for number in range(count):
        for contrast in ("T1", "T2"):
            image = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
            nib.save(image, folder / f"s{number}_{contrast}.nii")
    return {"source": "nifti", "folder": folder, "patterns": {"T1": "{subject}_T1.nii", "T2": "{subject}_T2.nii"}}


POSTERIOR_SUPERIOR_RIGHT = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("preprocess", "slices"),
    [
        ({"axis": "axial"}, 20),
        ({"axis": "coronal"}, 16),
        ({"axis": "sagittal"}, 12),
        ({"axis": "axial", "spacing_mm": {"in_plane": 1, "through_plane": 4}}, 10),
    ],
)
def test_slices_are_counted_along_the_slicing_axis_of_a_rotated_volume(preprocess, slices, tmp_path, capsys):
    data = volumes(tmp_path / "data", (16, 20, 12), POSTERIOR_SUPERIOR_RIGHT)
    text = printed(capsys, config(data=data, preprocess={"size": 64, **preprocess}))
    held_out = [row for row in rows(text) if row[:2] == ["validation", "T1"]]
    assert held_out == [["validation", "T1", "1", "1", str(round(0.75 * slices))]]


def test_an_unreadable_volume_does_not_spoil_the_plan(tmp_path, capsys):
    settings = config(data=volumes(tmp_path / "data", (8, 8, 8), np.eye(4)), split={"validation": 0, "test": 1})
    before = printed(capsys, settings)
    train = split_cases(settings, planned_cases(settings)).train
    content = bytearray(train["T1"][0].path.read_bytes())
    content[70:72] = (3333).to_bytes(2, "little")  # a data type that there is not
    train["T1"][0].path.write_bytes(content)
    train["T2"][0].path.unlink()
    train["T2"][0].path.symlink_to("nowhere")
    assert ["train", "T1", "3", "3", "18"] in rows(before) and printed(capsys, settings) == before


def test_where_no_volume_can_be_read_the_plan_says_so(tmp_path):
    data = volumes(tmp_path / "data", (8, 8, 8), np.eye(4))
    for path in (tmp_path / "data").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"_T1\.nii: not readable as NIfTI, nor is any other of 1 images like it"):
        print_dry_run(config(data=data))


def test_images_are_a_slice_each(tmp_path, capsys):
    for contrast in ("T1", "T2"):
        (tmp_path / "data" / contrast).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "data" / contrast / f"Image #{number}.png").touch()
    data = {"source": "images", "folder": tmp_path / "data", "train": {"T1": "T1", "T2": "T2"}}
    text = printed(capsys, config(data=data, split={"validation": 1, "test": 1}))
    train = [row for row in rows(text) if row[0] == "train"]
    assert [row[4] for row in train] == [row[3] for row in train] and all(int(row[4]) > 0 for row in train)


def test_a_method_that_learns_from_pairs_is_planned_with_pairs(tmp_path, monkeypatch, capsys):
    data = volumes(tmp_path / "data", (8, 8, 8), np.eye(4))
    (tmp_path / "data" / "s0_T2.nii").unlink()
    settings = config(data=data, split={"validation": 1, "test": 1, "pairing": "paired"})
    plain = printed(capsys, settings)
    monkeypatch.setattr(ENGINE, "paired", True)
    print_dry_run(settings)
    output = capsys.readouterr()
    assert ["train", "pairs", "3", "3", "18"] in rows(output.out)
    assert [row for row in rows(output.out) if row[:2] != ["train", "pairs"] and row[0] != "disk"] == [
        row for row in rows(plain) if row[0] != "disk"
    ]
    assert output.err.endswith("for want of a partner in the other contrast: s0_T1\n")
    disk = [re.search(r"disk +([0-9.]+) MiB", text)[1] for text in (plain, output.out)]
    assert float(disk[1]) - float(disk[0]) == pytest.approx(2 * 18 * 2 * 64**2 / 2**20, abs=0.1)


def test_pairs_beside_unpaired_training_are_planned_with_it(tmp_path, capsys):
    data = volumes(tmp_path / "data", (8, 8, 8), np.eye(4))
    plain, beside = (
        printed(capsys, config(data=data, split={"validation": 1, "test": 1, "pairs": pairs})) for pairs in (0, 2)
    )
    counts = [{row[1]: row[2] for row in rows(text) if row[0] == "train"} for text in (plain, beside)]
    assert counts == [{"T1": "2", "T2": "2"}, {"T1": "3", "T2": "3", "pairs": "2"}]
    memory = [float(re.search(r"memory +([0-9.]+) MiB", text)[1]) for text in (plain, beside)]
    assert memory[1] > memory[0] + 1


def test_weights_that_networks_share_take_their_place_once(capsys):
    unit = {"method": {"type": "unit"}, "discriminator": {"type": "patchgan", "width": 4, "layers": 2}}
    apart, shared = (
        printed(capsys, config(**unit, generator={"type": "unit", "width": 32, "blocks": 2, "shared_blocks": count}))
        for count in (0, 2)
    )
    block = 2 * 3 * 3 * 128**2 + 4 * 128
    for word, copies in (("disk", 3 * 3), ("memory", 4)):  # three checkpoints of weights and moments; and gradients
        before, after = (float(re.search(rf"{word} +([0-9.]+) MiB", text)[1]) for text in (apart, shared))
        assert before - after == pytest.approx(4 * copies * 4 * block / 2**20, abs=0.2)


def test_the_memory_is_that_of_the_step_in_which_the_generators_move_too(capsys):
    def memory(critic_steps):
        method = {"type": "dualgan", "adversarial": "wasserstein", "clip": 0.1, "critic_steps": critic_steps}
        return re.search(r"memory +(.*) while", printed(capsys, config(method=method)))[1]

    assert memory(5) == memory(1)


def test_slices_that_are_to_lie_in_the_devices_memory_are_counted(capsys):
    plain, held = (printed(capsys, config(training={"slices_on_device": item, "epochs": 1})) for item in (False, True))
    slices = [int(row[4].replace(",", "")) for row in rows(held) if row[0] == "train"]
    assert len(slices) == 2 and "of slices while" not in plain
    output = re.search(r"memory +.*, and (.*) of slices while training", held)[1]
    assert output == plan.human_bytes(2 * 64**2 * sum(slices))


def test_a_split_on_which_nothing_is_trained_is_drawn_anew_as_the_run_does(tmp_path, capsys):
    settings = config(output=tmp_path / "run")
    folder = open_run_folder(settings)
    save_config(folder, settings)
    atomic_text(folder.split, json_text(split_to_json(split_cases(settings, planned_cases(settings)))))
    reseeded = config(output=tmp_path / "run", split={"validation": 1, "test": 3, "seed": 9})
    print_dry_run(reseeded, verbose=True)
    planned = capsys.readouterr().out
    print_dry_run(reseeded.model_copy(update={"output": tmp_path / "other"}), verbose=True)
    fresh = capsys.readouterr().out
    assert subjects(planned) == subjects(fresh)
    folder.scores.write_text("{}")  # of a training
    print_dry_run(settings, verbose=True)
    assert subjects(capsys.readouterr().out) != subjects(fresh)


def subjects(text):
    """The lines that name a subject with its part of the split."""
    return [line.split() for line in text.splitlines() if re.match(r"(train|validation|test) +phantom", line)]
