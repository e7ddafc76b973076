// Ties the page together: what the server says is shown, what is pressed is sent.

import { Connection, name, setting, withToken } from "/connection.js";
import { Playing } from "/playing.js";
import { Episodes } from "/episodes.js";
import { fit, png, show } from "/stage.js";
import * as thoughts from "/thoughts.js";

const element = (id) => document.getElementById(id);
let about = null;
let newest = null;
let playing = null;
let isDrawing = false;
let isSeeking = false;
const kept = [];
const episodes = new Episodes((row) => send({ do: "episode", number: row }));

const send = (command) => connection.send(command);
const text = (id, value) => {
  if (element(id).textContent !== value) element(id).textContent = value;
};
const number = (value, digits = 2) => (Number.isInteger(value) ? String(value) : value.toFixed(digits));

function heard(message) {
  const answers = { hello, frame, trace: thoughts.take, episodes: ({ rows }) => episodes.take(rows), link, recorded, error: ({ text }) => toast(text) };
  answers[message.type]?.(message);
}

function hello(message) {
  const isFirst = about === null;
  about = message;
  document.title = `${message.title} – lightning-rl play`;
  text("title", message.title);
  document.body.classList.remove("loading");
  element("takeover").hidden = false;
  for (const control of [document.querySelector('[data-player="agent"]'), element("greedy")]) control.disabled = !message.agent;
  element("greedy-label").hidden = element("bars").hidden = element("value-box").hidden = element("value-key").hidden = !message.agent;
  element("where").hidden = !message.world_model;
  element("real_frame").hidden = !message.real_frames;
  element("sets").hidden = message.training_levels === null;
  element("episodes").hidden = message.episodes === 0;
  element("game-box").hidden = message.games.length === 1;
  if (!isFirst) return;
  element("game").replaceChildren(...message.games.map((game) => new Option(game, game)));
  if (message.episodes > 0) send({ do: "episodes" });
  thoughts.build(message.actions);
  buildSliders(message.sliders);
  playing = new Playing(message.actions, message.idle, (action) => send({ do: "hold", action }));
  follow(new URLSearchParams(location.hash.slice(1)));
}

// One for each dimension of the latent that can be moved.
function buildSliders(dimensions) {
  element("sliders").hidden = dimensions.length === 0;
  for (const dimension of dimensions) {
    const slider = Object.assign(document.createElement("input"), { type: "range", min: "-4", max: "4", step: "0.1", value: "0" });
    slider.oninput = () => send({ do: "latent", dimension, value: slider.value });
    const label = document.createElement("label");
    label.append(`${dimension}`, slider);
    element("sliders").append(label);
  }
}

function unmove() {
  for (const slider of element("sliders").querySelectorAll("input")) {
    slider.value = "0";
    slider.oninput();
  }
}

// A copied link brings back its level and its actions, once.
function follow(asked) {
  const actions = asked.get("actions") ?? "";
  if (asked.has("episode")) send({ do: "replay_episode", number: Number(asked.get("episode")), actions });
  else if (asked.has("level")) send({ do: "replay", game: asked.get("game") ?? about.games[0], level: Number(asked.get("level")), actions });
  else return;
  history.replaceState(null, "", location.pathname + location.search);
}

function frame(message) {
  newest = message;
  if (!thoughts.add(message)) send({ do: "trace" });
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    draw(newest);
  });
}

function draw(now) {
  show(now.images, now.labels, now.count > 1 ? { columns: now.columns, chosen: now.chosen, choose: (place) => send({ do: "choose", number: place }) } : null);
  thoughts.showBars(now.probabilities, now.action);
  thoughts.draw(now.length);
  text("n-total", number(now.total));
  text("n-reward", number(now.reward));
  text("n-length", String(now.length));
  text("n-value", now.values === null ? "–" : now.values.map((value) => value.toFixed(2)).join(" / "));
  text("n-rate", now.paused ? "–" : now.rate.toFixed(1));
  const over = now.over ? `Episode over: return ${number(now.total)} in ${now.length} steps` : "";
  text("verdict", [over, now.outcome].filter(Boolean).join(". "));
  text("pause", now.paused ? "Play" : "Pause");
  drawMore(now);
  drawTime(now);
  drawPlayers(now);
  drawLevel(now);
  element("record").setAttribute("aria-pressed", String(now.recording !== null));
  text("record", now.recording === null ? "Record mp4" : `Stop recording (${now.recording})`);
}

