// The session key is in an HttpOnly cookie: this script never sees it, and has no need to.

const el = (id) => document.getElementById(id);
const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
const SOON = 10; // seconds before the end at which the page asks for attention

let socket = null;
let rows = [];
let warned = false;

function connect() {
  if (typeof io === "undefined") return connection("offline", "No live updates: socket.io-client did not load");
  socket = io();
  // Fires on every reconnection too, which is how a tab that was away learns that its session has ended.
  socket.on("connect", () => {
    socket.emit("session_key", (alive) => (alive ? connection("connected", "Connected") : leave()));
  });
  socket.on("disconnect", () => connection("offline", "Offline, retrying"));
  socket.on("connect_error", () => connection("offline", "Offline, retrying"));
  socket.on("logout", leave);
  socket.on("sessions", draw);
}

function leave() {
  if (!el("outside").hidden) return;
  socket?.disconnect();
  // What only somebody who is logged in may see does not stay in the page.
  draw([]);
  el("first-sessions").remove();
  el("me").textContent = el("notice").textContent = "";
  el("inside").hidden = el("connection").hidden = true;
  el("outside").hidden = false;
  document.title = "Logged out";
  el("alarm").textContent = "You are logged out.";
  el("outside-title").focus();
}

function connection(state, text) {
  if (el("connection").dataset.state === state) return; // said once is enough
  el("connection").dataset.state = state;
  el("connection").textContent = text;
}

async function post(path, body) {
  let response, answer;
  try {
    response = await fetch(path, { method: "POST", headers: { "X-CSRFToken": token }, body });
    answer = await response.json();
  } catch {
    el("notice").textContent = "The server did not answer. Try again when you are connected.";
    return {};
  }
  el("notice").textContent = "";
  if (answer.logout) leave();
  return answer;
}

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
    const soon = left <= SOON && row.timeout > SOON; // one that is short from its beginning has nothing to warn of
    document.body.classList.toggle("soon", soon);
    if (soon !== warned) el("notice").textContent = soon ? "You will be logged out in a few seconds." : "";
    warned = soon;
  }
}

function clock(seconds) {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

el("still-here").addEventListener("click", () => post("/still-here/"));
el("timeout-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await post("/timeout/", new FormData(event.target));
  el("timeout-answer").className = answer.error ? "error" : "done";
  el("timeout-answer").textContent = answer.error ?? answer.done ?? "";
  el("seconds").setAttribute("aria-invalid", String(Boolean(answer.error)));
});
el("logout-everyone")?.addEventListener("click", () => post("/logout-everyone/"));

draw(JSON.parse(el("first-sessions").textContent));
setInterval(tick, 250);
connect();
