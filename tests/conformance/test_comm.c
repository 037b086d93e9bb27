/* What every communicator does, with exact data. Alone this program tests "self"; test_comm.sh starts it as
 * several ranks, and all of them have to agree on what a TEST found. */
#include "test.h"

#include <rankine/rankine.h>

#include "parallel/comm_nccl.h"
#include "parallel/comm_tables.h"
#include "parallel/scatter.h"
#include "parallel/tree.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static rk_ctx *ctx;
static rk_comm *comm;

/* A wait of a device's communicator orders what the device does; these tests look on the host, and so wait
 * for the device too. */
static const rk_comm_table *of_device;
static rk_comm_table seen;
static void *device_byte;

static rk_status wait_seen(rk_comm *c, rk_request *r)
{
    uint8_t byte;
    rk_status st = of_device->wait(c, r);
    if (!st && r && c->ctx->device->copy_out(c->ctx->dev, &byte, device_byte, 1))
        st = rk_fail(c->ctx, RK_EDEVICE, "the device cannot be waited for");
    return st ? st : rk_failed(c->ctx);
}

static rk_status split_seen(rk_comm *c, int color, int key, rk_comm **out)
{
    rk_status st = of_device->split(c, color, key, out);
    if (*out)
        (*out)->table = &seen;
    return st;
}

static void see_device(void)
{
    of_device = comm->table;
    seen = *of_device;
    seen.wait = wait_seen;
    seen.split = split_seen;
    device_byte = comm->table->alloc(comm, 1);
    comm->table = &seen;
}

/* A context and a communicator for each test; the table that this process can have. */
static void set_up_for(int graph)
{
    const char *by_nccl = getenv("RK_TEST_NCCL"); /* on the CUDA device that RANKINE_CUDA names */
    rk_open(&(rk_open_cfg){ .threads = 1, .device = by_nccl ? "cuda" : NULL, .graph = graph }, &ctx);
    rk__comm_named(ctx, "mpi", &comm);
    if (!comm)
        rk__comm_named(ctx, "self", &comm);
    if (getenv("RK_TEST_STAGED")) /* as for a device whose memory the host does not see */
        rk__comm_staged(comm, &comm);
    char why[256];
    const rk_nccl_table *call = by_nccl ? rk__nccl_of(ctx, why, sizeof why) : NULL;
    if (call)
        rk__comm_nccl(comm, call, &comm);
    if (call && !rk_failed(ctx))
        see_device();
    else if (by_nccl && !call)
        rk_fail(ctx, RK_ECONFIG, "%s", why);
}

/* The tests read device memory on the host: nothing of the device may be held back for a graph. */
static void set_up(void)
{
    set_up_for(-1);
}

/* Byte k of what rank `from` has for rank `to` in round `round`. */
static uint8_t cell(int from, int to, int round, size_t k)
{
    uint32_t h = (uint32_t)from * 2654435761u ^ (uint32_t)to * 40503u ^ (uint32_t)round * 2246822519u ^
                 (uint32_t)k * 3266489917u;
    return (uint8_t)(h >> 13 ^ h >> 21);
}

static void fill(void *data, int from, int to, int round, size_t n)
{
    for (size_t k = 0; k < n; k++)
        ((uint8_t *)data)[k] = cell(from, to, round, k);
}

static bool holds(const void *data, int from, int to, int round, size_t n)
{
    for (size_t k = 0; k < n; k++)
        if (((const uint8_t *)data)[k] != cell(from, to, round, k))
            return false;
    return true;
}

/* How much `from` has for `to`: odd sizes, sometimes nothing, and rank 1 never has anything in odd rounds. */
static size_t size_of(int from, int to, int round)
{
    static const size_t sizes[] = { 1, 0, 3, 64, 1001, 4096, 70001, 17 };
    if (from == 1 && round % 2)
        return 0;
    return sizes[(from * 3 + to * 5 + round) % 8];
}

typedef struct swap {
    rk_leg send[64], recv[64];
    bool shared; /* memory of alloc() */
    void *memory;
} swap;

