# demo and test are all that a newcomer needs: on a fresh Debian with Rust each installs what it wants.
#
#   make demo       a physical Debian server becomes a virtual machine that boots; GUEST=uefi-gpt MACHINE=kvm-scsi: another
#   make test       all that must hold: format, lints, docs, unit, differential and boot tests
#   make test-all   the long tests too: every initramfs compression by a boot, thousands of random edits
#   make bench      one table: time, ratio and peak memory beside qemu-img's
#   make fuzz       every parser for SECONDS seconds each (default 60); needs cargo-fuzz and a nightly toolchain
#   make release    the static program
#   make guests     the guests of the tests, into $REHOME_CACHE (default ~/.cache/rehome)
#   make clean-guests

GUEST ?= bios-mbr
MACHINE ?= kvm
SECONDS ?= 60

# A test may stop with a panic, and knows the numbers that it made itself; the program may and does not.
ALLOWED_IN_TESTS = -A clippy::cast_possible_truncation -A clippy::cast_sign_loss -A clippy::cast_possible_wrap \
	-A clippy::unwrap_used -A clippy::expect_used -A clippy::panic -A clippy::indexing_slicing -A unreachable_pub
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
GUESTS_OF_TEST = bios-mbr uefi-gpt dirty-journal

.PHONY: demo test test-all check bench fuzz release guests clean-guests packages toolchain

demo:
	@fixtures/install-packages.sh demo
	@fixtures/demo.sh $(GUEST) $(MACHINE)

test: check guests
	cargo test

test-all: check guests
	cargo test -- --include-ignored

check: packages toolchain
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings $(ALLOWED_IN_TESTS)
	cargo clippy --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

packages:
	@fixtures/install-packages.sh test

toolchain:
	@command -v cargo >/dev/null || { echo "Rust is needed: https://rustup.rs" >&2; exit 1; }
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

guests:
	@fixtures/build.sh $(GUESTS_OF_TEST)

clean-guests:
	@fixtures/build.sh --clean

bench:
	@fixtures/install-packages.sh bench
	@fixtures/bench.sh

fuzz:
	@fixtures/fuzz.sh $(SECONDS)

release:
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target $(HOST)
	@ls -lh target/$(HOST)/release/rehome
