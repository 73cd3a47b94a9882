// The report's viewer: four linked NiiVue panels on volumes that lie in the page. All volumes of a subject share one grid.
"use strict";

(() => {
  const GRAYS = { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] };
  const DIFFERENCES = {  // too dark in blue, too bright in orange, equal in black; equally luminous at both ends
    R: [150, 30, 10, 170, 255], G: [215, 95, 10, 70, 205], B: [255, 200, 10, 15, 120],
    A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255],
  };
  const HEADER_BYTES = 352, FLOAT32 = 16, RGBA32 = 2304, MULTIPLANAR = 3, COLUMN = 1, NEVER = 0;

  const section = document.getElementById("viewer");
  const find = (selector, within = section) => within.querySelector(selector);
  const root = find(".viewer"), said = find(".viewer-said");
  const data = JSON.parse(find(".viewer-data").textContent);
  const sliders = [...section.querySelectorAll(".viewer-plane input")];
  const regions = new Regions(find(".viewer-regions"), data.colours, () => { drawRegions(); moveTo(state.position); });
  const state = { turn: 0, volumes: {}, overlays: {}, position: [0, 0, 0] };
  let panels = [];

  // ── volumes ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Decode one embedded volume: its NIfTI file, (X, Y, Z), affine rows, and its bytes, which are -1 to 1 or labels. */
  async function decoded(index) {
    const bytes = Uint8Array.from(atob(data.volumes[index]), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const file = await new Response(stream).arrayBuffer();
    const header = new DataView(file);
    const shape = [42, 44, 46].map((offset) => header.getInt16(offset, true));
    const affine = [280, 296, 312].map((row) => [0, 4, 8, 12].map((column) => header.getFloat32(row + column, true)));
    return { file, shape, affine, levels: new Uint8Array(file, HEADER_BYTES) };
  }

  async function decodedImage(index) {
    const volume = await decoded(index);
    return { ...volume, values: Float32Array.from(volume.levels, (level) => level / 127.5 - 1) };
  }

  /** Return a file of zeros on a volume's grid, of a data type of 32 bits. */
  function emptyFile(volume, dataType) {
    const file = new ArrayBuffer(HEADER_BYTES + 4 * volume.levels.length);
    new Uint8Array(file).set(new Uint8Array(volume.file, 0, HEADER_BYTES));
    const header = new DataView(file);
    header.setInt16(70, dataType, true);
    header.setInt16(72, 32, true);
    header.setFloat32(112, 1, true);  // slope
    header.setFloat32(116, 0, true);  // intercept
    return file;
  }

  /** Return translation minus real target as a volume like them. */
  function difference(translated, real) {
    const values = translated.values.map((value, index) => value - real.values[index]);
    const file = emptyFile(translated, FLOAT32);
    new Float32Array(file, HEADER_BYTES).set(values);
    return { ...translated, file, values };
  }

  function image(volume, name, colormap, limit, opacity = 1) {
    return niivue.NVImage.loadFromUrl({
      url: volume.file.slice(0), name: `${name}.nii`, colormap, opacity, cal_min: -limit, cal_max: limit,
    });
  }

  /** Return an image in colours, which are all none yet. */
  function colouredImage(volume, name) {
    return niivue.NVImage.loadFromUrl({
      url: emptyFile(volume, RGBA32), name: `${name} regions.nii`, cal_min: 0, cal_max: 255,
    });
  }

  // ── panels ────────────────────────────────────────────────────────────────────────────────────────────────

  async function makePanel(figure) {
    const viewer = new niivue.Niivue({
      interactive: false, dragAndDropEnabled: false, show3Dcrosshair: false, loadingText: "", logLevel: "error",
      backColor: [0, 0, 0, 1], crosshairColor: [0.2, 0.85, 0.35, 1],
      crosshairWidth: 0.4, crosshairWidthUnit: "percent", crosshairGap: 16,
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: NEVER, multiplanarLayout: COLUMN,
      fontMinPx: 14, fontSizeScaling: 0.25,
    });
    viewer.addColormap("report grays", GRAYS);
    viewer.addColormap("report differences", DIFFERENCES);
    const canvas = find("canvas", figure);
    await viewer.attachToCanvas(canvas, true);
    canvas.addEventListener("pointerdown", (event) => follow(viewer, canvas, event));
    canvas.addEventListener("pointermove", (event) => event.buttons && follow(viewer, canvas, event));
    return { name: figure.dataset.panel, figure, viewer };
  }

  /** Move to where a pointer is. */
  function follow(viewer, canvas, event) {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const at = viewer.canvasPos2frac([(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]);
    if (at[0] < 0) return;  // beside the slices
    moveTo(shape().map((count, axis) => Math.min(count - 1, Math.max(0, Math.floor(at[axis] * count)))));
  }

  const shape = () => state.volumes.source.shape;

  function moveTo(position) {
    state.position = position;
    const [x, y, z] = position, [countX, countY] = shape();
    const voxel = x + countX * (y + countY * z);
    for (const { name, figure, viewer } of shown()) {
      viewer.scene.crosshairPos = position.map((index, axis) => (index + 0.5) / shape()[axis]);
      viewer.drawScene();
      find("figcaption output", figure).value = signed(state.volumes[name].values[voxel], name === "error");
    }
    for (const slider of sliders) {
      const axis = Number(slider.dataset.axis);
      slider.value = position[axis];
      find("output", slider.parentElement).value = `${position[axis] + 1} of ${shape()[axis]}`;
    }
    const mm = state.volumes.source.affine.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
    const names = regions.at(voxel);
    find(".viewer-where").textContent =
      `At the crosshair: ${mm.map((value) => value.toFixed(1)).join(", ")} mm right, anterior, superior; `
      + `values beside the names${names.length ? `; ${names.join(", ")}` : ""}.`;
  }

  const shown = () => panels.filter(({ name }) => state.volumes[name]);
  const signed = (value, plus) => (plus && value > 0 ? "+" : "") + value.toFixed(2);

  // ── what the controls do ──────────────────────────────────────────────────────────────────────────────────

  /** Show a subject; where the reader chooses another while this one is decoded, that one alone. */
  async function choose(subject) {
    const turn = ++state.turn;
    const volumes = { source: await decodedImage(subject.source), translated: await decodedImage(subject.translated) };
    if (subject.real !== null) {
      volumes.real = await decodedImage(subject.real);
      volumes.error = difference(volumes.translated, volumes.real);
    }
    const images = {};
    for (const [name, volume] of Object.entries(volumes)) {
      const isError = name === "error";
      images[name] = await image(volume, name, isError ? "report differences" : "report grays", isError ? errorLimit() : 1);
    }
    const overlay = volumes.real ? await image(volumes.real, "overlay", "report grays", 1, blend()) : null;
    const maps = [], overlays = {};
    for (const { volume, labels } of subject.regions) maps.push({ labels, levels: (await decoded(volume)).levels });
    for (const name of maps.length ? Object.keys(volumes) : []) overlays[name] = await colouredImage(volumes.source, name);
    if (turn !== state.turn) return;  // from here on nothing waits
    Object.assign(state, { volumes, overlays });
    const names = {
      source: `${subject.sourceName} (source)`, translated: `${subject.targetName} (translated)`,
      real: `${subject.targetName} (real)`, error: "error",
    };
    for (const { name, figure } of panels) {
      figure.hidden = !volumes[name];
      find(".viewer-name", figure).textContent = names[name];
    }
    lay();
    for (const { name, viewer } of shown()) {
      while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
      viewer.addVolume(images[name]);
      if (name === "translated" && overlay) viewer.addVolume(overlay);
    }
    regions.list(maps);
    drawRegions();
    find(".viewer-blend").hidden = !volumes.real;
    find(".viewer-about").textContent = [
      volumes.real ? "" : `There is no real ${subject.targetName} scan of this subject to compare with, and so no error.`,
      subject.units, `Voxels of ${subject.spacing} mm, cut to the head`
        + (subject.coarser ? "; coarser than the data, to keep this file small." : "."),
    ].filter(Boolean).join(" ");
    for (const slider of sliders) {
      const count = volumes.source.shape[slider.dataset.axis];
      slider.max = count - 1;
      slider.parentElement.hidden = count < 2;
    }
    drawBars();
    moveTo(volumes.source.shape.map((count) => Math.floor(count / 2)));
  }

  /**
   * Draw the chosen regions over every panel, as one image in colours. (NiiVue's shader for labels knows no opacity
   * but on and off, and thins a label by its neighbours: a lesion of one voxel would not be seen.)
   */
  function drawRegions() {
    const isAnyChosen = regions.isAnyChosen(), colours = isAnyChosen ? regions.paint(shape()) : null;
    for (const { name, viewer } of shown()) {
      const overlay = state.overlays[name], isDrawn = viewer.volumes.includes(overlay);
      if (!isAnyChosen && !isDrawn) continue;
      overlay.img = colours ?? new Uint8Array(overlay.img.length);
      if (isDrawn) viewer.updateGLVolume();
      else viewer.addVolume(overlay);
    }
  }

  /** Give the canvases the height that their planes need at the panels' width. */
  function lay() {
    const flat = shape()[2] === 1;
    const planes = flat ? 0 : Number(find(".viewer-planes").value);
    find(".viewer-planes").parentElement.hidden = flat;
    const [x, y, z] = shape().map((count, axis) => count * Math.hypot(...state.volumes.source.affine.map((row) => row[axis])));
    const [width, height] = { 0: [x, y], 1: [x, z], 2: [y, z], 3: [Math.max(x, y), y + 2 * z] }[planes];
    for (const { figure, viewer } of shown()) {
      const frame = find(".viewer-canvas", figure);
      frame.style.height = `${Math.round((frame.clientWidth * height) / width)}px`;
      viewer.opts.isOrientationTextVisible = !flat;
      viewer.setSliceType(planes);
      viewer.resizeListener();
    }
  }

  const errorLimit = () => Number(find(".viewer-error").value);
  const blend = () => Number(find(".viewer-blend input").value);

  function drawBars() {
    const percent = DIFFERENCES.I.map((level) => (100 * level) / 255);
    const colours = DIFFERENCES.R.map((_, at) => `rgb(${["R", "G", "B"].map((c) => DIFFERENCES[c][at])}) ${percent[at]}%`);
    for (const { name, figure } of panels) {
      const isError = name === "error", limit = isError ? errorLimit() : 1;
      const stops = isError ? colours : ["rgb(0, 0, 0)", "rgb(255, 255, 255)"];
      find(".viewer-bar", figure).style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      const [low, unit, high] = find(".viewer-ticks", figure).children;
      [low.textContent, high.textContent] = [`-${limit}`, `+${limit}`];
      unit.textContent = isError ? "translation - real, normalised" : "normalised intensity";
    }
  }

  function listen() {
    for (const slider of sliders) {
      slider.addEventListener("input", () => {
        moveTo(state.position.map((old, axis) => (axis === Number(slider.dataset.axis) ? Number(slider.value) : old)));
      });
    }
    find(".viewer-subject").addEventListener("change", (event) => choose(data.subjects[event.target.value]).catch(giveUp));
    find(".viewer-planes").addEventListener("change", () => { lay(); moveTo(state.position); });
    find(".viewer-blend input").addEventListener("input", () => {
      const { viewer } = panels.find(({ name }) => name === "translated");
      if (state.volumes.real) viewer.setOpacity(1, blend());
    });
    find(".viewer-error").addEventListener("change", () => {
      const { viewer } = panels.find(({ name }) => name === "error");
      if (state.volumes.error) {
        Object.assign(viewer.volumes[0], { cal_min: -errorLimit(), cal_max: errorLimit() });
        viewer.updateGLVolume();
      }
      drawBars();
    });
    window.addEventListener("resize", () => { lay(); moveTo(state.position); });
  }

  function listSubjects() {
    const groups = {};
    data.subjects.forEach((subject, index) => {
      const group = (groups[subject.direction] ??= Object.assign(document.createElement("optgroup"), { label: subject.direction }));
      group.append(new Option(subject.label, index));
    });
    find(".viewer-subject").append(...Object.values(groups));
  }

  function giveUp(reason) {
    root.hidden = true;
    said.hidden = false;
    said.prepend(`The viewer could not start (${reason.message ?? reason}). `);
  }

  /** Wait until the reader comes near: a report is opened for its figures, too. */
  function inSight() {
    return new Promise((resolve) => {
      const observer = new IntersectionObserver((entries) => {
        if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); resolve(); }
      }, { rootMargin: "400px" });
      observer.observe(section);
    });
  }

  async function start() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL 2");
    await inSight();
    said.hidden = true;
    root.hidden = false;  // a hidden canvas has no size
    listSubjects();
    for (const figure of section.querySelectorAll(".viewer-panel")) {
      panels.push(await makePanel(figure));
      await new Promise((resolve) => setTimeout(resolve));  // let the page breathe: shaders take long without a GPU
    }
    await choose(data.subjects[0]);
    listen();
    root.dataset.ready = "yes";
  }

  start().catch(giveUp);
})();
