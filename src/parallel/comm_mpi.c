/* The network: MPI's point-to-point messages, in pieces that fit its int counts. Ranks that wait poll, so
 * that they can also look after shared memory, failures and their own sleep. */
#include "parallel/comm_net.h"

#include "core/clock.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A word on its way. */
typedef struct word {
    struct word *next;
    MPI_Request request;
    char data[];
} word;

struct rk__net {
    rk_ctx *ctx;
    MPI_Comm comm;
    int rank, size;
    int top_tag; /* that of words */
    word *words;
    size_t piece; /* largest message; longer ones travel in pieces */
};

struct rk__posts {
    rk__net *net;
    MPI_Request *request;
    size_t *bytes; /* what each has to bring; SIZE_MAX: a message that leaves */
    int ended;     /* the first so many are over */
    int count, room;
};

/* ---- start and end ---- */

static int number_in(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? (int)strtol(text, NULL, 10) : 0;
}

int rk__net_launched(void)
{
    if (number_in("OMPI_COMM_WORLD_SIZE") > 0)
        return number_in("OMPI_COMM_WORLD_SIZE");
    if (getenv("PMI_RANK") && number_in("PMI_SIZE") > 0)
        return number_in("PMI_SIZE");
    if (!getenv("PMIX_RANK"))
        return 0;
    int tasks = number_in("SLURM_STEP_NUM_TASKS");
    return tasks > 0 ? tasks : 2; /* several, as far as can be known before MPI starts */
}

/* Bytes of a message over TCP, and what of them is MPI's. */
enum { AT_ONCE = 256 << 10, HEADER = 64 };

/* Of a sanitizer, where there is one. */
extern void __lsan_do_leak_check(void) __attribute__((weak));

static void finish(void)
{
    int over = 1;
    MPI_Finalized(&over);
    if (__lsan_do_leak_check) /* while MPI's own leaks can be told by the names of what it has loaded */
        __lsan_do_leak_check();
    if (!over)
        MPI_Finalize();
}

static rk_status failed(rk_ctx *ctx, const char *what, int error)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(error, text, &length);
    return rk_fail(ctx, RK_EPEER, "MPI: %s: %s", what, text);
}

/* Over TCP Open MPI asks before it sends a message that is larger than these, and the answer queues behind
 * what goes the other way. What the user has set stands. */
static void send_at_once(void)
{
    static const char *const limits[] = { "OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit",
                                          "OMPI_MCA_btl_tcp_max_send_size" };
    char bytes[16];
    snprintf(bytes, sizeof bytes, "%d", AT_ONCE);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        setenv(limits[i], bytes, 0);
}

/* Calls of one thread at a time. Several contexts of a process share one MPI, which cannot start twice: it
 * ends with the process. */
static int start(void)
{
    int begun = 0, level;
    MPI_Initialized(&begun);
    if (begun)
        return MPI_SUCCESS;
    send_at_once();
    int error = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    if (!error)
        atexit(finish);
    return error;
}

int rk__net_local_rank(void)
{
    MPI_Comm node;
    int rank = -1;
    if (start() || MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node))
        return -1;
    MPI_Comm_rank(node, &rank);
    MPI_Comm_free(&node);
    return rank;
}

/* What a rank says of itself. */
typedef struct health {
    int32_t status;
    char words[508];
} health;

rk_status rk__net_all_well(rk_ctx *ctx)
{
    int ranks = 0, rank = 0;
    health mine = { .status = ctx ? (int32_t)rk_failed(ctx) : RK_ENOMEM };
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    health *all = calloc((size_t)ranks, sizeof *all);
    snprintf(mine.words, sizeof mine.words, "%s", ctx ? rk_error(ctx) : "out of memory");
    if (!all)
        MPI_Abort(MPI_COMM_WORLD, rk_exit_code(RK_ENOMEM));
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof *all, MPI_BYTE, MPI_COMM_WORLD);
    int first = 0;
    while (first < ranks && !all[first].status)
        first++;
    if (ctx && first < ranks && first != rank) { /* one speaks for all that failed alike */
        rk_error_clear(ctx);
        rk_fail(ctx, (rk_status)all[first].status, "rank %d: %s", first, all[first].words);
    }
    free(all);
    return ctx ? rk_failed(ctx) : RK_ENOMEM;
}

