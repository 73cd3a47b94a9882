"""Folders of 2D slices (PNG, JPEG, TIFF), one folder per contrast, as cases."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.sources.listing import check_unique_names, natural_key, require_folder
from pipeline.utils.errors import UserError
from transforms.io.images import SUFFIXES


def images_cases(folder: Path, train: Mapping[str, str], test: Mapping[str, str], paired: bool) -> list[Case]:
    """List the slices in each contrast's folder, in counting order ("#2" before "#10").

    `train` and `test` give each contrast's sub-folder; images of the latter are reserved (`split="test"`). Without
    `paired` each image is its own subject ("T1-Image #10"); with it the subject is the file's name ("Image #10"), which
    two contrasts' folders share. Names from `test` begin with "test-", as files there are often numbered anew.

    UserError: a folder is missing, empty or named twice; a test contrast has no training folder; two images have the
    same name but for the suffix; or `paired` and no name occurs in two contrasts.
    """
    unknown = [contrast for contrast in test if contrast not in train]
    if unknown:
        raise UserError(f"data.test.{unknown[0]}: not a contrast of data.train ({', '.join(train)}); correct its name")
    _check_folders(folder, train, test)
    cases = []
    for split, folders in (("train", train), ("test", test)):
        for contrast, name in folders.items():
            for path in _images(folder / name, f"data.{split}.{contrast}"):
                subject = path.stem if paired else f"{contrast}-{path.stem}"
                prefix, reserved = ("test-", "test") if split == "test" else ("", None)
                cases.append(Case(prefix + subject, "", contrast, path, reserved))
        if paired and len(folders) > 1:
            _check_pairs(folder, [case for case in cases if case.split == (None if split == "train" else "test")])
    check_unique_names(cases)
    return sorted(cases, key=lambda case: (natural_key(case.subject), case.contrast))


def _images(folder: Path, key: str) -> list[Path]:
    require_folder(folder, key)
    paths = [
        path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not paths:
        raise UserError(f"{folder}: no PNG, JPEG or TIFF image directly in it; correct {key}")
    return paths


def _check_folders(folder: Path, train: Mapping[str, str], test: Mapping[str, str]) -> None:
    keys: dict[Path, str] = {}
    for split, folders in (("data.train", train), ("data.test", test)):
        for contrast, name in folders.items():
            key = f"{split}.{contrast}"
            first = keys.setdefault((folder / name).resolve(), key)
            if first != key:
                raise UserError(f"{folder / name}: given both as {first} and as {key}; give each a folder of its own")


def _check_pairs(folder: Path, cases: list[Case]) -> None:
    if len({case.subject for case in cases}) == len(cases):
        paths = {case.contrast: case.path for case in reversed(cases)}.values()
        example = " and ".join(f"{path.parent.name}/{path.name}" for path in paths)
        raise UserError(
            f"{folder}: data.paired is true, but no file name occurs in two contrasts ({example}); "
            "give the images of a pair equal names, or set data.paired: false"
        )
