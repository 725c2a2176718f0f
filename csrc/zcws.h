/* zcws.h: the contract between the C core and everybody who calls it.
 *
 * The core turns bytes into rows (one a frame: below) and nothing else. It owns no memory (no malloc; every pointer is
 * the caller's and is not kept after the call returns), holds no mutable globals once a kernel has been
 * chosen, and touches a clock or a socket only in turn.c and socket.c. It is safe to call from any number of
 * threads at once, as long as no two of them pass the same `struct zcws_reader` or the same output memory.
 *
 * A fault is a negative ZCWS_BAD_*: the peer broke the rule of that name. What a function returns is said at
 * its declaration.
 *
 * What stands between the two markers is what build_ffi.py hands to ffi.cdef: there is no second copy.
 */
#ifndef ZCWS_H
#define ZCWS_H

#include <stddef.h>
#include <stdint.h>

/* zcws:cdef:begin */

/* ---- reading: from bytes to rows ------------------------------------------------------------------------------- */

/* Faults: each is one sentence of the RFC that the peer did not keep. zcws/errors.py turns them into a
 * close code and a fixed reason; a test checks that no fault is missing there. */
enum {
    ZCWS_BAD_RSV = -1,            /* RFC 6455 5.2: a reserved bit that no agreed extension defines */
    ZCWS_BAD_OPCODE = -2,         /* RFC 6455 5.2: opcode 3-7 or 11-15 */
    ZCWS_BAD_CONTROL_FIN = -3,    /* RFC 6455 5.5: a fragmented control frame */
    ZCWS_BAD_CONTROL_SIZE = -4,   /* RFC 6455 5.5: a control frame over 125 bytes */
    ZCWS_BAD_UNMASKED = -5,       /* RFC 6455 5.1: a frame without a masking key, where one is required */
    ZCWS_BAD_MASKED = -6,         /* RFC 6455 5.1: a frame with a masking key, where none is allowed */
    ZCWS_BAD_LENGTH_FORM = -7,    /* RFC 6455 5.2: a length that is not in its shortest form */
    ZCWS_BAD_LENGTH_SIGN = -8,    /* RFC 6455 5.2: a 64-bit length with the most significant bit set */
    ZCWS_BAD_CONTINUATION = -9,   /* RFC 6455 5.4: a continuation of nothing */
    ZCWS_BAD_INTERLEAVING = -10,  /* RFC 6455 5.4: a new message inside a fragmented one */
    ZCWS_BAD_CLOSE_SIZE = -11,    /* RFC 6455 5.5.1: a Close payload of one byte */
    ZCWS_BAD_CLOSE_CODE = -12,    /* RFC 6455 7.4: a close code that must not be on the wire */
    ZCWS_BAD_CLOSE_REASON = -13,  /* RFC 6455 5.5.1: a close reason that is not UTF-8 */
    ZCWS_BAD_UTF8 = -14,          /* RFC 6455 8.1: text that is not UTF-8 */
    ZCWS_BAD_MESSAGE_SIZE = -15,  /* a message over max_size (a limit of ours) */
    ZCWS_BAD_FRAGMENT_COUNT = -16 /* a message of more than max_fragments frames (a limit of ours) */
};

/* What a row says of its bytes: the low four bits are the opcode (a continuation carries the opcode
 * of its message), the others are these. A row is a whole frame, with two exceptions. Small fragments of a message that
 * are found one behind the other are moved together, and are one row. A frame larger than `fit` comes as pieces, and a
 * piece reads like a fragment. */
enum {
    ZCWS_FIRST = 0x10,     /* the first row of its message; every control frame */
    ZCWS_LAST = 0x20,      /* the last row of its message; every control frame */
    ZCWS_COMPRESSED = 0x40 /* RFC 7692 6: the message is compressed (RSV1 of its first frame) */
};

/* The table that zcws_scan fills: ZCWS_TABLE_HEAD words, then three words a row: what (above), where the
 * payload starts and where it stops (offsets from `base`, bytes). */
