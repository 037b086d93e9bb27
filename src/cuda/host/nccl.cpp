/* NCCL's calls over files: a folder for each communicator, a file for each message. It is stricter than NCCL: ranks
 * that call different things end with a report, and so do messages that nobody takes. Like NCCL it never ends what a
 * missing rank keeps waiting, but for one whose process is gone. RK_EMU_NCCL_FAIL=N: this process's N-th call of NCCL
 * fails. RK_EMU_NCCL_ASYNC=next: its next operation gets stuck with an asynchronous error; N: its N-th one. With RK_EMU_GUARD=off, where the host sees device memory, the host's memory is as good. */
#include "cuda/host/rk_emu.h"
#include "cuda/host/runtime.h"
#include "cuda/nccl_calls.h"

#include <dirent.h>
#include <memory>
#include <nccl.h>
#include <set>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

/* What a message says of itself. */
struct heading {
    char call[20];
    uint64_t count;
    int32_t type, root;
    uint64_t captured; /* number of the capture that it runs from; 0: none */
};

struct state {
    std::string dir;
    int rank, ranks;
    std::vector<uint64_t> sent, got; /* messages, by peer */
    ncclResult_t error;              /* that came by itself */
    std::vector<uint64_t> captures;  /* so far, by peer: those in which the two take part */
    std::shared_ptr<int> in_graphs;  /* held by every node of a graph that refers to the communicator */
    std::set<std::string> met;       /* calls, and with whom, that have run outside of captures */
    int under_way; /* operations that were launched and have not ended */
    bool joined, taking_in, aborted;
};
typedef std::shared_ptr<state> state_p;

struct part {
    bool leaves;
    void *p;
    size_t bytes;
    int peer;
    heading h;
    std::string file; /* of what arrives */
};

struct operation {
    state_p c;
    std::vector<part> parts;
    std::function<void(operation &)> end; /* when all has arrived */
    std::vector<std::vector<char>> came;  /* by part, where p is null */
    std::vector<const void *> buffers;    /* what the call was given */
    std::vector<uint64_t> registered;     /* captured: numbers of the blocks that they lie in, in their order */
    bool posted, stuck;
};
typedef std::shared_ptr<operation> operation_p;

struct waiting {
    part p;
    struct ncclComm *comm;
    cudaStream_t stream;
};

struct {
    int depth;
    std::vector<waiting> group;
    std::set<state *> open; /* communicators of this process */
    std::thread::id thread; /* that opened them */
} g;

/* Counted here alone, beside all calls of the stand-ins. */
bool nccl_fails(const char *call)
{
    static uint64_t calls;
    const char *text = getenv("RK_EMU_NCCL_FAIL");
    const uint64_t wanted = text ? strtoull(text, nullptr, 10) : 0;
    if (rk_emu_fails(call))
        return true;
    if (++calls != wanted)
        return false;
    fprintf(stderr, "rk_emu: call %llu of NCCL, %s, is made to fail\n", (unsigned long long)calls, call);
    return true;
}

size_t size_of(ncclDataType_t t)
{
    switch (t) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 4;
    }
}

/* ---- files ---- */

std::string number(const char *what, int a)
{
    return std::string("/") + what + "." + std::to_string(a);
}

std::string message_name(const state &c, int from, int to, uint64_t n)
{
    return c.dir + "/m." + std::to_string(from) + "." + std::to_string(to) + "." + std::to_string(n);
}

/* Whole or not at all. */
void write_file(const state &c, const std::string &name, const void *head, size_t head_bytes, const void *data,
                size_t bytes)
{
    std::string part = c.dir + number("part", c.rank);
    FILE *f = fopen(part.c_str(), "wb");
    bool good = f && fwrite(head, 1, head_bytes, f) == head_bytes && (!bytes || fwrite(data, 1, bytes, f) == bytes);
    if (f)
        good = !fclose(f) && good;
    if (!good || rename(part.c_str(), name.c_str()))
        rk_emu_report("emulation", "cannot write %s", name.c_str());
}

