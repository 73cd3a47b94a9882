"""File names that are not UTF-8, for libraries that require it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a file's path, or if that is not UTF-8 the path of a temporary link to the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with TemporaryDirectory() as folder:
            link = Path(folder) / f"image{path.suffix.encode(errors='ignore').decode()}"
            link.symlink_to(path.absolute())
            yield str(link)
    else:
        yield str(path)
