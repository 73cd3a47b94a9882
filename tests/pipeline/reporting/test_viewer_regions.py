"""Regions in the report's viewer: its own scripts in a browser, with a stand-in for NiiVue that notes its images."""

import numpy as np
import pytest
from browser import SOFTWARE_WEBGL, opened

from pipeline.reporting.report_page import Report, write_report
from pipeline.reporting.viewer import FOLDER, make_viewer, viewed_subject
from transforms.label_maps import LabelMap

SHAPE = (8, 9, 10)
STAND_IN = """
const viewers = [];
const niivue = {
  NVImage: { loadFromUrl: async (options) => ({ ...options, img: new Uint8Array(options.url, 352) }) },
  Niivue: class {
    constructor() { Object.assign(this, { volumes: [], opts: {}, scene: {}, updates: 0 }); viewers.push(this); }
    addColormap() {}
    async attachToCanvas() {}
    setSliceType() {}
    resizeListener() {}
    drawScene() {}
    setOpacity(index, opacity) { this.volumes[index].opacity = opacity; }
    updateGLVolume() { this.updates += 1; }
    addVolume(volume) { this.volumes.push(volume); }
    removeVolume(volume) { this.volumes.splice(this.volumes.indexOf(volume), 1); }
  },
};
"""
PANELS = ("source", "translated", "real", "error")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    script = folder / "node_modules" / "@niivue" / "niivue" / "dist" / "niivue.umd.js"
    script.parent.mkdir(parents=True)
    script.write_text(STAND_IN)
    for path in (*FOLDER.glob("*.js"), *FOLDER.glob("*.css"), FOLDER / "LICENSE-niivue.txt"):
        (folder / path.name).write_bytes(path.read_bytes())
    flat = np.zeros(SHAPE, np.float32)
    given = {"source": flat, "translated": flat, "affine": np.eye(4), "foreground": np.ones(SHAPE, bool)}
    regions = {"tissue": LabelMap(tissue(), (3, 12)), "lesion": LabelMap(lesion(), (1,))}
    subjects = [
        viewed_subject("a", "T1", "T2", **given, real=flat, regions=regions),
        viewed_subject("b", "T1", "T2", **given, real=None, regions={"lesion": regions["lesion"]}),
        viewed_subject("c", "T1", "T2", **given, real=flat),
    ]
    write_report(folder / "report.html", Report(title="run", result="r", viewer=make_viewer(subjects, folder)))
    return folder / "report.html"


def tissue():
    indices = np.zeros(SHAPE, np.uint8)
    indices[:5, 2:7, 2:7], indices[5:, 2:7, 2:7] = 1, 2
    return indices


def lesion():
    indices = np.zeros(SHAPE, np.uint8)
    indices[2, 3, 4] = 1
    return indices


def overlays(page):
    """What lies over each panel that is shown, (X, Y, Z, 4), by panel; none where nothing was added."""
    script = """() => [...document.querySelectorAll(".viewer-panel")].map((figure, index) => {
      const overlay = viewers[index].volumes.find((volume) => volume.name.endsWith("regions.nii"));
      return figure.hidden || !overlay ? null : [...overlay.img];
    })"""
    images = dict(zip(PANELS, page.evaluate(script), strict=True))
    return {
        name: np.reshape(image, (*SHAPE[::-1], 4)).transpose(2, 1, 0, 3)
        for name, image in images.items()
        if image is not None
    }


def test_chosen_regions_lie_over_every_panel_in_their_colours_and_what_is_chosen_stays_so(report):
    with opened(report, *SOFTWARE_WEBGL) as (page, complaints):
        page.wait_for_selector(".viewer[data-ready]")
        boxes = page.locator(".viewer-labels label")
        assert boxes.all_inner_texts() == ["tissue/3", "tissue/12", "lesion/1"]
        assert not any(box.is_checked() for box in page.locator(".viewer-regions input").all())
        assert overlays(page) == {}  # off at the start

        # one region: its outline strong, its inside faint
        page.get_by_label("tissue/3", exact=True).check()
        shown = overlays(page)
        assert set(shown) == set(PANELS)
        assert all((image == shown["source"]).all() for image in shown.values())
        alpha = shown["source"][..., 3]
        np.testing.assert_array_equal(alpha > 0, tissue() == 1)
        inside = np.zeros(SHAPE, bool)
        inside[:4, 3:6, 3:6] = True  # the grid's edge is no outline
        np.testing.assert_array_equal(alpha == alpha[2, 4, 4], inside)
        assert alpha[4, 4, 4] > alpha[2, 4, 4] > 0
        swatch = boxes.first.locator(".viewer-swatch").evaluate("swatch => swatch.style.background")
        colour = [int(level) for level in swatch.removeprefix("rgb(").rstrip(")").split(",")]
        assert (shown["source"][tissue() == 1][:, :3] == colour).all()

        # a second one over it, of one voxel; the crosshair's regions are named
        page.get_by_label("lesion/1", exact=True).check()
        image = overlays(page)["error"]
        assert (image[2, 3, 4, :3] != image[2, 3, 5, :3]).any() and image[2, 3, 4, 3] > alpha[2, 4, 4]
        assert page.evaluate("viewers.map((viewer) => viewer.updates)") == [1, 1, 1, 1]  # and no second overlay
        assert page.locator(".viewer-where").inner_text().endswith("values beside the names; tissue/3.")

        # the real target's opacity is still that of the image over the translation
        page.locator(".viewer-blend input").fill("0.5")
        assert page.evaluate("viewers[1].volumes.map((volume) => volume.opacity)")[1] == 0.5

        # another subject: what it has of them stays chosen
        page.locator(".viewer-subject").select_option("1")
        page.locator("[data-panel=real]").wait_for(state="hidden")
        assert boxes.all_inner_texts() == ["lesion/1"] and page.locator(".viewer-all").is_checked()
        assert set(overlays(page)) == {"source", "translated"}
        np.testing.assert_array_equal(overlays(page)["source"][..., 3] > 0, lesion() == 1)

        # a subject without regions has no legend
        page.locator(".viewer-subject").select_option("2")
        page.locator(".viewer-regions").wait_for(state="hidden")
        assert overlays(page) == {}

        # all at once, and none
        page.locator(".viewer-subject").select_option("0")
        page.locator(".viewer-regions").wait_for()
        page.locator(".viewer-all").check()
        np.testing.assert_array_equal(overlays(page)["real"][..., 3] > 0, tissue() > 0)
        page.locator(".viewer-all").uncheck()
        assert not any(image.any() for image in overlays(page).values())
        assert complaints == []
