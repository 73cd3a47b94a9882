from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from page_reader import Reader
from PIL import Image

from pipeline.reporting.report_page import (
    PHANTOM_FLAG,
    PHANTOM_NOTE,
    Highlight,
    Picture,
    Report,
    ScoreTable,
    SubjectResult,
    render,
    write_report,
)
from pipeline.reporting.tiles import png_bytes
from pipeline.utils.errors import UserError

NAN = float("nan")
EVIL = '<script>alert(\'x\')</script>" onload="y" {{ 7 * 7 }}'
PNG = png_bytes(np.zeros((20, 30, 3), dtype=np.uint8))
ROWS = {"copy": {"psnr": (9.4, 0.5, 4)}, "model": {"psnr": (14.1, 0.7, 4)}}


def full_report(text="sub-01"):
    """Return a report with something everywhere, `text` in every string."""
    picture = Picture(PNG, alt=text, caption=text)
    return Report(
        title=text,
        result=text,
        highlights=[Highlight(text, text, text)],
        warnings=[text, PHANTOM_NOTE],
        animations=[picture],
        samples={text: [picture, picture]},
        mosaics=[picture],
        scores=[ScoreTable(text, text, text, {text: {text: (1.0, 0.1, 4)}, "b": {text: (2.0, 0.1, 4)}})],
        scores_flag=text,
        curves=Picture(PNG, alt=text, on_white=True),
        subjects=[SubjectResult(text, text, picture), SubjectResult("worst", text)],
        split_rows=[[text]],
        split_subjects={text: [text, text]},
        config_yaml=text,
        provenance={text: text},
        next_commands={text: text},
        notes=[text],
    )


def test_every_string_is_escaped():
    page = render(full_report(EVIL))
    reader = Reader(page)
    assert not reader.of("script")
    assert not any("onload" in attributes for _, attributes in reader.elements)
    occurrences = reader.text.count(EVIL) + sum(image["alt"].count(EVIL) for image in reader.of("img"))
    assert occurrences >= 29  # nothing was dropped or evaluated on the way