bool there(const std::string &name)
{
    return !access(name.c_str(), F_OK);
}

/* The process of a rank that has joined; 0: it has not. */
int process_of(const state &c, int rank)
{
    int v[2] = { 0, 0 };
    FILE *f = fopen((c.dir + number("join", rank)).c_str(), "rb");
    if (f && fread(v, sizeof v, 1, f) != 1)
        v[0] = 0;
    if (f)
        fclose(f);
    if (v[0] && v[1] != c.ranks)
        rk_emu_report("nccl", "rank %d joins %d ranks, rank %d joins %d", c.rank, c.ranks, rank, v[1]);
    return v[0];
}

bool all_joined(const state &c)
{
    for (int r = 0; r < c.ranks; r++)
        if (!process_of(c, r))
            return false;
    return true;
}

/* Ended without having left. */
bool is_gone(const state &c, int rank)
{
    int process = process_of(c, rank);
    return process && kill(process, 0) && !there(c.dir + number("left", rank));
}

bool has_left(const state &c, int rank)
{
    int process = process_of(c, rank);
    return there(c.dir + number("left", rank)) || (process && kill(process, 0));
}

/* The last one that leaves clears up. */
void leave(const state &c)
{
    char one = 1;
    write_file(c, c.dir + number("left", c.rank), &one, 1, nullptr, 0);
    for (int r = 0; r < c.ranks; r++)
        if (!has_left(c, r))
            return;
    if (DIR *d = opendir(c.dir.c_str())) {
        while (struct dirent *e = readdir(d))
            if (e->d_name[0] != '.')
                unlink((c.dir + "/" + e->d_name).c_str());
        closedir(d);
    }
    rmdir(c.dir.c_str());
}

/* ---- operations ---- */

void check_heading(const state &c, const part &want, const heading &have)
{
    const heading &w = want.h;
    if (w.captured != have.captured)
        rk_emu_report("nccl",
                      "ranks disagree on what is captured: rank %d runs %s from capture %llu, rank %d from capture %llu "
                      "(0: outside of graphs)",
                      c.rank, w.call, (unsigned long long)w.captured, want.peer, (unsigned long long)have.captured);
    if (!memcmp(w.call, have.call, sizeof w.call) && w.count == have.count && w.type == have.type &&
        w.root == have.root)
        return;
    rk_emu_report("nccl",
                  "ranks disagree: rank %d calls %s with count %llu, type %d, root %d; for it rank %d calls %s with "
                  "count %llu, type %d, root %d",
                  c.rank, w.call, (unsigned long long)w.count, w.type, w.root, want.peer, have.call,
                  (unsigned long long)have.count, have.type, have.root);
}

void post(operation &o)
{
    static uint64_t operations;
    const char *async = getenv("RK_EMU_NCCL_ASYNC");
    state &c = *o.c;
    o.posted = true;
    operations++;
    o.stuck = async && (!strcmp(async, "next") || strtoull(async, nullptr, 10) == operations);
    if (o.stuck) {
        fprintf(stderr, "rk_emu: operation %llu of NCCL gets stuck\n", (unsigned long long)operations);
        c.error = ncclRemoteError;
        return;
    }
    for (part &p : o.parts) {
        if (p.leaves) {
            rk_emu_range(p.p, p.bytes, false, p.h.call);
            write_file(c, message_name(c, c.rank, p.peer, c.sent[(size_t)p.peer]++), &p.h, sizeof p.h, p.p, p.bytes);
        } else {
            p.file = message_name(c, p.peer, c.rank, c.got[(size_t)p.peer]++);
        }
    }
}

bool ready(operation &o)
{
    if (o.c->aborted)
        return true;
    if (!o.posted)
        post(o);
    if (o.stuck)
        return false;
    for (const part &p : o.parts)
        if (!p.leaves && !there(p.file)) {
            if (is_gone(*o.c, p.peer) && !there(p.file))
                o.c->error = ncclRemoteError;
            return false;
        }
    return true;
}

