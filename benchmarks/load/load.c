/* load.c: a WebSocket load generator that costs less than what it measures.
 *
 * One thread, one epoll, prepared frames: its own work is two system calls for whatever is ready. It has four ways:
 *
 *   closed loop   -c connections keep -d messages in flight each; an echo that came back whole is answered with
 *                 another message. The usual one.
 *   open loop     -r RATE: messages are due at fixed times whether or not the last ones came back, and latency counts
 *                 from when a message was due, so a server that stalls cannot hide it (no coordinated omission).
 *   sessions      -m M: a connection connects, shakes hands, sends M messages one after another, closes, and begins
 *                 again; the unit is the session. -m 0 counts handshakes.
 *   broadcast     -B: the first connection sends a message, everybody gets it, then it sends the next one. The unit is
 *                 one delivery; latency ends with the last one of a message.
 *
 * With -P PID it reads that process's CPU clock at exactly the moments between which it counts. Prints one line of
 * JSON. What it checks of an echo is its length (not with -F and -e: compressors differ).
 */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* OPENING: no more than this many handshakes at once, below the backlog of 100 that Python's servers listen with. */
/* SETTLE: nanoseconds. */
enum { IN_FLIGHT = 4096, BUCKETS = 64 * 32, OPENING = 64, ANSWER = 1024, EVENTS = 256, SETTLE = 200000000 };

enum phase { CONNECTING, SHAKING, OPEN, CLOSING, CLOSED };

struct options {
    const char *host, *file, *extensions;
    int port, connections, depth, frames, binary, raw, session, broadcast, pid;
    size_t size;
    uint64_t limit;
    double seconds, warmup, rate;
};

struct connection {
    int fd, blocked;
    enum phase phase;
    size_t owed;   /* bytes of the script that have still to be sent */
    size_t offset; /* where in the script sending stopped */
    size_t next;   /* the message of the script that is owed next */
    struct head head;
    uint64_t frame, received; /* payload bytes: to come of this frame, and seen of this message */
    int left;                 /* messages of this session that have not come back */
    uint64_t began;
    char answer[ANSWER]; /* to the handshake */
    size_t answered;
    unsigned first, count;
    uint64_t due[IN_FLIGHT]; /* when the messages in flight were sent, or due: a ring */
};

static struct options options = {.host = "127.0.0.1",
                                 .port = 8765,
                                 .connections = 1,
                                 .depth = 1,
                                 .frames = 1,
                                 .session = -1,
                                 .size = 256,
                                 .seconds = 3,
                                 .warmup = 0.5};
static struct script script;
static struct connection *connections;
static int epoll, opening, opened, started, finished;
static uint64_t histogram[BUCKETS], units, samples, wire_bytes, dropped;
static uint64_t measured_from = UINT64_MAX, stop_at = UINT64_MAX, measured_until;
static uint64_t cpu_own, cpu_peer;
static clockid_t peer_clock;
static int awaited; /* deliveries of the broadcast that is under way */
static uint64_t broadcast_began;

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) die("clock");
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) { return read_clock(CLOCK_MONOTONIC); }

/* ---- latencies: 32 buckets to each power of two, so a figure is off by 3 % at most ---- */

static unsigned bucket_of(uint64_t ns) {
    unsigned power = 63u - (unsigned)__builtin_clzll(ns | 32);
    return (power - 5) * 32 + (unsigned)(ns >> (power - 5));
}

static double bucket_value(unsigned bucket) {
    unsigned power = bucket < 64 ? 0 : bucket / 32 - 1;
    return (double)((uint64_t)(bucket - power * 32) << power);
}

static double percentile(double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)samples);
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) return bucket_value(i) / 1000;
    }
    return 0;
}

static void sample(uint64_t ns) {
    histogram[bucket_of(ns)]++;
    samples++;
}

static void count_unit(void) {
    units++;
    if (options.limit > 0 && units == options.limit) finished = 1;
}

/* ---- sending ---- */

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event) != 0) die("epoll_ctl");
}

