// The real socket.io-client: connects, sends `session_key` for each line of its input, prints a line for each event.
const [modules, address, transport] = process.argv.slice(2);
const { io } = require(`${modules}/socket.io-client`);

const say = (word) => console.log(JSON.stringify(word));
const socket = io(address, { transports: [transport], reconnection: false });
socket.on("connect", () => say({ sid: socket.id }));
socket.on("logout", () => say("logout"));
socket.on("session_expiring", (left) => say({ left }));
socket.on("mark", () => say("mark"));
require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => socket.emit("session_key", JSON.parse(line), (answer) => say({ answer })))
  .on("close", () => process.exit(0));
