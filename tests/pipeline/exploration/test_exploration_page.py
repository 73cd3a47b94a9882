import json
from io import BytesIO

import numpy as np
import pytest
from image_statistics_samples import case, cohort_of, statistics
from page_reader import Reader
from PIL import Image

from pipeline.data.case import Case
from pipeline.exploration.exploration_files import write_record
from pipeline.exploration.exploration_page import planes_sheet, render, result_sentence, slices_sheet
from pipeline.exploration.findings import find_all
from pipeline.exploration.image_statistics import grid_of
from pipeline.exploration.tables import grid_tables, intensity_table, subject_table, summary_rows
from pipeline.reporting.report_page import Report

EVIL = "<script>alert('x')</script> {{ 7 * 7 }}$"


def small_cohort():
    """Subjects with both contrasts and one with T1 only; one T1 has thick slices, one T2 cannot be read."""
    images = {case(n, contrast): statistics() for n in range(6) for contrast in ("T1", "T2")}
    del images[case(5, "T2")]
    images[case(2, "T1")] = statistics(grid=grid_of((64, 64, 40), np.diag([2.0, 2.0, 9.0, 1.0])))
    images[case(7, "T1")] = statistics()
    subsets = {case(1, "T1"): "test", case(1, "T2"): "test", case(3, "T2"): "not used"}
    return cohort_of(images, subsets, {case(5, "T2"): "truncated; copy it again"})


def page(cohort, oriented=True, **report):
    report = Report(**{"title": "small: the data", "result": "", **report})
    return render(cohort, find_all(cohort), report, axis="axial", oriented=oriented)


def test_the_page_names_what_is_worth_a_look_and_its_reason():
    text = Reader(page(small_cohort())).text
    assert "12 of 13 images were read and normalised as training would; worth a look: unreadable 1, outlier 1." in text
    assert "truncated; copy it again" in text and "s5_T2" in text
    assert "spacing inferior–superior 9 mm (median 3 mm" in text
    assert "modified z-score of Iglewicz and Hoaglin 1993" in text and "a factor of 1.1" in text


def test_a_cohort_without_findings_is_said_to_have_none():
    cohort = cohort_of({case(n): statistics() for n in range(6)})
    assert result_sentence(cohort, []) == ("6 of 6 images were read and normalised as training would; none stands out.")
    text = Reader(page(cohort)).text
    assert "Every image is readable, and none departs from the others of its contrast." in text
    assert "T2: fewer than 5 images, too few to tell which of them is unusual." in text


def test_the_page_asks_nothing_of_the_network_and_its_links_have_their_places():
    read = Reader(page(small_cohort(), next_commands={"train": "python"}))
    assert read.of("img") and all(image["src"].startswith("data:image/") for image in read.of("img"))
    assert not read.of("script") and not read.of("link")
    read.assert_links_have_their_places()


def test_every_string_is_escaped():
    evil = Case(EVIL, "", "T1", case(0).path)
    cohort = cohort_of({evil: statistics(warning=EVIL, nan=1), case(1): statistics()}, unreadable={case(2): EVIL})
    text = page(cohort, title=EVIL, warnings=[EVIL], config_yaml=EVIL)
    assert "<script" not in text and "7 * 7" in text and "alert" in text


def test_counts_are_those_of_the_cohort():
    header, rows = summary_rows(small_cohort(), find_all(small_cohort()))
    counts = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    t1 = {"images": 7, "subjects": 7, "train": 6, "test": 1, "not used": 0, "grids": 2, "unreadable": 0, "outliers": 1}
    t2 = {"images": 6, "subjects": 6, "train": 4, "test": 1, "not used": 1, "grids": 1, "unreadable": 1, "outliers": 0}
    assert counts["T1"].items() >= t1.items() and counts["T2"].items() >= t2.items()
    assert counts["pairs"].items() >= {"images": 6, "train": 4, "validation": 0, "test": 1}.items()
    assert [row[:2] for row in subject_table(small_cohort()).rows] == [["T1 and T2", "6"], ["T1 only", "1"]]


def test_grids_are_counted_the_commonest_first_and_many_are_summed_up():
    first, _ = grid_tables(small_cohort())
    assert [row[:5] for row in first.rows] == [
        ["6", "64×64×40", "2×2×3", "RAS", "int16"],
        ["1", "64×64×40", "2×2×9", "RAS", "int16"],
    ]
    scaled = cohort_of({case(n): statistics(slope=0.1 * (n + 1)) for n in range(4)})
    [row] = grid_tables(scaled)[0].rows  # a slope makes no grid of its own
    assert row[0] == "4" and row[4] == "int16, scaled"
    many = {case(n): statistics(shape=(64, 64, 40 + n)) for n in range(20)}
    rows = grid_tables(cohort_of(many))[0].rows
    assert len(rows) == 13 and rows[-1][:2] == ["8", "8 others"]


def test_pictures_have_no_columns_of_grids():
    pictures = cohort_of({case(n): statistics(grid=None, shape=(30, 20), cells=None) for n in range(3)})
    assert grid_tables(pictures)[0].header == ["images", "shape", "stored as", "who"]


def test_intensities_are_medians_with_their_range():
    cohort = cohort_of({case(n): statistics(highest=1000.0 * (n + 1), zeros=0.5) for n in range(3)})
    rows = {row[0]: row[1] for row in intensity_table(cohort).rows}
    assert rows["maximum"] == "2,000 (1,000 to 3,000)" and rows["zeros [%]"] == "50" and rows["minimum"] == "0"


def test_the_record_holds_every_image(tmp_path):
    cohort = small_cohort()
    write_record(tmp_path / "explore.json", cohort, find_all(cohort), {"name": "small"})
    content = json.loads((tmp_path / "explore.json").read_text(encoding="utf-8"))
    assert content["name"] == "small" and content["contrasts"] == ["T1", "T2"]
    assert content["counts"]["T2"] == {"train": 4, "validation": 0, "test": 1, "not used": 1}
    assert content["pairs"]["test"] == 1
    images = {image["name"]: image for image in content["images"]}
    assert len(images) == 13 and images["s5_T2"]["unreadable"] == "truncated; copy it again"
    assert images["s2_T1"]["spacing_mm"] == [2, 2, 9] and images["s2_T1"]["percentiles"]["50"] == 400
    kinds = [(finding["kind"], finding["images"]) for finding in content["findings"]]
    assert kinds == [("unreadable", ["s5_T2"]), ("outlier", ["s2_T1"])]


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


def pixels(png):
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def test_the_patients_left_is_on_the_right_and_a_picture_is_shown_as_it_lies():
    plane = np.zeros((30, 20), np.uint8)
    plane[:15] = 255  # low along the first axis: the patient's left, or the left of a picture
    images = {case(1): statistics(planes={"axial": plane})}
    for oriented, bright in ((True, "right"), (False, "left")):
        columns = pixels(slices_sheet(images, "axial", oriented=oriented)).max(axis=2).T == 255
        lit = np.flatnonzero(columns[:, 60:].sum(axis=1) > 10)
        assert len(lit) == 15
        middle = columns.shape[0] / 2
        assert (lit.mean() > middle) == (bright == "right")


def test_a_sheet_of_planes_has_a_row_an_image():
    item, three = (
        pixels(planes_sheet({f"s{n}": statistics() for n in range(count)}, oriented=True, title="T1"))
        for count in (1, 3)
    )
    assert three.shape[0] - item.shape[0] == pytest.approx(2 * (24 + 6))
