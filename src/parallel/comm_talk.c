/* Waiting, failures and disagreement. Ranks of a node see each other's calls in shared memory, so they differ
 * at the meeting itself. Over the network messages of different calls never meet (their tags are hashes of
 * all calls so far), so whoever has waited for a while tells its call, and whoever called something else
 * knows. */
#include "parallel/comm_ranks.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TELL_SECONDS   0.3    /* of waiting, before a rank tells others what it waits in */
#define GATHER_SECONDS 0.2    /* how long a disagreement is given to show what everyone called */
#define LAST_SECONDS   0.3    /* for calls that a rank made before it failed */
#define LOOK_SECONDS   200e-6 /* between looks at failures */
#define NAP_FAR        100e-6 /* messages come without a bell */
#define NAP_NEAR       20e-3

typedef enum word_kind { WORD_CALL, WORD_FAILED, WORD_CLOSED } word_kind;

typedef struct word {
    int32_t kind, pad;
    rk__call call;
    uint64_t to_you, from_you; /* bytes of the legs of an exchange */
    rk__failure failure;
} word;

/* ---- failures ---- */

rk_status rk__fail_for_all(rk__ranks *c, const char *fmt, ...)
{
    char message[sizeof((rk__failure *)0)->message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    if (!rk_failed(c->base.ctx))
        c->root->theirs = true;
    return rk_fail(c->base.ctx, RK_EHANG, "%s", message);
}

static rk_status fail_as(rk__ranks *c, int rank, const rk__failure *f)
{
    rk_status st = f->status > 0 && f->status <= RK_EDEVICE ? (rk_status)f->status : RK_EPEER;
    if (!rk_failed(c->base.ctx))
        c->root->theirs = true;
    if (f->theirs)
        return rk_fail(c->base.ctx, st, "%s", f->message);
    return rk_fail(c->base.ctx, st, "rank %d: %s", rank, f->message);
}

static void say_to_far(rk__ranks *c, const word *w)
{
    for (int r = 0; r < c->base.size; r++)
        if (!rk__is_near(c, r))
            rk__net_say(c->net, r, w, sizeof *w);
}

static void announce_in(rk__ranks *c, const rk__failure *f)
{
    word w = { .kind = WORD_FAILED, .failure = *f };
    if (!c->shm) /* not yet open */
        return;
    rk__node_say_failed(c->shm, f);
    say_to_far(c, &w);
}

void rk__announce(rk__ranks *c)
{
    rk__ranks *root = c->root;
    rk__failure f = { .status = (int32_t)c->base.ctx->status, .theirs = root->theirs };
    if (root->announced)
        return;
    root->announced = true;
    snprintf(f.message, sizeof f.message, "%s", rk_error(c->base.ctx));
    for (rk__ranks *each = root; each; each = each->next) {
        f.seq = each->called;
        announce_in(each, &f);
    }
}

void rk__say_closed(rk__ranks *c)
{
    word w = { .kind = WORD_CLOSED };
    rk__call_set(&w.call, c->seq, RK__BARRIER, "", 0, 0);
    rk__node_say_closed(c->shm);
    say_to_far(c, &w);
}

/* ---- disagreement ---- */

static bool remembered(const rk__ranks *c, uint64_t seq)
{
    return seq && seq <= c->seq && c->seq - seq < RK__CALLS && c->history[seq % RK__CALLS].seq == seq;
}

static void tell_call(rk__ranks *c, uint64_t seq)
{
    word w = { .kind = WORD_CALL };
    if (!remembered(c, seq))
        return;
    w.call = c->history[seq % RK__CALLS];
    for (int i = 0; i < c->base.size; i++) {
        if (rk__is_near(c, i))
            continue;
        w.to_you = rk__legs_of(c, seq, i)[0];
        w.from_you = rk__legs_of(c, seq, i)[1];
        rk__net_say(c->net, i, &w, sizeof w);
    }
}

/* Legs that do not fit, in an exchange on which both agree otherwise. */
static rk_status check_legs(rk__ranks *c, int from, const word *w)
{
    const uint64_t *mine = rk__legs_of(c, w->call.seq, from);
    int me = c->base.rank;
    static const char fmt[] = "exchange %s: rank %d sends %zu bytes to rank %d, which expects %zu";
    if (w->call.op != RK__EXCHANGE)
        return RK_OK;
    if (mine[1] != w->to_you)
        return rk__fail_for_all(c, fmt, w->call.name, from, (size_t)w->to_you, me, (size_t)mine[1]);
    if (mine[0] != w->from_you)
        return rk__fail_for_all(c, fmt, w->call.name, me, (size_t)mine[0], from, (size_t)w->from_you);
    return RK_OK;
}

/* Takes in what has been said; calls are only noted. */
static rk_status hear(rk__ranks *c)
{
    word w;
    int from;
    while (c->base.nodes > 1 && rk__net_hear(c->net, &w, sizeof w, &from)) {
        if (w.kind == WORD_FAILED && c->far_failed < 0) {
            c->far_failed = from;
            c->far_failure = w.failure;
        }
        if (w.kind == WORD_CLOSED)
            c->closed_at[from] = w.call.seq + 1;
        else if (w.kind == WORD_CALL) {
            c->heard[from] = w.call;
            if (remembered(c, w.call.seq) && rk__calls_agree(&w.call, &c->history[w.call.seq % RK__CALLS]))
                RK_TRY(check_legs(c, from, &w));
        }
    }
    return RK_OK;
}

static rk_status check_heard(rk__ranks *c)
{
    for (int r = 0; c->base.nodes > 1 && r < c->base.size; r++) {
        const rk__call *theirs = &c->heard[r];
        if (remembered(c, theirs->seq) && !rk__calls_agree(theirs, &c->history[theirs->seq % RK__CALLS]))
            return rk__disagree(c, theirs->seq);
    }
    return RK_OK;
}

/* What everyone called as number seq, as far as this rank can know. */
static bool collect_calls(rk__ranks *c, uint64_t seq, rk__call *call)
{
    bool all = true;
    for (int r = 0; r < c->base.size; r++) {
        const rk__call *theirs = NULL;
        if (r == c->base.rank)
            theirs = &c->history[seq % RK__CALLS];
        else if (!rk__is_near(c, r))
            theirs = c->heard[r].seq == seq ? &c->heard[r] : NULL;
        else
            theirs = rk__node_called(c->shm, c->home[r], seq);
        if (theirs && theirs->seq == seq)
            call[r] = *theirs;
        all = all && call[r].seq;
    }
    return all;
}

static bool read_alike(const rk__call *call, int ranks)
{
    for (int r = 1; r < ranks; r++)
        if (call[r].op != call[0].op || strncmp(call[r].name, call[0].name, sizeof call[r].name))
            return false;
    return true;
}

rk_status rk__disagree(rk__ranks *c, uint64_t seq)
{
    rk__call *call = rk__calloc(c->base.ctx, (size_t)c->base.size, sizeof *call);
    double until = rk__seconds() + GATHER_SECONDS;
    char text[400];
    if (!call)
        return RK_ENOMEM;
    tell_call(c, seq);
    while (!collect_calls(c, seq, call) && !hear(c) && c->far_failed < 0 && rk__seconds() < until)
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    if (c->far_failed >= 0)
        fail_as(c, c->far_failed, &c->far_failure);
    if (!rk_failed(c->base.ctx)) {
        rk__calls_describe(call, c->base.size, text, sizeof text);
        rk__fail_for_all(c,
                         read_alike(call, c->base.size)
                             ? "ranks disagree on the calls and waits before this: %s"
                             : "ranks disagree: %s",
                         text);
    }
    rk__announce(c);
    free(call);
    return rk_failed(c->base.ctx);
}

/* ---- waiting ---- */

/* A rank that closed and will never make the call that this one waits in. */
static rk_status fail_closed(rk__ranks *c, const rk_request *r, int rank)
{
    char call[128];
    rk__call_describe(&r->call, call, sizeof call);
    return rk__fail_for_all(c, "rank %d ended while others wait for it in %s", rank, call);
}

/* Another rank has failed. A call that it still made may complete: it is given a moment to do so. */
static rk_status heed(rk__ranks *c, const rk_request *r, rk__watch *w, double now, int rank,
                      const rk__failure *f)
{
    if (r && r->call.seq <= f->seq) {
        w->since = w->since > 0 ? w->since : now;
        if (now - w->since < LAST_SECONDS)
            return RK_OK;
    }
    return fail_as(c, rank, f);
}

static rk_status look_near(rk__ranks *c, const rk_request *r, rk__watch *w, double now)
{
    rk__failure f;
    for (int n = 0; n < c->base.node_size; n++) {
        if (n == c->base.node_rank)
            continue;
        if (rk__node_failed(c->shm, n, &f))
            return heed(c, r, w, now, rk__near(c, n), &f);
        if (r && rk__node_closed(c->shm, n) && !rk__node_called(c->shm, n, r->call.seq))
            return fail_closed(c, r, rk__near(c, n));
    }
    return RK_OK;
}

static rk_status look_far(rk__ranks *c, const rk_request *r, rk__watch *w, double now)
{
    if (c->base.nodes == 1)
        return RK_OK;
    RK_TRY(hear(c));
    if (c->far_failed >= 0)
        return heed(c, r, w, now, c->far_failed, &c->far_failure);
    for (int i = 0; r && i < c->base.size; i++)
        if (c->closed_at[i] && c->closed_at[i] <= r->call.seq)
            return fail_closed(c, r, i);
    if (!w->told && r && now - w->begun > TELL_SECONDS) {
        tell_call(c, r->call.seq);
        w->told = true;
    }
    return check_heard(c);
}

static void call_waiters(rk__ranks *root)
{
    if (root->waiting)
        return;
    root->waiting = true;
    for (struct rk__waiter *it = root->waiters; it; it = it->next)
        it->fn(it->arg);
    root->waiting = false;
}

rk_status rk__watch_idle(rk__ranks *c, rk_request *r, rk__watch *w)
{
    bool messages = c->base.nodes > 1 || !r || r->posted;
    /* While it spins a rank looks at its clock now and then; asleep it looks each time that it wakes. */
    if (!w->idle.armed && w->begun > 0 && w->idle.spins % 64) {
        rk__node_idle(c->shm, &w->idle, NAP_FAR);
        return RK_OK;
    }
    if (c->root->waiters)
        call_waiters(c->root);
    double now = rk__seconds();
    if (w->begun <= 0)
        w->begun = now;
    if (now - w->looked > LOOK_SECONDS) {
        w->looked = now;
        rk_status st = look_near(c, r, w, now);
        st = st ? st : look_far(c, r, w, now);
        if (st) {
            rk__announce(c);
            return st;
        }
    }
    rk__node_idle(c->shm, &w->idle, messages ? NAP_FAR : NAP_NEAR);
    return RK_OK;
}

void rk__watch_end(rk__ranks *c, rk__watch *w)
{
    rk__node_awake(c->shm, &w->idle);
    if (w->begun <= 0)
        return;
    const double seconds = rk__seconds() - w->begun;
    for (; c; c = c->parent)
        c->base.waited += seconds;
}
