/* scan.c: from bytes to rows, as many frames as have arrived, in one crossing.
 *
 * A frame in progress is in one of two states. WAITED FOR: it fits, so its head stays before its payload in the ring
 * until the last byte is there; what has arrived is unmasked and checked meanwhile (a bad byte of text is found when it
 * arrives, not when the frame is complete), and `reader->head` counts the head's bytes. HANDED OUT: it is larger than
 * `fit`, so its bytes leave as pieces and nothing of it stays; `reader->head` is 0.
 *
 *     base        begin                 begin + head        begin + head + done          end
 *      |            |  head of 2 to 14   |  unmasked so far   |  arrived just now         |
 *
 * The rules are checked in the order of the bits on the wire, each as soon as its bits are there (RFC 6455 5.2), so
 * that the fault does not depend on how the bytes were cut.
 */
#include "kernel.h"

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* Outcomes of the steps below, beside the faults, which are all negative. */
enum { NEED_MORE = 0, DONE = 1 };

static int is_control(uint8_t what) { return (what & 8) != 0; }

/* ---- the head ------------------------------------------------------------------------------------------------ */

/* RFC 6455 5.2 and 5.4: the first byte against what has been agreed and what has been begun. */
static int check_first_byte(const struct zcws_reader *reader, uint8_t byte) {
    uint8_t opcode = byte & 0x0F;
    int fin = (byte & 0x80) != 0;
    if ((byte & 0x30) != 0) return ZCWS_BAD_RSV;
    if ((byte & 0x40) != 0) {
        /* RFC 7692 6: RSV1 is for the first frame of a message; never for a control frame or a continuation. */
        if (!reader->rsv1 || is_control(opcode) || opcode == CONTINUATION) return ZCWS_BAD_RSV;
    }
    switch (opcode) {
    case CONTINUATION: return reader->opcode == 0 ? ZCWS_BAD_CONTINUATION : DONE;
    case TEXT:
    case BINARY: return reader->opcode != 0 ? ZCWS_BAD_INTERLEAVING : DONE;
    case CLOSE:
    case PING:
    case PONG: return fin ? DONE : ZCWS_BAD_CONTROL_FIN;
    default: return ZCWS_BAD_OPCODE;
    }
}

/* RFC 6455 5.1 and 5.5: the second byte against our role and the opcode. */
static int check_second_byte(const struct zcws_reader *reader, uint8_t first, uint8_t byte) {
    int masked = (byte & 0x80) != 0;
    if (masked && !reader->masked) return ZCWS_BAD_MASKED;
    if (!masked && reader->masked) return ZCWS_BAD_UNMASKED;
    if (is_control(first) && (byte & 0x7F) > 125) return ZCWS_BAD_CONTROL_SIZE;
    return DONE;
}

static uint64_t load_big_endian(const uint8_t *data, size_t len) {
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++) value = value << 8 | data[i];
    return value;
}

/* RFC 6455 5.2: "the minimal number of bytes MUST be used", "the most significant bit MUST be 0". */
static int check_length(uint64_t length, size_t bytes) {
    if (bytes == 2 && length < 126) return ZCWS_BAD_LENGTH_FORM;
    if (bytes == 8 && length >> 63 != 0) return ZCWS_BAD_LENGTH_SIGN;
    if (bytes == 8 && length <= 0xFFFF) return ZCWS_BAD_LENGTH_FORM;
    return DONE;
}

/* From this limit on, an empty frame that ends a message of some bytes is not counted: some senders (wstest, case
 * 9.3.1) send exactly this many fragments, and an empty one to end them. A lower limit means what it says. */
enum { USUAL_FRAGMENTS = 65536 };

/* Payload bytes that the frames of a message may announce. Deflate makes incompressible bytes a little longer, and each
 * fragment longer by a flush (RFC 7692 7.2.1). The code that inflates counts what comes out; but there may be any
 * number of blocks that inflate to nothing, so what goes in needs a limit, too. */
static uint64_t most_payload(const struct zcws_reader *reader, int compressed, uint64_t fragments) {
    return compressed ? reader->max_size + reader->max_size / 8 + 64 * (fragments + 1) : reader->max_size;
}

/* Our own limits, checked with the head alone, before a byte of the payload is waited for. No message in progress is
 * over the limit, so the subtraction cannot wrap. */