static void send_owed(struct connection *c) {
    int blocked = 0;
    while (c->owed > 0 && !blocked) {
        size_t len = script.size - c->offset;
        if (len > c->owed) len = c->owed;
        ssize_t sent = send(c->fd, script.bytes + c->offset, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) die("send");
        blocked = sent < (ssize_t)len;
        if (sent > 0) {
            c->owed -= (size_t)sent;
            c->offset = (c->offset + (size_t)sent) % script.size;
        }
    }
    if (blocked != c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | (blocked ? EPOLLOUT : 0u));
    c->blocked = blocked;
}

/* Small things that a socket without a backlog always takes whole. */
static void send_now(struct connection *c, const void *data, size_t len) {
    if (send(c->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len) die("send");
}

static void owe_message(struct connection *c, uint64_t due) {
    if (c->count == IN_FLIGHT) {
        dropped++; /* reported: an open loop that forgets messages flatters the server */
        return;
    }
    c->due[(c->first + c->count++) % IN_FLIGHT] = due;
    c->owed += script.sizes[c->next];
    c->next = (c->next + 1) % script.count;
}

static void begin_broadcast(uint64_t t) {
    awaited = options.connections;
    broadcast_began = t;
    connections->owed += script.sizes[0];
    send_owed(connections);
}

static void send_close(struct connection *c) {
    /* RFC 6455 5.5.1: code 1000, under the key 0: nobody has to see it. */
    static const uint8_t frame[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8};
    send_now(c, frame, sizeof frame);
    c->phase = CLOSING;
}

/* ---- receiving ---- */

static void delivered(uint64_t t) {
    if (awaited == 0) fail("a delivery that nobody asked for");
    if (t >= measured_from) count_unit();
    if (--awaited > 0) return;
    if (broadcast_began >= measured_from) sample(t - broadcast_began);
    if (!finished) begin_broadcast(t);
}

static void message_done(struct connection *c, uint64_t t) {
    if (c->received != options.size && !options.file) fail("an echo of %llu bytes", (unsigned long long)c->received);
    c->received = 0;
    if (options.broadcast) {
        delivered(t);
        return;
    }
    if (c->count == 0) fail("an echo that nobody asked for");
    uint64_t due = c->due[c->first];
    c->first = (c->first + 1) % IN_FLIGHT;
    c->count--;
    if (options.session >= 0) {
        if (--c->left == 0)
            send_close(c);
        else
            owe_message(c, t);
        return;
    }
    if (t >= measured_from && !finished) {
        count_unit();
        sample(t - due);
    }
    if (options.rate == 0 && !finished) owe_message(c, t);
}

static void take_raw(struct connection *c, size_t len, uint64_t t) {
    size_t size = script.sizes[0];
    for (c->frame += len; c->frame >= size; c->frame -= size) {
        c->received = options.size;
        message_done(c, t);
    }
}

static void parse(struct connection *c, const uint8_t *data, size_t len, uint64_t t) {
    const uint8_t *end = data + len;
    while (data < end && c->phase == OPEN) {
        if (c->frame == 0) {
            if (!head_take(&c->head, &data, end)) return;
            c->frame = head_length(&c->head);
            c->received += c->frame;
            c->head.used = 0;
            if (head_opcode(&c->head) >= 8) fail("a control frame, opcode %u", head_opcode(&c->head));
        }
        size_t part = c->frame < (uint64_t)(end - data) ? (size_t)c->frame : (size_t)(end - data);
        c->frame -= part;
        data += part;
        if (c->frame == 0 && head_fin(&c->head)) message_done(c, t);
    }
}

/* ---- the life of a connection ---- */

static void opened_now(struct connection *c, uint64_t t) {
    c->phase = OPEN;
    opening--;
    opened++;
    if (options.session == 0) {
        send_close(c);
    } else if (options.session > 0) {
        c->left = options.session;
        owe_message(c, t);
        send_owed(c);
    }
}

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int one = 1;
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) fail("not an IPv4 address: %s", options.host);
    c->owed = c->offset = c->next = c->answered = c->head.used = 0;
    c->frame = c->received = c->first = c->count = 0;
    c->blocked = 0;
    c->phase = CONNECTING;
    c->began = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) die("connect");
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    opening++;
}

