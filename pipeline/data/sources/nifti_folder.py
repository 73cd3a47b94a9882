"""Folders of NIfTI volumes as cases: any layout by one glob per contrast, with {subject} in it; and IXI's own."""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.sources.listing import VOLUME_SUFFIX, check_unique_names, natural_key, nifti_stem, require_folder
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError

Label = tuple[str, ...]
_SUFFIX = re.compile(rf"{VOLUME_SUFFIX}$", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """One file that a pattern matched: its path within the folder, its subject, and the text matched by wildcards."""

    relative: str
    subject: str
    wildcard_text: str

    @cached_property
    def entities(self) -> dict[str, str]:
        """The BIDS entities that distinguish scans of a subject, as {"ses": "ses-1", ...}."""
        entities = re.findall(r"(?:^|[/_])((ses|run)-[^/_.]+)", self.relative)
        return {kind: entity for entity, kind in entities}

    @cached_property
    def tokens(self) -> Label:
        """The words of the text matched by wildcards."""
        return tuple(word for word in re.split(r"[/_]+", _SUFFIX.sub("", self.wildcard_text)) if word)


def nifti_cases(folder: Path, patterns: Mapping[str, str]) -> list[Case]:
    """List the volumes that each contrast's pattern matches, sorted.

    A pattern is a path relative to `folder`: `{subject}` matches the shortest fitting name without "/" (the same name
    wherever it is repeated), `*` and `?` match within a name, `**/` matches zero or more folders. A suffix at its end
    also matches the other ones, in any case, where the volume does not exist as the pattern spells it.

    A case's session is its BIDS ses- entity. Where a subject has several files of a contrast in one session, the run-
    entity is added, or else the words that differ between the wildcards' matches, alike for all contrasts. A contrast
    with a single file in that session gets the first of those labels that does not contradict its name.

    UserError, naming pattern, folder or files: a pattern has no {subject} or no match, one file is matched twice, a
    volume is stored twice (as .nii and .nii.gz), or two files are the same subject, session and contrast.
    """
    require_folder(folder, "data.folder")
    files = volumes_below(folder)
    keys = {contrast: f"data.patterns.{contrast}" for contrast in patterns}
    scans_by_contrast = {contrast: matching_scans(keys[contrast], patterns[contrast], files) for contrast in patterns}

    # Group the scans by subject and session.
    groups: dict[tuple[str, str], dict[str, list[Scan]]] = defaultdict(lambda: defaultdict(list))
    matched_by: dict[str, str] = {}
    for contrast, scans in scans_by_contrast.items():
        check_matches(folder, keys[contrast], patterns[contrast], scans, files)
        for scan in scans:
            if matched_by.setdefault(scan.relative, contrast) != contrast:
                raise UserError(
                    f"{folder / scan.relative}: matched by both {keys[matched_by[scan.relative]]} "
                    f"and {keys[contrast]}; make them narrower"
                )
            groups[scan.subject, scan.entities.get("ses", "")][contrast].append(scan)

    # Name the sessions, so that each scan is a case of its own.
    cases = sorted(
        Case(subject, "_".join([session, *label] if session else label), contrast, folder / scan.relative)
        for (subject, session), scans in groups.items()
        for contrast, labels in session_labels(scans).items()
        for scan, label in labels.items()
    )
    check_unique_names(cases)
    return cases


def ixi_cases(folder: Path, contrasts: Sequence[str]) -> list[Case]:
    """List IXI's volumes of the given contrasts, sorted.

    `IXI-T1/IXI002-Guys-0828-T1.nii.gz`, or the same file directly in `folder`, is contrast "T1" (the name after the
    last dash) of subject "IXI002-Guys-0828". UserError: a contrast has no volume (the message gives the command that
    downloads them), or two files are the same subject and contrast.
    """
    cases = []
    for contrast in contrasts:
        subfolders = [path for path in (folder, folder / f"IXI-{contrast}") if path.is_dir()]
        for path in (path for subfolder in subfolders for path in subfolder.iterdir()):
            subject, _, suffix = (nifti_stem(path.name) or "").rpartition("-")
            if subject.startswith("IXI") and suffix == contrast:
                cases.append(Case(subject, "", contrast, path))
    missing = [contrast for contrast in contrasts if contrast not in {case.contrast for case in cases}]
    if missing:
        command = ["python", "-m", "pipeline.download", "ixi", "-o", str(folder), "--contrasts", *contrasts]
        names = " or ".join(missing)
        raise UserError(
            f"{folder}: no IXI {names} volumes there{cwd_hint(folder)}; download them with: {shlex.join(command)}"
        )
    check_unique_names(sorted(cases))
    return sorted(cases)


def volumes_below(folder: Path) -> list[str]:
    """Return the volumes below a folder as relative paths, sorted."""
    return [name for name in _files_below(folder, frozenset()) if _SUFFIX.search(name)]


def matching_scans(key: str, pattern: str, files: Sequence[str]) -> list[Scan]:
    """Return the volumes that a pattern matches; of a volume with two suffixes the one that the pattern spells."""
    matcher, suffix_match = _matcher(key, pattern), _SUFFIX.search(pattern)
    suffix = suffix_match[0] if suffix_match else ""
    scans = [scan for relative in files if (scan := _scan(matcher, relative))]
    exact_stems = {_stem(scan.relative) for scan in scans if suffix and scan.relative.endswith(suffix)}
    return [scan for scan in scans if _stem(scan.relative) not in exact_stems or scan.relative.endswith(suffix)]


def _stem(relative: str) -> str:
    return _SUFFIX.sub("", relative)


def session_labels(scans: Mapping[str, Sequence[Scan]]) -> dict[str, dict[Scan, Label]]:
    """Return a label for each scan of one subject and session, by contrast; a contrast's labels differ if possible."""
    for label in _LABELS:
        labels = {contrast: dict(zip(group, label(group), strict=True)) for contrast, group in scans.items()}
        if all(len(set(labelled.values())) == len(labelled) for labelled in labels.values()):
            break
    shared_labels = {label for labelled in labels.values() if len(labelled) > 1 for label in labelled.values()}
    choices = sorted(shared_labels, key=lambda label: natural_key("_".join(label)))
    for labelled in labels.values():
        for scan, own_label in labelled.items():
            if len(labelled) == 1 and own_label not in shared_labels:
                labelled[scan] = next((label for label in choices if _is_compatible(scan, label)), own_label)
    return labels


def _is_compatible(scan: Scan, label: Label) -> bool:
    """Return whether nothing in a scan's name contradicts a label of another contrast's scans."""
    words = {word for word in label if not word.startswith(("run-", "acq-"))}  # contrasts are acquired differently
    run = scan.entities.get("run")
    has_run = all(word == run for word in label if word.startswith("run-"))
    return (run is None or has_run) and (not scan.tokens or words <= set(scan.tokens))


def _differing_words(scans: Sequence[Scan]) -> list[Label]:
    common = set.intersection(*(set(scan.tokens) for scan in scans))
    return [tuple(word for word in scan.tokens if word not in common) for scan in scans]


_LABELS: tuple[Callable[[Sequence[Scan]], list[Label]], ...] = (
    lambda scans: [() for _ in scans],
    lambda scans: [(scan.entities["run"],) if "run" in scan.entities else () for scan in scans],
    _differing_words,
)


def _matcher(key: str, pattern: str) -> re.Pattern[str]:
    """Translate a pattern into a regular expression with the group `subject` and one group per wildcard.

    A volume's suffix at its end matches each of them, in lower and upper case.
    """
    # Check the use of {subject} and braces.
    location = f"{key}: '{pattern}'"
    if "{subject}" not in pattern:
        raise UserError(
            f"{location} has no {{subject}}; put it where the subject's name stands, as in {{subject}}/*.nii.gz"
        )
    if set("{}") & set(pattern.replace("{subject}", "")):
        raise UserError(f"{location} has a brace that is not {{subject}}; use * for what varies otherwise")
    if re.search(r"\{subject\}\*|\*\{subject\}", pattern):
        raise UserError(f"{location} leaves open where the subject's name ends; put / or a letter between it and the *")

    # Translate the pattern piece by piece.
    name = pattern.removeprefix("./")
    suffix = _SUFFIX.search(name)
    pieces = re.finditer(
        r"\{subject\}|(?:^|(?<=/))\*\*(?:/|$)|\*+|\?|[^{*?]+", name[: suffix.start()] if suffix else name
    )
    expression, has_subject = "", False
    for piece in (match[0] for match in pieces):
        if piece == "{subject}":
            expression += "(?P=subject)" if has_subject else "(?P<subject>[^/]+?)"
            has_subject = True
        elif piece == "?":
            expression += "([^/])"
        elif piece == "**/":
            expression += "((?:[^/]+/)*)"
        elif piece.startswith("*"):
            is_recursive = piece == "**" and re.search(r"(^|/)\*\*$", pattern)
            expression += "(.*)" if is_recursive else "([^/]*)"
        else:
            expression += re.escape(piece)
    return re.compile(expression + (f"(?i:{VOLUME_SUFFIX})" if suffix else ""))


def _scan(matcher: re.Pattern[str], relative: str) -> Scan | None:
    match = matcher.fullmatch(relative)
    if not match:
        return None
    wildcard_texts = [text for number, text in enumerate(match.groups(), 1) if number != matcher.groupindex["subject"]]
    return Scan(relative, match["subject"], "/".join(wildcard_texts))


def check_matches(folder: Path, key: str, pattern: str, scans: Sequence[Scan], files: Sequence[str]) -> None:
    """Raise UserError for a pattern without a match, and for matches that count a person or a volume twice."""
    if not scans:
        example = f"files there are named like {files[0]}" if files else "it holds no .nii, .nii.gz or .mgz file at all"
        raise UserError(f"{folder}: no volume matches {key} '{pattern}' ({example}); correct {key} or data.folder")
    by_stem: dict[str, str] = {}
    for scan in scans:
        if entity := re.search(r"(^|_)(ses|run)-", scan.subject):
            raise UserError(
                f"{folder / scan.relative}: {{subject}} in {key} '{pattern}' matched '{scan.subject}', which holds a "
                f"BIDS '{entity[2]}-' entity, so one person would count as several; write {{subject}}_* for it"
            )
        first_path = by_stem.setdefault(_stem(scan.relative), scan.relative)
        if first_path != scan.relative:
            raise UserError(f"{folder / first_path} and {folder / scan.relative}: the same volume twice; move one away")


def _files_below(folder: Path, parents: frozenset[Path]) -> Iterator[str]:
    """Yield the files below `folder` as relative paths, sorted; follows links, but not in circles."""
    real = folder.resolve()
    if real in parents:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); allow reading it or move it away") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from (f"{entry.name}/{path}" for path in _files_below(Path(entry.path), parents | {real}))
        else:
            yield entry.name
