# Shortcuts for commands that also work as they stand: https://just.systems

# Python with what tests/oracle/requirements.txt names.
python := ".oracle/bin/python"

# What there is.
default:
    @just --list

# The programs.
build:
    cargo build --release

# A picture from a prompt.
draw prompt:
    cargo run --release -- generate {{ quote(prompt) }}

# Everything that CI tests without a network.
test:
    cargo test --release --workspace

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# README's grid and the blueprint of docs/lora.md, drawn again.
gallery: build
    {{ python }} docs/images/gallery.py

# Every golden that the demo model is in, after its weights changed.
goldens:
    {{ python }} tests/oracle/make_goldens.py --only pictures scheduler_pictures lora_pictures
    {{ python }} tests/oracle/img2img_goldens.py
    {{ python }} tests/oracle/embedding_files.py write
