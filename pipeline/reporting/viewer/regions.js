// Regions over the viewer's panels: a legend with a checkbox for each, and the colour of every voxel.
"use strict";

const REGION_OUTLINE = 200, REGION_INSIDE = 70;  // opacity, of 255

class Regions {
  /** `fieldset` holds the legend, or is null where no subject has a region; `colours` are [red, green, blue] by name. */
  constructor(fieldset, colours, onChange) {
    Object.assign(this, { fieldset, colours, maps: [], chosen: new Set() });  // all are off at the start
    fieldset?.addEventListener("change", ({ target }) => {
      const names = target.matches(".viewer-all") ? this.names() : [target.value];
      for (const name of names) this.chosen[target.checked ? "add" : "delete"](name);
      this.check();
      onChange();
    });
  }

  /** List a subject's label maps; what the reader chose of another subject's stays chosen. */
  list(maps) {
    this.maps = maps;
    if (!this.fieldset) return;
    this.fieldset.hidden = !maps.length;
    this.fieldset.querySelector(".viewer-labels").replaceChildren(...this.names().map((name) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name });
      const swatch = Object.assign(document.createElement("span"), { className: "viewer-swatch" });
      swatch.style.background = `rgb(${this.colours[name]})`;
      const label = document.createElement("label");
      label.append(box, swatch, name);
      return label;
    }));
    this.check();
  }

  check() {
    for (const box of this.fieldset.querySelectorAll(".viewer-labels input")) box.checked = this.chosen.has(box.value);
    this.fieldset.querySelector(".viewer-all").checked = this.names().every((name) => this.chosen.has(name));
  }

  names() {
    return this.maps.flatMap(({ labels }) => labels.map(([name]) => name));
  }

  isAnyChosen() {
    return this.names().some((name) => this.chosen.has(name));
  }

  /** Return the names of the regions that a voxel lies in. */
  at(voxel) {
    return this.maps.flatMap(({ labels, levels }) => labels.filter(([, level]) => level === levels[voxel]).map(([name]) => name));
  }

  /** Return red, green, blue and opacity of every voxel of a grid (X, Y, Z): outlines strong, insides faint. */
  paint(counts) {
    const strides = [1, counts[0], counts[0] * counts[1]];
    const painted = new Uint8Array(4 * counts[0] * counts[1] * counts[2]);
    for (const { labels, levels } of this.maps) {
      const colours = [];
      for (const [name, level] of labels) if (this.chosen.has(name)) colours[level] = this.colours[name];
      if (!colours.length) continue;
      levels.forEach((level, voxel) => {
        if (!colours[level]) return;
        const isOutline = strides.some((stride, axis) => {
          const at = Math.floor(voxel / stride) % counts[axis];
          if (at > 0 && levels[voxel - stride] !== level) return true;
          return at + 1 < counts[axis] && levels[voxel + stride] !== level;
        });
        painted.set(colours[level], 4 * voxel);
        painted[4 * voxel + 3] = isOutline ? REGION_OUTLINE : REGION_INSIDE;
      });
    }
    return painted;
  }
}
