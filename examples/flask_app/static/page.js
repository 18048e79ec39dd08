import { act, call, countDown, drawSessions, el, enter, keepFocus, secondsLeft, sync } from "./live.js";

const page = { path: "/sessions", event: "sessions", draw, tick };
let timeout = 1;

function draw({ you, sessions, people }) {
  el("me").textContent = you.username;
  timeout = you.timeout;
  countDown(el("my-time"), you.left);

  const alone = sessions.length < 2;
  if (alone) keepFocus(el("logout-elsewhere"), el("own-title"));
  el("logout-elsewhere").hidden = alone;
  drawSessions(el("own"), sessions, el("own-title"), (session, what) => ({
    hidden: session.here,
    textContent: "Log out there",
    ariaLabel: `Log out there: ${what}`,
  }));

  sync(el("people"), people, "person", el("people-title"), (row, person) => {
    row.querySelector(".name").textContent = person.id;
    row.querySelector(".you").textContent = person.id === you.username ? "this is you" : "";
    row.querySelector(".count").textContent = person.sessions;
    countDown(row.querySelector(".left"), person.left);
  });
}

function tick() {
  el("my-bar").style.transform = `scaleX(${Math.min(1, secondsLeft(el("my-time")) / timeout)})`;
}

// What people do

el("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { username, password } = event.target.elements;
  el("login-error").textContent = "";
  // The page that somebody wanted to see stands in the address, and comes back if it is one of ours.
  const answer = await call(`/login${location.search}`, { username: username.value, password: password.value });
  password.value = "";
  if (!answer) return;
  if (answer.error) {
    el("login-error").textContent = answer.error;
    password.focus();
    return;
  }
  if (answer.next) return location.assign(answer.next);
  el("administrator").hidden = !answer.administrator;
  enter(page);
  el("still-here").focus();
});

el("still-here").addEventListener("click", () => act("/still-here"));
el("logout").addEventListener("click", () => act("/logout"));
el("logout-elsewhere").addEventListener("click", () => act("/logout-elsewhere"));
el("own").addEventListener("click", ({ target }) => {
  if (target.matches("button")) act("/logout-there", { session: target.closest(".session").dataset.id });
});

if (!el("inside").hidden) enter(page);