def test_the_page_asks_nothing_of_the_network():
    reader = Reader(page := render(full_report()))
    addresses = [attributes[key] for _, attributes in reader.elements for key in ("src", "href") if key in attributes]
    assert len(addresses) > 10
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    policy = next(meta["content"] for meta in reader.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    reader.assert_links_have_their_places()


def test_an_empty_report_leaves_no_empty_sections():
    page = render(Report(title="run", result="Nothing yet."))
    reader = Reader(page)
    assert [link["href"] for link in reader.of("a")] == ["#pictures", "#provenance"]
    assert not reader.of("table") and not reader.of("img") and not reader.of("dl") and not reader.of("pre")


def test_pictures_are_embedded_whole_with_their_kind_and_size(tmp_path):
    (tmp_path / "a.gif").write_bytes(_encoded("GIF"))
    report = Report(
        title="run",
        result="r",
        animations=[Picture(tmp_path / "a.gif", "gif")],
        mosaics=[Picture(_encoded("JPEG"), "j")],
    )
    first, second = Reader(render(report)).of("img")
    assert first["src"].startswith("data:image/webp;base64,UklGR")
    assert second["src"].startswith("data:image/jpeg;base64,")
    assert (first["width"], first["height"]) == ("30", "20")


def test_an_animation_keeps_frames_and_times_in_a_fraction_of_its_bytes(tmp_path):
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (90, 120), dtype=np.uint8)
    frames = [Image.fromarray(np.clip(still // 2 + rng.integers(0, 20, still.shape) + 9 * n, 0, 255).astype(np.uint8))
              for n in range(8)]  # fmt: skip
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[900, *[150] * 6, 3000], loop=0)
    (shown,) = Reader(render(Report(title="run", result="r", animations=[Picture(path, "gif")]))).of("img")
    content = b64decode(shown["src"].partition("base64,")[2])
    assert len(content) < 0.7 * path.stat().st_size
    with Image.open(BytesIO(content)) as animation:
        assert (animation.n_frames, animation.info["loop"], animation.size) == (8, 0, (120, 90))
        times = []
        for number, frame in enumerate(frames):
            animation.seek(number)
            animation.load()
            times.append(animation.info["duration"])
            difference = np.asarray(animation.convert("L")).astype(float) - np.asarray(frame)
            assert np.abs(difference).mean() < 12
    assert times == [900, *[150] * 6, 3000]


def _encoded(kind):
    stream = BytesIO()
    Image.new("RGB", (30, 20)).save(stream, format=kind)
    return stream.getvalue()


def test_what_is_not_a_picture_is_refused_by_name(tmp_path):
    (tmp_path / "x.svg").write_text("<svg onload='alert(1)'/>")
    with pytest.raises(UserError, match=r"x\.svg: not a PNG, GIF, JPEG or WebP"):
        render(Report(title="t", result="r", mosaics=[Picture(tmp_path / "x.svg", "x")]))
    with pytest.raises(UserError, match=r"gone\.png: cannot be read"):
        write_report(
            tmp_path / "report.html", Report(title="t", result="r", curves=Picture(tmp_path / "gone.png", "x"))
        )
    assert not (tmp_path / "report.html").exists()


def test_the_models_row_is_marked_and_says_whether_it_beats_the_baseline():
    page = render(
        Report(title="t", result="r", scores_flag=PHANTOM_FLAG, scores=[ScoreTable("T1 → T2", "own", "", ROWS)])
    )
    model_row = page[page.index('<tr class="model">') :]
    model_row = model_row[: model_row.index("</tr>")]
    assert "14.10 ± 0.70" in model_row and "better than the best baseline" in model_row
    assert "copy" not in model_row
    assert "n = 4" in page and "PSNR [dB] ↑" in page
    assert page.count(PHANTOM_FLAG) == 1 and "Not for clinical use" in page


def test_charts_are_inverted_in_the_dark_and_pictures_are_not():
    reader = Reader(render(full_report()))
    kinds = [figure["class"] for figure in reader.of("figure")]
    assert kinds.count("on-white") == 1 and kinds.count("on-black") == len(kinds) - 1


def table(**rows):
    return ScoreTable("T1 → T2", "own", "", rows)


@pytest.mark.parametrize(
    ("metric", "baselines", "model", "verdict"),
    [
        ("psnr", {"copy": 9.0, "match": 11.0}, 10.0, "worse"),  # than the best of them
        ("psnr", {"copy": 9.0, "lookup": 17.0}, 10.0, "better"),  # the lookup was given pairs
        ("psnr", {"copy": 9.0}, 9.0, ""),
        ("psnr", {"copy": NAN}, 9.0, ""),
        ("psnr", {}, 9.0, ""),
        ("ssim", {"copy": 0.3}, 0.2, "worse"),
        ("mae", {"copy": 0.2}, 0.1, "better"),
        ("cycle error", {"copy": 0.1}, 0.2, "worse"),  # lower is better in what has no name here
        ("nmi", {"copy": 1.5}, 1.7, "better"),
        ("dice_dark", {"copy": 0.5}, 0.4, "worse"),
        *(("slice_ratio", {"copy": 1.25, "match": 0.5}, ratio, verdict)  # by its distance from 1
          for ratio, verdict in ((1.125, "better"), (0.875, "better"), (0.75, ""), (0.6, "worse"), (1.4, "worse"))),
    ],
)  # fmt: skip
def test_the_model_is_compared_with_the_best_baseline_that_was_given_no_pairs(metric, baselines, model, verdict):
    rows = {name: {metric: (mean, 0.1, 4)} for name, mean in {**baselines, "model": model}.items()}
    assert {name: table(**rows).verdict(name, metric) for name in rows} == dict.fromkeys(rows, "") | {"model": verdict}


def test_headings_and_counts_and_what_is_missing():
    laid = table(copy={"psnr": (NAN, NAN, 0), "slice_ratio": (1.25, 0.1, 4)}, model={"mae": (0.5, NAN, 5)})
    assert list(laid.columns.values()) == ["PSNR [dB] ↑", "slice ratio → 1", "MAE ↓"]
    assert [laid.text("copy", metric) for metric in laid.columns] == ["—", "1.25 ± 0.10", "—"]
    assert [laid.text("model", metric) for metric in laid.columns] == ["—", "—", "0.500"]
    assert (laid.count, table(copy={"psnr": (9.0, 1, 4)}).count, table().count) == ("n = 0 to 5", "n = 4", "")
