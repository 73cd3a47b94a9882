"""The viewer in a real browser: small volumes of known values, so that what a panel says can be checked."""

from io import BytesIO

import numpy as np
import pytest
from browser import NO_WEBGL, SOFTWARE_WEBGL, opened
from PIL import Image

from pipeline.reporting.report_page import Report, write_report
from pipeline.reporting.viewer import is_fetched, make_viewer, viewed_subject
from transforms.label_maps import LabelMap

SHAPE = (20, 24, 16)
PANELS = ("source", "translated", "real", "error")

pytestmark = pytest.mark.skipif(not is_fetched(), reason="NiiVue was not fetched (make viewer): no viewer to open")


@pytest.fixture(scope="module")
def volumes():
    """Sums of ramps along all axes, so that every slice of every volume, and of the error, differs from the others."""
    x, y, z = np.meshgrid(*(np.linspace(-0.9, 0.9, count) for count in SHAPE), indexing="ij")
    return {"source": (x + 2 * y + 3 * z) / 6, "translated": (3 * x - y + 2 * z) / 6, "real": (x + 3 * y - 2 * z) / 6}


@pytest.fixture(scope="module")
def report(volumes, tmp_path_factory):
    inside = np.ones(SHAPE, bool)
    flat = {name: volume[..., :1] for name, volume in volumes.items()}
    names = {"foreground": inside, "affine": np.diag([2.0, 2, 2, 1]), "units": "units of T2"}
    corner = np.zeros(SHAPE, np.uint8)
    corner[10:, 12:, 8:] = 1
    regions = {"corner": LabelMap(corner, (1,))}
    subjects = [
        viewed_subject("worst: s1 <b>", "T1", "T2", **volumes, **names, regions=regions),
        viewed_subject("s2", "T1", "T2", **{**volumes, "real": None}, **names),
        viewed_subject("a picture", "T1", "T2", **flat, **{**names, "foreground": inside[..., :1]}),
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, Report(title="run", result="r", viewer=make_viewer(subjects)))
    return path


def pictures(page):
    """What each panel's canvas shows, (H, W, 3): parts of one screenshot, which takes software WebGL a second."""
    viewer = page.locator(".viewer")
    shown = np.asarray(Image.open(BytesIO(viewer.screenshot())).convert("RGB")).astype(int)
    origin, parts = viewer.bounding_box(), {}
    for panel in PANELS:
        box = page.locator(f"[data-panel={panel}] canvas").bounding_box()
        left, top = (round(box[axis] - origin[axis]) for axis in "xy")
        parts[panel] = shown[top : top + round(box["height"]), left : left + round(box["width"])]
    return parts


def values(page):
    """What the panels say of the voxel at the crosshair."""
    shown = page.locator(".viewer-panel:visible")
    return {item.get_attribute("data-panel"): float(item.locator("output").inner_text()) for item in shown.all()}


def expected(volumes, voxel):
    output = {name: volume[voxel] for name, volume in volumes.items()}
    return {**output, "error": output["translated"] - output["real"]}


def close(values, expected):
    return values.keys() == expected.keys() and all(abs(values[name] - expected[name]) < 0.021 for name in expected)


def test_the_panels_load_show_their_volumes_and_move_together(report, volumes):
    with opened(report, *SOFTWARE_WEBGL) as (page, complaints):
        page.wait_for_selector(".viewer[data-ready]")
        assert page.locator(".viewer-said").is_hidden()
        assert page.locator(".viewer-panel:visible").count() == 4
        first = pictures(page)
        assert all(shown.std() > 10 for shown in first.values())  # none is blank
        assert np.ptp(first["source"], axis=2).std() < np.ptp(first["error"], axis=2).std()  # gray, and colours
        assert close(values(page), expected(volumes, (10, 12, 8)))

        # a slider moves all of them
        axial = page.locator("[data-axis='2']")
        axial.focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        assert page.locator("[data-axis='2'] + output").inner_text() == "11 of 16"
        assert close(values(page), expected(volumes, (10, 12, 10)))
        moved = pictures(page)
        assert all(abs(moved[name] - first[name]).mean() > 1 for name in PANELS)

        # so does a click in any, here near the upper left corner of the axial plane: right and anterior
        canvas = page.locator("[data-panel=real] canvas")
        voxel_pixels = canvas.bounding_box()["width"] / SHAPE[1]  # the sagittal plane's A axis is the widest
        canvas.click(position={"x": 2.5 * voxel_pixels, "y": 3.5 * voxel_pixels})
        assert close(values(page), expected(volumes, (SHAPE[0] - 3, SHAPE[1] - 4, 10)))
        before = pictures(page)
        assert all(abs(before[name] - moved[name]).mean() > 1 for name in PANELS)

        # the real target over its translation, wholly
        page.locator(".viewer-blend input").fill("1")
        after = pictures(page)
        assert abs(before["translated"] - before["real"]).mean() > 5
        assert abs(after["translated"] - after["real"]).mean() < 2
        np.testing.assert_array_equal(after["source"], before["source"])

        # the error's range is said, and is what is drawn
        page.locator(".viewer-error").select_option("0.25")
        assert page.locator("[data-panel=error] .viewer-ticks").inner_text().split("\n")[0].startswith("-0.25")
        plain = pictures(page)
        assert abs(plain["error"] - after["error"]).mean() > 5

        # a region lies over all panels while it is chosen
        page.get_by_label("corner/1", exact=True).check()
        coloured = pictures(page)
        assert all(abs(coloured[name] - plain[name]).mean() > 1 for name in PANELS)
        assert close(values(page), expected(volumes, (SHAPE[0] - 3, SHAPE[1] - 4, 10)))
        page.get_by_label("corner/1", exact=True).uncheck()
        assert all(abs(shown - plain[name]).mean() < 0.1 for name, shown in pictures(page).items())

        # one plane alone
        page.locator(".viewer-planes").select_option("1")
        one_plane = pictures(page)["source"]
        assert one_plane.shape[0] < before["source"].shape[0] / 2 and one_plane.std() > 10

        # a subject without a real target
        assert page.locator(".viewer-subject option").first.inner_text() == "worst: s1 <b>"
        page.locator(".viewer-subject").select_option("1")
        page.locator("[data-panel=real]").wait_for(state="hidden")
        page.get_by_text("There is no real T2 scan of this subject").wait_for()
        assert set(values(page)) == {"source", "translated"}
        assert page.locator(".viewer-blend").is_hidden()

        # a single slice: one plane, and no slider for its third axis
        page.locator(".viewer-subject").select_option("2")
        page.locator("[data-panel=real]").wait_for()
        page.locator("[data-axis='2']").wait_for(state="hidden")
        assert page.locator(".viewer-planes").is_hidden() and page.locator("[data-axis='0']").is_visible()
        assert close(values(page), expected(volumes, (10, 12, 0)))
        assert all(shown.std() > 10 for shown in pictures(page).values())
        assert complaints == []


def test_without_webgl_the_page_says_so_and_points_to_the_pictures(report):
    with opened(report, *NO_WEBGL) as (page, complaints):
        output = page.locator(".viewer-said", has_text="could not start")
        output.wait_for()
        assert "this browser offers no WebGL 2" in output.inner_text()
        assert output.locator("a").get_attribute("href") == "#pictures"
        assert page.locator(".viewer").is_hidden()
        assert complaints == []
