/* A test program: TEST(name) { CHECK(..); } functions, then TEST_MAIN. Each TEST runs even if an earlier one
 * failed; a failed CHECK says file, line and values, and leaves that TEST. Names on the command line select
 * tests. */
#ifndef RK_TEST_H
#define RK_TEST_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rk_test {
    const char *name;
    void (*run)(void);
    struct rk_test *next;
} rk_test;

static rk_test *rk_tests, **rk_tests_end = &rk_tests;
static int rk_test_failures;

#define TEST(name)                                                 \
    static void test_##name(void);                                 \
    __attribute__((constructor)) static void register_##name(void) \
    {                                                              \
        static rk_test t = { #name, test_##name, NULL };           \
        *rk_tests_end = &t;                                        \
        rk_tests_end = &t.next;                                    \
    }                                                              \
    static void test_##name(void)

#define TEST_FAIL(...)                                  \
    do {                                                \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__);                   \
        fputc('\n', stderr);                            \
        rk_test_failures++;                             \
        return;                                         \
    } while (0)

#define CHECK(cond)                           \
    do {                                      \
        if (!(cond))                          \
            TEST_FAIL("not true: %s", #cond); \
    } while (0)

#define CHECK_INT(a, b)                                          \
    do {                                                         \
        long long a_ = (long long)(a), b_ = (long long)(b);      \
        if (a_ != b_)                                            \
            TEST_FAIL("%s is %lld, %s is %lld", #a, a_, #b, b_); \
    } while (0)

#define CHECK_STR(a, b)                                                                         \
    do {                                                                                        \
        const char *a_ = (a), *b_ = (b);                                                        \
        if (!a_ || !b_ || strcmp(a_, b_))                                                       \
            TEST_FAIL("%s is \"%s\", expected \"%s\"", #a, a_ ? a_ : "NULL", b_ ? b_ : "NULL"); \
    } while (0)

/* |a - b| <= atol + rtol * |b|; NaN never passes. */
#define CHECK_CLOSE(a, b, rtol, atol)                              \
    do {                                                           \
        double a_ = (a), b_ = (b);                                 \
        if (!(fabs(a_ - b_) <= (atol) + (rtol)*fabs(b_)))          \
            TEST_FAIL("%s is %.17g, %s is %.17g", #a, a_, #b, b_); \
    } while (0)

/* st must be RK_OK; prints the context's message otherwise. */
#define CHECK_OK(ctx, call)                                   \
    do {                                                      \
        if ((call) != 0)                                      \
            TEST_FAIL("%s failed: %s", #call, rk_error(ctx)); \
    } while (0)

#define TEST_MAIN                                               \
    int main(int argc, char **argv)                             \
    {                                                           \
        int run = 0, failed = 0;                                \
        for (rk_test *t = rk_tests; t; t = t->next) {           \
            int wanted = argc < 2;                              \
            for (int i = 1; i < argc; i++)                      \
                wanted |= !strcmp(argv[i], t->name);            \
            if (!wanted)                                        \
                continue;                                       \
            int before = rk_test_failures;                      \
            t->run();                                           \
            run++;                                              \
            if (rk_test_failures != before) {                   \
                failed++;                                       \
                fprintf(stderr, "FAILED %s\n", t->name);        \
            }                                                   \
        }                                                       \
        printf("%d passed, %d failed\n", run - failed, failed); \
        return failed != 0 || run == 0;                         \
    }

#endif