function drawMore(now) {
  const more = element("more");
  const names = Object.keys(now.numbers);
  more.hidden = names.length === 0;
  if ([...more.querySelectorAll("dt")].map((one) => one.textContent).join() !== names.join()) {
    more.replaceChildren(
      ...names.map((name) => {
        const box = document.createElement("div");
        box.append(Object.assign(document.createElement("dt"), { textContent: name }), document.createElement("dd"));
        return box;
      }),
    );
  }
  Object.values(now.numbers).forEach((value, place) => {
    more.children[place].lastChild.textContent = typeof value === "string" ? value : number(value);
  });
  for (const button of document.querySelectorAll("[data-where]")) {
    button.setAttribute("aria-pressed", String(button.dataset.where === now.where));
  }
  element("anew").disabled = now.where === "game";
  if (document.activeElement !== element("horizon")) element("horizon").value = String(now.horizon);
  if (document.activeElement !== element("temperature")) element("temperature").value = now.temperature ?? "";
}

function drawTime(now) {
  const seek = element("seek");
  seek.max = String(now.known - 1);
  if (!isSeeking) seek.value = String(now.at);
  const ago = (now.known - 1 - now.at) / about.steps_a_second;
  const told = ago === 0 ? "now" : `${ago.toFixed(1)} s ago`;
  text("ago", told);
  seek.setAttribute("aria-valuetext", told);
  if (document.activeElement !== element("speed")) element("speed").value = String(now.speed);
  if (document.activeElement !== element("at_end")) element("at_end").value = now.at_end;
}

function drawPlayers(now) {
  const mine = now.player === "person" && now.owner === name;
  for (const button of document.querySelectorAll("[data-player]")) {
    button.setAttribute("aria-pressed", String(button.dataset.player === now.player));
  }
  element("greedy").checked = now.greedy;
  text("takeover", mine ? "Give back" : "Take over");
  const told = {
    agent: now.greedy ? "The agent plays its likeliest actions." : "The agent plays: its actions are sampled.",
    person: mine ? "You play." : "Another window plays.",
    random: "All actions are equally likely.",
    replay: now.recorded === null ? "The link’s actions are played again." : `Episode ${now.recorded} of test is played again.`,
  };
  text("who-now", told[now.player] + (now.windows > 1 ? ` ${now.windows} windows are open.` : ""));
  if (playing.turn(mine)) fit();
}

function drawLevel(now) {
  if (document.activeElement !== element("level")) element("level").value = String(now.level ?? "");
  if (document.activeElement !== element("game")) element("game").value = now.game;
  if (document.activeElement !== element("grid")) element("grid").value = String(now.count);
  episodes.mark(now.recorded);
  for (const button of document.querySelectorAll("[data-set]")) {
    button.setAttribute("aria-pressed", String(button.dataset.set === now.set));
  }
}

function link({ game, level, episode, actions }) {
  const begun = episode === undefined ? `game=${encodeURIComponent(game)}&level=${level}` : `episode=${episode}`;
  const url = `${location.origin}/#${begun}&actions=${actions}`;
  const box = element("link-text");
  box.value = url;
  element("link-box").hidden = false;
  box.select();
  box.scrollIntoView({ block: "nearest" });
  const copied = navigator.clipboard?.writeText(url) ?? Promise.reject(); // browsers have none where nothing is encrypted
  copied.then(() => toast("The link is copied. It opens while this server runs; later, put its end behind the new link."), () => toast("Copy the link from the box."));
}