enum {
    ZCWS_TABLE_NEXT = 0,      /* offset of the first byte that was not used: the next scan's `begin` */
    ZCWS_TABLE_STATUS = 1,    /* ZCWS_MORE, ZCWS_FULL, ZCWS_CLOSED, or the negated fault */
    ZCWS_TABLE_CONTROLS = 2,  /* how many of the rows are control frames */
    ZCWS_TABLE_REMAINING = 3, /* bytes still to come of the frame whose pieces have been handed out */
    ZCWS_TABLE_HEAD = 4,
    ZCWS_TABLE_ROW = 3,
    ZCWS_TABLE_ROWS = 1024 /* in the table of a reader; elsewhere the caller says how many */
};

/* Added to the number of rows when the table's head has news: anything but "every byte was used, every row is
 * data, go on". Most batches have none, and their head need not be read. */
enum { ZCWS_NEWS = 0x10000 };

enum {
    ZCWS_MORE = 64,  /* every complete frame is in the table */
    ZCWS_FULL = 65,  /* the table is full: scan again */
    ZCWS_CLOSED = 66 /* a Close was the last row: nothing after it is read (RFC 6455 5.5.1) */
};

/* What the kernel collects on one socket before anybody is woken, and what was learnt of that: see mark.h. Zero at first.
 * For C alone. */
struct zcws_mark {
    uint32_t set;     /* bytes; 0: every byte wakes */
    uint32_t most;    /* the next time at most */
    uint32_t resting; /* how many parts of large frames are to come without a mark */
    uint32_t rest;    /* how many it was last time */
};

/* Everything that a reader remembers between two calls. The caller fills in the first group once and
 * leaves the rest at zero; a move of the unread bytes to another place needs no change here. */
struct zcws_reader {
    uint64_t max_size; /* bytes of one message, fragments added up; of a compressed one, an eighth more */
    uint64_t
        max_fragments; /* frames of one message; if 65,536 or more are allowed, an empty last one is not counted */
    uint64_t fit;      /* a frame of at most this many bytes, head included, is waited for whole */
    uint64_t *table;   /* with room for ZCWS_TABLE_ROWS rows; for zcws_scan_landed only */
    uint8_t masked;    /* 1: every frame must carry a masking key; 0: none may */
    uint8_t rsv1;      /* 1: permessage-deflate was agreed */

    uint8_t opcode;     /* of the message in progress; 0 between messages */
    uint8_t compressed; /* the message in progress is compressed */
    uint8_t first;      /* no row of the message in progress has been handed out yet */
    uint8_t what;       /* of the frame in progress: its row's flags */
    uint8_t head;       /* bytes of its head that still lie before its payload; 0: handed out already */
    uint8_t open;       /* a frame is in progress: its head has been read */
    uint8_t closed;     /* a Close has been read */
    int32_t fault;      /* the fault that ended the stream, or 0 */
    uint32_t key;       /* masking key of the frame in progress, turned to the next byte's phase (RFC 6455 5.3) */
    uint32_t utf8;      /* zcws_utf8's state between two pieces of text */
    uint64_t length;    /* bytes of that frame's payload */
    uint64_t remaining; /* of these, not unmasked yet */
    uint64_t size;      /* payload announced by the frames of the message in progress, bytes; over max_size where that
                         * is the fault */
    uint64_t fragments; /* frames of the message in progress */

    /* By zcws_turn: how many bytes it keeps of a frame of which the rest has not come, and in which slot. */
    uint32_t kept;
    uint32_t slot;
    struct zcws_mark mark;

    /* Counts for the caller; nothing here reads them. */
    uint64_t bytes;  /* of the stream, used so far */
    uint64_t rows;   /* handed out so far, plus one for each message that was landed; the caller may subtract some */
    uint64_t frames; /* read whole so far, control frames too */
    uint64_t messages; /* of these, the last ones of their messages */
};

/* Reads every complete frame in base[begin, end): checks its head, unmasks its payload in place, checks
 * text as UTF-8 across fragments and inside a frame that is still arriving, and writes its rows into `table`, which has
 * room for ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * rows words; 1 <= rows < ZCWS_NEWS. Small fragments are moved together,
 * towards `begin`: between the end of a row and the next one there may be anything. Returns the number of rows, plus
 * ZCWS_NEWS where the table's head has to be read. A fault is reported in ZCWS_TABLE_STATUS behind the rows that came
 * before it, and again by every later call. Bytes from ZCWS_TABLE_NEXT on must be there, unchanged, at the next call's
 * begin; even if they are not, nothing outside of base[begin, end) is touched. */
