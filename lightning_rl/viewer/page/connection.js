// The WebSocket: connects, reads binary messages, and connects again by itself.

const token = new URLSearchParams(location.search).get("token");
if (token !== null && window.top === window) {
  history.replaceState(null, "", location.pathname + location.hash); // the cookie holds it from now on
}

// Inside another site's page, a browser may refuse to keep anything.
function kept(storage, key, value) {
  try {
    if (value !== undefined) window[storage].setItem(key, value);
    return window[storage].getItem(key);
  } catch {
    return value ?? null;
  }
}

export const setting = (key, value) => kept("localStorage", key, value);

function windowName() {
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return kept("sessionStorage", "window") ?? kept("sessionStorage", "window", random());
}

export const name = windowName();

export function withToken(path) {
  return token === null ? path : `${path}?token=${encodeURIComponent(token)}`;
}

function read(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  header.images = header.images.map(([height, width]) => {
    const pixels = new Uint8Array(buffer, at, 3 * height * width);
    at += pixels.length;
    return { height, width, pixels };
  });
  return header;
}

export class Connection {
  // `heard` takes messages; `changed` takes "open", "lost" or "refused".
  constructor(heard, changed) {
    this.heard = heard;
    this.changed = changed;
    this.wait = 500;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${withToken("/ws")}`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.wait = 500;
      socket.send(JSON.stringify({ do: "hello", window: name }));
      this.changed("open");
    };
    socket.onmessage = (event) => this.heard(read(event.data));
    socket.onclose = () => this.again();
  }

  async again() {
    this.changed("lost");
    await new Promise((resolve) => setTimeout(resolve, this.wait));
    this.wait = Math.min(2 * this.wait, 5000);
    try {
      const answer = await fetch(withToken("/"), { cache: "no-store" });
      if (answer.status === 403) this.changed("refused");
    } catch {
      return this.again();
    }
    this.connect();
  }

  send(command) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(command));
  }
}
