// The session key is in an HttpOnly cookie, so this script cannot read it.

import { el, element, enter, markSoon, onTimeout, request, say, setTime } from "../shared/page.js";

const headers = { "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value };
const post = (path, fields) => request(path, { method: "POST", headers, body: new URLSearchParams(fields) });

const page = { event: "sessions", draw, tick, left: () => el("first-sessions").remove() };
let warned = false;

function draw(list) {
  el("sessions").replaceChildren(
    ...list.users.map((user) => {
      const row = document.createElement("tr");
      const name = element("th", user.name);
      name.scope = "row";
      if (user.you) name.append(" ", element("span", "this is you", "you"));
      row.append(name, element("td", user.sessions, "number digits"));
      return row;
    }),
  );
  setTime(list);
}

function tick(left, timeout) {
  const soon = markSoon(left, timeout);
  if (soon !== warned) say(soon ? "You will be logged out in a few seconds." : "");
  warned = soon;
}

el("still-here").addEventListener("click", () => post("/still-here/"));
el("logout-elsewhere").addEventListener("click", () => post("/logout-elsewhere/"));
if (el("timeout-form")) onTimeout((seconds) => post("/timeout/", { seconds }));
el("logout-everyone")?.addEventListener("click", () => post("/logout-everyone/"));

enter(page);
const first = JSON.parse(el("first-sessions").textContent);
if (first) draw(first);