void take(operation &o, size_t i)
{
    part &p = o.parts[i];
    heading h = {};
    FILE *f = fopen(p.file.c_str(), "rb");
    if (!f || fread(&h, sizeof h, 1, f) != 1)
        rk_emu_report("emulation", "cannot read %s", p.file.c_str());
    check_heading(*o.c, p, h);
    void *to = p.p;
    if (!to) {
        o.came[i].resize(p.bytes);
        to = o.came[i].data();
    }
    rk_emu_range(to, p.bytes, true, p.h.call);
    if (p.bytes && fread(to, 1, p.bytes, f) != p.bytes)
        rk_emu_report("emulation", "%s is cut short", p.file.c_str());
    fclose(f);
    unlink(p.file.c_str());
}

void complete(operation &o)
{
    if (o.c->aborted)
        return;
    for (size_t i = 0; i < o.parts.size(); i++)
        if (!o.parts[i].leaves)
            take(o, i);
    if (o.end)
        o.end(o);
}

/* The first call of its kind connects ranks, which takes more than a capture allows. */
void check_met(operation &o, bool capturing)
{
    for (const part &p : o.parts) {
        const std::string what = std::string(p.h.call) + (p.leaves ? " to " : " from ") + std::to_string(p.peer);
        if (!capturing)
            o.c->met.insert(what);
        else if (!o.c->met.count(what))
            rk_emu_report("nccl", "%s is captured by rank %d, and has never run outside of a capture", what.c_str(),
                          o.c->rank);
    }
}

void number_captures(operation &o)
{
    std::vector<uint64_t> &captures = o.c->captures;
    std::set<int> peers;
    for (const part &p : o.parts)
        peers.insert(p.peer);
    for (int r : peers)
        captures[(size_t)r]++;
    for (part &p : o.parts)
        p.h.captured = captures[(size_t)p.peer];
}

uint64_t block_of(const void *p)
{
    const rk_emu_block *b = rk_emu_find_block(p, 0);
    return b ? b->number : 0;
}

/* The memory of what is captured is registered then, as NCCL does from 2.23 on at the latest, unless NCCL_GRAPH_REGISTER
 * is 0: memory itself, and not the addresses where it lies. */
void register_buffers(operation &o)
{
    const char *setting = getenv("NCCL_GRAPH_REGISTER");
    o.registered.clear();
    for (const void *p : o.buffers)
        if (!setting || strcmp(setting, "0"))
            o.registered.push_back(block_of(p));
}

void check_registered(const operation &o)
{
    for (size_t i = 0; i < o.registered.size(); i++)
        if (block_of(o.buffers[i]) != o.registered[i])
            rk_emu_report("nccl",
                          "rank %d runs %s from a capture whose buffer at %p was freed since, and is registered: other "
                          "memory lies there now",
                          o.c->rank, o.parts.empty() ? "a call" : o.parts[0].h.call, o.buffers[i]);
}

/* Of a captured one every launch is an operation of its own. */
void enqueue(const operation_p &o, cudaStream_t s)
{
    const bool capturing = rk_emu_capturing(s);
    std::shared_ptr<int> held = capturing ? o->c->in_graphs : nullptr;
    o->came.resize(o->parts.size());
    o->c->taking_in = true;
    check_met(*o, capturing);
    if (capturing) {
        number_captures(*o);
        register_buffers(*o);
    }
    auto launched = [o, held] {
        check_registered(*o);
        operation_p now = std::make_shared<operation>(*o);
        now->c->under_way++;
        return rk_emu_part{ [now] { return ready(*now); },
                            [now] {
                                complete(*now);
                                now->c->under_way--;
                            } };
    };
    if (rk_emu_submit_library(s, o->parts.empty() ? "nccl" : o->parts[0].h.call, launched))
        o->c->error = ncclUnhandledCudaError;
}

