#!/bin/sh
# Builds every fuzz target of the tree and runs each for a few seconds from its committed corpus.
#
#   fuzz.sh [SECONDS]             default: 5 for each target
#
# A fuzz folder is laid out as cargo-fuzz has it (PACKAGE/fuzz, targets in fuzz_targets/, corpus/TARGET/),
# and cargo-fuzz works on it too. It is not needed here: libfuzzer-sys brings libFuzzer, and the flags below
# are what cargo-fuzz would say. RUSTC_BOOTSTRAP lets the one stable toolchain take the sanitizer flag.
set -eu

cd "$(dirname "$0")/../.."
seconds=${1:-5}
triple=$(rustc -vV | sed -n 's/^host: //p')
work=$PWD/target/fuzz

export RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="$work"
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Coverflow-checks
 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
 -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS=$(echo "$RUSTFLAGS" | tr -d '\n')

passed=0
failed=0
for manifest in $(git ls-files '*fuzz/Cargo.toml'); do
    folder=$(dirname "$manifest")
    cargo build --quiet --release --target "$triple" --manifest-path "$manifest"
    for source in "$folder"/fuzz_targets/*.rs; do
        target=$(basename "$source" .rs)
        seeds=$folder/corpus/$target
        found=$work/corpus/$target
        artifacts=$work/artifacts/$target
        mkdir -p "$found" "$artifacts"
        [ -d "$seeds" ] || seeds=
        # shellcheck disable=SC2086 # no seeds, no argument
        if "$work/$triple/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
            -artifact_prefix="$artifacts/" -print_final_stats=1 "$found" $seeds >"$artifacts/log" 2>&1; then
            runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$artifacts/log")
            echo "fuzz $target: $runs runs, nothing found"
            passed=$((passed + 1))
        else
            tail -n 40 "$artifacts/log"
            echo "fuzz $target: FAILED, the input is in target/fuzz/artifacts/$target"
            failed=$((failed + 1))
        fi
    done
done
if [ $((passed + failed)) = 0 ]; then
    echo "fuzz: no targets" >&2
    exit 1
fi
echo "fuzz: $passed passed, $failed failed"
[ "$failed" = 0 ]
