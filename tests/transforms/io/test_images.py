import numpy as np
import pytest
import SimpleITK as sitk
from PIL import ExifTags, Image

from transforms.io.images import read_raster, write_raster

ROWS = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)  # top row first
LYING = np.array([[40, 10], [50, 20], [60, 30]], np.float32)[..., None]  # x to the right, y up


def saved(path, rows, **options):
    Image.fromarray(rows).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_a_gray_picture_lies_with_x_to_the_right_and_y_up(name, tmp_path):
    slice_, largest = read_raster(saved(tmp_path / name, ROWS))
    assert slice_.shape == (3, 2, 1)
    assert slice_.dtype == np.float32
    assert slice_.flags.c_contiguous
    np.testing.assert_array_equal(slice_, LYING)
    assert largest == 255


@pytest.mark.parametrize(("colour", "gray"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((9, 9, 9), 9)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_becomes_luminance(mode, colour, gray, tmp_path):
    rows = np.broadcast_to(np.array(colour, np.uint8), (2, 3, 3))
    image = Image.fromarray(rows)
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    slice_, largest = read_raster(tmp_path / "a.png")
    np.testing.assert_array_equal(slice_, gray)  # 0.299 R + 0.587 G + 0.114 B
    assert largest == 255


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped(mode, tmp_path):
    image = Image.fromarray(ROWS).convert(mode)
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raster(tmp_path / "a.png")[0], LYING)


@pytest.mark.parametrize(
    ("name", "rows", "expected", "largest"),
    [
        ("a.png", ROWS > 30, 255 * (LYING > 30), 255),
        ("a.png", ROWS.astype(np.uint16) * 1000 + 7, LYING * 1000 + 7, 65535),
        ("a.tif", ROWS.astype(np.uint16) * 1000 + 7, LYING * 1000 + 7, 65535),
        ("a.tif", ROWS.astype(np.float32) / 7 - 3, LYING / np.float32(7) - np.float32(3), None),
    ],
)
def test_values_keep_their_depth_and_their_type_tells_the_range_if_it_has_one(name, rows, expected, largest, tmp_path):
    slice_, found = read_raster(saved(tmp_path / name, rows))
    np.testing.assert_array_equal(slice_, expected)
    assert found == largest


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_rotation_noted_in_the_file_is_applied(orientation, suffix, tmp_path):
    turn = {  # what the viewer does to the stored rows, by the EXIF standard
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.T, 2),
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(tmp_path / f"a.{suffix}", ROWS, exif=exif)
    np.testing.assert_array_equal(read_raster(path)[0][..., 0], turn(ROWS)[::-1].T)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_what_is_written_is_read_as_it_lay(name, tmp_path):
    slice01 = np.random.default_rng(0).integers(0, 256, (5, 7, 1)) / 255
    write_raster(tmp_path / name, slice01)
    np.testing.assert_allclose(read_raster(tmp_path / name)[0], slice01 * 255, rtol=1e-6)
    write_raster(tmp_path / name, slice01[..., 0] * 4 - 1)
    assert (read_raster(tmp_path / name)[0].min(), read_raster(tmp_path / name)[0].max()) == (0, 255)


# ── bad files ───────────────────────────────────────────────────────────────────────────────────────────────


def refusal(path):
    with pytest.raises(ValueError) as caught:
        read_raster(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("suffix", "dtype"), [("png", np.uint8), ("jpg", np.uint8), ("tif", np.uint16)])
def test_a_truncated_picture_is_refused(suffix, dtype, tmp_path):
    path = saved(tmp_path / f"a.{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(dtype))
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        assert "damaged or truncated" in refusal(path) or "not a readable" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a" + b"\0" * 50])
def test_what_is_no_picture_is_refused(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "not a readable PNG, JPEG or TIFF picture" in refusal(path)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_colour_is_refused_rather_than_cut_to_eight_bits(channels, name, tmp_path):
    rows = np.zeros((2, 3, channels), np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(rows, isVector=True), str(tmp_path / name))
    said = refusal(tmp_path / name)
    assert f"{name}: 16-bit colour" in said or "not a readable" in said


def test_nan_is_refused(tmp_path):
    assert "NaN" in refusal(saved(tmp_path / "a.tif", np.array([[1, np.nan]], np.float32)))


@pytest.mark.parametrize("factor", [1.5, 4])
def test_pillows_limit_of_pixels_is_respected(factor, tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(400 / factor))
    assert "more pixels than a slice can have" in refusal(path)
