// The session key is in an HttpOnly cookie, so this script cannot read it.

import { countDown, el, element, enter, markSoon, onTimeout, request, say, setTime } from "../shared/page.js";

const headers = { "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value };
const post = (path, fields) => request(path, { method: "POST", headers, body: new URLSearchParams(fields) });

const page = { event: "sessions", draw, tick, left: () => el("first-sessions").remove() };
let warned = false;

function draw(sessions) {
  el("sessions").replaceChildren(
    ...sessions.map((session) => {
      const row = document.createElement("tr");
      const username = element("th", session.username);
      username.scope = "row";
      if (session.you) username.append(" ", element("span", "this is you", "you"));
      const left = element("td", "", "number digits");
      countDown(left, session.left);
      row.append(username, element("td", session.label, "label"), left);
      return row;
    }),
  );
  const mine = sessions.find((session) => session.you);
  if (mine) setTime(mine);
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
draw(JSON.parse(el("first-sessions").textContent));
