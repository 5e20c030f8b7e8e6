# Shortcuts for commands that also work as they stand: https://just.systems

# Python with what tests/oracle/requirements.txt names.
python := ".oracle/bin/python"

# The crates that hold no tensor library; of `llm-dit` and the services, what remains without one.
without_candle := "--workspace --no-default-features --exclude llm-dit-kernels --exclude llm-dit-weights --exclude llm-dit-z-image --exclude llm-dit-qwen3 --exclude llm-dit-tests"

# What there is.
default:
    @just --list

# The programs.
build:
    cargo build --release

# A picture from a prompt.
draw prompt:
    cargo run --release -- generate {{ quote(prompt) }}

# Formatting, lints and tests of the crates that hold no candle: what to run while you edit.
check:
    cargo fmt --all --check
    cargo clippy {{ without_candle }} --all-targets -- -D warnings
    cargo test {{ without_candle }}

# A release archive, a Debian package, a bill of materials and checksums, in target/dist.
dist:
    deploy/dist

# The containers and compose files of deploy/, run in a container engine; needs root and Debian.
containers:
    cargo build --release --workspace --bins
    python3 tests/containers/run.py

# Everything that CI tests without a network.
test:
    cargo test --release --workspace

# Formatting and lints of everything.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# All that a change must pass.
all:
    .ci/run

# README's grid and the blueprint of docs/guide/lora.md, drawn again.
gallery: build
    {{ python }} docs/images/gallery.py

# Every golden that the demo model is in, after its weights changed.
goldens:
    {{ python }} tests/oracle/make_goldens.py --only pictures scheduler_pictures lora_pictures
    {{ python }} tests/oracle/img2img_goldens.py
    {{ python }} tests/oracle/inpaint_goldens.py
    {{ python }} tests/oracle/embedding_files.py write
