#!/usr/bin/env bash
# Makes Rust able to build for the ESP32's RISC-V chips.
#
#   source firmware/toolchain.sh
#
# `riscv_toolchain DIRECTORY` adds the targets to the active toolchain. Where rustup cannot reach them, but
# Debian's packages can be had, it makes a toolchain of those in the directory and sets what cargo needs to
# use it. Where neither works, it says so and returns 1.

RISCV_TARGETS=(riscv32imc-unknown-none-elf riscv32imac-unknown-none-elf)

have_riscv_targets() {
    local target sysroot
    sysroot=$(rustc --print sysroot)
    for target in "${RISCV_TARGETS[@]}"; do
        [[ -d $sysroot/lib/rustlib/$target/lib ]] || return 1
    done
}

# A compiler of Debian's packages, unpacked and not installed, with the linker of the active toolchain. It
# builds `core` and `alloc` from the sources that come with it.
debian_toolchain() {
    local made=$1/toolchain unpacked=$1/packages version llvm host linker
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    host=$(rustc -vV | sed -n 's/^host: //p')
    linker=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
    if [[ ! -x $made/bin/rustc || ! -x $made/bin/cargo-clippy ]]; then
        version=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: *\([0-9]*\.[0-9]*\)\..*/\1/p')
        # esp-hal 1.2 asks for Rust 1.95.
        if [[ -z $version || $(printf '%s\n' 1.95 "$version" | sort -V | head -n 1) != 1.95 ]]; then
            echo "Debian's rustc-web is ${version:-not to be had}; 1.95 or newer is wanted"
            return 1
        fi
        llvm=$(apt-cache depends "libstd-rust-web-$version" | sed -n 's/.*Depends: *\(libllvm[0-9]*\).*/\1/p')
        rm -rf "$made" "$unpacked"
        mkdir -p "$made/bin" "$made/lib" "$unpacked"
        (
            cd "$unpacked"
            apt-get download rustc-web rust-web-clippy rust-web-src libstd-rust-web-dev "libstd-rust-web-$version" "$llvm"
            for package in *.deb; do dpkg-deb -x "$package" . && rm "$package"; done
        ) || return 1
        cp -a "$unpacked"/usr/lib/*/lib*.so* "$unpacked/usr/lib/rustlib" "$made/lib/"
        ln -sfn "$(echo "$unpacked"/usr/src/rustc-*)" "$made/lib/rustlib/src/rust"
        mkdir -p "$made/lib/rustlib/$host/bin"
        ln -sfn "$linker" "$made/lib/rustlib/$host/bin/rust-lld"
        # Last: that it is here says that all is.
        cp -a "$unpacked/usr/bin/"{clippy-driver,cargo-clippy,rustc} "$made/bin/"
    fi
    export RUSTUP_TOOLCHAIN=$made RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=core,alloc
    rustc --version
}

riscv_toolchain() {
    local tools=$1
    if have_riscv_targets || { rustup target add "${RISCV_TARGETS[@]}" && have_riscv_targets; }; then
        rustc --version
        return
    fi
    echo "rustup cannot add the targets; trying Debian's compiler"
    debian_toolchain "$tools/rustc-web" && return
    echo "No compiler for the chips. On a machine that reaches rustup's server: rustup target add ${RISCV_TARGETS[*]}"
    return 1
}
