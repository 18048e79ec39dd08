// What the pages of all examples do: send requests, listen to the server, count down, and log out.

export const el = (id) => document.getElementById(id);

// What an example's page adds, each part of it optional:
//   path, draw: where it gets its data, and the function that shows them
//   event: the event with which the server pushes new data; without data, the page requests them; without an event, it
//     requests them every few seconds
//   key: returns what to send as `session_key`, for a page whose key is not in a cookie
//   warn: called with the seconds left when its session is about to expire
//   online: called with the names that presence has, sorted, whenever the page is drawn or one comes or goes
//   tick: called with the seconds left and the timeout of its session
//   left: called when the session has ended
let page = null;
const online = new Set();
let socket = null;
let polling = null;
let stream = null;
let newest = 0; // counts requests and pushes, to drop an answer that is older than what is shown
let failed = false;
let timeout = 1;

// Views

export function show(view) {
  for (const id of ["login", "inside", "outside"]) if (el(id)) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

export function enter(thisPage) {
  page = thisPage;
  show("inside");
  const sessions = window.userSessions; // of user-sessions.js, which signs the page out
  const isOffline = !sessions?.socket;
  if (page.path && (isOffline || !page.event)) polling = setInterval(refresh, 5000);
  if (isOffline) {
    connection("offline", "No live updates: socket.io-client did not load");
    refresh();
    return;
  }
  sessions.key = page.key;
  sessions.onlogout = leave;
  sessions.onwarning = (left) => {
    newest += 1;
    page.warn?.(left);
  };
  sessions.onjoin = () => {
    connection("connected", "Connected");
    if (page.online) socket.emit("presence"); // asks for the whole list; what changes then comes by itself
    refresh();
  };
  socket = sessions.socket;
  socket.on("disconnect", () => connection("offline", "Offline, retrying"));
  socket.on("connect_error", () => connection("offline", "Offline, retrying"));
  socket.disconnect().connect(); // the cookie may be that of a login since, and is shown at the beginning
  if (page.event) socket.on(page.event, (data) => (data ? draw(data) : refresh()));
  socket.on("presence", ({ all, came, went }) => {
    if (all) online.clear();
    for (const name of came) online.add(name);
    for (const name of went) online.delete(name);
    drawOnline();
  });
}

export function leave() {
  if (!page || !el("outside").hidden) return;
  socket?.disconnect();
  socket = null;
  clearInterval(polling);
  stream?.close();
  page.left?.();
  document.body.classList.remove("soon");
  // The page keeps nothing that only a logged-in user may see.
  online.clear();
  for (const node of document.querySelectorAll("[data-ends]")) delete node.dataset.ends;
  for (const node of document.querySelectorAll("[data-private]")) node.replaceChildren();
  say("");
  show("outside");
  document.title = "Logged out";
  el("alarm").textContent = "You are logged out.";
  el("outside-title").focus();
}

function connection(state, text) {
  if (el("connection").dataset.state === state) return; // a screen reader reads each change
  el("connection").dataset.state = state;
  el("connection").textContent = text;
}

// An open dialog covers the page, so its own notice is used.
export function say(text) {
  const covering = document.querySelector("dialog[open] [role=alert]");
  if (covering) covering.textContent = text;
  const shown = covering ? "" : text;
  if (el("notice").textContent !== shown) el("notice").textContent = shown;
}

// The server

// Resolves to the answer, or to null when there is none to use; the page has shown the reason by then.
export async function request(path, options) {
  let answer;
  try {
    answer = await (await fetch(path, options)).json();
  } catch {
    return fail("The server did not answer. Try again when you are connected.");
  }
  if (answer.unavailable) return fail("The server cannot check sessions right now. Try again in a moment.");
  if (failed) say("");
  failed = false;
  if (!answer.logout) return answer;
  leave();
  return null;
}

function fail(reason) {
  failed = true;
  say(reason);
  return null;
}

export function post(path, body = {}, headers = {}) {
  headers = { "Content-Type": "application/json", ...headers };
  return request(path, { method: "POST", headers, body: JSON.stringify(body) });
}

export async function act(path, body) {
  say("");
  const answer = await post(path, body);
  if (answer?.error) say(answer.error);
  if (answer) refreshUnlessPushed();
}

// The server pushes what has changed; a page that is not connected, or is pushed nothing, has to request it.
export function refreshUnlessPushed() {
  if (!socket?.connected || !page.event) refresh();
}

async function refresh() {
  if (!page.path) return;
  const mine = ++newest;
  const data = await request(page.path);
  if (data && mine === newest) draw(data);
}

function draw(data) {
  if (el("inside").hidden) return; // the session has ended in the meantime
  newest += 1;
  page.draw(data);
  drawOnline();
  tick();
}

function drawOnline() {
  if (!el("inside").hidden) page.online?.([...online].sort());
}

// Calls `show` with each server-sent event of a stream, which the server ends with the session.
export function listen(path, show) {
  stream?.close();
  stream = new EventSource(path);
  stream.onmessage = ({ data }) => show(data);
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) refresh(); // it was refused: there may be no session
  };
}

document.addEventListener("visibilitychange", () => {
  // A computer that slept shows old data. A refresh does not prolong the session.
  if (!document.hidden && socket?.connected) refresh();
});

// Time

export function setTime(time) {
  timeout = time.timeout;
  countDown(el("my-time"), time.left);
  tick();
}

export function countDown(node, left) {
  node.dataset.ends = Date.now() + left * 1000;
}

export function tick() {
  for (const node of document.querySelectorAll("[data-ends]")) node.textContent = clock(secondsLeft(node));
  if (!el("my-time")?.dataset.ends) return;
  const left = secondsLeft(el("my-time"));
  el("my-bar").style.transform = `scaleX(${Math.min(1, left / timeout)})`;
  page?.tick?.(left, timeout);
}

function secondsLeft(node) {
  return Math.max(0, (node.dataset.ends - Date.now()) / 1000);
}

function clock(seconds) {
  const whole = Math.ceil(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

// Marks the last seconds of a session, but not of one that is short from its start.
export function markSoon(left, timeout) {
  const soon = left <= 10 && timeout > 10;
  document.body.classList.toggle("soon", soon);
  return soon;
}

// Elements and forms

export function element(kind, text, classes = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = classes;
  return made;
}

export function userItem(name, text, me) {
  const item = element("li", text);
  if (name === me) item.append(" ", element("span", "this is you", "you"));
  return item;
}

// `send` takes the username and the password; `entered` gets an answer without an `error`.
export function onLogin(send, entered) {
  el("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { username, password } = event.target.elements;
    el("login-error").textContent = "";
    const answer = await send(username.value, password.value);
    password.value = "";
    if (!answer) return;
    if (!answer.error) return entered(answer);
    el("login-error").textContent = answer.error;
    password.focus();
  });
}

// `send` takes the seconds, and null if the field does not hold a number.
export function onTimeout(send) {
  el("timeout-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = el("seconds").value.trim();
    const answer = await send(text === "" ? null : Number(text));
    if (!answer) return;
    el("timeout-answer").className = answer.error ? "error" : "";
    el("timeout-answer").textContent = answer.error ?? `Set to ${answer.timeout} seconds.`;
    el("seconds").setAttribute("aria-invalid", String(Boolean(answer.error)));
  });
}

// The server decides what comes next: another tab may have logged in again.
el("again")?.addEventListener("click", () => location.assign(location.pathname));

setInterval(tick, 250);
