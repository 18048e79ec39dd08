// Requests a page of the admin again when its session has ended. The session key is in an HttpOnly cookie.

const socket = io();
let joined = false; // a page that has never joined, since its browser drops the cookie, would be requested for ever
socket.on("connect", () => socket.emit("session_key", (alive) => (joined ||= alive)));
socket.on("logout", () => {
  if (joined) location.assign(location.pathname + location.search); // reload() would send a form again
});
