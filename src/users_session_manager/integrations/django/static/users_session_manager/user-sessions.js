// Signs a page out when its session ends; docs/how-to/page-script.md describes it.
(() => {
  const tag = document.currentScript.dataset;
  const page = (window.userSessions ??= {});
  if (!window.io) return console.warn("user-sessions.js needs socket.io-client");

  const tabs = new BroadcastChannel("user-sessions");
  const socket = (page.socket = io(JSON.parse(tag.options ?? "{}")));
  // A page that is refused every time is requested once.
  let signedIn = "signedIn" in tag && !sessionStorage.userSessions;
  let leftAt = 0;
  let dialog, timer;

  socket.on("connect", () => socket.emit("session_key", page.key?.() ?? null, join));
  socket.on("session_expiring", (left) => (page.onwarning ?? warn)(left));
  socket.on("logout", signOut);

  function join(alive) {
    if (!alive) return;
    signedIn = true;
    delete sessionStorage.userSessions;
    page.onjoin?.();
  }

  function signOut({ reason } = {}) {
    const wait = leftAt + 10000 - Date.now();
    if (wait > 0) return setTimeout(signOut, wait, { reason });
    close();
    if (page.onlogout) return page.onlogout(reason);
    if (!signedIn) return;
    sessionStorage.userSessions = true;
    signedIn = false;
    const here = location.pathname + location.search;
    const url = new URL(tag.login ?? "", location.href);
    if (tag.login && reason) url.searchParams.set("reason", reason);
    if (tag.login && reason === "expired") url.searchParams.set("next", here);
    location.assign(url);
  }

  // The answer to a form or a link comes first. After a download the page stays.
  const leave = () => (leftAt = Date.now());
  addEventListener("beforeunload", leave);
  addEventListener("submit", (event) => event.defaultPrevented || leave());
  addEventListener("pagehide", () => socket.disconnect());
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    leftAt = 0; // the back button has brought it back
    socket.connect();
  });

  function warn(left) {
    const end = Date.now() + left * 1000;
    if (!dialog) {
      dialog = document.createElement("dialog");
      dialog.className = "user-sessions";
      const button = document.createElement("button"); // no innerHTML: trusted types
      button.textContent = tag.stayText ?? "Stay signed in";
      button.onclick = stay;
      dialog.append(document.createElement("p"), button);
      document.body.append(dialog);
    }
    const text = tag.warningText ?? "Seconds until you are signed out: {}";
    const show = () => {
      const seconds = Math.ceil((end - Date.now()) / 1000);
      dialog.firstChild.textContent = text.replace("{}", seconds);
      if (seconds <= 0) close();
    };
    close();
    dialog.showModal();
    timer = setInterval(show, 1000);
    show();
  }

  function close() {
    clearInterval(timer);
    dialog?.close();
  }
  tabs.onmessage = close;

  async function stay() {
    const answer = await fetch(tag.stay ?? location.href, { redirect: "manual" }).catch(() => {});
    if (!answer?.ok) return;
    close();
    tabs.postMessage("stay");
  }
})();
