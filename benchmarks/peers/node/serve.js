// Echo server on Node's ws, with bufferutil where npm could install it.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
  maxPayload: 0,
});
server.on("connection", (socket) => {
  socket.on("message", (message, binary) => socket.send(message, { binary }));
  socket.on("error", () => {});
});
