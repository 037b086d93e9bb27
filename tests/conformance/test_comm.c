/* What every communicator does, with exact data. Alone this program tests "self"; test_comm.sh starts it as
 * several ranks, and all of them have to agree on what a TEST found. */
#include "test.h"

#include <rankine/rankine.h>

#include "parallel/comm.h"

static rk_ctx *ctx;
static rk_comm *comm;

/* A context and a communicator for each test; the table that this process can have. */
static void set_up(void)
{
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    rk__comm_named(ctx, "mpi", &comm);
    if (!comm)
        rk__comm_named(ctx, "self", &comm);
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

TEST_MAIN