static int check_limits(const struct zcws_reader *reader, uint8_t first, uint64_t length) {
    uint8_t opcode = first & 0x0F;
    uint64_t size = opcode == CONTINUATION ? reader->size : 0;
    uint64_t fragments = opcode == CONTINUATION ? reader->fragments : 0;
    int compressed = opcode == CONTINUATION ? reader->compressed : (first & 0x40) != 0;
    int ends_with_nothing =
        (first & 0x80) != 0 && length == 0 && size != 0 && reader->max_fragments >= USUAL_FRAGMENTS;
    if (is_control(opcode)) return DONE;
    if (length > most_payload(reader, compressed, fragments) - size) return ZCWS_BAD_MESSAGE_SIZE;
    if (fragments >= reader->max_fragments && !ends_with_nothing) return ZCWS_BAD_FRAGMENT_COUNT;
    return DONE;
}

/* A data frame begins or continues the message in progress. */
static void enter_message(struct zcws_reader *reader, uint8_t first, uint64_t length) {
    uint8_t opcode = first & 0x0F;
    if (opcode != CONTINUATION) {
        reader->opcode = opcode;
        reader->compressed = (first & 0x40) != 0;
        reader->first = ZCWS_FIRST;
        reader->utf8 = ZCWS_UTF8_START;
        reader->size = 0;
        reader->fragments = 0;
    }
    reader->size += length;
    reader->fragments += 1;
    reader->what = (uint8_t)(reader->opcode | ((first & 0x80) != 0 ? ZCWS_LAST : 0) |
                             (reader->compressed ? ZCWS_COMPRESSED : 0));
}

/* Reads the head at data[0, len): DONE and the frame is open, NEED_MORE, or a fault. */
static int read_head(struct zcws_reader *reader, const uint8_t *data, size_t len) {
    size_t extended, head;
    uint64_t length;
    int outcome;
    if (len < 1) return NEED_MORE;
    if ((outcome = check_first_byte(reader, data[0])) != DONE) return outcome;
    if (len < 2) return NEED_MORE;
    if ((outcome = check_second_byte(reader, data[0], data[1])) != DONE) return outcome;

    length = data[1] & 0x7F;
    extended = length == 126 ? 2 : length == 127 ? 8 : 0;
    head = 2 + extended;
    if (len < head) return NEED_MORE;
    if (extended != 0) {
        length = load_big_endian(data + 2, extended);
        if ((outcome = check_length(length, extended)) != DONE) return outcome;
    }
    if ((outcome = check_limits(reader, data[0], length)) != DONE) {
        /* For the error, which gives the size: nothing of this stream is read any more. The sum cannot wrap: a length
         * is below 2^63. */
        if ((data[0] & 0x0F) != CONTINUATION) {
            reader->compressed = (data[0] & 0x40) != 0;
            reader->size = 0;
        }
        reader->size += length;
        return outcome;
    }

    reader->key = 0;
    if (reader->masked) {
        if (len < head + 4) return NEED_MORE;
        memcpy(&reader->key, data + head, 4);
        head += 4;
    }
    if (is_control(data[0]))
        reader->what = (uint8_t)((data[0] & 0x0F) | ZCWS_FIRST | ZCWS_LAST);
    else
        enter_message(reader, data[0], length);
    reader->open = 1;
    reader->head = (uint8_t)head;
    reader->length = length;
    reader->remaining = length;
    return DONE;
}

/* ---- the payload --------------------------------------------------------------------------------------------- */

