#!/usr/bin/env bash
# What CI runs, and what to run before a commit: installs what the tests need, checks, tests, builds.
#
#   ./test.sh            everything
#   ./test.sh --quick    format, clippy and tests only
#
# CI=true            a step that cannot run for want of a program is a failure, and Cargo.lock is law
# RUSTUP_TOOLCHAIN   the toolchain to use instead of the one in rust-toolchain.toml
#
# A failed step does not stop the others. The last line counts the steps; the exit code is 0 if none
# failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Debian keeps daemons, mosquitto among them, where not every user's PATH looks.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:$PWD/target/tools/bin"

# What the tests and the build call, and the Debian package that has it.
PROGRAMS=(
    cc:build-essential
    mosquitto:mosquitto
    mosquitto_pub:mosquitto-clients
    promtool:prometheus
    prometheus-alertmanager:prometheus-alertmanager
    amtool:prometheus-alertmanager
    chromium:chromium
    python3:python3-venv
    javac:default-jdk-headless
    mvn:maven
    clang:clang
    libclang:libclang-dev
    cmake:cmake
    ninja:ninja-build
    pkg-config:pkg-config
    libudev:libudev-dev
    faketime:faketime
    gdb:gdb
)
# Debian starts these on installation; the tests start their own.
SERVICES=(mosquitto prometheus prometheus-alertmanager)

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

quick=false
for argument in "$@"; do
    case "$argument" in
        --quick) quick=true ;;
        -h | --help) usage && exit 0 ;;
        *) echo "unknown option $argument" >&2 && usage >&2 && exit 2 ;;
    esac
done

locked=()
if [[ ${CI:-} == true ]]; then locked=(--locked); fi

# ---- Steps: what they say, how long they take, how they end ----

note=$(mktemp)
# What the tests said; of those that failed, the summary says it again.
said=$(mktemp)
trap 'rm -f "$note" "$said"' EXIT
passed=0 failed=0 skipped=0
summary=()

# Ends a step that cannot run here. In CI that is a failure.
needs() {
    echo "needs $1" >"$note"
    exit 77
}

# Ends a step that need not run, in CI neither.
spare() {
    echo "$1" >"$note"
    exit 78
}

# step HEADLINE COMMAND...: runs the command in a subshell and keeps the result for the summary.
step() {
    local headline=$1 begin=$SECONDS status result
    shift
    printf '\n==> %s\n' "$headline"
    : >"$note"
    set +e
    (
        set -e
        "$@"
    )
    status=$?
    set -e
    case "$status" in
        0) result=passed ;;
        77) result="skipped: $(<"$note")" ;;
        78) result="skipped: $(<"$note")" ;;
        130 | 143) exit "$status" ;;
        *) result="FAILED" ;;
    esac
    if [[ $status == 77 && ${CI:-} == true ]]; then result="FAILED: $(<"$note")"; fi
    case "$result" in
        passed) passed=$((passed + 1)) ;;
        skipped*) skipped=$((skipped + 1)) ;;
        *) failed=$((failed + 1)) ;;
    esac
    printf -- '--- %s: %s (%d s)\n' "$headline" "$result" $((SECONDS - begin))
    summary+=("$(printf '%5d s  %-40s %s' $((SECONDS - begin)) "$headline" "$result")")
}

# ---- The steps ----

toolchain() {
    local pinned now
    pinned=$(sed -n 's/^channel *= *"\(.*\)".*/\1/p' rust-toolchain.toml)
    if ! command -v cargo >/dev/null; then
        echo "cargo is not installed. Install rustup (https://rustup.rs); it brings Rust $pinned."
        return 1
    fi
    # rustup installs the pinned toolchain at its first call here, if it can reach its server.
    if ! now=$(rustc --version) || [[ $now != "rustc $pinned "* ]]; then
        echo "Rust $pinned is wanted (rust-toolchain.toml); rustc says: ${now:-nothing}"
        if [[ $(RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null) == "rustc $pinned "* ]]; then
            echo "The stable toolchain is that version: RUSTUP_TOOLCHAIN=stable ./test.sh"
        else
            echo "Try: rustup toolchain install $pinned --component rustfmt --component clippy"
        fi
        return 1
    fi
    echo "$now"
    if ! cargo fmt --version || ! cargo clippy --version; then
        echo "Try: rustup component add rustfmt clippy"
        return 1
    fi
}

# The entries of PROGRAMS that are not installed.
missing() {
    local entry
    for entry in "${PROGRAMS[@]}"; do
        case "$entry" in
            # Debian keeps this module of Python in a package of its own.
            python3:*) python3 -c "import ensurepip, venv" 2>/dev/null ;;
            # Libraries, for the firmware: no program says that they are there.
            libclang:*) [[ -n ${LIBCLANG_PATH:-} ]] || compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null ;;
            libudev:*) pkg-config --exists libudev 2>/dev/null ;;
            *) command -v "${entry%%:*}" >/dev/null ;;
        esac || echo "$entry"
    done
}

