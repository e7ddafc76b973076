// The episodes that `test` has played: a list by return, each of which is played again at a click.

const AT_ONCE = 100;
const NAMES = { train_levels: "training levels", full_distribution: "all levels", random_policy: "random play" };

const list = document.getElementById("episode-list");
const sets = document.getElementById("episode-set");
const order = document.getElementById("episode-order");
const more = document.getElementById("episode-more");

export class Episodes {
  // `play` takes the number of an episode.
  constructor(play) {
    this.play = play;
    this.rows = [];
    this.shown = AT_ONCE;
    this.playing = null;
    sets.onchange = order.onchange = () => this.draw(AT_ONCE);
    more.onclick = () => this.draw(this.shown + AT_ONCE);
  }

  // Rows of number, game, level set, level, return and length.
  take(rows) {
    this.rows = rows;
    const games = new Set(rows.map(([, game]) => game));
    const options = new Map(rows.map(([, game, set]) => [JSON.stringify([game, set]), (games.size > 1 ? `${game}, ` : "") + (NAMES[set] ?? set)]));
    sets.replaceChildren(...[...options].map(([value, text]) => new Option(text, value)));
    this.draw(AT_ONCE);
  }

  draw(shown) {
    this.shown = shown;
    const sign = Number(order.value);
    const [game, set] = JSON.parse(sets.value);
    const rows = this.rows.filter((row) => row[1] === game && row[2] === set).sort((one, other) => sign * (one[4] - other[4]) || one[0] - other[0]);
    list.replaceChildren(...rows.slice(0, shown).map((row) => this.item(row)));
    more.hidden = rows.length <= shown;
  }

  item([number, , , level, total, length]) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", onclick: () => this.play(number) });
    button.dataset.episode = number;
    button.setAttribute("aria-pressed", String(number === this.playing));
    const value = total === null ? "?" : Number.isInteger(total) ? total : total.toFixed(2);
    const told = [`return ${value}`, `${length} steps`, level === null ? `episode ${number}` : `level ${level}`];
    button.append(...told.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    item.append(button);
    return item;
  }

  // Marks the one that is shown.
  mark(number) {
    if (number === this.playing) return;
    this.playing = number;
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.episode) === number));
  }
}