heading make_heading(const char *call, size_t count, ncclDataType_t t, int root)
{
    heading h = {};
    snprintf(h.call, sizeof h.call, "%s", call);
    h.count = count;
    h.type = (int)t;
    h.root = root;
    return h;
}

} // namespace

struct ncclComm {
    state_p s;
};

namespace {

operation_p make_operation(ncclComm *c)
{
    operation_p o = std::make_shared<operation>();
    o->c = c->s;
    return o;
}

/* NCCL waits until no graph refers to a communicator that ends: for ever, where the caller keeps one. */
void check_graphs(const state &s, const char *call)
{
    if (s.in_graphs.use_count() > 1)
        rk_emu_report("nccl", "%s is called while %ld nodes of graphs refer to the communicator: it would wait for them",
                      call, s.in_graphs.use_count() - 1);
}

void check_comm(ncclComm *c, const char *call)
{
    if (!c || !c->s->joined)
        rk_emu_report("nccl", "%s is called before the communicator is ready", call);
    if (c->s->taking_in && !g.depth)
        rk_emu_report("nccl", "%s is called while the call before it is in progress", call);
}

/* Messages between pairs: one operation for each communicator and stream of the group. */
void end_group(void)
{
    std::vector<waiting> all;
    all.swap(g.group);
    while (!all.empty()) {
        std::vector<waiting> rest;
        operation_p o = make_operation(all[0].comm);
        for (waiting &w : all)
            if (w.comm == all[0].comm && w.stream == all[0].stream) {
                o->parts.push_back(w.p);
                o->buffers.push_back(w.p.p);
            } else {
                rest.push_back(w);
            }
        enqueue(o, all[0].stream);
        all.swap(rest);
    }
}

bool guarded(void)
{
    const char *off = getenv("RK_EMU_GUARD");
    return !off || strcmp(off, "off");
}

ncclResult_t pair(const char *call, bool leaves, void *p, size_t n, ncclDataType_t t, int peer, ncclComm *c,
                  cudaStream_t s)
{
    check_comm(c, call);
    if (peer < 0 || peer >= c->s->ranks)
        rk_emu_report("nccl", "%s with rank %d of %d", call, peer, c->s->ranks);
    if (n && guarded() && rk_emu_kind_of(p) != RK_EMU_DEVICE)
        rk_emu_report("nccl", "%s of %p, which is no device memory", call, p);
    part made = { leaves, p, n * size_of(t), peer, make_heading("message", n, t, 0), "" };
    g.group.push_back({ made, c, s });
    if (!g.depth)
        end_group();
    return ncclInProgress;
}

/* Everyone hears from everyone, so that what does not agree is seen. */
void meet_all(operation &o, const heading &h, const void *mine, size_t bytes_out, const std::vector<size_t> &in)
{
    for (int r = 0; r < o.c->ranks; r++) {
        if (r == o.c->rank)
            continue;
        o.parts.push_back({ true, const_cast<void *>(mine), bytes_out, r, h, "" });
        o.parts.push_back({ false, nullptr, in[(size_t)r], r, h, "" });
    }
}

/* Elements first to first + n of what all ranks have. */
template<typename T>
void sum(operation &o, const void *mine, size_t first, void *out, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        T total = 0;
        for (int r = 0; r < o.c->ranks; r++) {
            const void *from = mine;
            for (size_t i = 0; i < o.parts.size(); i++)
                if (!o.parts[i].leaves && o.parts[i].peer == r)
                    from = o.came[i].data();
            T x;
            memcpy(&x, (const char *)from + (first + k) * sizeof x, sizeof x);
            total += x;
        }
        memcpy((char *)out + k * sizeof total, &total, sizeof total);
    }
}

