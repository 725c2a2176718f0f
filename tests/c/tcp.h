/* tcp.h: two ends of a TCP connection, for what Unix sockets do not have: a mark below which nobody is woken. */
#ifndef TCP_H
#define TCP_H

#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In the place of libc's: as on macOS and the BSDs, which refuse a mark of 0. Linux takes it for 1. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    if (level == SOL_SOCKET && name == SO_RCVLOWAT && *(const int *)value < 1) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_setsockopt, fd, level, name, value, size);
}

/* ends[0] is ours, and does not block. */
static inline void open_tcp(int *ends) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    CHECK(bind(listening, (struct sockaddr *)&address, size) == 0 && listen(listening, 1) == 0, "no port");
    CHECK(getsockname(listening, (struct sockaddr *)&address, &size) == 0, "no name");
    ends[1] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(ends[1], (struct sockaddr *)&address, size) == 0, "nobody listens");
    setsockopt(ends[1], IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one);
    ends[0] = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
    CHECK(ends[0] >= 0, "no connection");
    close(listening);
}

/* How many bytes have to have come before epoll says that the socket is ready. */
static inline int mark_of(int fd) {
    int bytes = 0;
    socklen_t size = sizeof bytes;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, &size) == 0, "no mark");
    return bytes;
}

/* Whether it is ready, within milliseconds. */
static inline int is_ready(int fd, int timeout) {
    struct pollfd ready = {fd, POLLIN, 0};
    return poll(&ready, 1, timeout) == 1;
}

#endif
