/* replay.c: runs a target over the files that it is given, with any compiler: the corpora without libFuzzer, and a finding
 * on a machine that has none. */
#include "fuzz.h"

static void run_file(const char *name) {
    FILE *const file = fopen(name, "rb");
    CHECK(file != NULL, "cannot open %s", name);
    CHECK(fseek(file, 0, SEEK_END) == 0, "cannot read %s", name);
    const long size = ftell(file);
    CHECK(size >= 0, "cannot read %s", name);
    rewind(file);
    const struct exact data = exact_make(0, (size_t)size);
    CHECK(fread(data.start, 1, data.len, file) == data.len, "cannot read %s", name);
    fclose(file);
    LLVMFuzzerTestOneInput(data.start, data.len);
    exact_free(data);
}

int main(int argc, char **argv) {
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) run_file(argv[i]);
    printf("%s: %d inputs\n", argv[0], argc - 1);
    return 0;
}
