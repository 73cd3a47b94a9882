"""Reading and writing 2D slices as pictures (PNG, JPEG, TIFF), oriented like slices of a RAS volume."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from transforms.io.fetched import not_fetched

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def is_raster(source: object) -> bool:
    """Return whether `source` is the path of a PNG, JPEG or TIFF file, by its suffix."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in SUFFIXES


def read_raster(path: str | Path) -> tuple[np.ndarray, float | None]:
    """Read a picture as a gray slice; return it and the largest value of the file's type.

    Colour becomes luminance (ITU-R 601), transparency is dropped, EXIF rotation is applied; 16-bit and floating-point
    pictures keep their depth. The slice is (width, height, 1) float32 in the file's own units, axis 0 from left to
    right and axis 1 from bottom to top of the picture. The largest value is 255 (also for 1 bit) or 65535, and None for
    signed, 32-bit and floating-point pictures, whose type says nothing about their range.

    ValueError, naming the file, the reason and the remedy: it is missing, damaged, no such picture, has several pages,
    holds NaN, or has more pixels than Pillow's decompression-bomb limit.
    """
    path = Path(path)
    if problem := not_fetched(path):
        raise ValueError(problem)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Open a stream: Pillow scrambles the rows of a rotated TIFF that it opens by name and maps into memory.
            with Image.open(stream, formats=("PNG", "JPEG", "TIFF")) as image:
                gray, largest = _upright_gray(image, path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: more pixels than a slice can have ({error}); crop it or scale it down") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a readable PNG, JPEG or TIFF picture; convert it to one") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; check the path") from error
    except (OSError, SyntaxError, EOFError, RuntimeError, UnicodeError) as error:  # damage, as reported by Pillow
        raise ValueError(f"{path}: damaged or truncated ({_one_line(error)}); copy or export it again") from error
    if not np.isfinite(gray).all():
        raise ValueError(f"{path}: holds NaN or infinite pixels; export it again without them")
    return np.ascontiguousarray(gray[::-1].T[..., None]), largest  # (rows, columns) -> (width, height, 1)


def write_raster(path: str | Path, slice01: np.ndarray) -> None:
    """Write a slice as an 8-bit gray picture; `read_raster` returns it in the same orientation, times 255.

    The slice is (width, height) or (width, height, 1), clipped to [0, 1]; the path's suffix chooses the format.
    """
    slice01 = slice01.reshape(slice01.shape[:2])
    levels = np.round(np.clip(slice01, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(levels.T[::-1]).save(path)  # (width, height) -> (rows, columns)


def _upright_gray(image: Image.Image, path: Path) -> tuple[np.ndarray, float | None]:
    """Return the (rows, columns) float32 luminance of an open picture, upright, and its type's largest value."""
    if image.format != "JPEG" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{path}: has {pages} pages; save each slice as a file of its own")
    tiles = getattr(image, "tile", ())  # before loading: the pixel layout in Pillow's notation ("RGB;16B")
    if len(image.getbands()) > 1 and any(";16" in str(tile.args) for tile in tiles):
        raise ValueError(f"{path}: 16-bit colour, of which 8 bits would be read; save it in gray")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32), 65535.0
    if image.mode in ("I", "F"):
        return np.asarray(image).astype(np.float32), None
    unpremultiplied = image.convert("RGBA") if image.mode == "RGBa" else image
    return np.asarray(unpremultiplied.convert("L")).astype(np.float32), 255.0


def _one_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
