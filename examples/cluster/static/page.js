// The session key is in an HttpOnly cookie: this script never sees it, and has no need to.

const el = (id) => document.getElementById(id);

let socket = null;
let ends = null; // when the session runs out, in this computer's milliseconds
let looks = 0;

// Resolves to the answer, or to null when there is nothing to go on with: the page has said why by then.
async function call(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  try {
    const answer = await (await fetch(path, body && post)).json();
    if (answer.logout) {
      leave();
      return null;
    }
    el("notice").textContent = answer.unavailable
      ? "Nobody can say right now who is logged in. Try again in a moment."
      : "";
    return answer.unavailable ? null : answer;
  } catch {
    el("notice").textContent = "The server did not answer. Try again when you are connected.";
    return null;
  }
}

function show(view) {
  for (const id of ["login", "inside", "outside"]) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

function enter() {
  show("inside");
  look();
  if (typeof io === "undefined") return connection("offline", "No live updates: socket.io-client did not load");
  socket = io();
  // Fires on every reconnection too, which is how a tab that was away learns that its session has ended.
  socket.on("connect", async () => {
    if (!(await socket.emitWithAck("session_key"))) return; // `logout` is on its way
    connection("connected", "Connected");
    look();
  });
  socket.on("disconnect", () => connection("offline", "Offline, retrying"));
  socket.on("connect_error", () => connection("offline", "Offline, retrying"));
  socket.on("changed", look);
  socket.on("logout", leave);
}

function leave() {
  if (!el("outside").hidden) return;
  socket?.disconnect();
  socket = null;
  ends = null;
  // What only somebody who is logged in may see does not stay in the page.
  for (const node of document.querySelectorAll("[data-private]")) node.replaceChildren();
  el("notice").textContent = "";
  show("outside");
  document.title = "Logged out";
  el("alarm").textContent = "You are logged out.";
  el("outside-title").focus();
}

function connection(state, text) {
  if (el("connection").dataset.state === state) return; // said once is enough
  el("connection").dataset.state = state;
  el("connection").textContent = text;
}

// Looking does not prolong the session.
async function look() {
  const mine = ++looks;
  const now = await call("/session");
  if (!now || mine !== looks || !el("outside").hidden) return; // an answer that is late is an old one
  ends = Date.now() + now.left * 1000;
  el("me").textContent = now.username;
  el("worker").textContent = now.worker;
  el("online").replaceChildren(
    ...Object.entries(now.people).map(([name, sessions]) => {
      const item = made("li", sessions > 1 ? `${name}, ${sessions} sessions` : name);
      if (name === now.username) item.append(" ", made("span", "this is you", "you"));
      return item;
    }),
  );
  tick();
}

function made(kind, text, classes = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = classes;
  return element;
}

function tick() {
  if (ends === null) return;
  const whole = Math.ceil(Math.max(0, ends - Date.now()) / 1000);
  el("time").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// What people do

el("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  el("login-error").textContent = "";
  const answer = await call("/login", { username: username.value, password: password.value });
  password.value = "";
  if (!answer) return;
  if (answer.error) {
    el("login-error").textContent = answer.error;
    password.focus();
    return;
  }
  enter();
  el("still-here").focus();
});

el("still-here").addEventListener("click", async () => {
  if (await call("/still-here", {})) look();
});
el("logout").addEventListener("click", () => call("/logout", {}));
// The server decides what comes next: another tab may have logged in again meanwhile.
el("again").addEventListener("click", () => location.assign(location.pathname));

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && socket?.connected) look(); // a computer that slept has counted wrongly
});

setInterval(tick, 250);
if (!el("inside").hidden) enter();
