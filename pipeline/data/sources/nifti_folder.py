"""Any folder of NIfTI volumes as cases: one glob per contrast, with {subject} in it (BIDS or a lab's own layout)."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.sources.listing import VOLUME_SUFFIX, check_unique_names, natural_key, require_folder
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError

Label = tuple[str, ...]
_SUFFIX = re.compile(rf"{VOLUME_SUFFIX}$", re.IGNORECASE)
_OTHER_FORMAT = re.compile(r"\.(hdr|mha|mhd|nrrd|mnc)$", re.IGNORECASE)  # of whole volumes


@dataclass(frozen=True)
class Scan:
    """One file that a pattern matched: where it lies in the folder, whose it is, and what the wildcards matched."""

    relative: str
    subject: str
    wild: str

    @cached_property
    def entities(self) -> dict[str, str]:
        """The BIDS entities that tell scans of a subject apart, as {"ses": "ses-1", ...}."""
        found = re.findall(r"(?:^|[/_])((ses|run|acq)-[^/_.]+)", self.relative)
        return {kind: entity for entity, kind in found}

    @cached_property
    def tokens(self) -> Label:
        """The words of what the wildcards matched."""
        return tuple(word for word in re.split(r"[/_]+", _SUFFIX.sub("", self.wild)) if word)


def nifti_cases(folder: Path, patterns: Mapping[str, str]) -> list[Case]:
    """List the volumes that each contrast's pattern matches, sorted.

    A pattern is a path relative to `folder`: `{subject}` matches the shortest fitting name and no "/" (where it
    stands more than once, all agree), `*` and `?` match within a name, `**/` zero or more folders. A pattern that ends
    in .nii or .nii.gz takes volumes with the other of the two, and in capitals, too, where the volume is not there as
    it says and no other contrast's pattern names the file as it is spelt.
    A case's session is its BIDS ses- entity; where a subject has several files of a contrast in one session, run-,
    then acq-, then the words in which the wildcards' matches differ are added, alike for all contrasts. A contrast
    with a single file there joins the first of those labels that does not contradict its own name.

    Raises:
        UserError: names the pattern, the folder or the files: a pattern without {subject} or without a match, one
            file matched twice, a volume stored twice (as .nii and .nii.gz), two files that are one subject, session and
            contrast.
    """
    require_folder(folder, "data.folder")
    every_file = list(_files(folder, frozenset()))
    files = [name for name in every_file if _SUFFIX.search(name)]
    scans_of = _scans_by_contrast(patterns, files)
    groups: dict[tuple[str, str], dict[str, list[Scan]]] = defaultdict(lambda: defaultdict(list))
    matched_by: dict[str, str] = {}
    for contrast, scans in scans_of.items():
        _check_matches(folder, contrast, patterns[contrast], scans, files)
        for scan in scans:
            if matched_by.setdefault(scan.relative, contrast) != contrast:
                raise UserError(
                    f"{folder / scan.relative}: matched by both data.patterns.{matched_by[scan.relative]} "
                    f"and data.patterns.{contrast}; make them narrower"
                )
            groups[scan.subject, scan.entities.get("ses", "")][contrast].append(scan)
    cases = sorted(
        Case(subject, "_".join([session, *label] if session else label), contrast, folder / scan.relative)
        for (subject, session), scans in groups.items()
        for contrast, labels in session_labels(scans).items()
        for scan, label in labels.items()
    )
    check_unique_names(cases)
    _warn_of_other_formats(folder, patterns, every_file)
    return cases


def _warn_of_other_formats(folder: Path, patterns: Mapping[str, str], files: Sequence[str]) -> None:
    """Name the volumes that a pattern would match but for their format, and that are not there as NIfTI."""
    present = {_SUFFIX.sub("", name) for name in files if _SUFFIX.search(name)}
    stems = {name: _OTHER_FORMAT.sub("", name) for name in files if _OTHER_FORMAT.search(name)}
    for contrast, pattern in patterns.items():
        matcher = _matcher(contrast, pattern, any_suffix=True)
        lacking = [name for name, stem in stems.items() if stem not in present and _scan(matcher, f"{stem}.nii.gz")]
        if lacking:
            count = "1 volume" if len(lacking) == 1 else f"{len(lacking)} volumes"
            warn(
                f"warning: {folder}: data.patterns.{contrast} '{pattern}' would match {count} of another format than "
                f".nii, .nii.gz or .mgz, such as {lacking[0]}; left out, convert to .nii.gz to have them taken"
            )


def _scans_by_contrast(patterns: Mapping[str, str], files: Sequence[str]) -> dict[str, list[Scan]]:
    """Return what each contrast's pattern matches: files spelt as it says, then volumes with another suffix."""
    exact, other = (
        {contrast: _matcher(contrast, pattern, any_suffix=any_suffix) for contrast, pattern in patterns.items()}
        for any_suffix in (False, True)
    )
    scans_of = {
        contrast: [scan for relative in files if (scan := _scan(matcher, relative))]
        for contrast, matcher in exact.items()
    }
    order = {relative: number for number, relative in enumerate(files)}
    spelt = {scan.relative for scans in scans_of.values() for scan in scans}
    for contrast, scans in scans_of.items():
        present = {_SUFFIX.sub("", scan.relative) for scan in scans}
        rest = (name for name in files if name not in spelt and _SUFFIX.sub("", name) not in present)
        scans += [scan for relative in rest if (scan := _scan(other[contrast], relative))]
        scans.sort(key=lambda scan: order[scan.relative])
    return scans_of


