/* Small files for the tests of parsers, in a folder that goes away with the program. */
#ifndef RK_TEST_FILES_H
#define RK_TEST_FILES_H

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "test.h"

static char files_dir[64];

static void files_remove(void)
{
    DIR *d = opendir(files_dir);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(files_dir);
}

/* "DIR/name" in one of eight buffers that take turns. */
static inline const char *file_path(const char *name)
{
    static char path[8][256];
    static int turn;
    if (!files_dir[0]) {
        snprintf(files_dir, sizeof files_dir, "/tmp/rk-io-XXXXXX");
        if (!mkdtemp(files_dir))
            abort();
        atexit(files_remove);
    }
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", files_dir, name);
    return path[turn];
}

static inline const char *file_write(const char *name, const void *p, size_t n)
{
    const char *path = file_path(name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f))
        abort();
    return path;
}

static inline const char *file_gz(const char *name, const void *p, size_t n)
{
    const char *path = file_path(name);
    gzFile f = gzopen(path, "wb");
    if (!f || gzwrite(f, p, (unsigned)n) != (int)n || gzclose(f) != Z_OK)
        abort();
    return path;
}

static inline const char *file_text(const char *name, const char *text)
{
    return file_write(name, text, strlen(text));
}

#endif
