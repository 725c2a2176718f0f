/* wire.h: what the load generator and the C server share: frame heads and prepared messages.
 *
 * Both are measuring instruments: they know just enough of RFC 6455 to be cheap, and they stop with a sentence at
 * anything unexpected instead of handling it. Everything is static: each program is one translation unit.
 */
#ifndef ZCWS_LOAD_WIRE_H
#define ZCWS_LOAD_WIRE_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One system call moves no more than this: a level-2 cache is at least as large. */
enum { BUFFER = 1 << 18, HEAD_MAX = 14 };

static const char *program;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

__attribute__((noreturn)) static void die(const char *what) { fail("%s: %s", what, strerror(errno)); }

static void *memory(size_t size) {
    void *found = calloc(1, size ? size : 1);
    if (found == NULL) die("memory");
    return found;
}

/* ---- heads. RFC 6455 5.2 ---- */

struct head {
    uint8_t bytes[HEAD_MAX];
    size_t used;
};

static size_t head_size(const struct head *head) {
    static const size_t extended[2] = {2, 8};
    if (head->used < 2) return 2;
    unsigned length = head->bytes[1] & 0x7Fu;
    return 2 + (length >= 126 ? extended[length - 126] : 0) + (head->bytes[1] & 0x80 ? 4 : 0);
}

/* Takes bytes from `*data` until the head is whole (1) or they are used up (0). */
static int head_take(struct head *head, const uint8_t **data, const uint8_t *end) {
    while (*data < end) {
        head->bytes[head->used++] = *(*data)++;
        if (head->used >= 2 && head->used == head_size(head)) return 1;
    }
    return 0;
}

static uint64_t head_length(const struct head *head) {
    uint64_t length = head->bytes[1] & 0x7Fu;
    size_t bytes = length == 126 ? 2 : length == 127 ? 8 : 0;
    if (bytes > 0) length = 0;
    for (size_t i = 0; i < bytes; i++) length = length << 8 | head->bytes[2 + i];
    return length;
}

static unsigned head_opcode(const struct head *head) { return head->bytes[0] & 0x0Fu; }

static int head_fin(const struct head *head) { return head->bytes[0] >> 7; }

/* Writes a head with `first` as its first byte; `key` or NULL. Returns where the payload goes. */
static uint8_t *put_head(uint8_t *out, uint8_t first, uint64_t length, const uint8_t *key) {
    uint8_t masked = key ? 0x80 : 0;
    *out++ = first;
    if (length < 126) {
        *out++ = (uint8_t)(masked | length);
    } else if (length < 65536) {
        *out++ = masked | 126;
        *out++ = (uint8_t)(length >> 8);
        *out++ = (uint8_t)length;
    } else {
        *out++ = masked | 127;
        for (int shift = 56; shift >= 0; shift -= 8) *out++ = (uint8_t)(length >> shift);
    }
    if (key) memcpy(out, key, 4);
    return out + (key ? 4 : 0);
}

/* ---- a script: prepared messages, sent over and over ---- */

struct script {
    uint8_t *bytes;
    size_t size;
    size_t *sizes; /* of each message with its heads */
    size_t count;
};

/* The messages of which `bytes` consist: each ends with a frame that has FIN. */
static void find_messages(struct script *script) {
    const uint8_t *data = script->bytes, *end = data + script->size, *start = data;
    script->sizes = memory(sizeof(size_t) * (script->size / 2 + 1));
    while (data < end) {
        struct head head = {.used = 0};
        if (!head_take(&head, &data, end) || head_length(&head) > (uint64_t)(end - data))
            fail("half a frame in the file");
        data += head_length(&head);
        if (!head_fin(&head)) continue;
        script->sizes[script->count++] = (size_t)(data - start);
        start = data;
    }
    if (script->count == 0 || start != end) fail("no whole messages in the file");
}

/* As often as one system call is worth. */
static void repeat(struct script *script) {
    size_t times = 1 + BUFFER / script->size;
    uint8_t *bytes = memory(times * script->size);
    size_t *sizes = memory(times * script->count * sizeof(size_t));
    for (size_t i = 0; i < times; i++) {
        memcpy(bytes + i * script->size, script->bytes, script->size);
        memcpy(sizes + i * script->count, script->sizes, script->count * sizeof(size_t));
    }
    free(script->bytes);
    free(script->sizes);
    script->bytes = bytes;
    script->sizes = sizes;
    script->size *= times;
    script->count *= times;
}

/* One message of `size` letters in `frames` frames, masked for a client. */
static struct script build_script(size_t size, size_t frames, int binary, int masked) {
    static const uint8_t key[4] = {0x12, 0x34, 0x56, 0x78};
    struct script script = {.bytes = memory(size + HEAD_MAX * frames), .count = 0};
    size_t share = (size + frames - 1) / frames, at = 0;
    uint8_t *out = script.bytes;
    for (size_t i = 0; i < frames; i++) {
        size_t len = size - at < share ? size - at : share;
        uint8_t opcode = i > 0 ? 0 : binary ? 2 : 1;
        out = put_head(out, (uint8_t)(opcode | (i + 1 == frames ? 0x80 : 0)), len, masked ? key : NULL);
        for (size_t j = 0; j < len; j++) *out++ = (uint8_t)(('a' + (at + j) % 26) ^ (masked ? key[j % 4] : 0));
        at += len;
    }
    script.size = (size_t)(out - script.bytes);
    find_messages(&script);
    repeat(&script);
    return script;
}

/* Frames as somebody else prepared them: compressed, for instance. */
static struct script load_script(const char *path) {
    struct script script = {.count = 0};
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) die(path);
    script.size = (size_t)ftell(file);
    script.bytes = memory(script.size);
    rewind(file);
    if (fread(script.bytes, 1, script.size, file) != script.size) die(path);
    fclose(file);
    find_messages(&script);
    repeat(&script);
    return script;
}

#endif