size_t zcws_scan(struct zcws_reader *reader, uint8_t *base, size_t begin, size_t end, uint64_t *table, size_t rows);

/* The same for base[0, len) and the reader's own table. It has half of the arguments: to pass one takes Python as long
 * as 20 bytes take here. */
size_t zcws_scan_landed(struct zcws_reader *reader, uint8_t *base, size_t len);

/* The same for payload bytes that were received straight into the caller's memory: data[0, len) are the
 * next bytes of the frame in progress, len <= ZCWS_TABLE_REMAINING. Unmasks and checks them in place.
 * Returns ZCWS_LAST when they complete the message, 0 when more is to come, or a fault. */
int zcws_land(struct zcws_reader *reader, uint8_t *data, size_t len);

/* Bytes still to come of the frame in progress, if they are of no use before all are there: it is waited for whole, or it
 * `lands`, piece by piece, in memory that is looked at when it is whole. All that has come has been scanned. */
uint64_t zcws_lacking(const struct zcws_reader *reader, int lands);

/* Writes `count` rows, each a whole message in base, as a list for Python's `marshal`: str for text, which has been
 * checked, bytes for all else. That takes each payload and 5 bytes more, and another 5. Returns the bytes written, or 0
 * where `room` bytes are not enough. No payload has 4 GiB: none would fit a ring. */
size_t zcws_list(uint8_t *out, size_t room, const uint8_t *base, const uint64_t *rows, size_t count);

/* Whether waits for bytes try for a moment before they sleep: see waits.h. Zero at first. */
struct zcws_waits {
    uint32_t never;   /* nonzero: no wait tries. For the caller to set; C writes the others */
    uint32_t resting; /* how many of the next waits are to sleep at once, without trying first */
    uint32_t rest;    /* how many it was last time */
    uint32_t lost;    /* grows with each that tries and has the CPU taken away for long */
};

/* ---- many sockets ---------------------------------------------------------------------------------------------- */

enum {
    ZCWS_TURN_MOST = 64, /* sockets that one call of zcws_turn serves */
    ZCWS_SLOTS = 256, /* sockets of which it keeps the beginning of a frame, and how many bytes that has at most: */
    ZCWS_KEPT_MOST = 65600 /* 64 KiB of payload and a head, up to the end of a cache line */
};

enum { ZCWS_MARKED_MOST = 64 };
struct zcws_marked { /* for C alone */
    int fd;
    int age; /* calls of zcws_late since something was received */
    struct zcws_reader *reader;
};

/* What zcws_turn serves, and where it writes what it finds. Filled in by the caller and kept from call to call. */
struct zcws_sockets {
    int epoll; /* its events carry descriptors as their data */
    int only;  /* the socket in `epoll`, if there is exactly one; else -1 */
    /* By descriptor: the reader of a connection that holds no unread bytes, or NULL: see below. */
    struct zcws_reader *const *readers;
    size_t count; /* of `readers` */
    uint64_t *table;
    size_t words;  /* room in the table */
    uint8_t *base; /* where received bytes go, and how many there is room for */
    size_t capacity;
    size_t used; /* words behind the short entries that the last call has written */
    int left; /* for C alone, zero at first: how many sockets were ready when there was no room for them, and which */
    int waiting[ZCWS_TURN_MOST];
    uint8_t *slots; /* ZCWS_SLOTS times ZCWS_KEPT_MOST bytes */
    uint32_t frees; /* how many of them are free, all of them at first, and which */
    uint32_t free[ZCWS_SLOTS];
    struct zcws_waits waits;
    /* How many sockets are marked, and which: while there are any, zcws_late has to be called every few milliseconds. */
    uint32_t marks;
    struct zcws_marked marked[ZCWS_MARKED_MOST];
};

