/* Sharing rows among threads: each row is computed by one thread, alone, so that the cut changes no bit. */
#ifndef RK_CPU_ROWS_H
#define RK_CPU_ROWS_H

#include "cpu/isa/vec.h"

/* Work below this many nanoseconds is not worth a second thread. */
#define ROWS_MIN_TASK_NS 4000.0

/* Rows a task, of `rows` that take about `ns` each; at most one task a thread. */
RK_INLINE int64_t rows_split(const rk_dev *dev, int64_t rows, double ns, int64_t *tasks)
{
    int64_t most = (int64_t)((double)rows * ns / ROWS_MIN_TASK_NS), count = rk__threads(dev);
    count = most < count ? most : count;
    count = count < rows ? count : rows;
    if (count < 1)
        count = 1;
    int64_t each = (rows + count - 1) / count;
    *tasks = each > 0 ? (rows + each - 1) / each : 0;
    return each;
}

RK_INLINE int64_t rows_end(int64_t rows, int64_t each, int64_t task)
{
    int64_t end = (task + 1) * each;
    return end < rows ? end : rows;
}

#endif
