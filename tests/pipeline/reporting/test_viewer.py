import gzip
import hashlib
import json
from base64 import b64decode, b64encode

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from pipeline.reporting.report_page import Report, render
from pipeline.reporting.viewer import FOLDER, is_fetched, make_viewer, packed, viewed_subject
from transforms.label_maps import UNCOUNTED, LabelMap

AFFINE = np.array([[2.0, 0, 0.3, -30], [0, 2, 0, -40], [-0.3, 0, 3, -20], [0, 0, 0, 1]])  # oblique
SHAPE = (24, 30, 20)
HEAD = (slice(6, 20), slice(9, 25), slice(0, 12))
EVIL = "</script><script>alert('x')</script>"
STEP = 2 / 255


def volumes(seed=0):
    random = np.random.default_rng(seed)
    return {name: random.uniform(-1, 1, SHAPE).astype(np.float32) for name in ("source", "translated", "real")}


def foreground():
    mask = np.zeros(SHAPE, bool)
    mask[HEAD] = True
    return mask


def subject(label="worst: s1", seed=0, text="T1", **changes):
    original = {**volumes(seed), "foreground": foreground(), "affine": AFFINE, **changes}
    return viewed_subject(label, text, "T2", **original)


def decoded(data, index):
    return nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(data["volumes"][index])))


