import { drawSessions, enterLive, sync } from "./live.js";
import { act, el, element, listen, onTimeout, post } from "./shared/page.js";

function draw({ you, users }) {
  sync(el("everyone"), users, "user", el("everyone-title"), (section, user) => {
    const heading = section.querySelector("h2");
    section.ariaLabel = user.id;
    section.querySelector(".name").textContent = user.id;
    section.querySelector(".you").textContent = user.id === you.username ? "this is you" : "";
    section.querySelector(".everywhere").textContent = `Log out ${user.id} everywhere`;
    drawSessions(section.querySelector("ul"), user.sessions, heading, (session, what) => ({
      textContent: "Log out",
      ariaLabel: `Log out ${user.id}: ${what}`,
    }));
  });
}

el("everyone").addEventListener("click", ({ target }) => {
  if (!target.matches("button")) return;
  const username = target.closest(".user").dataset.id;
  if (target.matches(".everywhere")) act("/admin/logout-user", { username });
  else act("/admin/logout", { username, session: target.closest(".session").dataset.id });
});

el("logout-everyone").addEventListener("click", () => act("/admin/logout-everyone"));
onTimeout((seconds) => post("/admin/timeout", { seconds }));

enterLive({ path: "/admin/sessions", event: "sessions", draw });
listen("/admin/activity", (line) => el("activity").prepend(element("li", line)));
