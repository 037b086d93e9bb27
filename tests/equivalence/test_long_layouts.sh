#!/bin/sh
# The promise: the MLP, the CNN and the residual network of examples/, and the MLP with four tensor shards, train 60 steps on
# Fashion-MNIST in every layout below, and `inspect --hash` of weights and optimiser state is one value for each. Then each of
# them changes its layout three times.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
limit=600

if [ ! -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ]; then
    echo "skipped: the Debian package dataset-fashion-mnist is not installed"
    exit 77
fi

# ranks, threads a rank, samples of a pass at most (0: all), further options. A new way to lay out a job is a row here. Ranks side
# by side are for the network that has tensor shards.
cat >layouts <<END
1 2 0
1 1 16
1 2 5
2 1 0
2 2 0
2 1 8
2 2 3
3 1 0
3 2 0
3 1 16
3 2 1
4 1 0
4 2 0
4 1 4
4 2 7
5 1 0
5 2 0
5 1 8
6 1 0
6 2 0
6 1 10
7 1 0
7 2 0
7 1 2
8 1 0
8 2 0
8 1 3
8 2 1
1 3 0
2 1 0 parallel.zero=0
2 2 0 parallel.zero=0
3 1 4 parallel.zero=0
8 2 0 parallel.zero=0
2 1 0 parallel.zero=2
5 1 0 parallel.zero=2 parallel.bucket=4096
4 1 6 parallel.zero=2
2 1 0 parallel.zero=3
3 2 0 parallel.zero=3
4 1 5 parallel.zero=3 parallel.bucket=65536
7 1 0 parallel.zero=3 parallel.bucket=4096
8 1 0 parallel.zero=3
2 1 0 parallel.tensor=2
4 1 0 parallel.tensor=4
4 2 5 parallel.tensor=2
6 1 0 parallel.tensor=2
8 1 0 parallel.tensor=4 parallel.zero=0
4 1 0 parallel.tensor=2 parallel.zero=3 parallel.bucket=65536
END

config_of() # MODEL: what differs from the example: clipping and averaged weights have their order of addition too
{
    example=$1
    case $1 in
    mlp) more='optim.clip_norm=1 optim.ema=0.99 loss.label_smoothing=0.1' ;;
    tensor) example=mlp more='optim.clip_norm=1 grid.tensor=4' ;;
    cnn) more='optim.clip_norm=0.5 data.shift=2' ;;
    resnet) more='optim.clip_norm=2 batch.global=16' ;; # 20 layers: as many steps, fewer samples
    esac
    common='run.steps=60 eval.every=1000 log.every=10 data.eval_limit=256'
}

train() # MODEL RUN RANKS THREADS MICRO OPTION...
{
    model=$1
    run=$2
    n=$3
    threads=$4
    micro=$5
    shift 5
    config_of "$model"
    ranks "$n" "$rankine" train "$root/examples/fashion_$example.yaml" "run.dir=$run" $common $more \
        "parallel.threads=$threads" "batch.micro=$micro" "$@" >out 2>err ||
        fail "$model on $n ranks, $threads threads, passes of $micro $*"
}

for model in mlp tensor cnn resnet; do
    train $model $model 1 1 0
    whole=$(hash_of $model)
    digits_of $model >want
    count=1
    while read -r n threads micro more_options; do
        # statistics of the whole batch need it whole on every rank
        [ $model = resnet ] && [ "$micro" -gt 0 ] && continue
        case $more_options in *parallel.tensor*) [ $model = tensor ] || continue ;; esac
        train $model run "$n" "$threads" "$micro" $more_options
        [ "$(hash_of run)" = "$whole" ] ||
            fail "$model: other weights on $n ranks, $threads threads, passes of $micro $more_options"
        digits_of run >have
        cmp -s want have ||
            fail "$model: other numbers on $n ranks, $threads threads, passes of $micro $more_options:" "$(diff want have | head -4)"
        rm -rf run
        count=$((count + 1))
    done <layouts
    echo "$model: $whole in $count layouts"

    # 15 steps each on 3, 8, 2 and 5 ranks, a new process each time; the schedule must not know where an attempt ends
    train $model many 3 1 0 ckpt.every=15 run.steps=15 optim.schedule=constant optim.warmup=0
    train $model many 8 1 0 parallel.zero=3 ckpt.every=15 run.steps=30 optim.schedule=constant optim.warmup=0
    train $model many 2 2 0 ckpt.every=15 run.steps=45 optim.schedule=constant optim.warmup=0
    train $model many 5 1 0 ckpt.every=15 run.steps=60 optim.schedule=constant optim.warmup=0
    train $model straight 1 2 0 ckpt.every=15 run.steps=60 optim.schedule=constant optim.warmup=0
    [ "$(hash_of many)" = "$(hash_of straight)" ] || fail "$model: 3, 8, 2, then 5 ranks: other weights than one"
    rm -rf many straight
done
