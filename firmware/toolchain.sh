#!/usr/bin/env bash
# Makes Rust able to build for the ESP32's RISC-V chips.
#
#   source firmware/toolchain.sh
#
# Adds the targets to the active toolchain. Where rustup cannot reach them, but Debian's packages can be
# had, it makes a toolchain `node-riscv` of those under target/tools and sets what cargo needs to use it.
# Where neither works, it says so and returns 1.

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
    local tools=$1/node-riscv stable version package
    local packages=(rustc-web rust-web-src libstd-rust-web-dev)
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    if [[ ! -x $tools/toolchain/bin/rustc ]]; then
        version=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: *\([0-9]*\.[0-9]*\)\..*/\1/p')
        [[ -n $version ]] || return 1
        # esp-hal 1.2 asks for Rust 1.95.
        if [[ $(printf '%s\n' 1.95 "$version" | sort -V | head -n 1) != 1.95 ]]; then
            echo "Debian's rustc-web is $version, 1.95 is wanted"
            return 1
        fi
        packages+=("libstd-rust-web-$version")
        package=$(apt-cache depends "libstd-rust-web-$version" | sed -n 's/.*Depends: *\(libllvm[0-9]*\).*/\1/p')
        packages+=("$package")
        rm -rf "$tools"
        mkdir -p "$tools/packages" "$tools/toolchain/bin" "$tools/toolchain/lib"
        (cd "$tools/packages" && apt-get download "${packages[@]}") || return 1
        for package in "$tools"/packages/*.deb; do dpkg-deb -x "$package" "$tools/root" || return 1; done
        rm -r "$tools/packages"
        cp -a "$tools"/root/usr/lib/*/lib*.so* "$tools/root/usr/lib/rustlib" "$tools/toolchain/lib/"
        rm -f "$tools/toolchain/lib/rustlib/src/rust"
        ln -s "$(echo "$tools"/root/usr/src/rustc-*)" "$tools/toolchain/lib/rustlib/src/rust"
        stable=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
        mkdir -p "$tools/toolchain/lib/rustlib/$(basename "$(dirname "$stable")")/bin"
        ln -sf "$stable/rust-lld" "$tools/toolchain/lib/rustlib/$(basename "$(dirname "$stable")")/bin/"
        cp -a "$tools/root/usr/bin/rustc" "$tools/root/usr/bin/rustdoc" "$tools/toolchain/bin/"
    fi
    rustup toolchain link node-riscv "$tools/toolchain" || return 1
    export RUSTUP_TOOLCHAIN=node-riscv RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=core,alloc
    rustc --version
}

riscv_toolchain() {
    local tools=$1
    if have_riscv_targets || { rustup target add "${RISCV_TARGETS[@]}" && have_riscv_targets; }; then
        rustc --version
        return
    fi
    echo "rustup cannot add the targets; trying Debian's compiler"
    debian_toolchain "$tools" && return
    echo "No compiler for the chips. On a machine that reaches rustup's server: rustup target add ${RISCV_TARGETS[*]}"
    return 1
}