static bool open_swap(swap *s, int round, bool shared, bool named)
{
    size_t bytes = 0;
    for (int i = 0; i < comm->size; i++)
        bytes += size_of(comm->rank, i, round) + size_of(i, comm->rank, round) + 2;
    s->shared = shared;
    s->memory = shared ? comm->table->alloc(comm, bytes) : calloc(bytes, 1);
    if (!s->memory)
        return false;
    char *at = s->memory;
    for (int i = 0; i < comm->size; i++) {
        s->send[i] = (rk_leg){ at, size_of(comm->rank, i, round) };
        fill(at, comm->rank, i, round, s->send[i].bytes);
        at += s->send[i].bytes + 1;
        s->recv[i] = (rk_leg){ named ? at : NULL, size_of(i, comm->rank, round) };
        at += s->recv[i].bytes + 1;
    }
    return true;
}

static bool right_swap(const swap *s, int round)
{
    for (int i = 0; i < comm->size; i++)
        if (!holds(s->recv[i].data, i, comm->rank, round, s->recv[i].bytes))
            return false;
    return true;
}

static void close_swap(swap *s)
{
    if (s->shared)
        comm->table->release(comm, s->memory);
    else
        free(s->memory);
}

TEST(exchange)
{
    set_up();
    for (int round = 0; round < 16; round++) {
        swap s;
        CHECK(open_swap(&s, round, round & 1, round & 2));
        CHECK_OK(ctx, rk__comm_exchange(comm, "legs", s.send, s.recv));
        CHECK(right_swap(&s, round));
        CHECK_OK(ctx, comm->table->barrier(comm, "after"));
        close_swap(&s);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(all_gather)
{
    set_up();
    static uint8_t data[64 * 70001];
    static const size_t sizes[] = { 0, 1, 7, 4096, 70001 };
    for (size_t z = 0; z < 5; z++) {
        rk_leg piece[64];
        for (int i = 0; i < comm->size; i++)
            piece[i] = (rk_leg){ data + (size_t)i * sizes[z], sizes[z] };
        fill(piece[comm->rank].data, comm->rank, 0, (int)z, sizes[z]);
        CHECK_OK(ctx, rk__comm_all_gather(comm, "pieces", piece));
        for (int i = 0; i < comm->size; i++)
            CHECK(holds(piece[i].data, i, 0, (int)z, sizes[z]));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(all_gather_of_pieces_that_differ)
{
    set_up();
    static uint8_t data[64 * 9000];
    for (int round = 0; round < 4; round++) {
        rk_leg piece[64];
        for (int i = 0; i < comm->size; i++)
            piece[i] = (rk_leg){ data + (size_t)i * 9000, (size_t)((i + round) % 3 * 4001) };
        fill(piece[comm->rank].data, comm->rank, 0, round, piece[comm->rank].bytes);
        CHECK_OK(ctx, rk__comm_all_gather(comm, "parts", piece));
        for (int i = 0; i < comm->size; i++)
            CHECK(holds(piece[i].data, i, 0, round, piece[i].bytes));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(broadcast_from_every_root)
{
    set_up();
    static uint8_t data[70001];
    for (int root = 0; root < comm->size; root++) {
        memset(data, 0, sizeof data);
        if (comm->rank == root)
            fill(data, root, 0, 1, sizeof data);
        CHECK_OK(ctx, rk__comm_broadcast(comm, "weights", root, data, sizeof data));
        CHECK(holds(data, root, 0, 1, sizeof data));
    }
    CHECK_INT(rk_close(ctx), 0);
}

/* Ranks come at different times: a few hundred microseconds, other ones for each rank and round. */
static void dawdle(int round)
{
    usleep((useconds_t)cell(comm->rank, 7, round, 11) * 4);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

TEST(shared_memory_is_zeroed_whole_pages_and_may_differ_in_size)
{
    set_up();
    for (int round = 0; round < 6; round++) {
        size_t bytes = (size_t)(comm->rank * 5003 + round * 70001);
        uint8_t *p = comm->table->alloc(comm, bytes), *q = comm->table->alloc(comm, 1);
        CHECK(p && q);
        CHECK(getenv("RK_TEST_STAGED") || getenv("RK_TEST_NCCL") ||
              (uintptr_t)p % 4096 == 0); /* a device has pages of its own */
        for (size_t k = 0; k < bytes; k++)
            CHECK_INT(p[k], 0);
        memset(p, 255, bytes);
        comm->table->release(comm, round % 2 ? q : p);
        comm->table->release(comm, round % 2 ? p : q);
    }
    CHECK(comm->table->alloc(comm, 100)); /* not released: dies with the context */
    CHECK_INT(rk_close(ctx), 0);
}

/* Buffers are written again as soon as a collective that was started after the wait is complete, while others
 * still hold what was lent before. */
TEST(lent_legs_hold_until_the_next_collective)
{
    set_up();
    enum { LEG = 3001, ROUNDS = 40 };
    uint8_t *mine = comm->table->alloc(comm, (size_t)comm->size * LEG);
    CHECK(mine);
    for (int round = 0; round < ROUNDS; round++) {
        rk_leg send[64], recv[64];
        for (int i = 0; i < comm->size; i++) {
            send[i] = (rk_leg){ mine + i * LEG, LEG };
            recv[i] = (rk_leg){ NULL, LEG };
            fill(send[i].data, comm->rank, i, round, LEG);
        }
        CHECK_OK(ctx, rk__comm_exchange(comm, "legs", send, recv));
        dawdle(round);
        for (int i = 0; i < comm->size; i++)
            CHECK(holds(recv[i].data, i, comm->rank, round, LEG));
        CHECK_OK(ctx, comm->table->barrier(comm, "read"));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(many_collectives_in_flight)
{
    set_up();
    enum { MANY = 12, LEG = 501 };
    for (int turn = 0; turn < 3; turn++) {
        static uint8_t out[MANY][64][LEG], all[MANY][64][LEG], word[MANY][LEG];
        static rk_leg recv[MANY][64];
        rk_request *ex[MANY], *ag[MANY], *bc[MANY];
        for (int k = 0; k < MANY; k++) {
            rk_leg send[64], piece[64];
            int root = k % comm->size;
            for (int i = 0; i < comm->size; i++) {
                send[i] = (rk_leg){ out[k][i], LEG };
                recv[k][i] = (rk_leg){ NULL, LEG };
                piece[i] = (rk_leg){ all[k][i], LEG };
                fill(out[k][i], comm->rank, i, k + turn, LEG);
            }
            fill(all[k][comm->rank], comm->rank, 1, k + turn, LEG);
            if (comm->rank == root)
                fill(word[k], root, 2, k + turn, LEG);
            dawdle(k);
            CHECK_OK(ctx, comm->table->exchange(comm, "legs", send, recv[k], &ex[k]));
            CHECK_OK(ctx, comm->table->all_gather(comm, "pieces", piece, &ag[k]));
            CHECK_OK(ctx, comm->table->broadcast(comm, "word", root, word[k], LEG, &bc[k]));
            comm->table->progress(comm, NULL);
        }
        for (int k = MANY - 1; k >= 0; k--) {
            CHECK_OK(ctx, comm->table->wait(comm, ag[k]));
            CHECK_OK(ctx, comm->table->wait(comm, ex[k]));
            CHECK_OK(ctx, comm->table->wait(comm, bc[k]));
        }
        for (int k = 0; k < MANY; k++) {
            for (int i = 0; i < comm->size; i++) {
                CHECK(holds(recv[k][i].data, i, comm->rank, k + turn, LEG));
                CHECK(holds(all[k][i], i, 1, k + turn, LEG));
            }
            CHECK(holds(word[k], k % comm->size, 2, k + turn, LEG));
        }
        CHECK_OK(ctx, comm->table->barrier(comm, "again"));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(progress_alone_completes_a_collective)
{
    set_up();
    rk_leg piece[64];
    static uint8_t data[64][5000];
    rk_request *r;
    for (int i = 0; i < comm->size; i++)
        piece[i] = (rk_leg){ data[i], 5000 };
    fill(data[comm->rank], comm->rank, 3, 0, 5000);
    dawdle(1);
    CHECK_OK(ctx, comm->table->all_gather(comm, "pieces", piece, &r));
    double until = now() + 20;
    while (!comm->table->progress(comm, r) && now() < until)
        usleep(100);
    CHECK(comm->table->progress(comm, r));
    for (int i = 0; i < comm->size; i++)
        CHECK(holds(data[i], i, 3, 0, 5000));
    CHECK_OK(ctx, comm->table->wait(comm, r));
    CHECK_INT(rk_close(ctx), 0);
}

/* More than staging takes, from memory that only its owner sees. */
TEST(large_private_memory)
{
    set_up();
    size_t leg = (size_t)(24 << 20) / (size_t)comm->size + 13;
    uint8_t *out = malloc(leg * (size_t)comm->size), *in = malloc(leg * (size_t)comm->size);
    rk_leg send[64], recv[64];
    for (int i = 0; i < comm->size; i++) {
        send[i] = (rk_leg){ out + (size_t)i * leg, leg };
        recv[i] = (rk_leg){ i % 2 ? NULL : in + (size_t)i * leg, leg };
        memset(send[i].data, 1 + comm->rank * 8 + i, leg);
    }
    CHECK_OK(ctx, rk__comm_exchange(comm, "much", send, recv));
    for (int i = 0; i < comm->size; i++)
        for (size_t k = 0; k < leg; k += 4093)
            CHECK_INT(((uint8_t *)recv[i].data)[k], (uint8_t)(1 + i * 8 + comm->rank));
    CHECK_OK(ctx, comm->table->barrier(comm, "read"));
    for (int i = 0; i < comm->size; i++)
        send[i] = (rk_leg){ in + (size_t)i * leg, leg };
    memset(send[comm->rank].data, 100 + comm->rank, leg);
    CHECK_OK(ctx, rk__comm_all_gather(comm, "much", send));
    for (int i = 0; i < comm->size; i++)
        for (size_t k = 0; k < leg; k += 4093)
            CHECK_INT(((uint8_t *)send[i].data)[k], 100 + i);
    CHECK_OK(ctx, rk__comm_broadcast(comm, "much", comm->size - 1, out, leg * (size_t)comm->size));
    CHECK_INT(out[0], 1 + (comm->size - 1) * 8);
    CHECK_INT(rk_close(ctx), 0);
    free(out);
    free(in);
}

TEST(send_and_recv_around_a_ring)
{
    set_up();
    static uint8_t out[300001], in[300001];
    int next = (comm->rank + 1) % comm->size, before = (comm->rank + comm->size - 1) % comm->size;
    for (int round = 0; comm->size > 1 && round < 3; round++) {
        size_t bytes = round == 0 ? 1 : round == 1 ? 0 : sizeof out;
        fill(out, comm->rank, next, round, bytes);
        if (comm->rank == 0) {
            CHECK_OK(ctx, comm->table->send(comm, next, 1023, out, bytes));
            CHECK_OK(ctx, comm->table->recv(comm, before, 1023, in, bytes));
        } else {
            CHECK_OK(ctx, comm->table->recv(comm, before, 1023, in, bytes));
            CHECK_OK(ctx, comm->table->send(comm, next, 1023, out, bytes));
        }
        CHECK(holds(in, before, comm->rank, round, bytes));
    }
    CHECK_OK(ctx, comm->table->barrier(comm, "home"));
    if (comm->size == 1) { /* a failure would reach the others before they are home */
        CHECK_INT(comm->table->send(comm, 0, 0, out, 1), RK_EINTERNAL);
        rk_error_clear(ctx);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(bytes_are_counted)
{
    set_up();
    rk_leg send[64], recv[64];
    static uint8_t out[64][100], in[64][100];
    for (int i = 0; i < comm->size; i++) {
        send[i] = (rk_leg){ out[i], 100 };
        recv[i] = (rk_leg){ in[i], 100 };
    }
    uint64_t others = (uint64_t)comm->size - 1, far = (uint64_t)(comm->size - comm->node_size);
    CHECK_OK(ctx, rk__comm_exchange(comm, "legs", send, recv));
    CHECK_INT(comm->sent, 100 * others);
    CHECK_INT(comm->received, 100 * others);
    CHECK_INT(comm->sent_far, 100 * far);
    CHECK_OK(ctx, rk__comm_all_gather(comm, "legs", send));
    CHECK_INT(comm->received, 200 * others);
    CHECK_INT(comm->sent_far, 100 * far + 100 * (uint64_t)(comm->nodes - 1)); /* once for each node */
    CHECK_INT(rk_close(ctx), 0);
}

/* Fractions, whose sum has roundings: any order will do. Pieces of one size, of several, and of none. */
TEST(sums_in_any_order)
{
    set_up();
    static const int sizes[][3] = { { 50, 50, 50 }, { 7, 0, 301 }, { 0, 0, 0 }, { 1024, 3, 5 } };
    static float in[64 * 1100], out[64 * 1100];
    for (int z = 0; comm->table->sum && z < 8; z++) {
        const bool all = z & 1;
        size_t count[64], total = 0, first = 0;
        rk_request *r;
        for (int i = 0; i < comm->size; i++) {
            first += i < comm->rank ? (size_t)sizes[z / 2][i % 3] : 0;
            total += count[i] = (size_t)sizes[z / 2][i % 3];
        }
        for (size_t k = 0; k < total; k++)
            in[k] = 1.0f / (float)(1 + comm->rank + (int)k);
        memset(out, 255, sizeof out);
        const uint64_t sent = comm->sent;
        CHECK_OK(ctx, comm->table->sum(comm, "sum", in, count, all, out, &r));
        CHECK_OK(ctx, comm->table->wait(comm, r));
        for (size_t k = 0; k < (all ? total : count[comm->rank]); k++) {
            double want = 0;
            for (int i = 0; i < comm->size; i++)
                want += 1.0f / (float)(1 + i + (int)(k + (all ? 0 : first)));
            CHECK_CLOSE(out[k], want, 1e-6, 0);
        }
        CHECK_INT(comm->sent - sent,
                  (total - count[comm->rank]) * sizeof *in +
                      (all ? ((uint64_t)comm->size - 1) * count[comm->rank] * sizeof *in : 0));
    }
    CHECK_INT(rk_close(ctx), 0);
}

/* Element k of the sum over a subtree: its roundings tell in which order it was added up further. */
static float leaf_sum(rk_subtree part, int64_t k)
{
    return 1.0f / (float)(3 + part.first * 7 + part.leaves + k % 1013);
}

typedef struct by_tree {
    rk__job job;
    rk__scatter scatter;
    rk_subtree part[64];
    int first[65];
    rk__span piece[64];
    rk_leg recv[RK_ORDER_PARTS * 64];
    rk_request *request[RK_ORDER_PARTS];
    float *flat, *room, *out, *want, *mine;
} by_tree;

/* Pieces of several sizes, and none, in the order that the nodes give them; returns the size of all. */
static int64_t cut_pieces(by_tree *t, int round)
{
    static const int64_t sizes[][3] = { { 1024, 1024, 1024 }, { 700, 0, 3001 }, { 0, 0, 0 }, { 1, 5, 64 } };
    int64_t at = 0;
    for (int i = 0; i < comm->size; i++) {
        t->piece[t->job.nodes.whose[i]] = (rk__span){ at, at + sizes[round][i % 3] };
        at += sizes[round][i % 3];
    }
    return at;
}

static void sum_by_tree(by_tree *t, int round)
{
    const int64_t n = cut_pieces(t, round);
    const int me = comm->rank, own = t->first[me + 1] - t->first[me];
    const float *from[64];
    const rk__span mine = t->piece[me];
    int64_t far;
    for (int p = 0; p < own; p++)
        for (int64_t k = 0; k < n; k++)
            t->flat[p * n + k] = leaf_sum(t->part[t->first[me] + p], k);
    for (int i = 0; i < t->scatter.parts; i++) { /* all parts, added up by this rank alone */
        for (int64_t k = mine.from; k < mine.to; k++)
            t->mine[i * n + k] = leaf_sum(t->part[i], k);
        from[i] = t->mine + i * n + mine.from;
    }
    CHECK_OK(ctx, rk__tree_add(ctx, mine.to - mine.from, t->scatter.parts, t->part, from, t->want));
    const rk__scattered x = { t->flat, n, t->piece, t->recv, t->request, t->room };
    const uint64_t sent = comm->sent, sent_far = comm->sent_far;
    CHECK_OK(ctx, rk__scatter_start(&t->scatter, "parts", &x));
    CHECK_OK(ctx, rk__scatter_pass_on(&t->scatter, "parts by node", &x));
    CHECK_OK(ctx, rk__scatter_add(&t->scatter, &x, t->out));
    CHECK(!memcmp(t->out, t->want, (size_t)(mine.to - mine.from) * sizeof(float)));
    CHECK_INT(comm->sent - sent, rk__scatter_bytes(&t->scatter, t->piece, &far));
    CHECK_INT(comm->sent_far - sent_far, far);
    CHECK_OK(ctx, comm->table->barrier(comm, "parts")); /* everyone has read them */
}

/* In the order of a tree, whatever ranks share a node: added up within nodes first, and straight. */
static void check_sums(int leaves, bool by_node)
{
    enum { MOST = 3001 * 16 };
    static by_tree t;
    t = (by_tree){ .job = {
                       .ctx = ctx, .comm = comm, .tensors = comm, .rank = comm->rank, .ranks = comm->size } };
    setenv("RANKINE_BY_NODE", by_node ? "1" : "0", 1);
    CHECK_OK(ctx, rk__nodes_find(ctx, comm, comm->size, &t.job.nodes));
    rk__share_leaves(leaves, comm->size, t.part, t.first);
    CHECK_OK(ctx, rk__scatter_init(&t.scatter, &t.job, t.part, t.first));
    CHECK(by_node || !t.scatter.sums);
    CHECK(!by_node || comm->nodes == 1 || comm->nodes == comm->size || t.scatter.sums > 0);
    float **memory[] = { &t.flat, &t.room, &t.out, &t.want, &t.mine };
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        *memory[i] = comm->table->alloc(comm, (size_t)(i == 4 ? leaves : 8) * MOST * sizeof(float));
    for (int round = 0; round < 4 && !rk_failed(ctx); round++)
        sum_by_tree(&t, round);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        comm->table->release(comm, *memory[i]);
    rk__scatter_free(&t.scatter);
    rk__nodes_free(&t.job.nodes);
    unsetenv("RANKINE_BY_NODE");
}

TEST(sums_in_the_order_of_a_tree)
{
    set_up();
    for (int leaves = 8; leaves <= 16; leaves *= 2) {
        check_sums(leaves, true);
        check_sums(leaves, false);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(split)
{
    set_up();
    rk_comm *half;
    CHECK_OK(ctx, comm->table->split(comm, comm->rank % 2, -comm->rank, &half));
    int got[64];
    CHECK_OK(ctx, rk__comm_all_values(half, "ranks", &comm->rank, sizeof comm->rank, got));
    for (int i = 0; i < half->size; i++)
        CHECK_INT(got[i] % 2, comm->rank % 2);
    for (int i = 1; i < half->size; i++)
        CHECK(got[i] < got[i - 1]);
    CHECK_INT(rk_close(ctx), 0);
}

/* The ranks of a split use memory that was shared by all. */
TEST(split_uses_memory_of_its_parent)
{
    set_up();
    rk_comm *part;
    uint8_t *p = comm->table->alloc(comm, 64 * 900);
    CHECK(p);
    CHECK_OK(ctx, comm->table->split(comm, comm->rank % 3, comm->rank, &part));
    for (int round = 0; round < 5; round++) {
        rk_leg send[64], recv[64];
        for (int i = 0; i < part->size; i++) {
            send[i] = (rk_leg){ p + i * 900, 900 };
            recv[i] = (rk_leg){ NULL, 900 };
            fill(send[i].data, part->rank, i, round, 900);
        }
        CHECK_OK(ctx, rk__comm_exchange(part, "legs", send, recv));
        for (int i = 0; i < part->size; i++) {
            CHECK(holds(recv[i].data, i, part->rank, round, 900));
            CHECK(i != part->rank || recv[i].data == send[i].data);
        }
        CHECK_OK(ctx, part->table->barrier(part, "read"));
    }
    CHECK_OK(ctx, comm->table->split(comm, comm->rank ? -1 : 0, 0, &part));
    CHECK((part != NULL) == (comm->rank == 0));
    if (part) {
        CHECK_INT(part->size, 1);
        CHECK_OK(ctx, part->table->barrier(part, "alone"));
        part->table->close(part);
    }
    CHECK_OK(ctx, comm->table->barrier(comm, "all"));
    CHECK_INT(rk_close(ctx), 0);
}

/* ---- ranks that do not agree ---- */

static bool says(const char *text)
{
    if (strstr(rk_error(ctx), text))
        return true;
    fprintf(stderr, "rank %d: \"%s\" is not in \"%s\"\n", comm->rank, text, rk_error(ctx));
    return false;
}

/* Everyone fails with this, soon, and leaves together. */
#define CHECK_FAILED(status, text)                      \
    do {                                                \
        CHECK_INT(rk_failed(ctx), status);              \
        CHECK(says(text));                              \
        CHECK(now() - begun < 1.0 + slow());            \
        CHECK_INT(rk_close(ctx), rk_exit_code(status)); \
    } while (0)

/* Sanitizers and more ranks than cores take their time. */
static double slow(void)
{
    const char *more = getenv("RK_TEST_SLOW");
    return more ? strtod(more, NULL) : 0;
}

TEST(ranks_that_call_different_collectives)
{
    set_up();
    rk_leg leg[64], back[64];
    static uint8_t data[64][256], in[64][256];
    char want[128];
    int last = comm->size - 1;
    for (int i = 0; i < comm->size; i++) {
        leg[i] = (rk_leg){ data[i], 256 };
        back[i] = (rk_leg){ in[i], 256 };
    }
    CHECK_OK(ctx, comm->table->barrier(comm, "go"));
    double begun = now();
    if (last == 0) {
        rk_close(ctx);
        return;
    }
    if (comm->rank == last)
        rk__comm_all_gather(comm, "fc2.weight", leg);
    else
        rk__comm_exchange(comm, "gradients 1", leg, back);
    snprintf(want, sizeof want, "rank %d called all-gather fc2.weight (%s bytes)", last,
             comm->size == 2   ? "512"
             : comm->size == 3 ? "768"
             : comm->size == 4 ? "1,024"
             : comm->size == 5 ? "1,280"
                               : "2,048");
    if (last == 1) { /* one against one: in order of rank */
        snprintf(want, sizeof want, "rank 1 all-gather fc2.weight (512 bytes)");
    } else {
        CHECK(says(want));
        snprintf(want, sizeof want, "ranks 0-%d exchange gradients 1", last - 1);
    }
    CHECK_FAILED(RK_EHANG, want);
}

TEST(ranks_that_say_different_names_and_sizes)
{
    for (int what = 0; what < 3; what++) {
        set_up();
        uint64_t all[64], mine = 1;
        rk_leg leg[64], back[64];
        static uint8_t data[64][300];
        bool odd = comm->rank == comm->size - 1 && comm->size > 1;
        for (int i = 0; i < comm->size; i++) {
            leg[i] = (rk_leg){ data[i], 100 };
            back[i] = (rk_leg){ data[i] + 100, odd && i == 0 && what == 2 ? 101 : 100 };
        }
        CHECK_OK(ctx, comm->table->barrier(comm, "go"));
        double begun = now();
        if (what == 0)
            rk__comm_all_values(comm, odd ? "loss" : "norm", &mine, sizeof mine, all);
        else if (what == 1)
            rk__comm_broadcast(comm, "cursor", 0, all, odd ? 8 : 16);
        else
            rk__comm_exchange(comm, "gradients", leg, back);
        if (comm->size > 1) { /* an exchange that does not fit is seen by one rank; the others hear of it */
            comm->table->barrier(comm, "after");
            CHECK_FAILED(RK_EHANG, what == 0   ? "all-gather loss"
                                   : what == 1 ? "(8 bytes)"
                                               : "100 bytes to rank");
        } else {
            rk_close(ctx);
        }
    }
}

TEST(a_rank_that_failed_says_so)
{
    for (int at_close = 0; at_close < 2; at_close++) {
        set_up();
        int last = comm->size - 1;
        char want[64];
        CHECK_OK(ctx, comm->table->barrier(comm, "go"));
        double begun = now();
        if (comm->rank == last) {
            rk_fail(ctx, RK_EIO, "the disk is full");
            if (!at_close)
                CHECK_INT(comm->table->barrier(comm, "next"), RK_EIO);
            rk_close(ctx);
            continue;
        }
        snprintf(want, sizeof want, "rank %d: the disk is full", last);
        comm->table->barrier(comm, "next");
        CHECK_FAILED(RK_EIO, want);
    }
}

TEST(a_rank_that_ended_is_missed)
{
    set_up();
    int last = comm->size - 1;
    uint8_t byte;
    CHECK_OK(ctx, comm->table->barrier(comm, "go"));
    double begun = now();
    if (comm->rank == last) {
        CHECK_INT(rk_close(ctx), 0);
        return;
    }
    rk__comm_broadcast(comm, "weights", last, &byte, 1);
    comm->table->barrier(comm, "next");
    CHECK_FAILED(RK_EHANG, "ended while others wait for it in broadcast weights");
}

TEST(a_failure_reaches_ranks_that_meet_elsewhere)
{
    set_up();
    rk_comm *part;
    CHECK_OK(ctx, comm->table->split(comm, comm->rank / 2, 0, &part));
    double begun = now();
    if (comm->size < 3 || comm->rank == 0) {
        if (comm->size > 2)
            rk_fail(ctx, RK_EDATA, "bad sample");
        comm->table->barrier(comm, "next");
        rk_close(ctx);
        return;
    }
    part->table->barrier(part, "inner");
    comm->table->barrier(comm, "outer");
    CHECK_FAILED(RK_EDATA, "rank 0: bad sample");
}

/* One GPU's error, which NCCL tells in its own time while the operation never ends. */
TEST(an_asynchronous_error_ends_all_ranks)
{
    for (int what = 0; getenv("RK_TEST_NCCL") && !getenv("RK_TEST_GPU") && what < 3; what++) {
        set_up();
        static uint8_t data[64][300];
        rk_leg leg[64], back[64];
        int last = comm->size - 1;
        char want[96];
        for (int i = 0; i < comm->size; i++) {
            leg[i] = (rk_leg){ data[i], 100 };
            back[i] = (rk_leg){ data[i] + 100, 100 };
        }
        CHECK_OK(ctx, rk__comm_exchange(comm, "legs", leg, back));
        double begun = now();
        if (comm->rank == last)
            setenv("RK_EMU_NCCL_ASYNC", "next", 1);
        if (what == 0)
            rk__comm_exchange(comm, "gradients", leg, back);
        else if (what == 1)
            rk__comm_all_gather(comm, "weights", leg);
        else
            rk__comm_broadcast(comm, "bias", 0, data, 200);
        unsetenv("RK_EMU_NCCL_ASYNC");
        if (comm->size == 1) {
            rk_close(ctx);
            continue;
        }
        comm->table->barrier(comm, "next");
        snprintf(want, sizeof want, "NCCL gives up on rank %d in %s: remote process", last,
                 what == 0   ? "exchange gradients"
                 : what == 1 ? "all-gather weights"
                             : "broadcast bias");
        CHECK_FAILED(RK_EDEVICE, want);
    }
}

/* Calls of two communicators are under way on the GPU when one of them fails. */
TEST(a_failure_ends_all_communicators_of_a_device)
{
    if (getenv("RK_TEST_NCCL") && !getenv("RK_TEST_GPU")) {
        static uint8_t data[2][300];
        rk_request *first, *second;
        rk_comm *part;
        set_up();
        const int last = comm->size - 1;
        CHECK_OK(ctx, comm->table->split(comm, 0, comm->rank, &part));
        CHECK_OK(ctx, rk__comm_broadcast(comm, "weights", 0, data[0], 300));
        CHECK_OK(ctx, rk__comm_broadcast(part, "bias", 0, data[1], 300));
        if (comm->rank == last && last > 0)
            setenv("RK_EMU_NCCL_ASYNC", "next", 1);
        comm->table->broadcast(comm, "weights", 0, data[0], 300, &first);
        part->table->broadcast(part, "bias", 0, data[1], 300, &second);
        comm->table->wait(comm, first);
        part->table->wait(part, second);
        unsetenv("RK_EMU_NCCL_ASYNC");
        if (last > 0)
            CHECK(comm->table->barrier(comm, "next"));
        rk_close(ctx);
    }
}

/* What a call was recorded with was freed, and other memory lies in its place: the recording serves that. */
TEST(memory_that_comes_to_lie_where_other_memory_was)
{
    enum { BYTES = 3 << 20 };
    uint8_t *data = malloc(BYTES);
    for (int round = 0; getenv("RK_TEST_NCCL") && round < 5; round++) {
        void *p = NULL;
        if (round == 0)
            set_up_for(0);
        CHECK_OK(ctx, ctx->device->alloc(ctx->dev, BYTES, &p));
        fill(data, comm->rank, 0, round, BYTES);
        CHECK_OK(ctx, ctx->device->copy_in(ctx->dev, p, data, BYTES));
        CHECK_OK(ctx, rk__comm_broadcast(comm, "weights", 0, p, BYTES));
        CHECK_OK(ctx, ctx->device->copy_out(ctx->dev, data, p, BYTES));
        CHECK(holds(data, 0, 0, round, BYTES));
        ctx->device->release(ctx->dev, p, BYTES);
        CHECK_OK(ctx, ctx->device->wait(ctx->dev)); /* it is free */
        if (round == 4)
            rk_close(ctx);
    }
    free(data);
}

TEST(too_many_in_flight_are_refused)
{
    set_up();
    rk_request *r;
    uint8_t byte = 0;
    int n = 0;
    if (comm->size > 1)
        while (n < 200 && !comm->table->broadcast(comm, "word", 0, &byte, 1, &r))
            n++;
    CHECK(comm->size == 1 ? n == 0 : n >= 63 && n < 200);
    CHECK(comm->size == 1 || says("127 collectives under way"));
    rk_close(ctx);
}

TEST_MAIN
