#include "parallel/nccl_state.h"

#include "core/clock.h"

/* The call meets on the host. Of an exchange words travel with the sizes; root: as of meet(). */
static rk_status meet(rk__nccl *n, rk_request *r, int root, size_t bytes)
{
    rk_comm *host = n->over.under;
    const uint64_t mine = rk__nccl_have(n, r);
    for (int i = 0; i < n->over.base.size; i++)
        r->tells[i].have = mine;
    if (r->op == RK__NCCL_EXCHANGE)
        return host->table->exchange(host, r->name, r->told, r->said, &r->under);
    RK_TRY(host->table->meet(host, r->name, root, bytes, &r->under));
    return n->agrees ? host->table->exchange(host, r->name, r->told, r->said, &r->words) : RK_OK;
}

/* Notes what the device has been given so far: the values that leave. The request is under way from here on.
 * What runs by itself, and so may set out at any time, leaves no list of the device cut at any place. */
rk_status rk__nccl_set_out(rk__nccl *n, rk_request *r, int root, size_t bytes)
{
    *n->flight_end = r;
    n->flight_end = &r->next;
    if (meet(n, r, root, bytes))
        return rk__nccl_given_up(n);
    rk_status st = r->empty ? RK_OK : n->call->mark_device(n->comm, r->at->made);
    if (!st && !r->empty && r->tells[0].have == RK__NCCL_UNKNOWN)
        st = n->call->flush(n->comm, false);
    return rk__nccl_checked(n, r, st);
}

/* ---- progress ---- */

static rk_status check_sizes(rk__nccl *n, const rk_request *r)
{
    for (int i = 0; r->op == RK__NCCL_EXCHANGE && i < n->over.base.size; i++)
        if (i != n->over.base.rank && r->hears[i].bytes != r->recv[i].bytes) {
            rk_fail(n->over.base.ctx, RK_EHANG,
                    "exchange %s: rank %d sends %zu bytes to rank %d, which expects %zu", r->name, i,
                    (size_t)r->hears[i].bytes, n->over.base.rank, r->recv[i].bytes);
            n->over.under->table->look(n->over.under); /* tells the others */
            return rk__nccl_given_up(n);
        }
    return RK_OK;
}

/* Gives the call to NCCL, which has taken it in at return. */
static rk_status call_nccl(rk__nccl *n, rk_request *r)
{
    rk_nccl_event *made = r->at->made;
    rk_status st;
    if (r->op == RK__NCCL_BROADCAST)
        st = n->call->broadcast(n->comm, made, r->root, r->data.data, r->data.bytes);
    else if (r->op == RK__NCCL_SUM && r->sum.all)
        st = n->call->all_reduce(n->comm, made, RK_F32, r->sum.in, r->sum.out, r->sum.n);
    else if (r->op == RK__NCCL_SUM)
        st = n->call->reduce_scatter(n->comm, made, RK_F32, r->sum.in, r->sum.count, n->over.base.size,
                                     r->sum.out);
    else if (r->op == RK__NCCL_GATHER && n->over.base.nodes > 1)
        st = n->call->all_gather(n->comm, made, r->leg, r->legs);
    else
        st = n->call->exchange(n->comm, made, r->leg, r->legs);
    RK_TRY(rk__nccl_checked(n, r, st));
    return rk__nccl_settle(n, rk__nccl_op_names[r->op], r->name);
}

/* What is held back is launched before: others may have to wait for it, to come to the same. */
static rk_status record(rk__nccl *n, rk_request *r, uint64_t number)
{
    rk_status st = n->call->flush(n->comm, true);
    if (!st)
        st = n->call->record(n->comm);
    RK_TRY(rk__nccl_checked(n, r, st));
    RK_TRY(call_nccl(n, r));
    return rk__nccl_checked(n, r, n->call->keep(n->comm, r->key, r->keys * sizeof *r->key, number));
}

static rk_status run(rk__nccl *n, rk_request *r, uint64_t what, uint64_t number)
{
    if (what == RK__NCCL_UNKNOWN) {
        RK_TRY(call_nccl(n, r));
        return rk__nccl_checked(n, r, n->call->mark(n->comm, r->at->done));
    }
    if (what == RK__NCCL_SEEN)
        RK_TRY(record(n, r, number));
    return rk__nccl_checked(
        n, r, n->call->replay(n->comm, r->key, r->keys * sizeof *r->key, r->at->made, r->at->done));
}

static rk_status launch(rk__nccl *n, rk_request *r)
{
    const uint64_t what = rk__nccl_agreed(n, r);
    RK_TRY(check_sizes(n, r));
    r->launched = true;
    if (what == RK__NCCL_SEEN)
        n->numbers++;
    if (r->empty)
        return RK_OK;
    const bool busy = n->busy;
    n->busy = true;
    rk_status st = run(n, r, what, RK__NCCL_FIRST_NUMBER + n->numbers);
    n->busy = busy;
    return st;
}

/* Has everyone called it? */
static bool met(const rk__nccl *n, const rk_request *r)
{
    rk_comm *host = n->over.under;
    return r->under && host->table->progress(host, r->under) &&
           (!r->words || host->table->progress(host, r->words)) && !rk_failed(host->ctx);
}

/* What all ranks have called sets out, in the order of the calls, as it does there. What becomes part of the
 * device's list waits for a place that is the same in every step, unless it is everything that is to go. */