static void shake(struct connection *c) {
    static char request[1024];
    static int len;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) fail("connect: %s", strerror(error));
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (options.raw) {
        opened_now(c, now());
        return;
    }
    if (len == 0)
        len = snprintf(request, sizeof request,
                       "GET / HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                       options.host, options.port, options.extensions ? "Sec-WebSocket-Extensions: " : "",
                       options.extensions ? options.extensions : "", options.extensions ? "\r\n" : "");
    send_now(c, request, (size_t)len);
    c->phase = SHAKING;
}

/* Bytes behind the answer stay in the socket: it is read up to its end and no further. */
static void read_answer(struct connection *c) {
    ssize_t len = recv(c->fd, c->answer + c->answered, ANSWER - 1 - c->answered, MSG_PEEK);
    if (len <= 0) fail("the server closed the connection instead of answering the handshake");
    c->answer[c->answered + (size_t)len] = 0;
    char *end = strstr(c->answer, "\r\n\r\n");
    size_t take = end ? (size_t)(end + 4 - c->answer) - c->answered : (size_t)len;
    if (recv(c->fd, c->answer + c->answered, take, 0) != (ssize_t)take) die("recv");
    c->answered += take;
    c->answer[c->answered] = 0;
    if (c->answered >= 12 && memcmp(c->answer, "HTTP/1.1 101", 12) != 0) fail("not a 101: %.60s", c->answer);
    if (end == NULL && c->answered == ANSWER - 1) fail("an endless answer to the handshake");
    if (end == NULL) return;
    if (options.extensions && strcasestr(c->answer, "permessage-deflate") == NULL)
        fail("the server does not compress");
    opened_now(c, now());
}

static void session_done(struct connection *c) {
    uint64_t t = now();
    close(c->fd);
    c->phase = CLOSED;
    opened--;
    if (t >= measured_from && !finished) {
        count_unit();
        sample(t - c->began);
    }
    if (!finished && (options.limit == 0 || units + (uint64_t)(opened + opening) < options.limit)) open_connection(c);
}

static void receive(struct connection *c) {
    static uint8_t buffer[BUFFER];
    ssize_t len = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (len < 0 && errno == EAGAIN) return;
    if (c->phase == CLOSING) {
        if (len <= 0) session_done(c); /* RFC 6455 7.1.1: it is the server that closes first */
        return;
    }
    if (len < 0) die("recv");
    if (len == 0) fail("the server closed the connection");
    if (measured_from <= now()) wire_bytes += (uint64_t)len;
    if (options.raw)
        take_raw(c, (size_t)len, now());
    else
        parse(c, buffer, (size_t)len, now());
}

static void handle(struct connection *c, uint32_t events) {
    if (c->phase == CONNECTING) {
        shake(c);
    } else if (c->phase == SHAKING) {
        read_answer(c);
    } else {
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
        if (c->phase == OPEN && (c->owed > 0 || c->blocked)) send_owed(c);
    }
}

/* ---- the run ---- */

static void open_more(void) {
    static int asked;
    while (asked < options.connections && opening < OPENING) open_connection(&connections[asked++]);
}

static void first_messages(uint64_t t) {
    if (options.broadcast) {
        begin_broadcast(t);
    } else if (options.rate == 0 && options.session < 0) {
        for (int i = 0; i < options.connections; i++) {
            for (int j = 0; j < options.depth; j++) owe_message(&connections[i], t);
            send_owed(&connections[i]);
        }
    }
}

/* Everybody is connected, or, where connecting is measured, nobody is yet. */
static void start(uint64_t t) {
    started = 1;
    measured_from = t + (uint64_t)(options.warmup * 1e9);
    stop_at = measured_from + (uint64_t)(options.seconds * 1e9);
}

static void read_cpu(void) {
    cpu_own = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_own;
    if (options.pid) cpu_peer = read_clock(peer_clock) - cpu_peer;
}

static void send_due(uint64_t t) {
    static uint64_t next_due;
    static int turn;
    if (next_due == 0) next_due = t;
    for (; next_due <= t; next_due += (uint64_t)(1e9 / options.rate)) {
        struct connection *c = &connections[turn++ % options.connections];
        owe_message(c, next_due);
        send_owed(c);
    }
}

/* A broadcast reaches those whom the server has taken in: it may need a turn or two after its 101 for that. */
static uint64_t settled_at(uint64_t t) {
    static uint64_t all_open;
    if (all_open == 0) all_open = t;
    return all_open + (options.broadcast ? SETTLE : 0);
}

