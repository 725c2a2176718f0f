// Node's `ws` as the other side of talk.py. It is run by test_node_ws.py with one line of JSON:
//
//   {"role": "server", "deflate": false or options}
//       listens, prints {"port": N}, then {"code": ..., "reason": ...} for each connection that ends;
//       ends when its standard input does
//   {"role": "client", "deflate": ..., "address": "ws://...", "directory": "..."}
//       follows the scripts of a server with the messages that lie in the directory; prints {"done": N} messages
"use strict";
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const WebSocket = require("ws");

const asked = JSON.parse(process.argv[2]);
const BYE = { code: asked.bye[0], reason: asked.bye[1] };
const report = (fact) => process.stdout.write(JSON.stringify(fact) + "\n");

function thirds(data) {
  const middle = data.length >> 1;
  return [data.subarray(0, middle), data.subarray(0, 0), data.subarray(middle)];
}

function sendInFragments(socket, pieces, binary) {
  pieces.forEach((piece, i) => socket.send(piece, { binary, fin: i === pieces.length - 1 }));
}

function serve() {
  const server = new WebSocket.Server({
    host: "127.0.0.1", port: 0, perMessageDeflate: asked.deflate, maxPayload: 0,
  }, () => report({ port: server.address().port }));
  server.on("connection", (socket, request) => {
    socket.on("close", (code, reason) => report({ code, reason: reason.toString() }));
    socket.on("message", (data, binary) => {
      if (request.url === "/fragments") sendInFragments(socket, thirds(data), binary);
      else socket.send(data, { binary });
    });
    if (request.url === "/close") socket.close(BYE.code, BYE.reason);
    if (request.url === "/ping") {
      socket.on("pong", (data) => { if (data.toString() === "are you there?") socket.send("pong"); });
      socket.ping("are you there?");
    }
  });
  process.stdin.on("end", () => process.exit(0)).resume();
}

// ---- the client ----

const once = (socket, name) => new Promise((resolve, reject) => {
  socket.once(name, (...values) => resolve(values));
  socket.once("error", reject);
});

async function open(script) {
  const socket = new WebSocket(asked.address + script, { perMessageDeflate: asked.deflate, maxPayload: 0 });
  const closed = once(socket, "close");
  const got = [];
  const wanted = [];
  // From the first moment on: a message may arrive together with the end of the handshake.
  socket.on("message", (data, binary) => {
    if (wanted.length) wanted.shift()([data, binary]); else got.push([data, binary]);
  });
  const receive = () => got.length ? Promise.resolve(got.shift()) : new Promise((resolve) => wanted.push(resolve));
  await once(socket, "open");
  return { socket, closed, receive };
}

async function echoes(script) {
  const { socket, closed, receive } = await open(script);
  const names = fs.readdirSync(asked.directory).sort();
  for (const name of names) {
    const data = fs.readFileSync(path.join(asked.directory, name));
    socket.send(data, { binary: name.endsWith(".binary") });
    const [echo, binary] = await receive();
    assert.ok(echo.equals(data), `${script}: ${name} came back changed`);
    assert.strictEqual(binary, name.endsWith(".binary"));
  }
  const pieces = ["one ", "", "two, naïve"].map((piece) => Buffer.from(piece));
  sendInFragments(socket, pieces, false);
  assert.ok((await receive())[0].equals(Buffer.concat(pieces)));
  const pong = once(socket, "pong");
  socket.ping("still there?");
  assert.strictEqual((await pong)[0].toString(), "still there?");
  socket.close(BYE.code, BYE.reason);
  const [code, reason] = await closed;
  assert.deepStrictEqual({ code, reason: reason.toString() }, BYE);
  if (asked.deflate) assert.match(socket.extensions, /permessage-deflate/);
  else assert.strictEqual(socket.extensions, "");
  return names.length;
}

async function follow() {
  const done = await echoes("/") + await echoes("/fragments");
  const pinged = await open("/ping");
  assert.strictEqual((await pinged.receive())[0].toString(), "pong");
  pinged.socket.terminate();
  const { closed } = await open("/close");
  const [code, reason] = await closed;
  assert.deepStrictEqual({ code, reason: reason.toString() }, BYE);
  report({ done });
}

if (asked.role === "server") serve();
else follow().catch((error) => { console.error(error); process.exit(1); });