programs() {
    local absent as_root=() entry service
    mapfile -t absent < <(missing)
    if ((${#absent[@]} == 0)); then
        echo "all here: ${PROGRAMS[*]%%:*}"
        return
    fi
    if ! command -v apt-get >/dev/null; then
        needs "${absent[*]%%:*} (no apt-get here: install by hand)"
    fi
    if ((EUID != 0)); then
        as_root=(sudo -n)
        "${as_root[@]}" true 2>/dev/null || needs "${absent[*]%%:*} (root may run: apt-get install ${absent[*]##*:})"
    fi
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" apt-get update -q || echo "apt-get update failed; trying with the lists that are here"
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${absent[@]##*:}" ||
        echo "apt-get install failed"
    for entry in "${absent[@]}"; do
        for service in "${SERVICES[@]}"; do
            if [[ ${entry##*:} == "$service" ]]; then
                "${as_root[@]}" service "$service" stop || true
            fi
        done
    done
    mapfile -t absent < <(missing)
    if ((${#absent[@]} > 0)); then needs "${absent[*]%%:*}"; fi
}

# The mail server of the tests.
mail_server() {
    local wanted=engine/tests/it/requirements.txt python=target/python/bin/python
    if [[ $("$python" -m pip freeze 2>/dev/null) != $(<"$wanted") ]]; then
        python3 -m venv --clear target/python || needs "Python 3 with venv"
        "$python" -m pip install -q --disable-pip-version-check -r "$wanted" ||
            needs "aiosmtpd from the Python package index"
    fi
    "$python" -m pip freeze
}

# Databases that speak MongoDB's protocol, for the tests.
ferretdb() {
    local sources=engine/tests/servers/ferretdb built=target/servers/ferretdb
    if [[ -x $built && ! $sources/main.go -nt $built && ! $sources/go.sum -nt $built ]]; then
        echo "$built is there"
        return
    fi
    command -v go >/dev/null || needs "Go 1.24 or newer (https://go.dev/dl)"
    mkdir -p target/servers
    go build -C "$sources" -o "$PWD/$built" . || needs "Go 1.24 or newer, and its module proxy"
}

mongo_java() {
    local sources=engine/tests/servers/mongo-java built=target/servers/mongo-java
    if [[ -f $built/MongoJava.class && ! $sources/MongoJava.java -nt $built/MongoJava.class ]]; then
        echo "$built is there"
        return
    fi
    command -v mvn >/dev/null && command -v javac >/dev/null || needs "a JDK and Maven"
    mvn -q -B -f "$sources/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$PWD/$built" || needs "Maven's central repository"
    javac -cp "$built/*" -d "$built" "$sources/MongoJava.java"
}

# Dashboards come from a typed source; what is committed is what it makes.
dashboards() {
    command -v npm >/dev/null || needs "Node.js 20 or newer, with npm"
    npm ci --prefix dashboards --no-audit --no-fund --silent || needs "the npm registry"
    npm run --prefix dashboards --silent build
    git diff --exit-code -- dashboards || {
        echo "the dashboards differ from their source: commit what 'npm run --prefix dashboards build' made"
        return 1
    }
}

# The node on a PC: its core, its drivers, and the program that the engine's tests start.
host_node() {
    command -v clang >/dev/null && command -v cmake >/dev/null && command -v ninja >/dev/null ||
        needs "clang, cmake, ninja-build"
    cd firmware
    cargo fmt --all --check
    cargo clippy "${locked[@]}" --all-targets -- -D warnings
    cargo test "${locked[@]}"
    cargo build "${locked[@]}" -p node-host
}

# The node for the chips that stable Rust can build for.
chips() {
    local status=0
    firmware/images.sh --clippy || status=$?
    # Its own word for "cannot run here".
    if ((status == 77)); then needs "what firmware/README.md names (above it says what is missing)"; fi
    return "$status"
}

# As `docker compose config` reads it, with the same library; and what Grafana finds in its container.
containers() {
    local sources=engine/tests/servers/compose built=target/servers/compose services
    if [[ ! -x $built || $sources/main.go -nt $built || $sources/go.sum -nt $built ]]; then
        command -v go >/dev/null || needs "Go 1.24 or newer (https://go.dev/dl)"
        mkdir -p target/servers
        go build -C "$sources" -o "$PWD/$built" . || needs "Go 1.24 or newer, and its module proxy"
    fi
    services=$("$built" docker-compose.yml VIGIE_TOKEN=any)
    echo "$services"
    if "$built" docker-compose.yml 2>/dev/null; then
        echo "docker-compose.yml must not start without a token"
        return 1
    fi
}

# What drives a browser for the tests of the live page.
page_driver() {
    command -v npm >/dev/null || needs "Node.js 20 or newer, with npm"
    npm ci --prefix engine/tests/page --no-audit --no-fund --silent || needs "the npm registry"
    npm ls --prefix engine/tests/page
}

prometheus_rules() {
    local inside checked
    promtool check config prometheus.yml
    promtool check rules dashboards/rules/vigie.yml
    promtool test rules dashboards/rules/tests/rules.yml
    # Where docker-compose.yml puts them.
    inside=$(mktemp -d)
    mkdir "$inside/rules"
    cp dashboards/rules/vigie.yml "$inside/rules"
    echo any >"$inside/vigie_token"
    sed "s|/run/secrets|$inside|" grafana/compose/prometheus.yml >"$inside/prometheus.yml"
    checked=$(promtool check config "$inside/prometheus.yml")
    echo "$checked"
    rm -r "$inside"
    grep -q "1 rule files found" <<<"$checked"
    amtool check-config grafana/compose/alertmanager.yml
}

tests() {
    cargo test "${locked[@]}" --workspace --no-fail-fast | tee "$said"
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc "${locked[@]}" --workspace --no-deps
}

release() {
    cargo build "${locked[@]}" --release
    # The tests' engine dies where it is told to; the one that people get must not.
    if grep -q VIGIE_FAILPOINT target/release/engine; then
        echo "the release build has failpoints (actors/src/failpoint.rs)"
        return 1
    fi
}

# Half a minute in all. `cargo +nightly fuzz run NAME` goes on until it finds something; this is the same
# coverage with the compiler that is here.
fuzz() {
    local host target corpus
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-simplifycfg-branch-fold-threshold=0" \
        cargo build "${locked[@]}" --manifest-path fuzz/Cargo.toml --target "$host" --target-dir target/fuzz
    corpus=$(mktemp -d)
    for target in wire payload config import; do
        mkdir -p "$corpus/$target"
        # What is new goes into the first directory, not into the repository.
        "target/fuzz/$host/debug/$target" "$corpus/$target" "fuzz/corpus/$target" \
            -max_total_time=7 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1
    done
    rm -r "$corpus"
}

# Checks dependencies. Several minutes to build, once.
cargo_deny() {
    cargo deny --version 2>/dev/null && return
    cargo install cargo-deny@0.20.2 --locked --root target/tools || needs "cargo-deny from crates.io"
}

# Of each lock file: the engine's, the node's, the fuzzers'.
deny() {
    cargo deny --manifest-path Cargo.toml --config deny.toml check "$@"
    cargo deny --manifest-path firmware/Cargo.toml --config firmware/deny.toml check "$@"
    cargo deny --manifest-path fuzz/Cargo.toml --config deny.toml check "$@"
}

dependencies() {
    cargo_deny
    deny licenses bans sources
}

advisories() {
    cargo_deny
    cargo deny fetch db || spare "the advisory database cannot be reached"
    deny advisories
}

if ! $quick; then
    step "Rust toolchain" toolchain
    step "programs that the tests call" programs
    step "mail server of the tests" mail_server
    step "database of the tests: FerretDB" ferretdb
    step "database of the tests: mongo-java-server" mongo_java
fi
if ! $quick; then
    step "driver of the browser" page_driver
    step "dashboards" dashboards
    step "Prometheus rules" prometheus_rules
    step "containers" containers
fi
step "format" cargo fmt --all --check
step "clippy" cargo clippy "${locked[@]}" --workspace --all-targets --all-features -- -D warnings
if ! $quick; then
    # The sizes that the promises are about; without these the same tests run smaller.
    export VIGIE_KILLS=${VIGIE_KILLS:-50}
    export VIGIE_MAIL_KILLS=${VIGIE_MAIL_KILLS:-50}
    export VIGIE_OUTAGES=${VIGIE_OUTAGES:-50}
    export VIGIE_FLOOD=${VIGIE_FLOOD:-1000000}
    export VIGIE_FUZZ=${VIGIE_FUZZ:-10000000}
    export VIGIE_SOAK=${VIGIE_SOAK:-2000000}
    export VIGIE_NODE_FUZZ=${VIGIE_NODE_FUZZ:-10000000}
    export VIGIE_POWER_CUTS=${VIGIE_POWER_CUTS:-2000}
    # Labelled data sets are not part of the project; beside it, they are used.
    if [[ -z ${VIGIE_DATA:-} && -d ../shared/data ]]; then
        VIGIE_DATA=$(cd ../shared/data && pwd)
        export VIGIE_DATA
    fi
fi
step "firmware: core and host node" host_node
step "tests" tests
if ! $quick; then
    step "firmware: ESP32-C3 and C6" chips
    step "documentation" documentation
    step "release build" release
    step "fuzzing" fuzz
    step "licences, bans, sources" dependencies
    step "advisories" advisories
fi

failures=$(sed -n '/^failures:$/,/^test result:/p' "$said")
if [[ -n $failures ]]; then
    printf '\n==> what failed\n'
    # Without the frames of backtraces.
    grep -avE '^ +([0-9]+: |at )' <<<"$failures" | cut -c-300 | tail -n 150
fi
printf '\n==> summary\n'
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
