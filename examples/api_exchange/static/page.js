const el = (id) => document.getElementById(id);
const UNREACHABLE = "The server did not answer. Try again when you are connected.";

// The one place where the key is kept: no cookie, no storage, and gone with the page.
let session_key = "";
let socket = null;
let shown = { table: "orders", page: 1 };

// The exchange with the server

async function callApi(api_name, body) {
  const headers = { "Accept": "application/json", "Content-Type": "application/json", "Api-Name": api_name };
  const used = session_key;
  if (used) headers["Session-Key"] = used;
  let answer;
  try {
    const response = await fetch("/api", { method: "POST", headers, body: JSON.stringify(body ?? {}) });
    answer = await response.json();
  } catch {
    el("notice").textContent = UNREACHABLE;
    return null;
  }
  // The session this was asked in has ended meanwhile, and what it was told is not for whoever comes next.
  if (used !== session_key) return null;
  if (answer.logout) {
    leave();
    return null;
  }
  el("notice").textContent = answer.unavailable ? UNREACHABLE : "";
  return answer.unavailable ? null : answer;
}

async function tryLogin(username, password) {
  const answer = await callApi("try_login", { username, password });
  if (answer?.accepted) session_key = answer.user_data.session_key;
  return answer;
}

async function getTableData(table, page) {
  const answer = await callApi("get_table_data", { table, page });
  if (!answer) return;
  shown = { table, page: answer.accepted ? answer.table_data.page : 1 };
  for (const tab of document.querySelectorAll("[data-table]")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.table === table));
  }
  el("settings").hidden = table !== "users" || !answer.accepted;
  draw(answer.accepted ? answer.table_data : null);
  if (!answer.accepted) el("notice").textContent = answer.message;
}

// Views

function show(view) {
  for (const id of ["login", "inside", "outside"]) el(id).hidden = id !== view;
  el("connection").hidden = view !== "inside";
}

function enter(user) {
  el("me").textContent = user.username;
  el("timeout").textContent = el("seconds").value = user.timeout;
  show("inside");
  el("inside-title").focus();
  getTableData("orders", 1);
  if (typeof io === "undefined") {
    connection("offline", "No live logout: socket.io-client did not load");
    return;
  }
  socket = io();
  // Fires on every reconnection too, which is how a page that was away learns that its session has ended.
  socket.on("connect", () => {
    socket.emit("session_key", { session_key }, (alive) => alive && connection("connected", "Connected"));
  });
  socket.on("disconnect", () => connection("offline", "Offline, retrying"));
  socket.on("connect_error", () => connection("offline", "Offline, retrying"));
  socket.on("logout", leave);
}

function leave() {
  if (!session_key) return;
  session_key = "";
  socket?.disconnect();
  socket = null;
  // What only somebody who is logged in may see does not stay in the page.
  draw(null);
  connection("waiting", "Connecting");
  for (const id of ["me", "notice", "timeout-answer"]) el(id).textContent = "";
  el("settings").hidden = true;
  show("outside");
  el("alarm").textContent = "You are logged out.";
  el("outside-title").focus();
}

function connection(state, text) {
  if (el("connection").dataset.state === state) return; // said once is enough
  el("connection").dataset.state = state;
  el("connection").textContent = text;
}

// The table

function draw(data) {
  el("columns").replaceChildren(...(data?.columns ?? []).map((name) => cell("th", name, { scope: "col" })));
  el("rows").replaceChildren(
    ...(data?.rows ?? []).map((row) => {
      const tr = document.createElement("tr");
      tr.append(...row.map((value, index) => (index ? cell("td", value) : cell("th", value, { scope: "row" }))));
      if (shown.table === "users") tr.lastChild.append(logOutButton(row[0]));
      return tr;
    }),
  );
  el("table").hidden = !data;
  if (!data) return;
  el("pages").hidden = data.pages === 1;
  el("page").textContent = `${data.page} of ${data.pages}`;
  el("previous").disabled = data.page === 1;
  el("next").disabled = data.page === data.pages;
}

function cell(kind, text, attributes) {
  const made = document.createElement(kind);
  made.textContent = text;
  return Object.assign(made, attributes);
}

function logOutButton(username) {
  const button = cell("button", "Log out", { ariaLabel: `Log ${username} out` });
  button.addEventListener("click", async () => {
    if (await callApi("log_user_out", { username })) getTableData("users", 1);
  });
  return button;
}

// What people do

el("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  el("login-error").textContent = "";
  const answer = await tryLogin(username.value, password.value);
  password.value = "";
  if (!answer) return;
  if (answer.accepted) {
    enter(answer.user_data);
    return;
  }
  el("login-error").textContent = answer.message;
  password.focus();
});

el("timeout-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = el("seconds").value.trim();
  const answer = await callApi("set_session_timeout", { seconds: text === "" ? null : Number(text) });
  if (!answer) return;
  el("timeout-answer").className = answer.accepted ? "done" : "error";
  el("timeout-answer").textContent = answer.accepted ? `Set to ${answer.timeout} seconds.` : answer.message;
  if (answer.accepted) el("timeout").textContent = answer.timeout;
});

for (const tab of document.querySelectorAll("[data-table]")) {
  tab.addEventListener("click", () => getTableData(tab.dataset.table, 1));
}
el("previous").addEventListener("click", () => getTableData(shown.table, shown.page - 1));
el("next").addEventListener("click", () => getTableData(shown.table, shown.page + 1));
el("logout").addEventListener("click", () => callApi("logout"));
el("again").addEventListener("click", () => {
  el("alarm").textContent = "";
  show("login");
  el("username").focus();
});
