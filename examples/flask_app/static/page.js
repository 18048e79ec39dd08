// The session key is in an HttpOnly cookie: this script never sees it, and has no need to.

const el = (id) => document.getElementById(id);
const UNREACHABLE = "The server did not answer. Try again when you are connected.";
const SOON = 10; // seconds before the end at which the page asks for attention

let socket = null;
let rows = [];
let pushes = 0;
let warned = false;

// Views

function show(view) {
  for (const id of ["login", "inside", "outside"]) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

function enter() {
  show("inside");
  if (typeof io === "undefined") {
    connection("offline", "No live updates: socket.io-client did not load");
    refresh();
    return;
  }
  socket = io();
  // Fires on every reconnection too, which is how a tab that was away learns that its session has ended.
  socket.on("connect", () => {
    socket.emit("session_key", (alive) => {
      if (!alive) return leave();
      connection("connected", "Connected");
      refresh();
    });
  });
  socket.on("disconnect", () => connection("offline", "Offline, retrying"));
  socket.on("connect_error", () => connection("offline", "Offline, retrying"));
  socket.on("logout", leave);
  socket.on("sessions", (list) => {
    pushes += 1;
    draw(list);
  });
}

function leave() {
  if (!el("outside").hidden) return;
  socket?.disconnect();
  socket = null;
  // What only somebody who is logged in may see does not stay in the page.
  draw([]);
  el("me").textContent = "";
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

// The server

async function call(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response, answer;
  try {
    response = await fetch(path, body && post);
    answer = await response.json();
  } catch {
    el("notice").textContent = UNREACHABLE;
    return null;
  }
  if (el("notice").textContent === UNREACHABLE) el("notice").textContent = "";
  if (answer.logout) {
    leave();
    return null;
  }
  return answer;
}

async function refresh() {
  const before = pushes;
  const list = await call("/sessions");
  if (list && before === pushes) draw(list); // a list that was pushed meanwhile is newer
}

// The list

function draw(list) {
  const now = Date.now();
  rows = list.map((session) => ({ ...session, ends: now + session.left * 1000 }));
  el("sessions").replaceChildren(
    ...rows.map((row) => {
      const tr = document.createElement("tr");
      const who = cell(tr, "th", row.username);
      who.scope = "row";
      if (row.you) {
        const you = document.createElement("span");
        you.className = "you";
        you.textContent = "this is you";
        who.append(" ", you);
      }
      cell(tr, "td", row.label).className = "label";
      row.cell = cell(tr, "td", "");
      row.cell.className = "number digits";
      return tr;
    }),
  );
  const mine = rows.find((row) => row.you);
  if (mine) el("me").textContent = mine.username;
  tick();
}

function cell(tr, kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  tr.append(made);
  return made;
}

function tick() {
  for (const row of rows) {
    const left = Math.max(0, (row.ends - Date.now()) / 1000);
    row.cell.textContent = clock(left);
    if (!row.you) continue;
    el("my-time").textContent = clock(left);
    el("my-bar").style.transform = `scaleX(${Math.min(1, left / row.timeout)})`;
    const soon = left <= SOON;
    document.body.classList.toggle("soon", soon);
    // Said once a countdown; the digits themselves would be read out every second. A session that is short from its
    // beginning has nothing to warn of.
    if (soon && !warned && row.timeout > SOON) el("notice").textContent = "You will be logged out in a few seconds.";
    else if (!soon && warned) el("notice").textContent = "";
    warned = soon;
  }
}

function clock(seconds) {
  const whole = Math.ceil(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
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
  el("seconds").value = answer.timeout;
  enter();
  el("still-here").focus();
});

el("timeout-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = el("seconds").value.trim();
  const answer = await call("/timeout", { seconds: text === "" ? null : Number(text) });
  if (!answer) return;
  el("timeout-answer").className = answer.error ? "error" : "done";
  el("timeout-answer").textContent = answer.error ?? `Set to ${answer.timeout} seconds.`;
  el("seconds").setAttribute("aria-invalid", String(Boolean(answer.error)));
});

async function act(path) {
  // What came of it is pushed; a page that is not connected has to ask.
  if ((await call(path, {})) && !socket?.connected) refresh();
}

el("still-here").addEventListener("click", () => act("/still-here"));
el("logout").addEventListener("click", () => act("/logout"));
el("logout-everyone").addEventListener("click", () => act("/logout-everyone"));
// The server decides what comes next: another tab may have logged in again meanwhile.
el("again").addEventListener("click", () => location.assign("/"));

document.addEventListener("visibilitychange", () => {
  // A computer that slept has a stale list; looking does not prolong the session.
  if (!document.hidden && socket?.connected) refresh();
});

setInterval(tick, 250);
if (!el("inside").hidden) enter();