rk_status rk__nccl_advance(rk__nccl *n, bool everything)
{
    RK_TRY(rk__nccl_given_up(n));
    if (n->busy)
        return RK_OK;
    n->over.under->table->progress(n->over.under, NULL);
    for (rk_request *r = n->flight; r; r = r->next) {
        if (r->launched)
            continue;
        if (!met(n, r) || (!everything && rk__nccl_agreed(n, r) >= RK__NCCL_FIRST_NUMBER))
            break;
        RK_TRY(launch(n, r));
    }
    return rk__nccl_given_up(n);
}

static bool all_launched(const rk__nccl *n)
{
    const rk_request *r = n->flight;
    while (r && r->launched)
        r = r->next;
    return !r;
}

/* The device launches what it holds back: what was called goes along if the others are not late. */
void rk__nccl_set_out_all(void *arg)
{
    rk__nccl *n = arg;
    double until = 0;
    while (!n->busy && !all_launched(n) && !rk__nccl_advance(n, true) && !all_launched(n)) {
        const double now = rk__seconds();
        until = until > 0 ? until : now + n->patience;
        if (now > until)
            break;
    }
}

/* Has everything arrived? */
rk_status rk__nccl_look_at(rk__nccl *n, const rk_request *r, bool *done)
{
    rk_nccl_state s = RK_NCCL_DONE;
    *done = false;
    RK_TRY(rk__nccl_advance(n, true));
    if (r->launched && !r->empty && n->call->event_held(r->at->done))
        RK_TRY(rk__nccl_checked(n, r, n->call->flush(n->comm, false)));
    if (r->launched && !r->empty)
        s = n->call->look(n->comm, r->at->done);
    if (s == RK_NCCL_FAILED)
        return rk__nccl_failed(n, rk__nccl_op_names[r->op], r->name);
    *done = r->launched && s == RK_NCCL_DONE;
    return RK_OK;
}

void rk__nccl_leave_flight(rk__nccl *n, rk_request *r)
{
    rk_request **at = &n->flight;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (!r->next)
        n->flight_end = at;
    rk__nccl_give_up(n, r);
}

static rk_status wait_host(rk__nccl *n, rk_request **under)
{
    rk_comm *host = n->over.under;
    rk_request *r = *under;
    *under = NULL;
    return r && host->table->wait(host, r) ? rk__nccl_given_up(n) : RK_OK;
}

/* What was called before comes first, whoever waits for it. What the device is given from here on comes after
 * the request; the host does not wait for the device. */
rk_status rk__nccl_wait_for(rk__nccl *n, rk_request *r)
{
    const rk_comm_table *host = n->over.under->table;
    if (rk_failed(n->over.base.ctx) || !r->under)
        return rk__nccl_given_up(n);
    RK_TRY(wait_host(n, &r->under)); /* all ranks have called it, and so all calls before it */
    RK_TRY(wait_host(n, &r->words));
    for (rk_request *before = n->flight; before != r; before = before->next)
        while (!before->launched) {
            RK_TRY(rk__nccl_advance(n, true));
            if (!before->launched && host->look(n->over.under))
                return rk__nccl_given_up(n);
        }
    if (!r->launched)
        RK_TRY(launch(n, r));
    if (r->empty)
        return RK_OK;
    if (n->call->look(n->comm, NULL) == RK_NCCL_FAILED)
        return rk__nccl_failed(n, rk__nccl_op_names[r->op], r->name);
    return rk__nccl_checked(n, r, n->call->join_device(n->comm, r->at->done));
}

/* What NCCL has noticed by itself. */
static void check_async(rk__nccl *n)
{
    const rk_request *last = n->flight;
    if (rk_failed(n->over.base.ctx) || n->call->look(n->comm, NULL) != RK_NCCL_FAILED)
        return;
    while (last && last->next && last->next->launched)
        last = last->next;
    rk__nccl_failed(n, last ? rk__nccl_op_names[last->op] : "what was called", last ? last->name : "before");
}

/* While this rank waits for another on the host, what all have called sets out: the other may be waiting for
 * that, as where NCCL connects. After a while so does what the device holds back. And NCCL is asked whether
 * it has failed. */
void rk__nccl_push_on(void *arg)
{
    rk__nccl *n = arg;
    if (n->busy || rk_failed(n->over.base.ctx))
        return;
    if (rk__nccl_advance(n, false))
        return;
    uint64_t given;
    const double now = rk__seconds();
    n->call->held(n->comm, &given);
    if (given != n->given || n->since <= 0) { /* another wait than the last one */
        n->given = given;
        n->since = now;
    }
    if (now - n->since > n->patience && !rk__nccl_advance(n, true) && n->call->held(n->comm, &given))
        n->call->flush(n->comm, true); /* a failure is what look() tells next */
    check_async(n);
}

/* The device is waited for. Nothing is launched where something is held back: that is a wait for room. */
void rk__nccl_watch_wait(void *arg)
{
    rk__nccl *n = arg;
    if (n->busy ||
        rk__nccl_given_up(n)) /* what the device is stuck in, where a failure was found elsewhere, ends */
        return;
    uint64_t given;
    if (!n->call->held(n->comm, &given))
        rk__nccl_advance(n, false);
    check_async(n);
    n->busy = true;
    if (n->over.under->table->look(n->over.under))
        rk__nccl_given_up(n);
    n->busy = false;
}