/* A domain around a communicator that it owns from now on. */
static rk_status wrap(rk_ctx *ctx, MPI_Comm comm, rk__net **out)
{
    rk__net *net = *out = rk__calloc(ctx, 1, sizeof *net);
    int *top = NULL, there = 0;
    if (!net)
        return RK_ENOMEM;
    net->ctx = ctx;
    net->comm = comm;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &net->rank);
    MPI_Comm_size(comm, &net->size);
    MPI_Comm_get_attr(comm, MPI_TAG_UB, &top, &there);
    net->top_tag = there ? *top : 32767;
    net->piece = AT_ONCE - HEADER;
    int lowered = number_in("RANKINE_COMM_PIECE"); /* tests: 2 GiB at a smaller scale */
    if (lowered > 0)
        net->piece = (size_t)lowered;
    return RK_OK;
}

rk_status rk__net_open(rk_ctx *ctx, rk__net **out)
{
    MPI_Comm comm;
    *out = NULL;
    int error = start();
    if (error)
        return failed(ctx, "cannot start", error);
    error = MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    return error ? failed(ctx, "cannot open a communicator", error) : wrap(ctx, comm, out);
}

rk_status rk__net_split(rk__net *net, int color, int key, rk__net **out)
{
    MPI_Comm comm;
    *out = NULL;
    int error = MPI_Comm_split(net->comm, color < 0 ? MPI_UNDEFINED : color, key, &comm);
    if (error)
        return failed(net->ctx, "cannot split a communicator", error);
    return comm == MPI_COMM_NULL ? RK_OK : wrap(net->ctx, comm, out);
}

rk_status rk__net_split_node(rk__net *net, rk__net **out)
{
    MPI_Comm comm;
    *out = NULL;
    int error = MPI_Comm_split_type(net->comm, MPI_COMM_TYPE_SHARED, net->rank, MPI_INFO_NULL, &comm);
    return error ? failed(net->ctx, "cannot find the ranks of this node", error) : wrap(net->ctx, comm, out);
}

static void drop_sent_words(rk__net *net)
{
    for (word **at = &net->words; *at;) {
        word *w = *at;
        int gone = 0;
        MPI_Test(&w->request, &gone, MPI_STATUS_IGNORE);
        if (gone) {
            *at = w->next;
            free(w);
        } else {
            at = &w->next;
        }
    }
}

void rk__net_leave(rk__net *net)
{
    int over = 1;
    if (!net)
        return;
    MPI_Finalized(&over);
    if (!over)
        drop_sent_words(net); /* the few that have not left are MPI's until the end */
    free(net);
}

void rk__net_close(rk__net *net)
{
    if (net)
        MPI_Comm_free(&net->comm);
    rk__net_leave(net);
}

void rk__net_abort(rk__net *net, int code)
{
    MPI_Abort(net->comm, code);
    abort();
}

int rk__net_rank(const rk__net *net)
{
    return net->rank;
}

int rk__net_size(const rk__net *net)
{
    return net->size;
}

uint32_t rk__net_tag(const rk__net *net, uint64_t hash)
{
    hash ^= hash >> 29;
    return RK__NET_TAGS + (uint32_t)(hash % (uint64_t)(net->top_tag - RK__NET_TAGS));
}

rk_status rk__net_gather(rk__net *net, const void *mine, size_t bytes, void *all)
{
    int error = MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, net->comm);
    return error ? failed(net->ctx, "cannot gather", error) : RK_OK;
}

rk_status rk__net_all_reduce(rk__net *net, const float *in, float *out, int64_t n)
{
    if (n > INT_MAX)
        return rk_fail(net->ctx, RK_EUSAGE, "MPI_Allreduce takes at most %d values at once", INT_MAX);
    int error = MPI_Allreduce(in, out, (int)n, MPI_FLOAT, MPI_SUM, net->comm);
    return error ? failed(net->ctx, "cannot sum", error) : RK_OK;
}

/* ---- messages ---- */

rk_status rk__posts_open(rk__net *net, rk__posts **out)
{
    rk__posts *p = *out = rk__calloc(net->ctx, 1, sizeof *p);
    if (!p)
        return RK_ENOMEM;
    p->net = net;
    return RK_OK;
}

static rk_status make_room(rk__posts *p, size_t more)
{
    rk_ctx *ctx = p->net->ctx;
    if (more > 1u << 20)
        return rk_fail(ctx, RK_ENOMEM, "a message in %zu pieces", more);
    if (p->count + (int)more <= p->room)
        return RK_OK;
    int room = 2 * p->room + (int)more;
    MPI_Request *request = realloc(p->request, (size_t)room * sizeof *request);
    p->request = request ? request : p->request;
    size_t *bytes = realloc(p->bytes, (size_t)room * sizeof *bytes);
    p->bytes = bytes ? bytes : p->bytes;
    if (!request || !bytes)
        return rk_fail(ctx, RK_ENOMEM, "out of memory: %d messages under way", room);
    p->room = room;
    return RK_OK;
}

