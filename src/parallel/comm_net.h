/* Messages between ranks, over MPI: all of it that Rankine uses. comm_mpi.c is the only file that knows MPI.
 */
#ifndef RK_PARALLEL_COMM_NET_H
#define RK_PARALLEL_COMM_NET_H

#include "core/ctx.h"

typedef struct rk__net rk__net;     /* ranks that can send to each other; a message domain of its own */
typedef struct rk__posts rk__posts; /* messages under way */

enum { RK__NET_TAGS = 1024 }; /* tags below belong to send and recv, those above to collectives */

/* How many ranks the launcher started, as the environment says; 0: no launcher. */
int rk__net_launched(void);

/* [C] This process's number among the ranks of its machine, which MPI finds. Starts MPI at the first call, as
 * rk__net_open() does; -1: it cannot start, as rk__net_open() will tell. */
int rk__net_local_rank(void);
/* [C] Ranks whose context has failed, and their words, before any of them meets: all fail with the first
 * one's. ctx may be NULL, of a rank that has none. */
rk_status rk__net_all_well(rk_ctx *ctx);

/* [C] Every rank of the job. Starts MPI at the first call; it ends with the process. */
rk_status rk__net_open(rk_ctx *ctx, rk__net **out);
/* [C] Ranks of one color, ordered by key. color < 0: none (*out NULL). */
rk_status rk__net_split(rk__net *net, int color, int key, rk__net **out);
/* [C] The ranks that share this machine's memory. */
rk_status rk__net_split_node(rk__net *net, rk__net **out);
void rk__net_close(rk__net *net); /* [C] for one that only split and gathered; NULL is allowed */
/* Not collective. MPI's side lives on to the end of the process: a message that comes late must not meet
 * another communicator that has got the number of this one. NULL is allowed. */
void rk__net_leave(rk__net *net);

int rk__net_rank(const rk__net *net);
int rk__net_size(const rk__net *net);
/* A tag for a collective's messages, from a hash: where hashes differ, messages do not meet. */
uint32_t rk__net_tag(const rk__net *net, uint64_t hash);

/* [C] all (size, bytes) of everyone's, in order of rank. Blocks; for start-up. */
rk_status rk__net_gather(rk__net *net, const void *mine, size_t bytes, void *all);

/* Messages are posted to a list and are under way until rk__posts_done(); memory is theirs until then. Any
 * number of bytes; 0 is no message. Between two ranks messages of one tag arrive in order. */
rk_status rk__posts_open(rk__net *net, rk__posts **out);
rk_status rk__posts_send(rk__posts *p, int to, uint32_t tag, const void *data, size_t bytes);
rk_status rk__posts_recv(rk__posts *p, int from, uint32_t tag, void *data, size_t bytes);
/* Pushes on. RK_EPEER: the network failed. *done: all have arrived or left; the list is empty again. */
rk_status rk__posts_test(rk__posts *p, bool *done);
/* What is under way is given up: nothing of it writes to memory any more. What a peer is in the middle of
 * sending is waited for, until `until` (rk__seconds()). */
void rk__posts_give_up(rk__posts *p, double until);
void rk__posts_close(rk__posts *p); /* at once; NULL is allowed */

/* Small words out of turn: copied, never waited for; heard by whoever asks. */
rk_status rk__net_say(rk__net *net, int to, const void *word, size_t bytes);
/* The next word of `bytes` that has come, from any rank. */
bool rk__net_hear(rk__net *net, void *word, size_t bytes, int *from);

/* [C] MPI's own sum over the ranks, to be compared with. */
rk_status rk__net_all_reduce(rk__net *net, const float *in, float *out, int64_t n);

/* Ends all ranks of the job. */
void rk__net_abort(rk__net *net, int code) __attribute__((noreturn));

#endif
