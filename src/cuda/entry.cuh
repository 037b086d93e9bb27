/* What a kernel file defines for the tables (entries.def): one template over the element type, two entries.
 */
#ifndef RK_CUDA_ENTRY_CUH
#define RK_CUDA_ENTRY_CUH

/* RK__ENTRIES(ema, (rk_dev *dev, int64_t n, ..), (dev, n, ..)) calls ema<float> and ema<double>. */
#define RK__ENTRIES(name, parameters, arguments)        \
    extern "C" rk_status rk__cuda_f32_##name parameters \
    {                                                   \
        return name<float> arguments;                   \
    }                                                   \
    extern "C" rk_status rk__cuda_f64_##name parameters \
    {                                                   \
        return name<double> arguments;                  \
    }

#endif
