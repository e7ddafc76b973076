// The pictures: pixel-sharp canvases, as large as whole multiples of a pixel allow.

const screens = document.getElementById("screens");
const stage = document.getElementById("stage");
const header = document.querySelector("header");

let grid = null; // of several games: how many stand side by side, which is chosen, and what chooses another

function figure(label) {
  const box = document.createElement("figure");
  const chosen = () => grid?.choose([...screens.children].indexOf(box));
  box.onclick = chosen;
  box.onkeydown = (event) => (event.key === "Enter" || event.key === " ") && grid !== null && (event.preventDefault(), chosen());
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const caption = document.createElement("figcaption");
  box.append(canvas, caption);
  screens.append(box);
  return box;
}

function paint(canvas, { height, width, pixels }) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    fit();
  }
  const context = canvas.getContext("2d", { willReadFrequently: true }); // small, and saved as png
  const image = context.createImageData(width, height);
  const data = image.data;
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    data[to] = pixels[from];
    data[to + 1] = pixels[from + 1];
    data[to + 2] = pixels[from + 2];
    data[to + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

export function show(images, labels, several) {
  const before = [grid?.columns, screens.children.length].join();
  grid = several;
  while (screens.children.length > images.length) screens.lastChild.remove();
  images.forEach((image, number) => {
    const label = labels[number] ?? "game";
    const box = screens.children[number] ?? figure(label);
    const [canvas, caption] = box.children;
    if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
    const text = images.length > 1 ? label : "";
    if (caption.textContent !== text) caption.textContent = text;
    choosable(box, number);
    paint(canvas, image);
  });
  if (before !== [grid?.columns, images.length].join()) fit();
}

// One of several games can be chosen by a click or by Enter.
function choosable(box, number) {
  if (grid === null) {
    for (const name of ["role", "tabindex", "aria-pressed", "aria-label"]) box.removeAttribute(name);
    return;
  }
  box.setAttribute("role", "button");
  box.setAttribute("tabindex", "0");
  box.setAttribute("aria-label", `Choose ${box.lastChild.textContent}`);
  box.setAttribute("aria-pressed", String(number === grid.chosen));
}

// How much larger than its pixels a picture can be shown with so many beside each other.
function scale(canvases, columns) {
  const rows = Math.ceil(canvases.length / columns);
  const ratio = window.devicePixelRatio || 1;
  const caption = canvases.length > 1 ? 32 : 0;
  // below the pictures are the controls, which are to be seen without scrolling
  const others = header.offsetHeight + stage.offsetHeight - screens.offsetHeight + 8;
  const free = Math.max(window.innerHeight - others, canvases.length > 1 ? 420 : 220);
  const width = (screens.clientWidth - 12 * (columns - 1)) / columns;
  const height = free / rows - caption;
  const fits = Math.min(...canvases.map((canvas) => Math.min(width / canvas.width, height / canvas.height)));
  return Math.max(1, Math.floor(fits * ratio)) / ratio;
}

export function fit() {
  const canvases = [...screens.querySelectorAll("canvas")];
  if (canvases.length === 0 || canvases[0].width === 0) return;
  screens.classList.toggle("several", grid !== null);
  screens.style.setProperty("--columns", grid?.columns ?? 1);
  const columns = grid === null ? canvases.map((_, number) => number + 1) : [grid.columns];
  const best = Math.max(...columns.map((number) => scale(canvases, number)));
  for (const canvas of canvases) {
    canvas.style.width = `${canvas.width * best}px`;
    canvas.style.height = `${canvas.height * best}px`;
  }
}

new ResizeObserver(fit).observe(screens);
window.addEventListener("resize", fit);

export function png(scale) {
  const canvases = [...screens.querySelectorAll("canvas")];
  const gap = 8;
  const columns = grid?.columns ?? canvases.length;
  const widest = Math.max(...canvases.map((canvas) => canvas.width * scale)) + gap;
  const highest = Math.max(...canvases.map((canvas) => canvas.height * scale)) + gap;
  const whole = document.createElement("canvas");
  whole.width = columns * widest - gap;
  whole.height = Math.ceil(canvases.length / columns) * highest - gap;
  const context = whole.getContext("2d");
  context.imageSmoothingEnabled = false;
  canvases.forEach((canvas, number) => {
    const [left, top] = [(number % columns) * widest, Math.floor(number / columns) * highest];
    context.drawImage(canvas, left, top, canvas.width * scale, canvas.height * scale);
  });
  return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
}
