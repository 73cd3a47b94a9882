"""Regions of interest on the grids of a pair: label maps in which errors are measured by themselves."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.pairs import View
from pipeline.utils.errors import first_cause
from transforms.label_maps import MOST_LABELS, UNCOUNTED, LabelMap, read_label_map, slices_on_grid
from transforms.registration import same_grid

Views = tuple[View, View]
RegionFiles = dict[str, dict[str, Path]]  # name of a scan (subject and session) -> region -> file


def with_regions(views: Views, rigid_transform: np.ndarray, files: Mapping[str, Path]) -> tuple[Views, list[str]]:
    """Return the two views of a pair with label maps, and notes on files that could not be used wholly.

    A file that has the grid of one of the two scans is taken to belong to it, and follows its registration onto the
    other; any other lies where its own header says.

    `rigid_transform`, (4, 4), leads from points of the first scan to points of the second; `files` has the label map of
    each region.
    """
    regions: tuple[dict[str, LabelMap], dict[str, LabelMap]] = ({}, {})
    notes = []
    for name, path in files.items():
        try:
            label_map, affine = read_label_map(path)
        except ValueError as error:
            notes.append(f"the region {name} of one scan was left out: {first_cause(error)}")
            continue
        if (label_map.indices == UNCOUNTED).any():
            notes.append(f"{path}: only its first {MOST_LABELS} labels were measured")
        sources = [view.source for view in views]
        owners = [same_grid(label_map.indices.shape, affine, *source.whole_grid) for source in sources]
        to_map = np.eye(4), np.eye(4)  # from points of each scan to points of the map
        if owners == [True, False]:
            to_map = np.eye(4), np.linalg.inv(rigid_transform)
        elif owners == [False, True]:
            to_map = rigid_transform, np.eye(4)
        for on_grid, source, matrix in zip(regions, sources, to_map, strict=True):
            grid = source.volume.shape, source.affine
            on_grid[name] = slices_on_grid(label_map, affine, matrix, *grid, source.axis)
    first, second = (replace(view, regions=maps) for view, maps in zip(views, regions, strict=True))
    return (first, second), notes