static size_t pieces(const rk__net *net, size_t bytes)
{
    return bytes / net->piece + (bytes % net->piece != 0);
}

rk_status rk__posts_send(rk__posts *p, int to, uint32_t tag, const void *data, size_t bytes)
{
    rk__net *net = p->net;
    RK_TRY(make_room(p, pieces(net, bytes)));
    for (size_t at = 0; at < bytes; at += net->piece) {
        size_t n = bytes - at < net->piece ? bytes - at : net->piece;
        int error = MPI_Isend((const char *)data + at, (int)n, MPI_BYTE, to, (int)tag, net->comm,
                              &p->request[p->count]);
        if (error)
            return failed(net->ctx, "cannot send", error);
        p->bytes[p->count++] = SIZE_MAX;
    }
    return RK_OK;
}

rk_status rk__posts_recv(rk__posts *p, int from, uint32_t tag, void *data, size_t bytes)
{
    rk__net *net = p->net;
    RK_TRY(make_room(p, pieces(net, bytes)));
    for (size_t at = 0; at < bytes; at += net->piece) {
        size_t n = bytes - at < net->piece ? bytes - at : net->piece;
        int error =
            MPI_Irecv((char *)data + at, (int)n, MPI_BYTE, from, (int)tag, net->comm, &p->request[p->count]);
        if (error)
            return failed(net->ctx, "cannot receive", error);
        p->bytes[p->count++] = n;
    }
    return RK_OK;
}

/* What arrived has the length that was expected. */
static rk_status check_length(const rk__posts *p, int i, MPI_Status *arrived)
{
    int n = 0;
    if (p->bytes[i] == SIZE_MAX)
        return RK_OK;
    MPI_Get_count(arrived, MPI_BYTE, &n);
    if ((size_t)n == p->bytes[i])
        return RK_OK;
    return rk_fail(p->net->ctx, RK_EHANG, "rank %d sent %d bytes where %zu were expected",
                   arrived->MPI_SOURCE, n, p->bytes[i]);
}

/* All have to end, so only the first that has not is looked at: a look does not take longer with more of
 * them. */
rk_status rk__posts_test(rk__posts *p, bool *done)
{
    *done = false;
    for (; p->ended < p->count; p->ended++) {
        MPI_Status arrived;
        int over = 0;
        int error = MPI_Test(&p->request[p->ended], &over, &arrived);
        if (error)
            return failed(p->net->ctx, "a message was lost", error);
        if (!over)
            return RK_OK;
        RK_TRY(check_length(p, p->ended, &arrived));
    }
    p->count = p->ended = 0;
    *done = true;
    return RK_OK;
}

/* A message that leaves only reads. One that arrives is cancelled, unless its first part has come. */
static void give_up(MPI_Request *request, bool leaves, double until)
{
    int over = 0;
    MPI_Cancel(request);
    while (!leaves && !MPI_Test(request, &over, MPI_STATUS_IGNORE) && !over && rk__seconds() < until)
        ;
    if (!over)
        MPI_Request_free(request);
}

void rk__posts_give_up(rk__posts *p, double until)
{
    for (int i = p->ended; i < p->count; i++)
        if (p->request[i] != MPI_REQUEST_NULL)
            give_up(&p->request[i], p->bytes[i] == SIZE_MAX, until);
    p->count = p->ended = 0;
}

void rk__posts_close(rk__posts *p)
{
    if (!p)
        return;
    rk__posts_give_up(p, 0);
    free(p->request);
    free(p->bytes);
    free(p);
}

/* ---- words ---- */

rk_status rk__net_say(rk__net *net, int to, const void *what, size_t bytes)
{
    drop_sent_words(net);
    word *w = malloc(sizeof *w + bytes);
    if (!w)
        return rk_fail(net->ctx, RK_ENOMEM, "out of memory");
    memcpy(w->data, what, bytes);
    int error = MPI_Isend(w->data, (int)bytes, MPI_BYTE, to, net->top_tag, net->comm, &w->request);
    if (error) {
        free(w);
        return failed(net->ctx, "cannot send", error);
    }
    w->next = net->words;
    net->words = w;
    return RK_OK;
}

bool rk__net_hear(rk__net *net, void *what, size_t bytes, int *from)
{
    MPI_Status s;
    int there = 0;
    if (MPI_Iprobe(MPI_ANY_SOURCE, net->top_tag, net->comm, &there, &s) || !there)
        return false;
    *from = s.MPI_SOURCE;
    return MPI_Recv(what, (int)bytes, MPI_BYTE, s.MPI_SOURCE, net->top_tag, net->comm, &s) == MPI_SUCCESS;
}
