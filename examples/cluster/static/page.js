// The session key is in an HttpOnly cookie, so this script cannot read it.

import { act, el, enter, onLogin, post, setTime, userItem } from "./shared/page.js";

// Without an event: the workers push no data, since who is logged in changes on all of them. `logout` is pushed.
const page = { path: "/session", draw };

function draw(session) {
  setTime(session);
  el("me").textContent = session.username;
  el("worker").textContent = session.worker;
  el("online").replaceChildren(
    ...Object.entries(session.users).map(([name, sessions]) =>
      userItem(name, sessions > 1 ? `${name}, ${sessions} sessions` : name, session.username),
    ),
  );
}

onLogin(
  (username, password) => post("/login", { username, password }),
  () => {
    enter(page);
    el("still-here").focus();
  },
);

el("still-here").addEventListener("click", () => act("/still-here"));
el("logout").addEventListener("click", () => act("/logout"));

if (!el("inside").hidden) enter(page);
