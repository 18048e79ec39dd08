// What both pages of this example do: show lists of sessions, and warn before a session expires.
// The session key is in an HttpOnly cookie, so no script here can read it.

import { act, countDown, el, enter, tick } from "./shared/page.js";

const TITLE = document.title;

// `draw` gets the lists of the page. Each of them says whether the warning is due, and the server sends an event too.
export function enterLive({ draw, ...page }) {
  enter({
    ...page,
    warn,
    draw: (data) => {
      draw(data);
      if (data.you.expiring) warn(data.you.left);
      else stopWarning();
    },
    left: stopWarning,
  });
}

// The warning

function warn(left) {
  countDown(el("warning-time"), left);
  tick();
  if (el("warning").open) return;
  document.body.classList.add("soon");
  document.title = "Are you still there?";
  const seconds = Math.ceil(left);
  const time = `${seconds} ${seconds === 1 ? "second" : "seconds"}`;
  el("warning-text").textContent = `You will be logged out in ${time}, here and in every other tab.`;
  el("warning").showModal();
}

function stopWarning() {
  document.body.classList.remove("soon");
  document.title = TITLE;
  el("warning-notice").textContent = "";
  el("warning").close();
}

el("stay").addEventListener("click", () => act("/still-here"));
el("warning-logout").addEventListener("click", () => act("/logout"));
el("warning").addEventListener("cancel", (event) => {
  event.preventDefault(); // the list that the server pushes next closes the dialog, here and in the other tabs
  act("/still-here"); // pressing Escape shows that the user is present
});
el("warning").addEventListener("close", () => {
  // A browser may close a dialog against the page's wish; the session would then end without a warning.
  if (document.body.classList.contains("soon") && !el("warning").open) el("warning").showModal();
});

// Lists

// `ending` returns the properties of the button that ends a session, given the session and its description.
export function drawSessions(list, sessions, heading, ending) {
  sync(list, sessions, "session", heading, (row, session) => {
    const since = moment(session.since);
    row.querySelector(".browser").textContent = session.browser;
    row.querySelector(".label").textContent = `${session.label} · since ${since}`;
    row.querySelector(".you").textContent = session.here ? "this one" : "";
    countDown(row.querySelector(".left"), session.left);
    Object.assign(row.querySelector("button"), ending(session, `${session.browser}, since ${since}`));
  });
}

// An item that stays keeps its element, so an update does not take the focus from its button.
export function sync(parent, items, template, heading, fill) {
  const ids = new Set(items.map((item) => item.id));
  for (const node of [...parent.children]) {
    if (ids.has(node.dataset.id)) continue;
    keepFocus(node, heading);
    node.remove();
  }
  const known = new Map([...parent.children].map((node) => [node.dataset.id, node]));
  items.forEach((item, index) => {
    const node = known.get(item.id) ?? el(template).content.firstElementChild.cloneNode(true);
    node.dataset.id = item.id;
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
    fill(node, item);
  });
}

export function keepFocus(node, heading) {
  if (node.contains(document.activeElement)) heading.focus();
}

function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = date.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short" };
  return date.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
}
