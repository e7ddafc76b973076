// What the agent thinks: bars of probabilities, and value and rewards over the episode.

const bars = document.querySelector("#bars tbody");
const plot = document.getElementById("plot");
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300, HEIGHT = 90, MOST_POINTS = 300;

let episode = { number: -1, rewards: [], values: [] };

export function build(actions) {
  bars.replaceChildren(
    ...actions.map(({ name }) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const bar = document.createElement("td");
      bar.append(Object.assign(document.createElement("span"), { className: "bar" }));
      const number = Object.assign(document.createElement("td"), { className: "n" });
      row.append(head, bar, number);
      return row;
    }),
  );
}

export function showBars(probabilities, taken) {
  [...bars.rows].forEach((row, number) => {
    const value = probabilities === null ? null : probabilities[number];
    row.cells[1].firstChild.style.width = value === null ? "0" : `${100 * value}%`;
    row.cells[2].textContent = value === null ? "" : `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;
    row.className = number === taken ? "taken" : "";
  });
}

export function take(trace) {
  episode = trace;
}

// Adds a frame to the curves; false where the whole episode must be asked for.
export function add(frame) {
  if (frame.episode !== episode.number) {
    episode = { number: frame.episode, rewards: [], values: [] };
    if (frame.length > 1) return false;
  }
  const isNewest = frame.at === frame.known - 1;
  if (isNewest) {
    episode.rewards.length = frame.length;
    episode.values.length = frame.length + 1;
  }
  if (frame.length > 0) episode.rewards[frame.length - 1] = frame.reward;
  episode.values[frame.length] = frame.values === null ? null : frame.values[0];
  return true;
}

function line(x, y1, y2, kind) {
  const found = document.createElementNS(SVG, "line");
  for (const [key, value] of Object.entries({ x1: x, x2: x, y1, y2, class: kind })) found.setAttribute(key, value);
  return found;
}

export function draw(at) {
  const last = Math.max(episode.rewards.length, 1);
  const known = [...episode.values.entries()].filter(([, value]) => Number.isFinite(value));
  const stride = Math.ceil(known.length / MOST_POINTS) || 1;
  const numbers = known.map(([, value]) => value);
  const low = Math.min(0, ...numbers), high = Math.max(low + 1e-6, ...numbers);
  const x = (step) => ((WIDTH * step) / last).toFixed(1);
  const y = (value) => (HEIGHT - 4 - ((HEIGHT - 8) * (value - low)) / (high - low)).toFixed(1);
  const curve = document.createElementNS(SVG, "polyline");
  const points = known.filter((_, number) => number % stride === 0 || number === known.length - 1);
  curve.setAttribute("points", points.map(([step, value]) => `${x(step)},${y(value)}`).join(" "));
  const marks = [];
  episode.rewards.forEach((reward, step) => {
    if (reward) marks.push(line(x(step + 1), HEIGHT, HEIGHT - 16, reward > 0 ? "gain" : "loss"));
  });
  plot.replaceChildren(...marks, curve, line(x(at), 0, HEIGHT, "now"));
  const digits = high - low < 0.1 ? 3 : high - low < 1 ? 2 : 1;
  document.getElementById("range").textContent = known.length ? `${low.toFixed(digits)} to ${high.toFixed(digits)}` : "";
}
