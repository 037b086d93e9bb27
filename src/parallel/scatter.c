#include "parallel/scatter.h"

#include "parallel/tree.h"

#include <stdlib.h>

rk_status rk__scatter_init(rk__scatter *s, rk__job *j, const rk_subtree *part, const int *first)
{
    *s = (rk__scatter){ .job = j, .part = part, .first = first, .parts = first[j->ranks] };
    for (int r = 0; r < j->ranks; r++)
        s->most = first[r + 1] - first[r] > s->most ? first[r + 1] - first[r] : s->most;
    s->send = rk__calloc(j->ctx, (size_t)j->ranks, sizeof *s->send);
    s->from = rk__calloc(j->ctx, (size_t)s->parts, sizeof *s->from);
    return rk_failed(j->ctx);
}

void rk__scatter_free(rk__scatter *s)
{
    free(s->send);
    free(s->from);
}

/* Part number p of every rank sets out: piece r to rank r. */
static rk_status start_part(rk__scatter *s, const char *name, int p, const float *part, const int64_t *bound,
                            rk_leg *recv, rk_request **request)
{
    const rk__job *j = s->job;
    const size_t in = (size_t)(bound[j->rank + 1] - bound[j->rank]) * sizeof *part;
    for (int r = 0; r < j->ranks; r++) {
        const size_t out = (size_t)(bound[r + 1] - bound[r]) * sizeof *part;
        const bool mine = s->first[j->rank] + p < s->first[j->rank + 1];
        const bool theirs = s->first[r] + p < s->first[r + 1];
        s->send[r] = (rk_leg){ (void *)(uintptr_t)(part + bound[r]), mine ? out : 0 };
        recv[r] = (rk_leg){ NULL, theirs ? in : 0 };
    }
    return j->tensors->table->exchange(j->tensors, name, s->send, recv, request);
}

rk_status rk__scatter_start(rk__scatter *s, const char *name, const float *flat, int64_t stride,
                            const int64_t *bound, rk_leg *recv, rk_request **request)
{
    for (int p = 0; p < s->most; p++)
        RK_TRY(start_part(s, name, p, flat + p * stride, bound, recv + p * s->job->ranks, &request[p]));
    return RK_OK;
}

rk_status rk__scatter_add(rk__scatter *s, const int64_t *bound, rk_leg *recv, rk_request **request,
                          float *out)
{
    const rk__job *j = s->job;
    for (int p = 0; p < s->most; p++)
        RK_TRY(j->tensors->table->wait(j->tensors, request[p]));
    for (int r = 0; r < j->ranks; r++)
        for (int p = 0; s->first[r] + p < s->first[r + 1]; p++)
            s->from[s->first[r] + p] = recv[p * j->ranks + r].data;
    return rk__tree_add(j->ctx, bound[j->rank + 1] - bound[j->rank], s->parts, s->part, s->from, out);
}
