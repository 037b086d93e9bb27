#include <rankine/io.h>

#include <hdf5.h>
#include <libdeflate.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>
#include <zstd.h>

static const char *version_hdf5(void)
{
    static _Thread_local char text[32];
    unsigned major = 0, minor = 0, release = 0;
    if (H5get_libversion(&major, &minor, &release) < 0)
        return "?";
    snprintf(text, sizeof text, "%u.%u.%u", major, minor, release);
    return text;
}

static const char *version_xxhash(void)
{
    static _Thread_local char text[32];
    unsigned v = XXH_versionNumber();
    snprintf(text, sizeof text, "%u.%u.%u", v / 10000, v / 100 % 100, v % 100);
    return text;
}

static const char *version_openssl(void)
{
    return OpenSSL_version(OPENSSL_VERSION_STRING);
}

static const char *version_libdeflate(void)
{
    return LIBDEFLATE_VERSION_STRING; /* it cannot be asked at run time */
}

static const struct {
    const char *name;
    const char *(*version)(void);
} libraries[] = {
    { "hdf5", version_hdf5 },
    { "libyaml", yaml_get_version_string },
    { "zlib", zlibVersion },
    { "zstd", ZSTD_versionString },
    { "xxhash", version_xxhash },
    { "openssl", version_openssl },
    { "libdeflate", version_libdeflate },
};

bool rk_library(int i, const char **name, const char **version)
{
    if (i < 0 || i >= (int)(sizeof libraries / sizeof *libraries))
        return false;
    *name = libraries[i].name;
    *version = libraries[i].version();
    return true;
}