/* A sum over ranks of n elements each, of which elements first to first + kept end in `to`. */
ncclResult_t reduce(const char *call, const void *from, size_t n, void *to, size_t first, size_t kept, ncclDataType_t t,
                    ncclRedOp_t op, int root, ncclComm *c, cudaStream_t s)
{
    check_comm(c, call);
    if (op != ncclSum || (t != ncclFloat32 && t != ncclFloat64))
        rk_emu_report("nccl", "%s of type %d by operation %d", call, (int)t, (int)op);
    operation_p o = make_operation(c);
    const size_t bytes = n * size_of(t);
    o->buffers = { from, to };
    meet_all(*o, make_heading(call, n, t, root), from, bytes, std::vector<size_t>((size_t)o->c->ranks, bytes));
    const std::string name = call;
    o->end = [=](operation &done) {
        rk_emu_range(from, bytes, false, name.c_str());
        rk_emu_range(to, kept * size_of(t), true, name.c_str());
        if (t == ncclFloat32)
            sum<float>(done, from, first, to, kept);
        else
            sum<double>(done, from, first, to, kept);
    };
    enqueue(o, s);
    return ncclInProgress;
}

} // namespace

#define NCCL_CALL(name)              \
    rk_emu_guard rk_emu_guard_here;  \
    if (nccl_fails(name))            \
        return ncclInternalError

