/* serve.c: a WebSocket server as cheap as C makes it, for measuring clients.
 *
 *   echo       every frame comes back while it arrives: unmasked in one pass, never gathered. With -e a compressed
 *              message comes back compressed as it is: both directions have the same parameters, so what the client's
 *              compressor wrote is what its decompressor can read, context takeover included.
 *   firehose   from the handshake on, prepared messages as fast as the socket takes them.
 *
 * One thread, one epoll. Prints {"port": N} when it listens (-p 0: any free port), and ends when killed.
 */
#define _GNU_SOURCE
#include "accept.h"
#include "wire.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST = 4096, EVENTS = 256, BACKLOG = 511 };

struct connection {
    int fd, open, ending, blocked;
    char request[REQUEST];
    size_t asked;
    struct head head;
    uint64_t frame; /* payload bytes to come */
    uint8_t key[8]; /* twice, so that any phase has four bytes */
    unsigned phase;
    uint8_t *unsent; /* what the socket did not take: nothing is read meanwhile */
    size_t unsent_from, unsent_to;
    size_t offset, message; /* firehose: where in the script, and how much of this message is left */
    size_t next;
};

static struct {
    int port, firehose, binary;
    size_t size;
    const char *file, *extensions;
} options = {.size = 256};

static struct script script;
static int epoll;

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event) != 0) die("epoll_ctl");
}

static void drop(struct connection *c) {
    close(c->fd);
    free(c->unsent);
    free(c);
}

/* ---- sending: 0 when the connection is gone ---- */

static int send_some(struct connection *c, const uint8_t *data, size_t len, size_t *sent) {
    ssize_t done = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno != EAGAIN) return 0;
    *sent = done < 0 ? 0 : (size_t)done;
    return 1;
}

static int send_all(struct connection *c, const uint8_t *data, size_t len) {
    size_t sent;
    if (!send_some(c, data, len, &sent)) return 0;
    if (sent == len) return 1;
    c->unsent = realloc(c->unsent, len - sent);
    if (c->unsent == NULL) die("memory");
    memcpy(c->unsent, data + sent, len - sent);
    c->unsent_from = 0;
    c->unsent_to = len - sent;
    watch(c, EPOLL_CTL_MOD, EPOLLOUT);
    return 1;
}

static int send_unsent(struct connection *c) {
    size_t sent;
    if (!send_some(c, c->unsent + c->unsent_from, c->unsent_to - c->unsent_from, &sent)) return 0;
    c->unsent_from += sent;
    if (c->unsent_from == c->unsent_to) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    return 1;
}

/* ---- echo ---- */

static void unmask(uint8_t *out, const uint8_t *data, size_t len, const uint8_t *key) {
    uint64_t word, mask;
    size_t i = 0;
    memcpy(&mask, key, 4);
    memcpy((uint8_t *)&mask + 4, key, 4);
    for (; i + 8 <= len; i += 8) { /* the compiler makes vectors of it */
        memcpy(&word, data + i, 8);
        word ^= mask;
        memcpy(out + i, &word, 8);
    }
    for (; i < len; i++) out[i] = data[i] ^ key[i % 4];
}

static uint8_t *answer_head(struct connection *c, uint8_t *out) {
    uint8_t first = c->head.bytes[0];
    c->frame = head_length(&c->head);
    c->phase = 0;
    memcpy(c->key, c->head.bytes + head_size(&c->head) - 4, 4);
    memcpy(c->key + 4, c->key, 4);
    if (head_opcode(&c->head) == 9) first ^= 9 ^ 10; /* RFC 6455 5.5.2: a Ping is answered with a Pong */
    if (head_opcode(&c->head) == 8) c->ending = 1;
    c->head.used = 0;
    return put_head(out, first, c->frame, NULL);
}

/* The answer is never longer than what it answers, but for a head that began in the bytes before. */
static int echo(struct connection *c, const uint8_t *data, size_t len) {
    static uint8_t answer[BUFFER + HEAD_MAX];
    const uint8_t *end = data + len;
    uint8_t *out = answer;
    while (data < end) {
        if (c->frame == 0) {
            if (!head_take(&c->head, &data, end)) break;
            if (!(c->head.bytes[1] & 0x80)) return 0; /* RFC 6455 5.1 */
            out = answer_head(c, out);
        }
        size_t part = c->frame < (uint64_t)(end - data) ? (size_t)c->frame : (size_t)(end - data);
        unmask(out, data, part, c->key + c->phase);
        c->phase = (unsigned)((c->phase + part) % 4);
        c->frame -= part;
        data += part;
        out += part;
    }
    return out == answer || send_all(c, answer, (size_t)(out - answer));
}

