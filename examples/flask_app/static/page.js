import { drawSessions, enterLive, keepFocus, sync } from "./live.js";
import { act, el, onLogin, post, setTime } from "./shared/page.js";

const page = { path: "/sessions", event: "sessions", draw, online: drawOnline };

function draw({ you, sessions }) {
  el("me").textContent = you.username;
  setTime(you);

  const alone = sessions.length < 2;
  if (alone) keepFocus(el("logout-elsewhere"), el("own-title"));
  el("logout-elsewhere").hidden = alone;
  drawSessions(el("own"), sessions, el("own-title"), (session, what) => ({
    hidden: session.here,
    textContent: "Log out there",
    ariaLabel: `Log out there: ${what}`,
  }));
}

// Each name of presence is that of a session: a username and an id.
function drawOnline(names) {
  const counts = new Map();
  for (const name of names) {
    const username = name.slice(0, name.lastIndexOf(" "));
    counts.set(username, (counts.get(username) ?? 0) + 1);
  }
  sync(el("users"), [...counts].map(([id, count]) => ({ id, count })), "user", el("users-title"), (row, user) => {
    row.querySelector(".name").textContent = user.id;
    row.querySelector(".you").textContent = user.id === el("me").textContent ? "this is you" : "";
    row.querySelector(".count").textContent = user.count;
  });
}

onLogin(
  // The server put the page that was requested into the address, and returns it if it is one of ours.
  (username, password) => post(`/login${location.search}`, { username, password }),
  (answer) => {
    if (answer.next) return location.assign(answer.next);
    el("administrator").hidden = !answer.administrator;
    enterLive(page);
    el("still-here").focus();
  },
);

el("still-here").addEventListener("click", () => act("/still-here"));
el("logout").addEventListener("click", () => act("/logout"));
el("logout-elsewhere").addEventListener("click", () => act("/logout-elsewhere"));
el("own").addEventListener("click", ({ target }) => {
  if (target.matches("button")) act("/logout-there", { session: target.closest(".session").dataset.id });
});

if (!el("inside").hidden) enterLive(page);
