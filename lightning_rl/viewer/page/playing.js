// Playing by keys and by buttons on the screen: which action is held.

const pad = document.getElementById("pad");
const CROSS = [
  ["ArrowUp", "ArrowLeft"], ["ArrowUp"], ["ArrowUp", "ArrowRight"],
  ["ArrowLeft"], [], ["ArrowRight"],
  ["ArrowDown", "ArrowLeft"], ["ArrowDown"], ["ArrowDown", "ArrowRight"],
];
const SIGNS = ["↖", "↑", "↗", "←", "·", "→", "↙", "↓", "↘"];
const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Space: "space" };

const label = (key) => NAMES[key] ?? key.replace(/^(Key|Digit)/, "");

export class Playing {
  // `hold` takes the number of an action whenever it changes.
  constructor(actions, idle, hold) {
    this.actions = actions;
    this.idle = idle;
    this.hold = hold;
    this.isOn = false;
    this.pressed = new Set();
    this.known = new Set(actions.flatMap((action) => action.keys));
    this.build();
    document.addEventListener("keydown", (event) => this.down(event));
    document.addEventListener("keyup", (event) => this.up(event));
    window.addEventListener("blur", () => this.release());
  }

  // The action with the most keys, all of which are pressed.
  wanted() {
    let best = this.idle;
    this.actions.forEach((action, number) => {
      const fits = action.keys.length > 0 && action.keys.every((key) => this.pressed.has(key));
      if (fits && action.keys.length > this.actions[best].keys.length) best = number;
    });
    return best;
  }

  down(event) {
    const takesKeys = event.target.closest?.("input, select, textarea");
    const presses = event.code === "Space" && event.target.closest?.("button, a, [role=button]");
    if (!this.isOn || takesKeys || presses || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.known.has(event.code)) return;
    event.preventDefault();
    if (event.repeat) return;
    this.pressed.add(event.code);
    this.hold(this.wanted());
  }

  up(event) {
    if (this.pressed.delete(event.code) && this.isOn) this.hold(this.wanted());
  }

  release() {
    this.pressed.clear();
    if (this.isOn) this.hold(this.idle);
  }

  // Whether that is a change.
  turn(on) {
    if (on === this.isOn) return false;
    this.pressed.clear();
    this.isOn = on;
    pad.hidden = !on;
    document.getElementById("keys").hidden = !on;
    return true;
  }

  find(keys) {
    const same = (action) => action.keys.length === keys.length && keys.every((key) => action.keys.includes(key));
    return this.actions.findIndex(same);
  }

  button(number, text) {
    const { name } = this.actions[number];
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    made.setAttribute("aria-label", name);
    made.onpointerdown = (event) => {
      made.setPointerCapture(event.pointerId);
      made.classList.add("held");
      this.hold(number);
    };
    made.onpointerup = made.onpointercancel = () => {
      made.classList.remove("held");
      this.hold(this.idle);
    };
    made.onclick = (event) => {
      if (event.detail !== 0) return; // of a pointer, which has held it already
      this.hold(number);
      setTimeout(() => this.hold(this.idle), 150);
    };
    return made;
  }

  build() {
    const cross = Object.assign(document.createElement("div"), { className: "cross" });
    const others = Object.assign(document.createElement("div"), { className: "others" });
    const placed = new Set();
    CROSS.forEach((keys, place) => {
      const number = this.find(keys);
      if (number >= 0) placed.add(number);
      cross.append(number >= 0 ? this.button(number, SIGNS[place]) : document.createElement("span"));
    });
    const help = [];
    this.actions.forEach((action, number) => {
      const key = action.keys.map(label).join(" ");
      if (!placed.has(number)) others.append(this.button(number, key.length > 4 ? action.name : key || action.name));
      if (action.keys.length === 1) help.push([key, action.name]);
    });
    pad.replaceChildren(...(placed.size ? [cross] : []), others);
    document.getElementById("keys").replaceChildren(
      ...help.map(([key, name]) => {
        const item = document.createElement("span");
        item.append(Object.assign(document.createElement("kbd"), { textContent: key }));
        if (key.toLowerCase() !== name.toLowerCase()) item.append(` ${name}`);
        return item;
      }),
    );
  }
}
