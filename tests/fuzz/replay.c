/* Run a target on files, without a fuzzer: FUZZ_TARGET FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        return 1;
    }
    size_t size = (size_t)ftell(file);
    rewind(file);
    /* Of just this size, so that a sanitizer sees who reads past it. */
    uint8_t *data = malloc(size > 0 ? size : 1);
    int failed = !data || fread(data, 1, size, file) != size;
    fclose(file);
    if (failed)
        perror(path);
    else
        (void)LLVMFuzzerTestOneInput(data, size);
    free(data);
    return failed;
}

int main(int count, char **paths)
{
    for (int i = 1; i < count; i++) {
        fprintf(stderr, "%s\n", paths[i]); /* the last one named is the one that crashed */
        if (run(paths[i]))
            return 1;
    }
    printf("%d inputs\n", count - 1);
    return 0;
}