function recorded({ name: file, path }) {
  kept.unshift({ file, path });
  element("kept").replaceChildren(
    ...kept.map((one) => {
      const item = document.createElement("li");
      item.append(Object.assign(document.createElement("a"), { href: withToken(`/recordings/${encodeURIComponent(one.file)}`), textContent: one.path, download: one.file }));
      return item;
    }),
  );
}

let toastTimer = 0;
function toast(message) {
  element("toast").textContent = message;
  element("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (element("toast").hidden = true), 6000);
}

function changed(state) {
  const told = { open: "Connected", lost: "Connection lost, connecting again", refused: "The server has another token: open the link that it printed" };
  document.body.classList.toggle("lost", state !== "open");
  text("status", told[state]);
}

function hand(player) {
  send({ do: "who", player });
  if (player === "person") element("stage").focus({ preventScroll: true });
}

function pick() {
  const wanted = element("level").valueAsNumber;
  if (Number.isInteger(wanted) && wanted >= 0) send({ do: "level", number: wanted });
  else toast("A level is a whole number from 0 on.");
}

const presses = {
  restart: () => send({ do: "restart" }),
  back: () => send({ do: "seek", at: Math.max(newest.at - 1, 0) }),
  pause: () => send({ do: "pause", value: !newest.paused }),
  step: () => send({ do: "step" }),
  previous: () => send({ do: "beside", to: "previous" }),
  next: () => send({ do: "beside", to: "next" }),
  pick,
  takeover: () => hand(newest.player === "person" && newest.owner === name ? (about.agent ? "agent" : "random") : "person"),
  anew: () => send({ do: "where", value: newest.where }),
  real_frame: () => send({ do: "real_frame" }),
  unmove,
  record: () => send({ do: "record", value: newest.recording === null }),
  link: () => send({ do: "link" }),
  png: async () => {
    const url = URL.createObjectURL(await png(8));
    Object.assign(document.createElement("a"), { href: url, download: `${newest.game}_${newest.level ?? "episode"}_${newest.length}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  },
};
for (const [id, press] of Object.entries(presses)) element(id).onclick = () => newest && press();
for (const button of document.querySelectorAll("[data-player]")) button.onclick = () => hand(button.dataset.player);
for (const button of document.querySelectorAll("[data-set]")) button.onclick = () => send({ do: "set", levels: button.dataset.set });
for (const button of document.querySelectorAll("[data-where]")) button.onclick = () => send({ do: "where", value: button.dataset.where });
element("horizon").onchange = (event) => Number.isInteger(event.target.valueAsNumber) && event.target.valueAsNumber >= 0 && send({ do: "horizon", value: event.target.valueAsNumber });
element("temperature").onchange = (event) => send({ do: "temperature", value: event.target.value });
element("game").onchange = (event) => send({ do: "game", value: event.target.value });
element("grid").onchange = (event) => send({ do: "grid", number: Number(event.target.value) });
element("level").onkeydown = (event) => event.key === "Enter" && pick();
element("speed").onchange = (event) => send({ do: "speed", value: Number(event.target.value) });
element("at_end").onchange = (event) => send({ do: "at_end", value: event.target.value });
element("greedy").onchange = (event) => send({ do: "greedy", value: event.target.checked });
element("seek").oninput = (event) => send({ do: "seek", at: Number(event.target.value) });
element("seek").onpointerdown = () => (isSeeking = true);
element("seek").onpointerup = element("seek").onblur = () => (isSeeking = false);

const themes = ["system", "light", "dark"];
function theme(wanted) {
  document.documentElement.dataset.theme = wanted;
  text("theme", `Theme: ${wanted}`);
  setting("theme", wanted);
}
element("theme").onclick = () => theme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
theme(themes.includes(setting("theme")) ? setting("theme") : "system");

window.lightningRL = { send, state: () => newest, name, drop: () => connection.socket.close() }; // for tests
fit();
const connection = new Connection(heard, changed);
