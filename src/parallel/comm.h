/* Communicators: how ranks meet. THE collective table; comm_self.c is one rank alone, comm_ranks.c the ranks
 * of a launcher, which share memory within a node and send messages between nodes.
 *
 * A communicator belongs to a context and is used by its thread. Calls marked [C] are made by every rank of
 * the communicator in one order, under one name and with sizes that fit together. Waits for exchanges stand
 * in the same places among the calls on every rank, too: whether a rank waits may not depend on what
 * rk_comm_table.progress says there. Ranks that do not, fail within a second with what each of them called,
 * instead of waiting for ever. A rank whose context has failed tells the others at its next call here, and
 * they fail with "rank 3: ..." and its status.
 *
 * Failures are recorded in the context. `name` says what is moved ("gradients 2", "fc1.weight"); it is
 * copied. */
#ifndef RK_PARALLEL_COMM_H
#define RK_PARALLEL_COMM_H

#include "core/ctx.h"

typedef struct rk_comm rk_comm;
typedef struct rk_request rk_request; /* a collective under way */

/* One leg: what goes to, or comes from, one rank. */
typedef struct rk_leg {
    void *data; /* NULL where bytes is 0 */
    size_t bytes;
} rk_leg;

typedef struct rk_comm_table {
    const char *name;
    /* Not collective: gives up what is under way, after which memory that calls were given is the caller's to
     * free. Nothing but close() and release() may follow. NULL: nothing writes to it by itself. */
    void (*leave)(rk_comm *c);
    void (*close)(rk_comm *c);
    /* [C] Memory that the ranks of a node read in place; page-aligned, zeroed. Bytes may differ between
     * ranks. NULL: recorded. */
    void *(*alloc)(rk_comm *c, size_t bytes);
    void (*release)(rk_comm *c, void *p); /* [C] */
    /* Not collective: the values of [p, p + bytes), which alloc() gave, are not needed any more, by nobody.
     * The memory of whole pages among them goes back to the system until they are written again; what they
     * hold until then is undefined. */
    void (*discard)(rk_comm *c, void *p, size_t bytes);
    /* [C] Starts (at most 63 at a time): recv stays the caller's array and lives until the wait, send is
     * copied; the memory of both is in use until then. send[i] goes to rank i, recv[i] comes from it (size
     * legs each; one's own leg too). When done, recv[i].data is where the bytes lie: in the memory given or,
     * if that was NULL, wherever the communicator has them: in the sender's own memory if both share a node
     * and it came from alloc(). Such a leg may be read until this rank starts another collective after the
     * wait that ends with rk__comm_wait(); send buffers may be changed when a collective started after that
     * wait is complete. */
    rk_status (*exchange)(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv, rk_request **out);
    /* [C] Starts; `piece` itself is copied. Everyone gets everyone's piece. piece[i] is where rank i's lies
     * on this rank; one's own is there already. Pieces may differ in size, but all ranks say the same of
     * each. */
    rk_status (*all_gather)(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out);
    rk_status (*broadcast)(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                           rk_request **out);           /* [C] starts */
    rk_status (*barrier)(rk_comm *c, const char *name); /* [C] returns when all have called */
    /* Not collective; tag from 0 to 1023. recv blocks; send may. */
    rk_status (*send)(rk_comm *c, int to, int tag, const void *data, size_t bytes);
    rk_status (*recv)(rk_comm *c, int from, int tag, void *data, size_t bytes);
    bool (*progress)(rk_comm *c,
                     rk_request *r); /* pushes on whatever is under way; true: r is done (r may be NULL) */
    rk_status (*wait)(rk_comm *c, rk_request *r); /* until done; frees r */
    /* [C] Ranks of one color meet in a new communicator, ordered by key. color < 0: none (*out NULL). */
    rk_status (*split)(rk_comm *c, int color, int key, rk_comm **out);
    void (*abort)(rk_comm *c, int code) __attribute__((noreturn)); /* ends all ranks */
    /* [C] Starts; sums whose order does not matter: of the f32 of all ranks. Piece i of `in` has count[i]
     * elements, one after another. out: this rank's piece of the sum, or if `all`, the whole. in, out and
     * count are in use until the wait. NULL where exchange() and an addition are as good. */
    rk_status (*sum)(rk_comm *c, const char *name, const float *in, const size_t *count, bool all, float *out,
                     rk_request **request);
    /* For communicators whose data travels otherwise; NULL in those over others. meet [C] starts what counts
     * and reads as an all-gather (root < 0) or a broadcast of so many bytes, and moves none: done when all
     * ranks have called the same. */
    rk_status (*meet)(rk_comm *c, const char *name, int root, size_t bytes, rk_request **out);
    /* Not collective: fails if another rank has failed, for waits that are not for this communicator. */
    rk_status (*look)(rk_comm *c);
    /* Not collective: from now on fn(arg) is called whenever this rank waits in c or in any that was split
     * with it from the same, so that what travels otherwise sets out meanwhile: the one that is waited for
     * may be waiting for that. fn may call progress() and look() alone. fn NULL: arg's no more. */
    void (*on_wait)(rk_comm *c, void (*fn)(void *arg), void *arg);
} rk_comm_table;

struct rk_comm {
    const rk_comm_table *table;
    rk_ctx *ctx;
    int rank, size;
    int node, nodes;          /* number of this rank's node; how many there are */
    int node_rank, node_size; /* within the node */
    /* Of this communicator and all that were split from it: */
    uint64_t sent, received; /* bytes of payload that left for, or came from, other ranks */
    uint64_t sent_far;       /* of them over the network */
    double waited;           /* seconds in waits and barriers */
    bool of_device;          /* alloc() gives the device's memory, and legs lie there */
    const char *way;         /* of device memory, how it travels: for people; else NULL */
};

/* leave() of the table, where there is one. */
void rk__comm_leave(rk_comm *c);

/* [C] Every rank the launcher gave; comm_self where none was. Closed with the context. */
rk_status rk__comm_open(rk_ctx *ctx, rk_comm **out);
/* One rank alone. */
rk_status rk__comm_self(rk_ctx *ctx, rk_comm **out);
/* Was this process started by mpirun, srun or another launcher, as one of several ranks? Looks at the
 * environment. */
bool rk__comm_launched(void);
/* For tests and benchmarks: table by name ("self", "mpi"), NULL if it is not there. */
rk_status rk__comm_named(rk_ctx *ctx, const char *name, rk_comm **out);

/* Blocking forms. */
rk_status rk__comm_exchange(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv);
rk_status rk__comm_all_gather(rk_comm *c, const char *name, const rk_leg *piece);
rk_status rk__comm_broadcast(rk_comm *c, const char *name, int root, void *data, size_t bytes);
/* out (size, n) of everyone's n values, in order of rank: for small things that must be agreed on. */
rk_status rk__comm_all_values(rk_comm *c, const char *name, const void *mine, size_t bytes, void *out);

#endif
