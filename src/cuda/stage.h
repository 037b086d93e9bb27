/* From the host's memory to the device's, beside the computing.
 *
 * The engine's memory is pageable and its own again when a copy returns, so every piece goes through a pinned
 * ring; from there a stream of its own takes it to a ring of the same shape on the device, while the GPU
 * still computes what came before. The last hop, on the device, is an operation of the queue: tensors may lie
 * where an earlier step still works. It costs 2 bytes of device bandwidth a byte, which is some 50 times that
 * of the bus. */
#ifndef RK_CUDA_STAGE_H
#define RK_CUDA_STAGE_H

#include "cuda/cuda.h"

/* host is the caller's again at return. */
rk_status rk__stage_in(rk_dev *dev, void *dst, const void *host, size_t bytes);

/* Waits, and returns what the device has. */
rk_status rk__stage_out(rk_dev *dev, void *host, const void *src, size_t bytes);

/* Of the queue: what was staged comes before what is launched next; what was launched has what was staged. */
cudaError_t rk__stage_arrive(rk_dev *dev);
void rk__stage_used(rk_dev *dev);

/* Memory is short: what the rings have is worth more elsewhere. From now on copies stop the queue. false:
 * there was nothing to give. The stream has been waited for. */
bool rk__stage_give_up(rk_dev *dev);

void rk__stage_close(rk_dev *dev);

#endif
