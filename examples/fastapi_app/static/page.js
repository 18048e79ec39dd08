// The session key is in an HttpOnly cookie, so this script cannot read it.

import {
  act, el, element, enter, listen, markSoon, onLogin, post, refreshUnlessPushed, request, setTime, userItem,
} from "./shared/page.js";

// To request the session does not prolong it; to request the orders does.
const page = { path: "/session", event: "session", draw, online: drawOnline, tick: markSoon };

function draw(session) {
  setTime(session);
  el("me").textContent = session.username;
}

function drawOnline(names) {
  const me = el("me").textContent;
  el("online").replaceChildren(...names.map((name) => userItem(name, name, me)));
}

async function showOrders() {
  const answer = await request("/orders");
  if (!answer) return;
  el("orders").replaceChildren(
    ...answer.orders.map((order) => {
      const row = document.createElement("tr");
      row.append(element("td", order.dish), element("td", order.count, "number digits"));
      return row;
    }),
  );
  const times = answer.asked === 1 ? "once" : `${answer.asked} times`;
  el("asked").textContent = `You have asked for them ${times} in this session.`;
  refreshUnlessPushed();
}

function enterPage() {
  enter(page);
  showOrders();
}

onLogin(
  async (username, password) => {
    const answer = await post("/login", { username, password });
    // FastAPI itself refuses a text that is too long, in a form of its own.
    return answer?.detail ? { error: "That is no username and password." } : answer;
  },
  () => {
    enterPage();
    el("show-orders").focus();
  },
);

el("show-orders").addEventListener("click", showOrders);
el("follow").addEventListener("click", () => {
  listen("/orders/progress", (step) => (el("progress").textContent = step));
});
el("logout").addEventListener("click", () => act("/logout"));

if (!el("inside").hidden) enterPage();
