// Node's own HTTP/2: a client of WebSockets, or a server that echoes them, each by hand on streams. RFC 8441.
'use strict';
const http2 = require('http2');
const fs = require('fs');

const [role, where, certificate, key] = process.argv.slice(2);

// The frames in what has arrived, and what is left of it.
function frames(data) {
  const found = [];
  for (;;) {
    if (data.length < 2) return [found, data];
    let size = data[1] & 0x7f;
    let at = 2;
    if (size === 126 && data.length >= 4) [size, at] = [data.readUInt16BE(2), 4];
    else if (size === 127 && data.length >= 10) [size, at] = [Number(data.readBigUInt64BE(2)), 10];
    else if (size > 125) return [found, data];
    const masked = data[1] & 0x80 ? 4 : 0;
    if (data.length < at + masked + size) return [found, data];
    const payload = Buffer.from(data.subarray(at + masked, at + masked + size));
    for (let i = 0; masked && i < size; i++) payload[i] ^= data[at + (i & 3)];
    found.push([data[0], payload]);
    data = data.subarray(at + masked + size);
  }
}

// A frame; the key of one that is masked is zero, which leaves its payload as it is.
function frame(first, payload, masked) {
  const head = Buffer.alloc(payload.length < 126 ? 2 : payload.length < 65536 ? 4 : 10);
  head[0] = first;
  head[1] = head.length === 2 ? payload.length : head.length === 4 ? 126 : 127;
  if (head.length === 4) head.writeUInt16BE(payload.length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(payload.length), 2);
  if (!masked) return Buffer.concat([head, payload]);
  head[1] |= 0x80;
  return Buffer.concat([head, Buffer.alloc(4), payload]);
}

function follow(stream, seen) {
  let rest = Buffer.alloc(0);
  stream.on('data', (data) => {
    let found;
    [found, rest] = frames(Buffer.concat([rest, data]));
    for (const [first, payload] of found) seen(first, payload);
  });
}

function serve() {
  const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), settings: { enableConnectProtocol: true } };
  const server = http2.createSecureServer(options);
  server.on('stream', (stream, headers) => {
    if (headers[':protocol'] !== 'websocket') return stream.close();
    stream.respond({ ':status': 200, 'sec-websocket-protocol': headers['sec-websocket-protocol'] });
    follow(stream, (first, payload) => {
      stream.write(frame(first, payload, false));
      if (first === 0x88) stream.end();
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(server.address().port));
}

function talk() {
  const session = http2.connect(`https://127.0.0.1:${where}`, { ca: fs.readFileSync(certificate) });
  session.on('remoteSettings', (settings) => {
    if (!settings.enableConnectProtocol) throw new Error('no extended CONNECT');
    let open = 3;
    for (const size of [5, 70000, 300000]) {
      const stream = session.request({
        ':method': 'CONNECT', ':protocol': 'websocket', ':path': `/${size}`,
        'sec-websocket-version': '13', 'sec-websocket-protocol': 'chat',
      });
      const message = Buffer.alloc(size, String(open));
      stream.on('response', (headers) => {
        console.log(JSON.stringify([size, headers[':status'], headers['sec-websocket-protocol']]));
        stream.write(frame(0x82, message, true));
      });
      follow(stream, (first, payload) => {
        if (first === 0x82) {
          console.log(JSON.stringify([size, payload.equals(message)]));
          stream.end(frame(0x88, Buffer.from([3, 232]), true));
        } else {
          console.log(JSON.stringify([size, first, payload.readUInt16BE(0)]));
        }
      });
      stream.on('close', () => {
        console.log(JSON.stringify([size, 'closed', stream.rstCode]));
        if (--open === 0) session.close();
      });
    }
  });
}

if (role === 'serve') serve();
else talk();
