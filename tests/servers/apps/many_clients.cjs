// Many clients of the real socket.io-client: `many_clients.cjs MODULES`. Each line of the input names an address and the
// keys of as many clients, `{"address": ..., "keys": [...]}`; what happens to them is printed, a line for each event.
const { io } = require(`${process.argv[2]}/socket.io-client`);

const say = (what, key, more) => console.log(JSON.stringify({ what, key, at: Date.now() / 1000, ...more }));

function connect(address, key) {
  // A connection of its own, as each page has; it comes back after its server was replaced.
  const socket = io(address, { transports: ["websocket"], forceNew: true, reconnectionDelay: 200, reconnectionDelayMax: 400 });
  let isOver = false; // a page leaves then, and presents its key no more, also if its server is replaced
  socket.on("connect", () => isOver || socket.emit("session_key", key, (joined) => say("joined", key, { joined })));
  socket.on("disconnect", () => say("disconnected", key));
  socket.on("logout", () => {
    isOver = true;
    say("logout", key);
    setTimeout(() => socket.close(), 3000); // a second one would be a mistake, and is seen until then
  });
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { address, keys } = JSON.parse(line);
    for (const key of keys) connect(address, key);
  })
  .on("close", () => process.exit(0));