/* RFC 6455 7.4: what may be in a Close. 1012 to 1014 were added to the registry after the RFC. */
static int is_close_code(unsigned code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

/* RFC 6455 5.5.1: no payload, or a code and a reason in UTF-8. */
static int check_close(const uint8_t *data, size_t len) {
    uint32_t state = ZCWS_UTF8_START;
    if (len == 0) return DONE;
    if (len == 1) return ZCWS_BAD_CLOSE_SIZE;
    if (!is_close_code((unsigned)load_big_endian(data, 2))) return ZCWS_BAD_CLOSE_CODE;
    if (zcws_utf8(data + 2, len - 2, &state) != len - 2 || state != ZCWS_UTF8_START) return ZCWS_BAD_CLOSE_REASON;
    return DONE;
}

/* Unmasks and checks the next `len` payload bytes of the frame in progress. RFC 6455 5.3, 8.1. */
static int take_payload(struct zcws_reader *reader, uint8_t *data, size_t len) {
    int is_text = (reader->what & (0x0F | ZCWS_COMPRESSED)) == TEXT;
    if (is_text) {
        if (zcws_mask_utf8(data, len, reader->key, &reader->utf8) != len) return ZCWS_BAD_UTF8;
    } else if (reader->key != 0) {
        zcws_kernel->mask(data, len, reader->key);
    }
    reader->key = zcws_turn_key(reader->key, len);
    reader->remaining -= len;
    /* The last character of the message has to be whole; that of a fragment need not be. */
    if (is_text && reader->remaining == 0 && (reader->what & ZCWS_LAST) != 0 && reader->utf8 != ZCWS_UTF8_START)
        return ZCWS_BAD_UTF8;
    return DONE;
}

/* The frame in progress is complete. */
static void leave_frame(struct zcws_reader *reader) {
    reader->open = 0;
    reader->head = 0;
    reader->frames += 1;
    if (!is_control(reader->what) && (reader->what & ZCWS_LAST) != 0) {
        reader->opcode = 0;
        reader->messages += 1;
    }
}

/* ---- the batch ----------------------------------------------------------------------------------------------- */

/* A fragment of at most this many bytes is moved behind the one before it, when both are here: that costs less than
 * whatever is done with a row. */
enum { JOINED = 16 * 1024 };

struct batch {
    struct zcws_reader *reader;
    uint8_t *base;
    size_t begin, end;
    uint64_t *row;  /* where the next row goes */
    uint64_t *open; /* the last row, if its message goes on; else NULL */
    size_t rows;    /* rows written */
    uint64_t controls;
};

static void write_row(struct batch *batch, uint8_t what, size_t start, size_t stop) {
    batch->open = (what & ZCWS_LAST) != 0 ? NULL : batch->row;
    batch->row[0] = what;
    batch->row[1] = start;
    batch->row[2] = stop;
    batch->row += ZCWS_TABLE_ROW;
    batch->rows += 1;
    if (is_control(what)) batch->controls += 1;
}

/* Hands out the bytes start..stop of the message in progress: a frame of it, or a piece of a frame. */
static void write_data_row(struct batch *batch, size_t start, size_t stop) {
    struct zcws_reader *reader = batch->reader;
    uint8_t what = (uint8_t)(reader->what | reader->first);
    if (reader->remaining != 0) what = (uint8_t)(what & ~ZCWS_LAST);
    reader->first = 0;
    write_row(batch, what, start, stop);
}

/* Hands out a whole frame of the message in progress, in one row with the fragment before it if that is the last row.
 * RFC 6455 5.4: frames have no meaning of their own, so nobody needs to see them. */
static void write_frame(struct batch *batch, size_t start, size_t stop) {
    uint64_t *open = batch->open;
    if (open == NULL || stop - start > JOINED) {
        write_data_row(batch, start, stop);
        return;
    }
    memmove(batch->base + open[2], batch->base + start, stop - start);
    open[2] += stop - start;
    if ((batch->reader->what & ZCWS_LAST) != 0) {
        open[0] |= ZCWS_LAST;
        batch->open = NULL;
    }
}

/* A frame that is waited for: one row when it is all there. */
static int take_whole_frame(struct batch *batch) {
    struct zcws_reader *reader = batch->reader;
    size_t payload = batch->begin + reader->head;
    size_t taken = payload + (size_t)(reader->length - reader->remaining);
    size_t arrived = batch->end - taken;
    size_t stop = payload + (size_t)reader->length;
    int outcome =
        take_payload(reader, batch->base + taken, arrived < reader->remaining ? arrived : (size_t)reader->remaining);
    if (outcome != DONE) return outcome;
    if (reader->remaining != 0) return NEED_MORE;
    if (!is_control(reader->what)) {
        write_frame(batch, payload, stop);
    } else {
        if ((reader->what & 0x0F) == CLOSE) {
            if ((outcome = check_close(batch->base + payload, (size_t)reader->length)) != DONE) return outcome;
            reader->closed = 1;
        }
        write_row(batch, reader->what, payload, stop);
    }
    leave_frame(reader);
    batch->begin = stop;
    return DONE;
}

/* A data frame that does not fit: a row for whatever is there. What was unmasked while the frame was still waited
 * for (the caller may lower `fit` in the middle of it) is handed out with the first piece, as it is. */
static int take_piece(struct batch *batch) {
    struct zcws_reader *reader = batch->reader;
    size_t start = batch->begin + reader->head;
    size_t taken = start + (reader->head != 0 ? (size_t)(reader->length - reader->remaining) : 0);
    size_t arrived = batch->end - taken;
    size_t stop = taken + (arrived < reader->remaining ? arrived : (size_t)reader->remaining);
    int outcome = take_payload(reader, batch->base + taken, stop - taken);
    if (outcome != DONE) return outcome;
    reader->head = 0;
    batch->begin = stop;
    if (stop != start || reader->remaining == 0) write_data_row(batch, start, stop);
    if (reader->remaining != 0) return NEED_MORE;
    leave_frame(reader);
    return DONE;
}

/* One frame, or what is there of it. Once pieces of a frame have been handed out (head 0), the rest are too. */
static int take_frame(struct batch *batch) {
    struct zcws_reader *reader = batch->reader;
    if (!reader->open) {
        int outcome = read_head(reader, batch->base + batch->begin, batch->end - batch->begin);
        if (outcome != DONE) return outcome;
    }
    if (is_control(reader->what)) return take_whole_frame(batch);
    /* The sum cannot wrap: a length is below 2^63. */
    if (reader->head != 0 && reader->length + reader->head <= reader->fit) return take_whole_frame(batch);
    return take_piece(batch);
}

static uint64_t scan_status(struct batch *batch, size_t rows) {
    struct zcws_reader *reader = batch->reader;
    int outcome = DONE;
    while (reader->fault == 0 && !reader->closed && outcome == DONE && batch->rows < rows) {
        outcome = take_frame(batch);
        if (outcome < 0) reader->fault = outcome;
    }
    if (reader->fault != 0) return (uint64_t)-reader->fault;
    if (reader->closed) return ZCWS_CLOSED;
    return outcome == DONE ? ZCWS_FULL : ZCWS_MORE;
}

/* Bytes at the start of the frame in progress that have been seen already. If no frame is in progress, `head` is 0. */
static size_t seen_before(const struct zcws_reader *reader) {
    return reader->head != 0 ? reader->head + (size_t)(reader->length - reader->remaining) : 0;
}

size_t zcws_scan(struct zcws_reader *reader, uint8_t *base, size_t begin, size_t end, uint64_t *table, size_t rows) {
    struct batch batch = {reader, base, begin, end, table + ZCWS_TABLE_HEAD, NULL, 0, 0};
    /* A caller that has lost bytes: the rest of the frame in progress must not be looked for behind `end`. */
    int is_short = begin > end || seen_before(reader) > end - begin;
    table[ZCWS_TABLE_STATUS] = is_short ? ZCWS_MORE : scan_status(&batch, rows);
    table[ZCWS_TABLE_NEXT] = batch.begin;
    table[ZCWS_TABLE_CONTROLS] = batch.controls;
    table[ZCWS_TABLE_REMAINING] = reader->open && reader->head == 0 ? reader->remaining : 0;
    reader->bytes += batch.begin - begin;
    reader->rows += batch.rows;
    if (batch.begin == end && batch.controls == 0 && !reader->open && table[ZCWS_TABLE_STATUS] == ZCWS_MORE)
        return batch.rows;
    return batch.rows + ZCWS_NEWS;
}

uint64_t zcws_lacking(const struct zcws_reader *reader, int lands) {
    const int is_waited_for = reader->head != 0 && reader->head + reader->length <= reader->fit;
    return reader->open && (is_waited_for || lands) && reader->fault == 0 ? reader->remaining : 0;
}

size_t zcws_scan_landed(struct zcws_reader *reader, uint8_t *base, size_t len) {
    return zcws_scan(reader, base, 0, len, reader->table, ZCWS_TABLE_ROWS);
}

int zcws_land(struct zcws_reader *reader, uint8_t *data, size_t len) {
    int outcome, last;
    if (reader->fault != 0) return reader->fault;
    outcome = take_payload(reader, data, len);
    if (outcome != DONE) {
        reader->fault = outcome;
        return outcome;
    }
    reader->bytes += len;
    reader->first = 0;
    if (reader->remaining != 0) return 0;
    last = reader->what & ZCWS_LAST;
    if (last) reader->rows += 1;
    leave_frame(reader);
    return last;
}