/* Many connections in one crossing: asks which sockets are ready (unless there is only one, which the caller knows to
 * be ready), receives what they have into base, one behind the other, and scans it. Those for which there is no room
 * come first in the next call, before others are asked for; by then some may have been closed, and others may have
 * their descriptors. A socket without a reader is for the caller to serve. Linux only; elsewhere nothing is ever ready.
 *
 * A frame of at most ZCWS_KEPT_MOST bytes of which only the beginning has come is not told of: that beginning is kept in
 * a slot, if one is free and base has 64 KiB more, and comes with the rest. If there are rows before it, it lies behind
 * them as well, until the next call. Whoever takes a reader away has to take it, too: zcws_take_kept.
 *
 * Fills the table. First there is room for ZCWS_TURN_MOST short entries of ZCWS_TURN_ONE words, one for each socket
 * that brought one whole plain data frame and nothing else, as nearly all of them do: a row of zcws_scan, the socket,
 * and where its bytes begin; they stop with the payload. From ZCWS_TURN_ENTRIES on, an entry for each of the others.
 * One with fewer than ZCWS_TURN_SERVE rows is followed by what zcws_scan writes for its bytes: a head and its rows.
 * Returns the number of short entries, plus ZCWS_TURN_OTHERS where there are others. That is less than 256: Python has
 * objects for such numbers, so none has to be allocated while what was received is in no socket any more. */
size_t zcws_turn(struct zcws_sockets *sockets);

/* The same behind a turn in which something was sent, which may be answered before the caller could sleep: tries for a
 * moment. How often it is not to be called before the next time is in `waits.resting`, which it does not count down. */
size_t zcws_turn_again(struct zcws_sockets *sockets);

/* What is kept for `reader`, of which `kept` is not 0: as many bytes. Valid until the next call of zcws_turn, which may
 * use the slot for another. */
const uint8_t *zcws_take_kept(struct zcws_sockets *sockets, struct zcws_reader *reader);

/* `received` bytes have come from a socket, and been scanned. If they are only a part of a large frame, the socket may
 * not be ready to be read again before some thousand bytes have come; in any other case it is with every byte, as at
 * first. zcws_turn does so by itself; this is for sockets that others receive from. `sockets`: those that it is one of, or
 * NULL; then the caller has to see to it that a mark is taken away soon. `ahead`: bytes that may have been received and
 * not been scanned, because they were in the hands of TLS. `lands`: whether a frame that is larger than `fit` is of no use
 * before it is whole. Linux only; elsewhere nothing is changed. */
void zcws_mark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, size_t received, size_t ahead,
               int lands);

/* The socket is ready with every byte again. `is_late`: its mark was not reached. Without a `reader` it is only forgotten:
 * it is about to be closed, and that reader may go. */
void zcws_unmark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, int is_late);

/* Takes away the marks of sockets from which nothing has been received since the last call but one. These come first in
 * the next call of zcws_turn, whatever they have. Returns how many they are. */
size_t zcws_late(struct zcws_sockets *sockets);

enum {
    ZCWS_TURN_ONE = 5, /* words of a short entry: socket, what, where its bytes begin; the payload's start and stop */
    ZCWS_TURN_ENTRIES = 320,
    ZCWS_TURN_FD = 0,
    ZCWS_TURN_BEGIN = 1, /* where its bytes are in base */
    ZCWS_TURN_STOP = 2,
    ZCWS_TURN_COUNT = 3, /* what zcws_scan returned, or one of these: */
    ZCWS_TURN_END = 4,   /* the word behind this entry, counted from ZCWS_TURN_ENTRIES: where the next entry is */
    ZCWS_TURN_ENTRY = 5,
    ZCWS_TURN_SERVE = 0x100000,  /* nothing was received: ZCWS_TURN_STOP is what epoll said */
    ZCWS_TURN_FAILED = 0x200000, /* receiving failed: ZCWS_TURN_STOP is errno */
    ZCWS_TURN_OTHERS = 0x80
};

/* The way back of zcws_turn: sends `count` orders, from the one with number `first` on. `orders` has int64_t words, not
 * aligned: the sockets of all orders, then how many bytes each is to be sent. The bytes lie in `data`: one behind the
 * other if `begins` is NULL, else at the offsets that its words give, which may be the same for several. Returns -1
 * when all orders were sent whole; else, for the first that was not, its number << 32, plus 1 << 31, plus how many of
 * its bytes were sent or minus its errno; those behind it have still to be sent. Linux only; elsewhere nothing is ever
 * sent. */