static void run(void) {
    struct epoll_event events[EVENTS];
    int warm = 0;
    if (options.session >= 0) start(now());
    for (uint64_t t = now(); t < stop_at && !finished; t = now()) {
        open_more();
        if (!started && opened == options.connections && t >= settled_at(t)) {
            start(t);
            first_messages(t);
        }
        if (!warm && t >= measured_from) {
            warm = 1;
            measured_from = t;
            stop_at = t + (uint64_t)(options.seconds * 1e9);
            read_cpu();
        }
        if (started && options.rate > 0) send_due(t);
        /* An open loop spins: a timer would come late by more than many an echo takes. */
        int count = epoll_wait(epoll, events, EVENTS, options.rate > 0 ? 0 : 20);
        for (int i = 0; i < count; i++) handle(events[i].data.ptr, events[i].events);
    }
    measured_until = now();
    finished = 1;
    if (!warm) fail("nothing was measured");
    read_cpu();
}

static void report(void) {
    double seconds = (double)(measured_until - measured_from) / 1e9, peer = (double)cpu_peer / 1e3;
    uint64_t unanswered = 0;
    for (int i = 0; i < options.connections; i++) unanswered += connections[i].count;
    printf("{\"units\": %llu, \"seconds\": %.4f, \"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"bytes_per_unit\": %.1f, \"generator_share\": %.3f",
           (unsigned long long)units, seconds, (double)units / seconds, percentile(0.5), percentile(0.99),
           percentile(0.999), units ? (double)wire_bytes / (double)units : 0, (double)cpu_own / 1e9 / seconds);
    if (options.pid)
        printf(", \"cpu_us\": %.4f, \"cpu_share\": %.3f", units ? peer / (double)units : 0, peer / 1e6 / seconds);
    if (options.rate > 0)
        printf(", \"unanswered\": %llu, \"dropped\": %llu", (unsigned long long)unanswered,
               (unsigned long long)dropped);
    puts("}");
}

static const char usage[] =
    "load -p PORT [-h HOST] [-c CONNECTIONS] [-d DEPTH] [-s SIZE] [-f FRAMES] [-b]\n"
    "     [-t SECONDS] [-w WARM-UP] [-n UNITS]       stop after that time, or that many messages or sessions\n"
    "     [-r MESSAGES_PER_SECOND]                   open loop\n"
    "     [-m MESSAGES]                              sessions of that many messages\n"
    "     [-B]                                       broadcast\n"
    "     [-x]                                       no WebSocket: the bytes come back as they are\n"
    "     [-F FILE] [-e EXTENSIONS]                  prepared frames, and what the handshake offers\n"
    "     [-P PID]                                   whose CPU time to read\n";

static void parse_options(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "h:p:c:d:s:f:t:w:n:r:m:F:e:P:bBx")) != -1;) {
        switch (option) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'd': options.depth = atoi(optarg); break;
        case 's': options.size = (size_t)atoll(optarg); break;
        case 'f': options.frames = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warmup = atof(optarg); break;
        case 'n': options.limit = (uint64_t)atoll(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        case 'm': options.session = atoi(optarg); break;
        case 'F': options.file = optarg; break;
        case 'e': options.extensions = optarg; break;
        case 'P': options.pid = atoi(optarg); break;
        case 'b': options.binary = 1; break;
        case 'B': options.broadcast = 1; break;
        case 'x': options.raw = 1; break;
        default: fputs(usage, stderr); exit(2);
        }
    }
    if (options.connections < 1 || options.depth < 1 || options.depth > IN_FLIGHT || options.frames < 1) {
        fputs(usage, stderr);
        exit(2);
    }
}

int main(int argc, char **argv) {
    program = "load";
    parse_options(argc, argv);
    script = options.file ? load_script(options.file)
                          : build_script(options.size, (size_t)options.frames, options.binary, 1);
    if (options.pid && clock_getcpuclockid(options.pid, &peer_clock) != 0) fail("no process %d", options.pid);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    connections = memory((size_t)options.connections * sizeof *connections);
    run();
    report();
    return 0;
}
