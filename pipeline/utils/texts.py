"""Text of files in other encodings than UTF-8, and file names that are no valid UTF-8."""

import codecs
import re

from pipeline.utils.errors import UserError

_ENCODING_OF_MARK = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's mark, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def decoded(content: bytes, name: str, expected_kind: str = "a text file") -> str:
    """Return a file's content as text: UTF-8, or UTF-16 or UTF-32 with a byte order mark, as YAML allows.

    Args:
        content: The file's bytes.
        name: Name of the file in messages.
        expected_kind: Kind of file that was expected, for the message.

    Raises:
        UserError: The file has another encoding (names the line and the first offending byte), or is no text.
    """
    encoding = next((encoding for mark, encoding in _ENCODING_OF_MARK.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8") and not _BINARY_BYTES.search(content):
            line = content.count(b"\n", 0, error.start) + 1
            byte = f"byte 0x{content[error.start]:02x}"
            raise UserError(
                f"{name}, line {line}: {byte} is not UTF-8 (Latin-1, perhaps); save the file as UTF-8"
            ) from None
        raise UserError(f"{name}: not a text file; give the path of {expected_kind}") from None


def encoded(text: str) -> bytes:
    r"""Return a text as UTF-8, with undecoded bytes escaped: "caf\udce9" for a file name of the bytes "caf\xe9".

    Python represents bytes of names that are not UTF-8 so. JSON and quoted YAML with these escapes read as that name.
    """
    return text.encode("utf-8", errors="backslashreplace")


def printable(text: str) -> str:
    """Return a text without undecoded bytes: they are escaped as in `encoded`."""
    return encoded(text).decode()