@pytest.fixture
def package(tmp_path):
    """A folder as `npm ci` leaves it, with a package of one line."""
    script = tmp_path / "node_modules" / "@niivue" / "niivue" / "dist" / "niivue.umd.js"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"var niivue = 1 < 2;\r\n")
    for name in ("regions.js", "viewer.js", "viewer.css", "LICENSE-niivue.txt"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    within = tmp_path / "node_modules" / "fflate" / "LICENSE"
    within.parent.mkdir()
    within.write_text("MIT License of fflate <someone@example.org>")
    return tmp_path


def test_volumes_decode_to_their_intensities_and_places():
    original, data = volumes(), packed([subject()])
    (entry,) = data["subjects"]
    for name, volume in original.items():
        image = decoded(data, entry[name])
        assert image.get_data_dtype() == np.uint8
        corner = [3, 6, 0]  # the head's first voxel less the margin, which the grid's edge cuts off
        assert image.shape == (20, 22, 15)
        np.testing.assert_allclose(image.affine[:3, 3], apply_affine(AFFINE, corner), atol=1e-5)
        np.testing.assert_allclose(image.affine[:3, :3], AFFINE[:3, :3], atol=1e-6)
        np.testing.assert_allclose(image.get_fdata(), volume[3:23, 6:28, :15], atol=STEP / 2 + 1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (entry["direction"], entry["coarser"], entry["spacing"]) == ("T1 → T2", False, "2 × 2 × 3")


def test_what_is_beyond_the_range_or_no_number_is_clipped():
    strange = volumes()["source"]
    strange[10, 10, 5:8] = [7, -7, np.nan]
    data = packed([subject(source=strange)])
    actual = decoded(data, data["subjects"][0]["source"]).get_fdata()[10 - 3, 10 - 6, 5:8]
    np.testing.assert_allclose(actual, [1, -1, -1], atol=1e-6)


def test_a_volume_is_stored_once_however_often_it_is_shown():
    original = volumes()
    back = {"source": original["real"], "translated": volumes(1)["translated"], "real": original["source"]}
    data = packed([subject(), subject(text="T2", **back)])
    there, back = data["subjects"]
    assert (there["source"], there["real"]) == (back["real"], back["source"])
    assert len(data["volumes"]) == 4
    unpaired = packed([subject(real=None)])
    assert unpaired["subjects"][0]["real"] is None and len(unpaired["volumes"]) == 2


def test_volumes_too_large_to_mail_become_coarser_and_stay_in_place():
    ramp = np.linspace(-1, 1, 40, dtype=np.float32)[:, None, None] * np.ones((40, 36, 12), np.float32)
    noisy = np.random.default_rng(0).uniform(-1, 1, ramp.shape).astype(np.float32)
    affine = np.diag([1.0, 1, 4, 1])
    whole = viewed_subject(
        "s", "T1", "T2", source=ramp, translated=noisy, real=None, foreground=np.ones(ramp.shape, bool), affine=affine
    )
    data = packed([whole], most_bytes=6000)
    (entry,) = data["subjects"]
    image = decoded(data, entry["source"])
    assert sum(len(b64decode(volume)) for volume in data["volumes"]) <= 6000 < noisy.size
    assert entry["coarser"] and image.shape[2] == 12  # 4 mm are coarse enough already
    assert image.shape[0] < 40 and image.shape[1] < 36
    indices = np.arange(image.shape[0])
    x_mm = apply_affine(image.affine, np.stack([indices, 0 * indices, 0 * indices], axis=1))[:, 0]
    expected = -1 + 2 * x_mm / 39  # the ramp, in millimetres
    np.testing.assert_allclose(image.get_fdata()[2:-2, 5, 5], expected[2:-2], atol=0.02)
    assert np.ptp([len(item) for item in packed([whole])["volumes"]]) > 0  # without a limit it is as it was
    assert not packed([whole])["subjects"][0]["coarser"]


def tissue():
    """A label map of 2, 4, 7 and uncounted labels, of which 7 is beside the head."""
    indices = np.zeros(SHAPE, np.uint8)
    indices[8:12, 10:20, 2:9], indices[12:16, 10:20, 2:9], indices[0], indices[7] = 1, 2, 3, UNCOUNTED
    return LabelMap(indices, (2, 4, 7))


def lesion(place=(10, 12, 5)):
    indices = np.zeros(SHAPE, np.uint8)
    indices[place] = 1
    return LabelMap(indices, (1,))


def test_regions_lie_on_the_grid_of_the_volumes_as_their_labels_with_a_colour_for_each():
    data = packed([subject(regions={"tissue": tissue(), "lesion": lesion()})])
    (entry,) = data["subjects"]
    assert [region["labels"] for region in entry["regions"]] == [
        [["tissue/2", 1], ["tissue/4", 2]], [["lesion/1", 1]],
    ]  # fmt: skip
    for region, original in zip(entry["regions"], (tissue(), lesion()), strict=True):
        image = decoded(data, region["volume"])
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, decoded(data, entry["source"]).affine)
        kept = np.where(original.indices == UNCOUNTED, 0, original.indices)[3:23, 6:28, :15]
        np.testing.assert_array_equal(image.get_fdata(), kept)
        assert len(b64decode(data["volumes"][region["volume"]])) < kept.size / 10  # compressed
    assert data["colours"].keys() == {"tissue/2", "tissue/4", "lesion/1"}
    assert len({tuple(colour) for colour in data["colours"].values()}) == 3
    assert all(len(colour) == 3 and max(colour) == 255 and min(colour) >= 0 for colour in data["colours"].values())


def test_a_region_has_one_colour_in_all_subjects_and_those_without_it_have_none_of_it():
    regions = ({"lesion": lesion((0, 0, 19))}, {"lesion": lesion()}, {})  # the first beyond the head
    data = packed([subject(seed=seed, regions=own) for seed, own in enumerate(regions)])
    labels = [[region["labels"] for region in entry["regions"]] for entry in data["subjects"]]
    assert labels == [[], [[["lesion/1", 1]]], []]
    assert list(data["colours"]) == ["lesion/1"] and len(data["volumes"]) == 3 * 3 + 1
    plain = packed([subject()])
    assert plain["colours"] == {} and plain["subjects"][0]["regions"] == []


def test_labels_of_coarser_volumes_are_as_coarse_and_those_that_are_lost_are_not_listed():
    tiny = lesion().indices
    tiny[9, 11, 3] = 2
    regions = {"tissue": tissue(), "lesion": LabelMap(tiny, (1, 12))}
    assert packed([subject(regions=regions)])["colours"].keys() == {"tissue/2", "tissue/4", "lesion/1", "lesion/12"}
    data = packed([subject(regions=regions)], most_bytes=2000)
    (entry,) = data["subjects"]
    assert entry["coarser"]
    source = decoded(data, entry["source"])
    for region in entry["regions"]:
        labels = decoded(data, region["volume"])
        assert labels.shape == source.shape and (labels.affine == source.affine).all()
        shown = np.unique(labels.get_fdata())
        assert {number for _, number in region["labels"]} == {*shown[shown > 0]}
    listed = {name for region in entry["regions"] for name, _ in region["labels"]}
    assert data["colours"].keys() == listed < {"tissue/2", "tissue/4", "lesion/1", "lesion/12"}


def page_of(package, *subjects):
    return render(Report(title="t", result="r", viewer=make_viewer(subjects, package)))


def test_the_page_lists_regions_only_where_a_subject_has_one(package):
    plain, listed = (page_of(package, subject(regions=regions)) for regions in ({}, {"lesion": lesion()}))
    assert "<fieldset" not in plain and listed.count('<fieldset class="viewer-regions">') == 1


def test_without_the_package_or_a_subject_there_is_no_viewer(package, tmp_path):
    assert make_viewer([subject()], package) is not None
    assert make_viewer([], package) is None
    assert not is_fetched(tmp_path / "elsewhere") and make_viewer([subject()], tmp_path / "elsewhere") is None


@pytest.mark.parametrize("mark", ["</SCRIPT>", "<!--"])
def test_a_package_that_would_end_its_own_script_is_not_used(package, mark):
    (package / "node_modules" / "@niivue" / "niivue" / "dist" / "niivue.umd.js").write_text(f"var a = '{mark}'")
    assert make_viewer([subject()], package) is None


def test_the_licences_come_along(package):
    page = page_of(package, subject())
    assert "BSD 2-Clause License" in page and "Copyright (c) 2021, Niivue" in page
    assert "MIT License of fflate &lt;someone@example.org&gt;" in page


def test_the_lock_file_pins_the_package_by_its_hash():
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    expected = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert expected == lock["packages"][""]["dependencies"] and "@niivue/niivue" in expected
    fetched = {name: item for name, item in lock["packages"].items() if name}
    assert fetched["node_modules/@niivue/niivue"]["version"] == expected["@niivue/niivue"]
    assert all(item["integrity"].startswith("sha512-") for item in fetched.values())


def scripts(page):
    """The page's scripts: (attributes as text, content)."""
    return [part.partition("</script>")[0].partition(">")[::2] for part in page.split("<script")[1:]]


def test_the_page_runs_two_scripts_and_its_policy_knows_both_by_their_hashes(package):
    page = page_of(package, subject())
    data, *run = scripts(page)
    assert 'type="application/json"' in data[0] and [attributes for attributes, _ in run] == ["", ""]
    assert run[0][1] == "var niivue = 1 < 2;\n"  # as it is, but for the line's end, which a browser changes too
    hashes = [b64encode(hashlib.sha256(content.encode()).digest()).decode() for _, content in run]
    policy = page[page.index("Content-Security-Policy") :]
    assert f"; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'\">" in policy[: policy.index("<meta")]
    assert "default-src 'none'" in policy


def test_names_cannot_become_a_part_of_the_page(package):
    data, *run = scripts(page_of(package, subject(EVIL, text=EVIL)))
    assert len(run) == 2 and "alert" not in "".join(content for _, content in run)
    (entry,) = json.loads(data[1])["subjects"]
    assert entry["label"] == entry["sourceName"] == EVIL


def test_our_own_parts_ask_nothing_of_the_network():
    parts = [*FOLDER.glob("*.js"), *FOLDER.glob("*.css"), FOLDER.parent / "viewer.html.jinja"]
    assert len(parts) == 4
    for part in parts:
        text = part.read_text()
        assert not any(word in text for word in ("http", "fetch(", "import(", "@import", "url(", "eval(")), part.name


def test_without_a_viewer_there_is_no_script_and_the_page_can_say_why():
    page = render(Report(title="t", result="r", viewer_note="npm <ci>"))
    assert "<script" not in page and "script-src" not in page and "npm &lt;ci&gt;" in page
    assert page.count('href="#viewer"') == page.count('id="viewer"') == 1
    assert "#viewer" not in render(Report(title="t", result="r"))
