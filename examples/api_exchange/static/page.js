import { el, element, enter, onLogin, onTimeout, post, say } from "./shared/page.js";

// The only place that holds the key: it is in no cookie and no storage, and goes with the page.
let session_key = "";
let shown = { table: "orders", page: 1 };

// The exchange with the server

async function callApi(api_name, body) {
  const used = session_key;
  const headers = used ? { "Api-Name": api_name, "Session-Key": used } : { "Api-Name": api_name };
  const answer = await post("/api", body, headers);
  // The session may have ended while the server answered. The page no longer shows its data then.
  return used === session_key ? answer : null;
}

async function tryLogin(username, password) {
  const answer = await callApi("try_login", { username, password });
  if (answer?.accepted) session_key = answer.user_data.session_key;
  return withError(answer);
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
  say(answer.accepted ? "" : answer.message);
}

function withError(answer) {
  return answer && !answer.accepted ? { error: answer.message } : answer;
}

// The page

const page = {
  key: () => ({ session_key }),
  left: () => {
    session_key = "";
    draw(null);
    el("settings").hidden = true;
  },
};

function draw(data) {
  el("columns").replaceChildren(
    ...(data?.columns ?? []).map((name, index, all) => cell("th", name, "col", index === all.length - 1)),
  );
  el("rows").replaceChildren(
    ...(data?.rows ?? []).map((row) => {
      const tr = document.createElement("tr");
      tr.append(...row.map((value, index) => cell(index ? "td" : "th", value, "row", index === row.length - 1)));
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

function cell(kind, text, scope, isLast) {
  const made = element(kind, text, isLast ? "number" : "");
  if (kind === "th") made.scope = scope;
  return made;
}

function logOutButton(username) {
  const button = Object.assign(element("button", "Log out", "small"), { ariaLabel: `Log ${username} out` });
  button.addEventListener("click", async () => {
    if (await callApi("log_user_out", { username })) getTableData("users", 1);
  });
  return button;
}

onLogin(tryLogin, ({ user_data }) => {
  el("me").textContent = user_data.username;
  el("timeout").textContent = el("seconds").value = user_data.timeout;
  enter(page);
  el("inside-title").focus();
  getTableData("orders", 1);
});

onTimeout(async (seconds) => {
  const answer = withError(await callApi("set_session_timeout", { seconds }));
  if (answer?.timeout) el("timeout").textContent = answer.timeout;
  return answer;
});

for (const tab of document.querySelectorAll("[data-table]")) {
  tab.addEventListener("click", () => getTableData(tab.dataset.table, 1));
}
el("previous").addEventListener("click", () => getTableData(shown.table, shown.page - 1));
el("next").addEventListener("click", () => getTableData(shown.table, shown.page + 1));
el("logout").addEventListener("click", () => callApi("logout"));
