// Shows who is online, and what the server pushes; user-sessions.js has connected the page.

const list = document.querySelector("#online");
const socket = userSessions.socket;
const online = new Set();

const ask = () => socket.emit("presence");
userSessions.onjoin = ask;
ask(); // the page may have joined its session already

socket.on("presence", ({ all, came, went }) => {
  if (all) online.clear();
  came.forEach((name) => online.add(name));
  went.forEach((name) => online.delete(name));
  list.replaceChildren(...[...online].sort().map(item));
});

socket.on("notice", (text) => {
  document.querySelector("#notice").textContent = text;
});

function item(name) {
  const item = element("li", name);
  if (name === list.dataset.username) item.append(element("span", "this is you"));
  else if ("administrator" in list.dataset) item.append(logOutButton(name));
  return item;
}

function logOutButton(username) {
  const button = element("button", "Log out");
  button.setAttribute("aria-label", `Log out ${username}`);
  button.addEventListener("click", () => {
    const token = document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? ""; // Django asks for it
    const headers = { "Content-Type": "application/json", "X-CSRFToken": token };
    fetch("/logout-user", { method: "POST", headers, body: JSON.stringify({ username }) });
  });
  return button;
}

function element(kind, text) {
  return Object.assign(document.createElement(kind), { textContent: text });
}
