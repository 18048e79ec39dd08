// The session key is in an HttpOnly cookie: this script never sees it, and has no need to.

const el = (id) => document.getElementById(id);
const VIEWS = ["login", "inside", "outside"];
const SOON = 10; // seconds before the end at which the page asks for attention

let socket = null;
let ends = null; // when the session runs out, in this computer's milliseconds
let timeout = 1;

// The server

// Resolves to the answer, or to null when there is nothing to go on with: the page has said why by then.
async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  try {
    const answer = await (await fetch(path, options)).json();
    if (answer.logout) {
      leave();
      return null;
    }
    say(answer.unavailable ? "Nobody can say right now who is logged in. Try again in a moment." : "");
    return answer.unavailable ? null : answer;
  } catch {
    say("The server did not answer. Try again when you are connected.");
    return null;
  }
}

function connect() {
  if (typeof io === "undefined") return state("offline", "No live updates: socket.io-client did not load");
  socket = io();
  // Fires on every reconnection too, which is how a tab that was away learns that its session has ended.
  socket.on("connect", async () => {
    if (!(await socket.emitWithAck("session_key"))) return; // `logout` is on its way
    state("connected", "Connected");
    look();
  });
  socket.on("disconnect", () => state("offline", "Offline, retrying"));
  socket.on("connect_error", () => state("offline", "Offline, retrying"));
  socket.on("logout", leave);
  socket.on("time", setTime);
  socket.on("online", drawOnline);
}

// Looking does not prolong the session.
async function look() {
  const now = await call("/session");
  if (!now) return;
  setTime(now);
  drawOnline(now.online);
}

// Asking for the orders does.
async function ask() {
  const answer = await call("/orders");
  if (!answer) return;
  el("orders").replaceChildren(
    ...answer.orders.map((order) => {
      const row = document.createElement("tr");
      row.append(made("td", order.dish), made("td", order.count, "number digits"));
      return row;
    }),
  );
  const times = answer.asked === 1 ? "once" : `${answer.asked} times`;
  el("asked").textContent = `You have asked for them ${times} in this session.`;
  if (!socket?.connected) look();
}

// What is on the page

function show(view) {
  for (const id of VIEWS) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

function enter(username) {
  el("me").textContent = username;
  show("inside");
  connect();
  ask();
}

function leave() {
  if (!el("outside").hidden) return;
  socket?.disconnect();
  socket = null;
  ends = null;
  // What only somebody who is logged in may see does not stay in the page.
  for (const id of ["me", "orders", "asked", "online"]) el(id).replaceChildren();
  say("");
  show("outside");
  document.title = "Logged out";
  document.body.classList.remove("soon");
  el("alarm").textContent = "You are logged out.";
  el("outside-title").focus();
}

function say(text) {
  if (el("notice").textContent !== text) el("notice").textContent = text;
}

function state(name, text) {
  el("connection").dataset.state = name;
  if (el("connection").textContent !== text) el("connection").textContent = text; // said once is enough
}

function made(kind, text, classes = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  element.className = classes;
  return element;
}

function drawOnline(users) {
  const me = el("me").textContent;
  el("online").replaceChildren(
    ...users.map((name) => {
      const item = made("li", name);
      if (name === me) item.append(" ", made("span", "this is you", "you"));
      return item;
    }),
  );
}

function setTime(time) {
  ends = Date.now() + time.left * 1000;
  timeout = time.timeout;
  tick();
}

function tick() {
  if (ends === null) return;
  const left = Math.max(0, (ends - Date.now()) / 1000);
  const whole = Math.ceil(left);
  el("time").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  el("bar").style.transform = `scaleX(${Math.min(1, left / timeout)})`;
  document.body.classList.toggle("soon", left <= SOON);
}

// What people do

el("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  el("login-error").textContent = "";
  const answer = await call("/login", { username: username.value, password: password.value });
  password.value = "";
  if (!answer) return;
  if (!answer.username) {
    el("login-error").textContent = answer.error ?? "That is no username and password.";
    password.focus();
    return;
  }
  enter(answer.username);
  el("ask").focus();
});

el("ask").addEventListener("click", ask);
el("logout").addEventListener("click", () => call("/logout", {}));
// The server decides what comes next: another tab may have logged in again meanwhile.
el("again").addEventListener("click", () => location.assign("/"));

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && socket?.connected) look(); // a computer that slept has counted wrongly
});

setInterval(tick, 250);
const username = document.body.dataset.username;
if (username) enter(username);
else {
  show("login");
  el("username").focus();
}
