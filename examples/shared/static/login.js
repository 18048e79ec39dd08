// Says why the session has ended, and lets a button fill in the form.

const reasons = {
  expired: "You were logged out after a time without activity.",
  deleted: "You were logged out in another tab, or by the administrator.",
};
const reason = new URLSearchParams(location.search).get("reason");
document.querySelector("#reason").textContent = reasons[reason] ?? "";

const form = document.querySelector("form");
for (const button of document.querySelectorAll("[data-password]")) {
  button.addEventListener("click", () => {
    form.username.value = button.dataset.username;
    form.password.value = button.dataset.password;
    form.requestSubmit();
  });
}
