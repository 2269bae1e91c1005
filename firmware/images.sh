#!/usr/bin/env bash
# Builds the node for the chips that need no compiler of Espressif's, and packs the images.
#
#   firmware/images.sh            builds, packs, and checks that the images fit
#   firmware/images.sh --clippy   and lints the code for both chips first
#
# The images are target/firmware/node-CHIP.bin (with boot loader and partition table, for a blank chip) and
# node-CHIP-app.bin (the application alone). It needs what README.md names: clang, libclang, cmake, ninja,
# and espflash, which it builds itself under target/tools if there is none. Exit code 77: something of this
# is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# An application slot has 1,835,008 bytes. The budget leaves room for what comes, so that an update fits.
BUDGET=1500000
ESPFLASH=4.7.0
root=$(cd .. && pwd)
tools=$root/target/tools
out=$root/target/firmware
locked=()
if [[ ${CI:-} == true ]]; then locked=(--locked); fi

# Chip and target.
CHIPS=(
    esp32c3:riscv32imc-unknown-none-elf
    esp32c6:riscv32imac-unknown-none-elf
)

for program in clang cmake ninja; do
    command -v "$program" >/dev/null || {
        echo "$program is missing (README.md, What it takes)"
        exit 77
    }
done

# Before the toolchain is another one. Without optimisation it is built in half the time, and it packs two
# images in a second.
espflash=$(command -v espflash || true)
if [[ $("$espflash" --version 2>/dev/null) != "espflash ${ESPFLASH%.*}."* ]]; then
    espflash=$tools/bin/espflash
    if [[ $("$espflash" --version 2>/dev/null) != "espflash $ESPFLASH" ]]; then
        CARGO_TARGET_DIR=$tools/build cargo install espflash --version "$ESPFLASH" --locked \
            --no-default-features --features cli --profile dev --root "$tools"
        rm -rf "$tools/build"
    fi
fi

source ./toolchain.sh
riscv_toolchain "$tools" || exit 77

mkdir -p "$out"
export CARGO_TARGET_DIR=$out/build
over=false linted=true
for entry in "${CHIPS[@]}"; do
    chip=${entry%%:*} target=${entry##*:}
    build=(-p node-esp --target "$target" --features "$chip" "${locked[@]}")
    if [[ ${1:-} == --clippy ]]; then
        if cargo clippy --version 2>/dev/null; then
            cargo clippy --release "${build[@]}" -- -D warnings
        else
            echo "no clippy in this toolchain: not linted"
            linted=false
        fi
    fi
    cargo build --release "${build[@]}"
    elf=$CARGO_TARGET_DIR/$target/release/node-esp
    pack=(--chip "$chip" --flash-size 4mb --partition-table partitions.csv --target-app-partition ota_0)
    "$espflash" save-image "${pack[@]}" --merge --skip-padding "$elf" "$out/node-$chip.bin"
    "$espflash" save-image "${pack[@]}" "$elf" "$out/node-$chip-app.bin"
    size=$(stat -c %s "$out/node-$chip-app.bin")
    printf '%s: application %d bytes, budget %d\n' "$chip" "$size" "$BUDGET"
    if ((size > BUDGET)); then over=true; fi
done
if $over; then
    echo "over the budget: find out what grew, or raise the budget in firmware/images.sh and say why"
    exit 1
fi
# What is not linted is not what CI promises.
if ! $linted && [[ ${CI:-} == true ]]; then
    echo "clippy is missing (rustup component add clippy)"
    exit 77
fi
