"""Recognising by its first bytes what a file is that is no NIfTI volume, for a message with the remedy."""

import codecs

ANALYZE_SIZE = 348  # bytes of its header, which begins with this number
_GZIP = b"\x1f\x8b"
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    (b"<", "a web page or XML; download the file again"),
    (b"\x89PNG", "a PNG picture; give a volume"),
    (b"\xff\xd8\xff", "a JPEG picture; give a volume"),
    (b"PK", "a zip archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!\x1a", "a RAR archive; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
)
_BYTE_ORDER_MARKS = {  # longer marks first, as UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MGH_TYPES = (0, 1, 3, 4)  # uint8, int32, float32, int16
_TEXT = "a text file; convert or download the volume again"
_MIN_ASCII_SHARE = 0.7  # smallest share of ASCII bytes in text of an old European encoding


def is_analyze_header(start: bytes) -> bool:
    """Return whether the first bytes of a `.hdr` are Analyze's, without the magic of a single-file NIfTI."""
    sized = ANALYZE_SIZE in (int.from_bytes(start[:4], order) for order in ("little", "big"))
    return sized and start[344:346] != b"n+"


def is_mgh(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a FreeSurfer volume: version 1 and a known data type."""
    kind = int.from_bytes(start[20:24], "big")
    return len(start) >= 24 and start[:4] == b"\0\0\0\1" and kind in _MGH_TYPES


def describe_file(start: bytes, *, zipped: bool = False) -> str:
    """Return a description, with the remedy, of a file that is not the NIfTI its name promises.

    Args:
        start: The first few hundred bytes of the file, unpacked if it is compressed.
        zipped: Whether the file is compressed.
    """
    if not start:
        return "an empty file; copy or download it again"
    if start.startswith(_GZIP):
        return f"compressed with gzip{' twice' if zipped else ''}; unpack it {'once' if zipped else 'first'}"
    text = _as_text(start)
    content = start if text is None else text.encode()
    for prefix, description in _SIGNATURES:
        if content.lstrip().startswith(prefix):
            return description
    if start[128:132] == b"DICM":
        return "a DICOM file; to translate its series give its folder, otherwise convert the series with dcm2niix"
    if is_mgh(start):
        return "a FreeSurfer volume; give it the suffix .mgz, or .mgh where it is not compressed"
    if start[344:347] == b"n+1" and len(start) < ANALYZE_SIZE:
        return "a part of a header; copy or download it again"
    if start[344:347] == b"n+1" or start[4:7] == b"n+2":
        return "a single-file NIfTI; give it the suffix .nii"
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        if zipped:
            return "the compressed header of a .hdr/.img pair; unpack both files and give the .hdr"
        return "the header of a .hdr/.img pair; give it the suffix .hdr"
    return _TEXT if text is not None else "something else; convert it to NIfTI, or download it again"


def _as_text(start: bytes) -> str | None:
    """Return the first bytes as text without a byte order mark; None where they are not text."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return _decoded(start[len(mark) :], encoding)
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        text = _decoded(start, encoding)
        if text is not None and (encoding == "utf-8" or _mostly_ascii(text.encode("utf-8"))):
            return text
    text = start.decode("latin-1")
    return text if _legible(text) and _mostly_ascii(start) else None


def _decoded(start: bytes, encoding: str) -> str | None:
    """Return decoded text without a character that is cut off at the end; None where it is not text."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return None
    return text if _legible(text) else None


def _legible(text: str) -> bool:
    return bool(text) and all(letter in "\t\n\r\f" or (letter.isprintable() or letter == "\xa0") for letter in text)


def _mostly_ascii(content: bytes) -> bool:
    return sum(byte < 128 for byte in content) >= _MIN_ASCII_SHARE * len(content)