def session_labels(scans: Mapping[str, Sequence[Scan]]) -> dict[str, dict[Scan, Label]]:
    """Name the scans of one subject and session, by contrast, so that those of a contrast differ where possible."""
    for label in _LABELS:
        labels = {contrast: dict(zip(group, label(group), strict=True)) for contrast, group in scans.items()}
        if all(len(set(named.values())) == len(named) for named in labels.values()):
            break
    several = {label for named in labels.values() if len(named) > 1 for label in named.values()}
    choices = sorted(several, key=lambda label: natural_key("_".join(label)))
    for named in labels.values():
        for scan, own in named.items():
            if len(named) == 1 and own not in several:
                named[scan] = next((label for label in choices if _fits(scan, label)), own)
    return labels


def _fits(scan: Scan, label: Label) -> bool:
    """Whether nothing in a scan's name contradicts a label that another contrast's scans have."""
    for token in label:
        kind = token.partition("-")[0]
        if kind == "acq":  # how a contrast was acquired is its own affair
            continue
        if kind == "run":
            if scan.entities.get("run", token) != token:
                return False
        elif scan.tokens and token not in scan.tokens:
            return False
    return True


def _entity_labels(*kinds: str) -> Callable[[Sequence[Scan]], list[Label]]:
    return lambda scans: [tuple(scan.entities[kind] for kind in kinds if kind in scan.entities) for scan in scans]


def _differing_words(scans: Sequence[Scan]) -> list[Label]:
    common = set.intersection(*(set(scan.tokens) for scan in scans))
    return [tuple(word for word in scan.tokens if word not in common) for scan in scans]


_LABELS = (
    _entity_labels(),
    _entity_labels("run"),
    _entity_labels("run", "acq"),
    _differing_words,
    lambda scans: [scan.tokens for scan in scans],
)


def _matcher(contrast: str, pattern: str, *, any_suffix: bool = False) -> re.Pattern[str]:
    """Translate a pattern into a regular expression with the group `subject` and one group per wildcard.

    With `any_suffix` a .nii or .nii.gz at its end stands for both, in small letters and capitals.
    """
    key = f"data.patterns.{contrast}: '{pattern}'"
    if "{subject}" not in pattern:
        raise UserError(f"{key} has no {{subject}}; put it where the subject's name stands, as in {{subject}}/*.nii.gz")
    if set("{}") & set(pattern.replace("{subject}", "")):
        raise UserError(f"{key} has a brace that is not {{subject}}; use * for what varies otherwise")
    if re.search(r"\{subject\}\*|\*\{subject\}", pattern):
        raise UserError(f"{key} leaves open where the subject's name ends; put / or a letter between it and the *")
    name = pattern.removeprefix("./")
    suffix = _SUFFIX.search(name) if any_suffix else None
    parts = re.finditer(
        r"\{subject\}|(?:^|(?<=/))\*\*(?:/|$)|\*+|\?|[^{*?]+", name[: suffix.start()] if suffix else name
    )
    expression, seen = "", False
    for part in (found[0] for found in parts):
        if part == "{subject}":
            expression += "(?P=subject)" if seen else "(?P<subject>[^/]+?)"
            seen = True
        elif part == "?":
            expression += "([^/])"
        elif part == "**/":
            expression += "((?:[^/]+/)*)"
        elif part.startswith("*"):
            whole = part == "**" and re.search(r"(^|/)\*\*$", pattern)
            expression += "(.*)" if whole else "([^/]*)"
        else:
            expression += re.escape(part)
    return re.compile(expression + (f"(?i:{VOLUME_SUFFIX})" if suffix else ""))


def _scan(matcher: re.Pattern[str], relative: str) -> Scan | None:
    found = matcher.fullmatch(relative)
    if not found:
        return None
    wild = [text for number, text in enumerate(found.groups(), 1) if number != matcher.groupindex["subject"]]
    return Scan(relative, found["subject"], "/".join(wild))


def _check_matches(folder: Path, contrast: str, pattern: str, scans: Sequence[Scan], files: Sequence[str]) -> None:
    key = f"data.patterns.{contrast}"
    if not scans:
        example = f"files there are named like {files[0]}" if files else "it holds no .nii, .nii.gz or .mgz file at all"
        raise UserError(f"{folder}: no volume matches {key} '{pattern}' ({example}); correct {key} or data.folder")
    by_stem: dict[str, str] = {}
    for scan in scans:
        if held := re.search(r"(^|_)(ses|run)-", scan.subject):
            raise UserError(
                f"{folder / scan.relative}: {{subject}} in {key} '{pattern}' matched '{scan.subject}', which holds a "
                f"BIDS '{held[2]}-' entity, so one person would count as several; write {{subject}}_* for it"
            )
        stem = _SUFFIX.sub("", scan.relative)
        twin = by_stem.setdefault(stem, scan.relative)
        if twin != scan.relative:
            raise UserError(f"{folder / twin} and {folder / scan.relative}: the same volume twice; move one away")


def _files(folder: Path, above: frozenset[Path]) -> Iterator[str]:
    """Yield the files below `folder` as relative paths, sorted; links are followed, but not in circles."""
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); allow reading it or move it away") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from (f"{entry.name}/{below}" for below in _files(Path(entry.path), above | {real}))
        else:
            yield entry.name