extern "C" {

/* RK_EMU_NCCL=absent: as where there is no libnccl. */
const rk__nccl_calls *rk__nccl_find(char *why, size_t size)
{
    static const rk__nccl_calls calls = {
#define CALL(name) .name = name,
        RK__NCCL_CALLS(CALL)
#undef CALL
    };
    const char *absent = getenv("RK_EMU_NCCL");
    bool there = !absent || strcmp(absent, "absent");
    snprintf(why, size, "%s", there ? "" : "NCCL cannot be loaded: libnccl.so.2: RK_EMU_NCCL is absent");
    return there ? &calls : nullptr;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    return r == ncclSuccess       ? "no error"
           : r == ncclRemoteError ? "remote process exited or there was a network error"
                                  : "internal error";
}

const char *ncclGetLastError(ncclComm_t)
{
    return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    NCCL_CALL("ncclGetUniqueId");
    const char *tmp = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    int n = snprintf(id->internal, sizeof id->internal, "%s/rk_emu_nccl.XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return n < (int)sizeof id->internal && mkdtemp(id->internal) ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    *out = nullptr;
    NCCL_CALL("ncclCommInitRankConfig");
    if (!config || config->blocking != 0)
        rk_emu_report("nccl", "a communicator is opened that blocks");
    state_p s = std::make_shared<state>();
    s->dir = id.internal;
    s->rank = rank;
    s->ranks = ranks;
    s->in_graphs = std::make_shared<int>(0);
    s->sent.resize((size_t)ranks);
    s->got.resize((size_t)ranks);
    s->captures.resize((size_t)ranks);
    int v[2] = { (int)getpid(), ranks };
    write_file(*s, s->dir + number("join", rank), v, sizeof v, nullptr, 0);
    *out = new ncclComm{ s };
    g.open.insert(s.get());
    g.thread = std::this_thread::get_id();
    return ncclInProgress;
}

/* What a call has started is in progress until this has been asked once. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e)
{
    rk_emu_guard guard;
    state &s = *c->s;
    rk_emu_meet();
    *e = s.error;
    if (!s.error && !s.joined && !(s.joined = all_joined(s)))
        *e = ncclInProgress;
    else if (!s.error && s.taking_in)
        *e = ncclInProgress;
    s.taking_in = false;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    NCCL_CALL("ncclCommFinalize");
    check_comm(c, "ncclCommFinalize");
    check_graphs(*c->s, "ncclCommFinalize");
    rk_emu_finish_all();
    return ncclSuccess;
}

/* Frees even where it is made to fail. */
ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    rk_emu_guard guard;
    bool fails = nccl_fails("ncclCommDestroy");
    state &s = *c->s;
    check_graphs(s, "ncclCommDestroy");
    for (int r = 0; r < s.ranks; r++)
        if (there(message_name(s, r, s.rank, s.got[(size_t)r])))
            rk_emu_report("nccl", "rank %d closes while a message of rank %d was never taken", s.rank, r);
    leave(s);
    g.open.erase(&s);
    delete c;
    return fails ? ncclInternalError : ncclSuccess;
}

/* Kernels of other communicators have come to their end, or are told to: memory is freed at last. */
static bool others_end(void)
{
    rk_emu_guard guard;
    if (std::this_thread::get_id() == g.thread)
        rk_emu_meet();
    for (const state *s : g.open)
        if (s->under_way && !s->aborted)
            return false;
    return true;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    bool fails;
    {
        rk_emu_guard guard;
        fails = nccl_fails("ncclCommAbort");
        check_graphs(*c->s, "ncclCommAbort");
        c->s->aborted = true;
    }
    for (int k = 0; !others_end(); k++) {
        if (k == 4000)
            rk_emu_report("nccl", "ncclCommAbort waits for a call of another communicator, which nobody ends");
        usleep(500);
    }
    rk_emu_guard guard;
    leave(*c->s);
    g.open.erase(c->s.get());
    delete c;
    return fails ? ncclInternalError : ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    NCCL_CALL("ncclGroupStart");
    g.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    rk_emu_guard guard;
    bool fails = nccl_fails("ncclGroupEnd");
    if (g.depth-- <= 0)
        rk_emu_report("nccl", "a group ends that did not begin");
    if (fails) {
        g.group.clear();
        return ncclInternalError;
    }
    if (!g.depth)
        end_group();
    return ncclInProgress;
}

ncclResult_t ncclSend(const void *p, size_t n, ncclDataType_t t, int peer, ncclComm_t c, cudaStream_t s)
{
    NCCL_CALL("ncclSend");
    return pair("ncclSend", true, const_cast<void *>(p), n, t, peer, c, s);
}

ncclResult_t ncclRecv(void *p, size_t n, ncclDataType_t t, int peer, ncclComm_t c, cudaStream_t s)
{
    NCCL_CALL("ncclRecv");
    return pair("ncclRecv", false, p, n, t, peer, c, s);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t t, int root, ncclComm_t c,
                           cudaStream_t s)
{
    NCCL_CALL("ncclBroadcast");
    check_comm(c, "ncclBroadcast");
    operation_p o = make_operation(c);
    size_t bytes = n * size_of(t);
    o->buffers = { from, to };
    bool leaves = root == o->c->rank;
    std::vector<size_t> in((size_t)o->c->ranks);
    in[(size_t)root] = bytes;
    meet_all(*o, make_heading("broadcast", n, t, root), from, leaves ? bytes : 0, in);
    o->end = [=](operation &done) {
        for (size_t i = 0; i < done.parts.size(); i++)
            if (!done.parts[i].leaves && done.parts[i].peer == root) {
                rk_emu_range(to, bytes, true, "broadcast");
                memcpy(to, done.came[i].data(), bytes);
            }
        if (leaves && to != from)
            memcpy(to, from, bytes);
    };
    enqueue(o, s);
    return ncclInProgress;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t s)
{
    NCCL_CALL("ncclAllReduce");
    return reduce("ncclAllReduce", from, n, to, 0, n, t, op, -1, c, s);
}

ncclResult_t ncclReduce(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, int root, ncclComm_t c,
                        cudaStream_t s)
{
    NCCL_CALL("ncclReduce");
    if (c && (root < 0 || root >= c->s->ranks))
        rk_emu_report("nccl", "ncclReduce to rank %d of %d", root, c->s->ranks);
    return reduce("ncclReduce", from, n, to, 0, c && root == c->s->rank ? n : 0, t, op, root, c, s);
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t n, ncclDataType_t t, ncclRedOp_t op, ncclComm_t c,
                               cudaStream_t s)
{
    NCCL_CALL("ncclReduceScatter");
    const size_t ranks = c ? (size_t)c->s->ranks : 0, rank = c ? (size_t)c->s->rank : 0;
    return reduce("ncclReduceScatter", from, n * ranks, to, n * rank, n, t, op, -1, c, s);
}
}
