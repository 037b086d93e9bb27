/* Streams and events, for those who put operations into them: streams.cpp and graph.cpp. */
#ifndef RK_CUDA_HOST_STREAMS_H
#define RK_CUDA_HOST_STREAMS_H

#include "cuda/host/rk_emu.h"

#include <deque>
#include <memory>
#include <vector>

/* A vector clock: of each stream, by number, how many of its operations come before. */
typedef std::vector<uint32_t> rk_emu_clock;

struct rk_emu_operation;
typedef std::shared_ptr<rk_emu_operation> rk_emu_operation_p;

/* Where a stream or an event stands in a capture: the nodes that come before what follows. */
struct rk_emu_capture;
struct rk_emu_captured {
    std::shared_ptr<rk_emu_capture> in; /* null: in none */
    std::vector<cudaGraphNode_t> after;
};

struct CUstream_st {
    int device;
    std::deque<rk_emu_operation_p> queue;
    uint32_t number, operations;
    rk_emu_clock clock;
    rk_emu_operation_p last; /* that was put into it */
    rk_emu_captured captured;
};

struct CUevent_st {
    rk_emu_operation_p last;
    rk_emu_captured captured;
};

CUstream_st *rk_emu_stream_open(void);
void rk_emu_stream_close(CUstream_st *s);
/* Closes it when all that is in it has run, without waiting for that. */
void rk_emu_stream_abandon(CUstream_st *s);
/* Appends fn (may be null) to the stream, to run after `needs` (may be null). */
rk_emu_operation_p rk_emu_push(CUstream_st *s, const char *what, std::function<void()> fn,
                               const rk_emu_operation_p &needs);

/* A stream that waits for an event, where one of them is captured. */
cudaError_t rk_emu_join_capture(CUstream_st *s, CUevent_st *e, void *pc);
/* A call that wants to know of a captured event: the capture is void. */
cudaError_t rk_emu_void_event(CUevent_st *e, const char *call, void *pc);

#endif
