/* RANKINE_TRACE=FILE: what every rank does when, as a Chrome trace (chrome://tracing, ui.perfetto.dev).
 *
 * Each rank notes spans in its own memory. Clocks of other machines are compared with the first rank's at the
 * start, by the fastest of some round trips; at the end the first rank gathers all spans and writes one file.
 * Ranks of a run that has failed meet no more: the first one writes its own spans there, rank N to
 * FILE.rank-N. Where no trace is wanted a span costs a comparison. */
#ifndef RK_PARALLEL_TRACE_H
#define RK_PARALLEL_TRACE_H

#include "core/clock.h"
#include "parallel/job.h"

typedef struct rk__trace rk__trace;

typedef enum rk__track { RK__TRACK_STEP, RK__TRACK_SNAPSHOT } rk__track; /* rows of one rank */

/* [C] Sets j->trace if the first rank's environment asks for one, else leaves it NULL. Lives as long as the
 * context. */
rk_status rk__trace_open(rk__job *j);
/* [C] Writes the file; nothing is noted any more. Without a trace: nothing. What cannot be written is told by
 * the status of the first rank and costs nothing else: *why (512 bytes) says what happened, "" if all is
 * well. */
rk_status rk__trace_write(rk__job *j, char why[512]);

/* What this rank has noted, when the run has failed; what cannot be written is lost. j: NULL if none was
 * made.
 */
void rk__trace_write_own(rk__job *j);

void rk__trace_note(rk__trace *t, rk__track track, const char *name, double begin);

/* When a span begins, and its end; name is static. */
static inline double rk__trace_begin(const rk__job *j)
{
    return j->trace ? rk__seconds() : 0;
}

static inline void rk__trace_end(const rk__job *j, rk__track track, const char *name, double begin)
{
    if (j->trace && begin > 0)
        rk__trace_note(j->trace, track, name, begin);
}

#endif
