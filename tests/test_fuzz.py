"""Volumes with damage at random: each is read or refused in one line, in bounded time and memory.

The suite tries a few hundred, the same ones every time; `make fuzz` tries other ones for as long as FUZZ_EXAMPLES says.
"""

import gzip
import io
import logging
import os
import resource
import tracemalloc
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from string import printable

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from negative_model import loads, negative_model, run
from raw_affine import check_raw_affine, content_of
from torch import nn
from volume_cases import affine_of, head, image

from transforms.io.nifti import read_nifti

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MOST_BYTES = 64 << 20
MOST_SECONDS = 5
FUZZ = settings(
    max_examples=EXAMPLES or 50,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
FUZZ_COMMAND = settings(FUZZ, max_examples=EXAMPLES // 4 or 25)
NONSENSE = ("unexpected", "Traceback", "index", "network's output", "nan mm", "\\n")
SHAPE = (8, 9, 7)


def small(**kind) -> bytes:
    affine = affine_of(SHAPE, (20.0, 25.0, 25.0))
    return image(head(SHAPE, affine), affine, **kind).to_bytes()


NIFTI_1, NIFTI_2, BIG_ENDIAN = small(), small(kind=nib.Nifti2Image), small(endianness=">")
SOUND = {"NIfTI-1": NIFTI_1, "NIfTI-2": NIFTI_2, "big endian": BIG_ENDIAN}
FIELDS = [  # but for those that make a file no NIfTI at all
    name for name in nib.Nifti1Header.template_dtype.names if name not in ("sizeof_hdr", "magic")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def check(path: Path) -> None:
    """Read, or refuse in one line that names the file; never anything else."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    tracemalloc.start()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            array, affine, _ = read_nifti(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path.with_suffix('')}."), message
        assert "\n" not in message and len(message) < len(str(path)) + 600
    else:
        assert array.ndim == 3 and array.dtype == np.float32
        assert np.isfinite(array).all() and array.min() < array.max()
        assert affine.shape == (4, 4) and abs(np.linalg.det(affine)) > 0
        named = [str(warning.message) for warning in caught if warning.category is UserWarning]
        assert len(named) <= 1 and all(text.startswith(f"{path}: ") for text in named)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert peak < MOST_BYTES
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < MOST_SECONDS


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def numbers(dtype: np.dtype) -> st.SearchStrategy:
    """Values of a header field, the awkward ones often."""
    if dtype.kind == "f":
        return st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-38, 351.0, 352.5, 1e9]),
            st.floats(width=8 * min(dtype.itemsize, 8)),
        )
    limits = np.iinfo(dtype)
    awkward = [limits.min, limits.max, 0, 1, 2, 3, 4, 7, 8, 16, 64, 128, 512, 1024, 1536, 1792, 2048, 2304]
    return st.one_of(
        st.sampled_from([number for number in awkward if limits.min <= number <= limits.max]),
        st.integers(int(limits.min), int(limits.max)),
    )


@st.composite
def headers(draw) -> bytes:
    """A sound file with some elements of one to six header fields replaced."""
    kind = draw(st.sampled_from(sorted(SOUND)))
    image_class = nib.Nifti2Image if kind == "NIfTI-2" else nib.Nifti1Image
    content, header_class = SOUND[kind], image_class.header_class
    block = bytearray(content[: header_class.sizeof_hdr])
    fields = header_class.template_dtype.newbyteorder(">" if kind == "big endian" else "<")
    record = np.frombuffer(block, dtype=fields)[0:1]
    changes = [kind]
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=6)):
        if name not in fields.names or fields[name].base.kind not in "fiu":
            continue
        array = record[name].reshape(-1)
        place = draw(st.integers(0, array.size - 1))
        array[place] = draw(numbers(fields[name].base))
        changes.append(f"{name}[{place}] = {array[place]}")
    note("; ".join(changes))  # shown of a file that fails
    return bytes(block) + content[header_class.sizeof_hdr :]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file with bytes changed, cut out, put in, or its end missing; the header is hit more often than its share."""
    changed, changes = bytearray(content), []
    for _ in range(draw(st.integers(1, 4))):
        size = len(changed)
        place = draw(st.one_of(st.integers(0, min(size, 600)), st.integers(0, size))) if size else 0
        kind = draw(st.sampled_from(["flip", "truncate", "insert", "remove", "overwrite"]))
        changes.append(f"{kind} at {place}")
        if kind == "flip" and place < size:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "truncate":
            del changed[place:]
        elif kind == "insert":
            changed[place:place] = draw(st.binary(min_size=1, max_size=40))
        elif kind == "remove":
            del changed[place : place + draw(st.integers(1, 40))]
        elif kind == "overwrite":
            new = draw(st.binary(min_size=1, max_size=16))
            changed[place : place + len(new)] = new
    note("; ".join(changes))
    return bytes(changed)


@pytest.fixture(scope="module")
def command():
    """The command with a network that changes nothing, and without pytest's handlers, which hide what libraries log."""
    root, made = logging.getLogger(), replace(negative_model(), translators={"T2": nn.Identity()})
    handlers, root.handlers = root.handlers, []
    with pytest.MonkeyPatch.context() as monkeypatch:
        loads(monkeypatch, lambda uri, device: made)
        yield run
    root.handlers = handlers


def check_command(command, path: Path) -> None:
    """Translate onto the file's own grid with one warning at most, or refuse in one line and leave nothing."""
    out = path.parent / "out.nii"
    out.unlink(missing_ok=True)
    logging.getLogger().handlers = []
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()) as printed:
        code = command("-i", path, "-o", out, "--quiet")
    lines = said.getvalue().splitlines()
    assert printed.getvalue() == "" and code in (0, 2) and out.exists() == (code == 0)
    assert len(lines) <= 1 and (code == 0 or lines), lines
    for line in lines:
        names = tuple(
            f"{'error' if code else 'warning'}: {path.with_suffix(suffix)}: " for suffix in (path.suffix, ".img")
        )
        assert line.startswith(names) and line.isprintable(), line
        assert not any(word in line.replace(str(path), "") for word in NONSENSE), line
    if code == 0:
        check_raw_affine(content_of(path), out.read_bytes())
        assert np.isfinite(nib.load(out).get_fdata()).all()


@FUZZ_COMMAND
@given(content=headers())
def test_headers_of_any_content_through_the_command(folder, command, content):
    check_command(command, written(folder / "head.nii", content))


@FUZZ_COMMAND
@given(content=headers())
def test_pairs_through_the_command(folder, command, content):
    size = nib.Nifti2Header.sizeof_hdr if content[4:7] == b"n+2" else nib.Nifti1Header.sizeof_hdr
    magic = slice(4, 8) if size == nib.Nifti2Header.sizeof_hdr else slice(344, 348)
    header = bytearray(content[:size])
    header[magic] = b"ni2\0" if size == nib.Nifti2Header.sizeof_hdr else b"ni1\0"
    written(folder / "pair.img", bytes(size) + content[size:] + bytes(10_000))
    check_command(command, written(folder / "pair.hdr", bytes(header)))


@pytest.mark.parametrize("zipped", [False, True])
@FUZZ_COMMAND
@given(data=st.data())
def test_damage_through_the_command(folder, command, zipped, data):
    content = data.draw(damaged(gzip.compress(NIFTI_1, mtime=0) if zipped else NIFTI_1))
    check_command(command, written(folder / ("head.nii.gz" if zipped else "head.nii"), content))


@FUZZ
@given(content=headers())
def test_headers_of_any_content(folder, content):
    check(written(folder / "head.nii", content))


@FUZZ
@given(content=headers(), data=st.data())
def test_pairs_with_headers_of_any_content(folder, content, data):
    size = nib.Nifti2Header.sizeof_hdr if content[4:7] == b"n+2" else nib.Nifti1Header.sizeof_hdr
    header = bytearray(content[:size])
    header[4:7] = b"ni2" if size == nib.Nifti2Header.sizeof_hdr else header[4:7]
    if size == nib.Nifti1Header.sizeof_hdr:
        header[344:348] = data.draw(st.sampled_from([b"ni1\0", b"\0\0\0\0", b"n+1\0"]))  # NIfTI, Analyze, neither
    written(folder / "pair.img", content[size:])
    check(written(folder / "pair.hdr", bytes(header)))


@pytest.mark.parametrize("kind", SOUND)
@FUZZ
@given(data=st.data())
def test_files_with_damage(folder, kind, data):
    check(written(folder / "head.nii", data.draw(damaged(SOUND[kind]))))


@FUZZ
@given(data=st.data())
def test_zipped_files_with_damage(folder, data):
    zipped = gzip.compress(NIFTI_1, mtime=0)
    check(written(folder / "head.nii.gz", data.draw(damaged(zipped))))


@FUZZ
@given(content=st.one_of(st.binary(max_size=2000), st.text(printable + "äß€", max_size=500).map(str.encode)))
def test_files_that_never_were_volumes(folder, content):
    for name in ("head.nii", "head.nii.gz", "lone.hdr"):
        check(written(folder / name, content))
