"""Reading and writing 2D slices as pictures (PNG, JPEG, TIFF), oriented like slices of a RAS volume."""

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from transforms.io.fetched import not_fetched

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of R, G, B: ITU-R 601, as in Pillow's "L"


def is_raster(source: object) -> bool:
    """Return whether `source` is the path of a PNG, JPEG or TIFF file, by its suffix."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in SUFFIXES


def read_raster(path: str | Path) -> tuple[np.ndarray, float | None]:
    """Read a picture as a gray slice.

    Colour becomes luminance (ITU-R 601), transparency is dropped, EXIF rotation is applied; 16-bit and
    floating-point pictures keep their depth.

    Returns:
        The (width, height, 1) float32 slice in the file's own units, axis 0 from left to right and axis 1 from bottom
        to top of the picture; and the largest value of the file's type, 255 (also for 1 bit) or 65535, None for signed,
        32-bit and floating-point pictures, whose type says nothing about their range.

    Raises:
        ValueError: the file is missing, damaged, no such picture, has several pages, holds NaN, or has more pixels
            than Pillow's decompression-bomb limit; the message names the file, the reason and the remedy.
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
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: its name is not UTF-8; rename the file and its folders") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; check the path") from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        RuntimeError,
        UnicodeError,
    ) as error:  # damage, as reported by Pillow and SimpleITK
        raise ValueError(f"{path}: damaged or truncated ({_one_line(error)}); copy or export it again") from error
    if not np.isfinite(gray).all():
        raise ValueError(f"{path}: holds NaN or infinite pixels; export it again without them")
    return np.ascontiguousarray(gray[::-1].T[..., None]), largest  # (rows, columns) -> (width, height, 1)


def write_raster(path: str | Path, slice01: np.ndarray) -> None:
    """Write a slice as an 8-bit gray picture; `read_raster` returns it in the same orientation, times 255.

    Args:
        path: Path of the picture; its suffix .png, .jpg or .tif chooses the format.
        slice01: (width, height) or (width, height, 1), values clipped to [0, 1].

    Raises:
        ValueError: the array is not a single slice.
    """
    slice01 = np.asarray(slice01)
    if slice01.ndim == 3 and slice01.shape[2] == 1:
        slice01 = slice01[..., 0]
    if slice01.ndim != 2:
        raise ValueError(f"{path}: an array of shape {slice01.shape} is not a slice (width, height)")
    levels = np.round(np.clip(slice01, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(levels.T[::-1]).save(path)  # (width, height) -> (rows, columns)


def _upright_gray(image: Image.Image, path: Path) -> tuple[np.ndarray, float | None]:
    """Return the (rows, columns) float32 luminance of an open picture, upright, and its type's largest value."""
    if image.format != "JPEG" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"{path}: has {pages} pages; save each slice as a file of its own")
    layout, orientation = _pixel_layout(image), _orientation(image)
    image.load()
    if len(image.getbands()) > 1 and ";16" in layout:  # Pillow would keep the upper 8 bits only
        if layout.startswith("LA"):
            raise ValueError(f"{path}: 16-bit gray with transparency; save it without")
        if image.format == "TIFF" and orientation != 1:
            raise ValueError(f"{path}: 16-bit colour with an orientation tag; save it upright, or in gray")
        return _upright(_luminance_of_16_bit(path), orientation), 65535.0
    if image.mode.startswith("I;16"):
        gray, largest = np.asarray(image), 65535.0
    elif image.mode in ("I", "F"):
        gray, largest = np.asarray(image), None
    else:
        unpremultiplied = image.convert("RGBA") if image.mode == "RGBa" else image
        gray, largest = np.asarray(unpremultiplied.convert("L")), 255.0
    # The orientation is read again, as Pillow turns TIFFs upright on loading, but not other formats.
    return _upright(gray.astype(np.float32), _orientation(image)), largest


def _pixel_layout(image: Image.Image) -> str:
    """Return the pixel layout of a picture that is not loaded yet, in Pillow's notation ("RGB;16B")."""
    tiles = getattr(image, "tile", ())
    decoder = tiles[0].args if tiles else ()
    return str(decoder if isinstance(decoder, str) else next(iter(decoder), ""))


def _luminance_of_16_bit(path: Path) -> np.ndarray:
    """Return the (rows, columns) float32 luminance of a 16-bit RGB or RGBA file, without rotation."""
    str(path).encode()  # SimpleITK would abort the process over a name that is not UTF-8
    channels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if channels.dtype != np.uint16:
        raise ValueError(f"{path}: 16-bit colour in a layout that cannot be read in full depth; save it in gray")
    return (channels[..., :3] @ _LUMINANCE).astype(np.float32)


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright(gray: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored rows rotated upright by an EXIF orientation (1 to 8)."""
    image = Image.fromarray(gray)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def _one_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