int64_t zcws_send_each(const uint8_t *orders, const uint8_t *begins, size_t count, const uint8_t *data, size_t first);

/* ---- one socket ------------------------------------------------------------------------------------------------ */

/* One blocking socket and where its bytes go. Filled in by the caller and kept from call to call. */
struct zcws_socket {
    int fd;    /* -1 once it is closed */
    int flags; /* for recv */
    struct zcws_reader *reader;
    uint8_t *base; /* received bytes, and how many there is room for */
    size_t capacity;
    uint64_t *table; /* as zcws_scan fills it, with room for `rows` */
    size_t rows;
    size_t received; /* bytes that the last call has brought and nobody has taken: whoever takes them sets it to 0 */
    /* What zcws_scan returned for those; ZCWS_NOTHING: they have not been scanned; ZCWS_TORN, which the caller sets:
     * nobody knows how many of them have been taken. */
    int64_t found;
    uint64_t total; /* bytes that all calls have brought; the caller may add what it has received by other means */
    struct zcws_waits waits;
    struct zcws_mark mark;
    int error; /* the errno of what ended the stream; 0: the peer did. Nothing is received where there is one */
};

/* Waits until the socket has bytes, and receives them into data[0, size). Returns how many; ZCWS_NOTHING when the
 * socket's time was up, a signal has come, or the wait has not slept yet: to go on waiting, call again; ZCWS_ENDED when
 * the stream has ended or is broken; ZCWS_TORN, and receives nothing, when what came before has not been taken. Sockets
 * of POSIX only; elsewhere every stream has ended. */
int64_t zcws_receive_into(struct zcws_socket *socket, uint8_t *data, size_t size);

/* The same for a caller who has no use for less than `wanted` bytes: if fewer have come, and `flags` is 0, waits for more,
 * for milliseconds, as long as it is not much. */
int64_t zcws_receive_more(struct zcws_socket *socket, uint8_t *data, size_t size, uint64_t wanted);

/* zcws_receive_into for `base`, and scans the bytes there. For a reader that holds no unread bytes. If they are only the
 * beginning of a frame, and `flags` is 0, waits for the rest as well, for milliseconds. Returns what zcws_scan returned,
 * or one of those three. */
int64_t zcws_receive(struct zcws_socket *socket);

enum { ZCWS_NOTHING = -1, ZCWS_ENDED = -2, ZCWS_TORN = -3 };

/* Receives more of a payload straight into the caller's memory data[0, size), for as long as much comes at a time, and
 * calls zcws_land for it. Never waits. Returns how many bytes, plus ZCWS_WHOLE when they complete the message; 0 at the
 * end of the stream, or a negated errno. A fault is in the reader. Sockets of POSIX only; elsewhere every stream has
 * ended. */
int64_t zcws_receive_rest(int fd, struct zcws_reader *reader, uint8_t *data, size_t size);

enum { ZCWS_WHOLE = 0x40000000 }; /* no call brings so many bytes */

/* The way back: masks and sends a whole frame, as zcws_build_masked builds it, part by part. Each part is made in
 * `out`, which has room for `room` bytes, more than a head takes. Never waits. Returns the bytes of the frame when all
 * were sent; else -1 minus the bytes that were sent before the socket took no more, or failed: the next send will say
 * why. Sockets of POSIX only; elsewhere nothing is sent. */
int64_t zcws_send_masked(int fd, uint8_t *out, size_t room, uint8_t first, const uint8_t *payload, size_t len,
                         uint32_t key);

/* ---- opening handshakes ---------------------------------------------------------------------------------------- */

/* What is known of a request that opens a WebSocket. */
struct zcws_opening {
    uint8_t accept[28]; /* ZCWS_OPENING_ACCEPT bytes: the Sec-WebSocket-Accept that answers it: RFC 6455 4.2.2 */
    /* Where the values of Origin, Sec-WebSocket-Protocol and -Extensions begin and stop, or 0, 0. */
    uint32_t asked[6];
    int64_t received; /* by zcws_welcome: bytes in `data`, 0 at the end of the stream, or a negated errno */
    size_t head;      /* what zcws_read_opening returned for them */
};

