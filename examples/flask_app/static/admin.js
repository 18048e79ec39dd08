import { act, call, drawSessions, el, enter, sync } from "./live.js";

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

el("timeout-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = el("seconds").value.trim();
  const answer = await call("/admin/timeout", { seconds: text === "" ? null : Number(text) });
  if (!answer) return;
  el("timeout-answer").className = answer.error ? "error" : "done";
  el("timeout-answer").textContent = answer.error ?? `Set to ${answer.timeout} seconds.`;
  el("seconds").setAttribute("aria-invalid", String(Boolean(answer.error)));
});

enter({ path: "/admin/sessions", event: "everybody", draw });
