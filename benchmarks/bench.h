/* Timing for benchmarks: contenders run in turn in one process, so that what disturbs the machine disturbs
 * all of them, and each gives the median of its runs. Every printed row carries `wrong`: the number of
 * results outside tolerance; a time with wrong > 0 does not count.
 *
 * A single-threaded contender is timed in CPU time of the calling thread, which other processes do not
 * lengthen; several threads are timed by the wall clock. */
#ifndef RK_BENCH_H
#define RK_BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BENCH_MOST_RUNS = 4000, BENCH_LEAST_RUNS = 7, BENCH_MOST_SIDES = 4, BENCH_REST_NS = 10000000 };

typedef struct bench_options {
    int threads;         /* --threads N */
    double seconds;      /* --seconds S: a row's time, for all contenders together */
    const char *section; /* --section NAME: only this part; NULL: all */
    const char *only;    /* --only TEXT: only rows whose name holds TEXT */
} bench_options;

typedef struct bench_side {
    const char *name;
    void (*run)(void *arg);
    void *arg;
    double median, min, max; /* seconds a run, filled by bench_in_turn */
} bench_side;

static inline double bench_now(bool wall)
{
    struct timespec t;
    clock_gettime(wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Waits until the threads of the contender before sleep (libgomp's spin for milliseconds, on cores that the
 * next one needs), then runs once untimed, which wakes the threads of this one: in training they are awake.
 */
static inline void bench_take_over(const bench_side *s)
{
    nanosleep(&(struct timespec){ .tv_nsec = BENCH_REST_NS }, NULL);
    s->run(s->arg);
}

/* Runs `sides` in turn (in alternating order) for about o->seconds after one warm-up each; every timed run
 * calls `repeat` times, for work too short to time alone. Returns the number of timed runs of each. */
static inline int bench_in_turn(const bench_options *o, int repeat, bench_side *sides, int count)
{
    static double times[BENCH_MOST_SIDES][BENCH_MOST_RUNS];
    bool wall = o->threads != 1;
    for (int s = 0; s < count; s++)
        sides[s].run(sides[s].arg);
    int runs = 0;
    double end = bench_now(true) + o->seconds;
    while (runs < BENCH_MOST_RUNS && (runs < BENCH_LEAST_RUNS || bench_now(true) < end)) {
        for (int x = 0; x < count; x++) {
            int s = (runs + x) % count;
            if (wall)
                bench_take_over(&sides[s]);
            double start = bench_now(wall);
            for (int r = 0; r < repeat; r++)
                sides[s].run(sides[s].arg);
            times[s][runs] = (bench_now(wall) - start) / repeat;
        }
        runs++;
    }
    for (int s = 0; s < count; s++) {
        qsort(times[s], (size_t)runs, sizeof(double), bench_compare);
        sides[s].median = times[s][runs / 2];
        sides[s].min = times[s][0];
        sides[s].max = times[s][runs - 1];
    }
    return runs;
}

/* Geometric mean and worst of ratios. */
typedef struct bench_summary {
    double log_sum, worst;
    int64_t count, wrong;
} bench_summary;

static inline void bench_add(bench_summary *s, double ratio, int64_t wrong)
{
    s->worst = s->count == 0 || ratio < s->worst ? ratio : s->worst;
    s->log_sum += log(ratio);
    s->count++;
    s->wrong += wrong;
}

static inline void bench_print_summary(const bench_summary *s, const char *what)
{
    if (s->count > 0)
        printf("%s: geometric mean %.3f, worst %.3f, %lld rows, wrong %lld\n\n", what,
               exp(s->log_sum / (double)s->count), s->worst, (long long)s->count, (long long)s->wrong);
}

/* Reads the options above; anything else ends the program with a line of usage. */
static inline bench_options bench_options_read(int argc, char **argv)
{
    bench_options o = { .threads = 1, .seconds = 0.4 };
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--threads"))
            o.threads = (int)strtol(value, NULL, 10);
        else if (!strcmp(argv[i], "--seconds"))
            o.seconds = strtod(value, NULL);
        else if (!strcmp(argv[i], "--section"))
            o.section = value;
        else if (!strcmp(argv[i], "--only"))
            o.only = value;
        else
            o.threads = 0;
    }
    if (o.threads < 1 || o.seconds <= 0) {
        fprintf(stderr, "usage: %s [--threads N] [--seconds S] [--section NAME] [--only TEXT]\n", argv[0]);
        exit(64);
    }
    return o;
}

static inline bool bench_wants(const bench_options *o, const char *section)
{
    return !o->section || !strcmp(o->section, section);
}

#endif
