# For the scripts that hold what is told of a run's memory against what it takes: `. memory.sh` after device.sh.
export RANKINE_CUDA="$module" RANKINE_NCCL=0

bytes() # "9.41 MiB" in bytes
{
    echo "$1" | awk '{ u["KiB"] = 1024; u["MiB"] = 1024^2; u["GiB"] = 1024^3; printf "%d", $1 * u[$2] }'
}

trained() # CONFIG RUN RANKS MEMORY OPTION...
(
    config=$1 run=$2 n=$3
    export RK_EMU_MEMORY="$4" RK_EMU_DEVICES="$3"
    shift 4
    rm -rf "$run"
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" device=cuda parallel.threads=1 "$@" >out 2>err
)

says() # PATTERN: what stands at \1 in the message
{
    grep -h 'out of' err | sed -n "s/.*$1.*/\1/p" | head -n 1
}

# Many weights and few samples: 32 points of 32 features, 16 classes.
awk 'BEGIN {
    for (k = 0; k < 32; k++) printf("x%d,", k)
    print "class"
    for (i = 0; i < 32; i++) {
        for (k = 0; k < 32; k++) printf("%d,", i * (k + 3) % 11)
        printf("c%02d\n", i % 16)
    }
}' >points.csv
stack() # FILE WIDTH LAYERS
{
    awk -v width="$2" -v layers="$3" 'BEGIN {
        printf("data: {path: points.csv}\nmodel: {layers: [")
        for (i = 0; i < layers; i++) printf("{linear: %d}, relu, ", width)
        print "linear]}\nbatch: {global: 16}\nrun: {steps: 3, seed: 5}"
    }' >"$1"
}

# holds CONFIG RANKS OPTION...: what is told where there is too little memory is enough, and 5% less is not.
holds()
{
    config=$1 n=$2
    shift 2
    trained "$config" run "$n" 4500000 "$@" && fail "$config on $n ranks $*: 4.5 MB was enough"
    need=$(bytes "$(says 'needs about \([0-9.]* [KMG]iB\) a rank')")
    [ "$need" -gt 4500000 ] || fail "$config on $n ranks $*: no need is told: $(cat err)"
    trained "$config" run "$n" "$need" "$@" || fail "$config on $n ranks $*: $need bytes do not do: $(cat err)"
    trained "$config" run "$n" $((need * 95 / 100)) "$@" && fail "$config on $n ranks $*: 5% less than $need bytes does"
    says '\(needs about\)' | grep -q . || fail "$config on $n ranks $*: fails without a figure: $(cat err)"
}
