// What both pages do: ask the server, hear from it, warn before the end, and end.
// The session key is in an HttpOnly cookie: no script here ever sees it, or has need to.

export const el = (id) => document.getElementById(id);
const UNREACHABLE = "The server did not answer. Try again when you are connected.";
const TITLE = document.title;

let page = null; // where a page has its list from, and what draws it: { path, event, draw }
let socket = null;
let polling = null;
let pushes = 0;
let received = 0;

// Views

export function show(view) {
  for (const id of ["login", "inside", "outside"]) if (el(id)) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

export function enter(thisPage) {
  page = thisPage;
  show("inside");
  if (typeof io === "undefined") {
    connection("offline", "No live updates: socket.io-client did not load");
    polling = setInterval(refresh, 5000);
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
  socket.on("session_expiring", (left) => {
    pushes += 1;
    received = Date.now();
    warn(left);
  });
  socket.on(page.event, (list) => {
    pushes += 1;
    draw(list);
  });
}

function leave() {
  if (!el("outside").hidden) return;
  socket?.disconnect();
  socket = null;
  clearInterval(polling);
  stopWarning();
  // What only somebody who is logged in may see does not stay in the page.
  for (const node of document.querySelectorAll("[data-private]")) node.replaceChildren();
  say("");
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

// Where it can be seen: what is behind a dialog cannot.
function say(text) {
  el("notice").textContent = el("warning").open ? "" : text;
  el("warning-notice").textContent = el("warning").open ? text : "";
}

// The server

export async function call(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await (await fetch(path, body && post)).json();
  } catch {
    say(UNREACHABLE);
    return null;
  }
  for (const id of ["notice", "warning-notice"]) if (el(id).textContent === UNREACHABLE) el(id).textContent = "";
  if (answer.logout) {
    leave();
    return null;
  }
  return answer;
}

export async function act(path, body = {}) {
  say("");
  const answer = await call(path, body);
  if (answer?.error) say(answer.error);
  // What came of it is pushed; a page that is not connected has to ask.
  if (answer && !socket?.connected) refresh();
}

async function refresh() {
  const before = pushes;
  const list = await call(page.path);
  if (list && before === pushes) draw(list); // what was pushed meanwhile is newer
}

// The warning. The server says when it is time for it, in so many words and in each list.

function warn(left) {
  countDown(el("warning-time"), left);
  tick();
  if (el("warning").open) return;
  document.body.classList.add("soon");
  document.title = "Are you still there?";
  const seconds = Math.ceil(left);
  const time = `${seconds} ${seconds === 1 ? "second" : "seconds"}`;
  el("warning-text").textContent = `You will be logged out in ${time}, here and in every other tab.`;
  el("warning").showModal();
}

function stopWarning() {
  document.body.classList.remove("soon");
  document.title = TITLE;
  el("warning-notice").textContent = "";
  el("warning").close();
}

el("stay").addEventListener("click", () => act("/still-here"));
el("warning-logout").addEventListener("click", () => act("/logout"));
el("warning").addEventListener("cancel", (event) => {
  event.preventDefault(); // the list that comes of it closes the dialog, here and in the other tabs
  act("/still-here"); // whoever presses Escape is there
});
el("warning").addEventListener("close", () => {
  // A browser may close a dialog whatever the page says, and the end would come without a warning.
  if (document.body.classList.contains("soon") && !el("warning").open) el("warning").showModal();
});

// Lists

function draw(list) {
  if (el("inside").hidden) return; // an answer that came after the end
  received = Date.now();
  page.draw(list);
  if (list.you.expiring) warn(list.you.left);
  else stopWarning();
  tick();
}

// `ending` says what the button of a session is like that ends it, given the session and what tells it apart.
export function drawSessions(list, sessions, heading, ending) {
  sync(list, sessions, "session", heading, (row, session) => {
    const since = moment(session.since);
    row.querySelector(".browser").textContent = session.browser;
    row.querySelector(".label").textContent = `${session.label} · since ${since}`;
    row.querySelector(".you").textContent = session.here ? "this one" : "";
    countDown(row.querySelector(".left"), session.left);
    Object.assign(row.querySelector("button"), ending(session, `${session.browser}, since ${since}`));
  });
}

// What is still there stays where it is, so that nobody loses the button they are at to an update.
export function sync(parent, items, template, heading, fill) {
  const ids = new Set(items.map((item) => item.id));
  for (const node of [...parent.children]) {
    if (ids.has(node.dataset.id)) continue;
    keepFocus(node, heading);
    node.remove();
  }
  const known = new Map([...parent.children].map((node) => [node.dataset.id, node]));
  items.forEach((item, index) => {
    const node = known.get(item.id) ?? el(template).content.firstElementChild.cloneNode(true);
    node.dataset.id = item.id;
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
    fill(node, item);
  });
}

export function keepFocus(node, heading) {
  if (node.contains(document.activeElement)) heading.focus();
}

// Time

export function countDown(node, left) {
  node.dataset.ends = received + left * 1000;
}

export function secondsLeft(node) {
  return Math.max(0, (node.dataset.ends - Date.now()) / 1000);
}

function tick() {
  for (const node of document.querySelectorAll("[data-ends]")) node.textContent = clock(secondsLeft(node));
  page?.tick?.();
}

function clock(seconds) {
  const whole = Math.ceil(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = date.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
  return date.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
}

document.addEventListener("visibilitychange", () => {
  // A computer that slept has a stale list; looking does not prolong the session.
  if (!document.hidden && socket?.connected) refresh();
});

// The server decides what comes next: another tab may have logged in again meanwhile.
el("again").addEventListener("click", () => location.assign(location.pathname));

setInterval(tick, 250);
