"""Download public data: archives are fetched, checked and unpacked where the configurations look for them.

python -m pipeline.download ixi -o data/ixi --contrasts T1 T2
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo
from pipeline.utils.errors import EXIT_DONE, UserError

IXI_URL = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
IXI_MD5 = {
    "T1": "34901a0593b41dd19c1a1f746eac2d58",
    "T2": "e3140d78730ecdd32ba92da48c0a9aaa",
    "PD": "88ecd9d1fa33cb4a2278183b42ffd749",
}
EPILOG = """An interrupted download goes on where it stopped when the command is repeated; a contrast that is there
already is skipped. Without a network, bring IXI-T1.tar (…) from elsewhere, place it in FOLDER and run the same command.
IXI is licensed CC BY-SA 3.0: https://brain-development.org/ixi-dataset/
exit codes: 0 everything is there, 2 bad arguments, no connection or a bad archive, 130 interrupted"""


def download_ixi(folder: Path, contrasts: Sequence[str], *, base_url: str, quiet: bool) -> None:
    """Fetch and unpack IXI's archives, `base_url/IXI-<contrast>.tar`, as `folder/IXI-<contrast>/`, where it is missing.

    Raises:
        UserError: An unknown contrast, or an error of `fetch` or `unpack_tar`.
    """
    from pipeline.data.archive import fetch, md5_of, require_empty, require_web, unpack_tar
    from pipeline.utils.files import make_folder, require_writable

    if unknown := [contrast for contrast in contrasts if contrast not in IXI_MD5]:
        raise UserError(f"--contrasts: no archive of {' or '.join(unknown)} in IXI; choose from {', '.join(IXI_MD5)}")
    require_web(base_url)
    make_folder(folder)
    say = (lambda _: None) if quiet else echo
    for contrast in dict.fromkeys(contrasts):
        unpacked, archive = folder / f"IXI-{contrast}", folder / f"IXI-{contrast}.tar"
        downloaded = folder / f"IXI-{contrast}.downloaded.tar"  # ours, until it is unpacked
        if count := _volume_count(unpacked):
            downloaded.unlink(missing_ok=True)  # where the command was stopped just before
            say(f"{unpacked}: there already, {count} volumes")
            continue
        require_empty(unpacked)
        require_writable(archive)
        if archive.exists():  # brought from elsewhere: it stays
            if (actual := md5_of(archive, quiet)) != IXI_MD5[contrast]:
                reason = f"has MD5 sum {actual} instead of {IXI_MD5[contrast]}"
                raise UserError(f"{archive}: {reason}; remove it and repeat the command to download it")
        elif not downloaded.exists():
            url = f"{base_url.rstrip('/')}/{archive.name}"
            fetch(url, downloaded, md5=IXI_MD5[contrast], by_hand=archive, quiet=quiet)
        unpack_tar(archive if archive.exists() else downloaded, unpacked, quiet)
        downloaded.unlink(missing_ok=True)
        say(f"{unpacked}: {_volume_count(unpacked)} volumes")


def _volume_count(folder: Path) -> int:
    """Return the number of volumes in a folder; 0 if it does not exist (unpacking makes it only when complete)."""
    return len([*folder.glob("*.nii"), *folder.glob("*.nii.gz")])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.download",
        description="Download a public data set: resumed, checked and unpacked.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=["ixi"], help="the data set")
    parser.add_argument(
        "-o", "--output", type=path_argument, required=True, metavar="FOLDER", help="where it goes (data/ixi)"
    )
    parser.add_argument(
        "--contrasts", nargs="+", default=["T1", "T2"], metavar="NAME", help=f"of {', '.join(IXI_MD5)} (T1 T2)"
    )
    parser.add_argument("--base-url", default=IXI_URL, metavar="URL", help=f"a mirror with the same files ({IXI_URL})")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    download_ixi(arguments.output, arguments.contrasts, base_url=arguments.base_url, quiet=arguments.quiet)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
