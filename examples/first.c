/* A first program: trains a small network on Fashion-MNIST, tests it, and saves it.
 *
 *     cc first.c -o first $(pkg-config --cflags --libs rankine) && ./first
 *     rankine eval runs/first --data /usr/share/datasets/fashion-mnist/t10k
 *
 * mpirun -n 4 ./first trains on four ranks, to the same bits.
 *
 * An argument names other data: the prefix of IDX files, DIR/train and DIR/t10k being looked for. */
#include <rankine/rankine.h>

#include <stdio.h>

static rk_module *make_network(rk_ctx *ctx)
{
    rk_module *net = rk_root(ctx, "mlp");
    rk_flatten(net, "flat");
    rk_linear(net, "fc1", 28 * 28, 256);
    rk_activation(net, "act", "relu");
    rk_linear(net, "fc2", 256, 10);
    return net;
}

static void train(rk_module *net, rk_optim *opt, rk_loader *data, rk_ctx *ctx)
{
    for (rk_batch b; rk_loader_next(data, &b); rk_step_end(ctx)) {
        rk_tensor *loss = rk_cross_entropy(rk_forward(net, b.x), b.y);
        if (b.index % 500 == 0 && rk_rank(ctx) == 0)
            printf("batch %5lld  loss %.4f\n", (long long)b.index, rk_item(loss));
        rk_backward(loss);
        rk_optim_step(opt, 1);
    }
}

static double accuracy(rk_module *net, rk_loader *data, rk_ctx *ctx)
{
    int64_t count[2] = { 0 }, best[256], label[256]; /* right, all */
    rk_set_training(ctx, false);
    rk_no_grad_begin(ctx);
    for (rk_batch b; rk_loader_next(data, &b); rk_step_end(ctx)) {
        size_t bytes = (size_t)b.n * sizeof *best;
        if (rk_tensor_read(rk_argmax(rk_forward(net, b.x), 1), best, bytes) ||
            rk_tensor_read(b.y, label, bytes))
            break;
        for (int64_t i = 0; i < b.n; i++)
            count[0] += best[i] == label[i];
        count[1] += b.n;
    }
    rk_no_grad_end(ctx);
    rk_sum_counts(ctx, 2, count); /* each rank has seen its part */
    return count[1] ? (double)count[0] / (double)count[1] : 0;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "/usr/share/datasets/fashion-mnist";
    char train_path[1024], test_path[1024];
    const double *mean, *std;
    rk_ctx *ctx;
    snprintf(train_path, sizeof train_path, "%s/train", folder);
    snprintf(test_path, sizeof test_path, "%s/t10k", folder);

    rk_open(NULL, &ctx);
    rk_module *net = make_network(ctx);
    rk_loader *data = rk_loader_make(
        ctx, &(rk_data_cfg){ .path = train_path, .batch = 64, .shuffle = true, .seed = 1, .epochs = 2 });
    rk_optim_cfg cfg = RK_ADAMW_DEFAULTS;
    rk_optim *opt = rk_optim_make(net, &cfg);
    rk_loader *test = rk_loader_make(ctx, &(rk_data_cfg){ .path = test_path, .batch = 250, .epochs = 1 });
    int n = rk_loader_stats(data, &mean, &std);
    rk_loader_set_stats(test, n, mean, std); /* as the training data is treated */

    train(net, opt, data, ctx);
    double right = accuracy(net, test, ctx);
    if (rk_rank(ctx) == 0)
        printf("accuracy on the test set: %.4f\n", right);

    /* With the loader of the training data a snapshot tells the network too: `rankine eval` can use it. */
    rk_save("runs/first", net, opt, data);

    /* The first failure, if any, made every later call do nothing: one look is enough. */
    if (rk_failed(ctx))
        fprintf(stderr, "first: %s\n", rk_error(ctx));
    return rk_close(ctx);
}