/* Reads the opening handshake that data[0, len) begins with, if it is one that nearly every client sends: GET,
 * HTTP/1.1, every header that is needed once, as it is usually written. Returns the bytes of the head, plus
 * ZCWS_OPENING_ASKS where `asked` has anything, and fills in that and `accept`. 0: the general rules have to decide, or
 * there is more to come. RFC 6455 4.2.1. */
size_t zcws_read_opening(const uint8_t *data, size_t len, struct zcws_opening *opening);

enum {
    ZCWS_OPENING_ACCEPT = 28,
    ZCWS_OPENING_MOST = 8192, /* no head of more bytes: so no line of it can be over the limit for lines (http1.py) */
    ZCWS_OPENING_ASKS = 0x10000
};

/* Accepts a connection from a socket that listens and does not block, receives what has arrived on it into data[0,
 * size), and reads that as zcws_read_opening does. Returns the new socket, which does not block either, or a negated
 * errno. Linux only; elsewhere it always fails. */
int zcws_welcome(int listening, uint8_t *data, size_t size, struct zcws_opening *opening);

/* ---- frames to be sent ----------------------------------------------------------------------------------------- */

/* Builds one frame at `out`, which has room for 14 + len bytes: first byte (FIN, RSV, opcode), length in its
 * shortest form, the masking key, the payload masked while it is copied. Returns the bytes written.
 * `key` is the four key bytes in memory order. RFC 6455 5.2, 5.3. */
size_t zcws_build_masked(uint8_t *out, uint8_t first, const uint8_t *payload, size_t len, uint32_t key);

/* The same for `count` frames one behind the other: the payload of the first is data[spans[0], spans[1]), that of the
 * next is found `step` words further. Each has a key of its own; where `keys` is NULL none is masked. `out` has room
 * for each payload and 14 bytes more. Returns the bytes written. */
size_t zcws_build_each(uint8_t *out, uint8_t first, const uint8_t *data, const uint64_t *spans, size_t step,
                       const uint32_t *keys, size_t count);

/* ---- masking and text ------------------------------------------------------------------------------------------ */

/* XORs data[0, len) with the four bytes of key, of which `phase` (0-3) have been used. RFC 6455 5.3.
 * `key` is the four key bytes in memory order. */
void zcws_mask(uint8_t *data, size_t len, uint32_t key, unsigned phase);

/* The same while copying; dst and src must not overlap. */
void zcws_mask_copy(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key, unsigned phase);

/* Checks data[0, len) as UTF-8 (RFC 3629: no surrogates, no overlong forms, at most U+10FFFF). *state is
 * ZCWS_UTF8_START at a text's beginning and carries over from piece to piece; a text may end only where
 * it is ZCWS_UTF8_START again. Returns how many bytes are good: len, or the offset of the first byte that
 * cannot be right, and then *state is ZCWS_UTF8_BAD for good. */
size_t zcws_utf8(const uint8_t *data, size_t len, uint32_t *state);

enum { ZCWS_UTF8_START = 0, ZCWS_UTF8_BAD = 1 };

/* ---- which kernel, and memory ---------------------------------------------------------------------------------- */

/* The kernels: the name of the i-th that this CPU can run, best first, NULL past the last; the name of the
 * one in use; a switch by name, for tests and ZCWS_KERNEL (1 done, 0 no such kernel here). */
const char *zcws_kernel_name(size_t i);
const char *zcws_kernel_in_use(void);
int zcws_kernel_use(const char *name);

/* How the core was compiled: one line, static memory. */
const char *zcws_build_info(void);

/* `size` bytes (a multiple of zcws_page_size()) mapped twice, back to back, so that byte i and byte
 * size + i are the same byte. NULL where the platform or its limits do not allow it. Given back with
 * zcws_mirror_unmap, whose address comes last, so that a finalizer may bind the size; it does nothing to NULL. */
uint8_t *zcws_mirror_map(size_t size);
void zcws_mirror_unmap(size_t size, uint8_t *base);
size_t zcws_page_size(void);

/* zcws:cdef:end */

#endif
