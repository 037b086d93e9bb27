/* Products: tile.cuh over matrices by strides, and what becomes of a finished sum. */
#include "cuda/activate.cuh"
#include "cuda/tile.cuh"

namespace
{

/* A matrix of lines by terms. */
template <class T> struct matrix {
    typedef const T *line_type;
    const T *p;
    int64_t line_step, term_step;
    rk_round round;

    __device__ __forceinline__ const T *line(int64_t i) const
    {
        return p + i * line_step;
    }

    __device__ __forceinline__ int64_t term(int64_t k) const
    {
        return k * term_step;
    }

    __device__ __forceinline__ bool padding(const T *, int64_t) const
    {
        return false;
    }

    __device__ __forceinline__ const T *at(const T *l, int64_t t) const
    {
        return l + t;
    }

    __device__ __forceinline__ bool by_term() const
    {
        return term_step == 1;
    }
};

template <class T> struct product {
    typedef T value;
    typedef matrix<T> left, right;
    left a;
    right b;
    int64_t m, n, units, unit;
    int64_t a_batch, b_batch, c_batch;
    T *c, *pre;
    const T *bias, *relu_mask;
    int64_t ldc;
    rk_acc acc;
    rk_act act;

    __device__ __forceinline__ product select(int64_t item) const
    {
        product q = *this;
        q.a.p += item * a_batch;
        q.b.p += item * b_batch;
        q.c += item * c_batch;
        q.pre = pre ? pre + item * c_batch : NULL;
        q.relu_mask = relu_mask ? relu_mask + item * c_batch : NULL;
        return q;
    }

    __device__ __forceinline__ T start(int64_t i, int64_t j) const
    {
        return acc == RK_ACC_CHAIN ? c[i * ldc + j] : (T)0;
    }

    __device__ __forceinline__ void finish(int64_t i, int64_t j, T v) const
    {
        const int64_t at = i * ldc + j;
        if (acc == RK_ACC_ADD)
            v = c[at] + v;
        if (bias)
            v += bias[j];
        if (pre)
            pre[at] = v;
        v = rk__activate(act, v);
        if (relu_mask)
            v = relu_mask[at] > 0 ? v : (T)0;
        c[at] = v;
    }
};

template <class T> rk_status gemm(rk_dev *dev, const rk_gemm *g)
{
    const int64_t items = g->batch > 0 ? g->batch : 1;
    const rk_order order =
        rk__order_or_plain(g->order.segments > 0 ? g->order : rk_order{ 1, 1, RK_ACC_SET });
    if (g->m <= 0 || g->n <= 0)
        return RK_OK;
    product<T> p;
    p.a = matrix<T>{ (const T *)g->a, g->a_row, g->a_col, g->round };
    p.b = matrix<T>{ (const T *)g->b, g->b_col, g->b_row, g->round };
    p.m = g->m;
    p.n = g->n;
    p.units = g->k / order.unit;
    p.unit = order.unit;
    p.a_batch = g->a_batch;
    p.b_batch = g->b_batch;
    p.c_batch = g->c_batch;
    p.c = (T *)g->c;
    p.pre = (T *)g->pre;
    p.bias = (const T *)g->bias;
    p.relu_mask = (const T *)g->relu_mask;
    p.ldc = g->ldc;
    p.acc = order.acc;
    p.act = g->act;
    return rk__tile_run(dev, p, items, order.segments);
}

} // namespace

extern "C" rk_status rk__cuda_f32_ordered_gemm(rk_dev *dev, const rk_gemm *g)
{
    return gemm<float>(dev, g);
}

extern "C" rk_status rk__cuda_f64_ordered_gemm(rk_dev *dev, const rk_gemm *g)
{
    return gemm<double>(dev, g);
}
