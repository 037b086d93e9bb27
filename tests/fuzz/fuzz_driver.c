/* Runs a fuzz target over the files of a folder: its seeds, in every build and without libFuzzer. */
#include <dirent.h>

#include "fuzz.h"

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    FUZZ_CHECK(f && fseek(f, 0, SEEK_END) == 0);
    long n = ftell(f);
    rewind(f);
    uint8_t *p = malloc((size_t)n + 1); /* exact in size for the sanitizer */
    FUZZ_CHECK(p && fread(p, 1, (size_t)n, f) == (size_t)n);
    fclose(f);
    p = realloc(p, (size_t)n ? (size_t)n : 1);
    LLVMFuzzerTestOneInput(p, (size_t)n);
    free(p);
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        for (struct dirent *e; d && (e = readdir(d));) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            if (e->d_name[0] == '.')
                continue;
            run_file(path);
            count++;
        }
        if (d)
            closedir(d);
    }
    printf("%d inputs\n", count);
    return count == 0;
}