/* ---- firehose ---- */

/* One send, so that everybody gets a turn: epoll comes back as long as there is room. */
static int pour(struct connection *c) {
    size_t sent, len = script.size - c->offset;
    if (c->ending) len = c->message;
    if (len > 0 && !send_some(c, script.bytes + c->offset, len, &sent)) return 0;
    if (len == 0) sent = 0;
    c->offset = (c->offset + sent) % script.size;
    while (sent > c->message) {
        sent -= c->message;
        c->next = (c->next + 1) % script.count;
        c->message = script.sizes[c->next];
    }
    c->message -= sent;
    if (!c->ending || c->message > 0) return 1;
    static const uint8_t close_frame[] = {0x88, 0x02, 0x03, 0xE8};
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    return send_all(c, close_frame, sizeof close_frame);
}

/* Of what the clients say only the Close matters; nothing else than small frames is expected. */
static void listen_for_close(struct connection *c, const uint8_t *data, size_t len) {
    const uint8_t *end = data + len;
    while (data < end) {
        if (c->frame == 0) {
            if (!head_take(&c->head, &data, end)) return;
            c->frame = head_length(&c->head);
            c->ending |= head_opcode(&c->head) == 8;
            c->head.used = 0;
        }
        size_t part = c->frame < (uint64_t)(end - data) ? (size_t)c->frame : (size_t)(end - data);
        c->frame -= part;
        data += part;
    }
}

/* ---- the life of a connection ---- */

static int shake(struct connection *c) {
    char accept[ACCEPT_SIZE + 1], answer[512];
    ssize_t len = recv(c->fd, c->request + c->asked, REQUEST - 1 - c->asked, 0);
    if (len <= 0) return len < 0 && errno == EAGAIN;
    c->asked += (size_t)len;
    if (strstr(c->request, "\r\n\r\n") == NULL) return c->asked < REQUEST - 1;
    char *key = strcasestr(c->request, "\r\nSec-WebSocket-Key:");
    if (key == NULL) return 0;
    key += strlen("\r\nSec-WebSocket-Key:");
    while (*key == ' ') key++;
    if (strlen(key) < KEY_SIZE) return 0;
    accept_of(key, accept);
    len = snprintf(answer, sizeof answer,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %s\r\n%s%s%s\r\n",
                   accept, options.extensions ? "Sec-WebSocket-Extensions: " : "",
                   options.extensions ? options.extensions : "", options.extensions ? "\r\n" : "");
    c->open = 1;
    if (options.firehose) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    return send_all(c, (uint8_t *)answer, (size_t)len);
}

static int receive(struct connection *c) {
    static uint8_t buffer[BUFFER];
    ssize_t len = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (len < 0 && errno == EAGAIN) return 1;
    if (len <= 0) return 0;
    if (!options.firehose) return echo(c, buffer, (size_t)len);
    listen_for_close(c, buffer, (size_t)len);
    return 1;
}

static int step(struct connection *c, uint32_t events) {
    if (c->unsent_from < c->unsent_to) return !(events & EPOLLERR) && send_unsent(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !(c->open ? receive(c) : shake(c))) return 0;
    return !(events & EPOLLOUT) || pour(c);
}

/* 0 when the connection is gone. RFC 6455 7.1.1: the server closes first, when its Close is on its way. */
static int handle(struct connection *c, uint32_t events) {
    if (!step(c, events)) return 0;
    if (c->ending && c->frame == 0 && c->message == 0 && c->unsent_from == c->unsent_to) shutdown(c->fd, SHUT_WR);
    return 1;
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
        int one = 1;
        struct connection *c = memory(sizeof *c);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->message = options.firehose ? script.sizes[0] : 0;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int start_listening(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    socklen_t size = sizeof address;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, BACKLOG) != 0) die("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) die("getsockname");
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static const char usage[] = "serve [-p PORT] [-e EXTENSIONS]              echo\n"
                            "serve -f [-s SIZE] [-b] [-F FILE] [...]      firehose\n";

static void parse_options(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "p:s:F:e:fb")) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 's': options.size = (size_t)atoll(optarg); break;
        case 'F': options.file = optarg; break;
        case 'e': options.extensions = optarg; break;
        case 'f': options.firehose = 1; break;
        case 'b': options.binary = 1; break;
        default: fputs(usage, stderr); exit(2);
        }
    }
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    program = "serve";
    parse_options(argc, argv);
    if (options.firehose)
        script = options.file ? load_script(options.file) : build_script(options.size, 1, options.binary, 0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = start_listening();
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == NULL)
                accept_all(listener);
            else if (!handle(c, events[i].events))
                drop(c);
        }
    }
}
