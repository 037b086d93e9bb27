# A thin face over CMake and its presets. `make help` lists the targets.
JOBS ?= $(shell nproc)
DEPS := tools/install-deps.sh
build = cmake --preset $(1) >/dev/null && cmake --build --preset $(1) -j $(JOBS)
product = $(call build,release) --target rankine_program rankine rankine_shared

.PHONY: all help deps release dev tsan check check-all bench gpu-check gpu-bench demo format lint install clean

all: release

help:
	@echo "make            release build: build/rankine, build/librankine.a, build/librankine.so"
	@echo "make demo       installs what is missing, builds, trains a small network on Fashion-MNIST"
	@echo "make check      installs what is missing, builds, runs the short tests (on 2 cores 10 minutes, and as many to build)"
	@echo "make check-all  the long tests too: kills, fault sweeps, fuzzing"
	@echo "make bench      the benchmarks"
	@echo "make gpu-check  on a machine with a GPU: the kernels and trainings of the tests on it; build/gpu-check.md"
	@echo "make gpu-bench  its speed against a model, cuBLAS and PyTorch (PYTHON=...); build/gpu-bench.md"
	@echo "make lint       format, include arrows, headers alone; make format mends the format"
	@echo "make install    PREFIX=/usr/local DESTDIR="
	@echo "make deps       only installs what is missing (Debian packages, packages.txt)"

release:
	@$(DEPS) --check build
	@$(product)

dev:
	@$(DEPS) --check build
	@$(call build,dev)

tsan:
	@$(DEPS) --check build
	@$(call build,tsan)

deps:
	@$(DEPS) build test data

# The short tier under ASan and UBSan with warnings as errors, then what must be seen in the program that users run.
check:
	@$(DEPS) build test data
	@$(call build,release)
	@$(call build,dev)
	ctest --preset dev -L short -j $(JOBS)
	ctest --preset release -L release -j $(JOBS)

check-all: check tsan
	ctest --preset release -L long
	ctest --preset tsan -L threads

bench:
	@$(DEPS) build data bench
	@$(call build,release)
	benchmarks/run.sh build | tee build/bench.md

gpu-check:
	@$(DEPS) build test data
	@$(call build,release)
	tools/gpu-check.sh build

gpu-bench:
	@$(DEPS) build data bench
	@$(call build,release)
	tools/gpu-bench.sh build

demo:
	@$(DEPS) build data
	@$(product)
	@tools/demo.sh build

format:
	@$(DEPS) format
	git ls-files '*.c' '*.h' | xargs clang-format -i

lint:
	@$(DEPS) build test format
	@cmake --preset release >/dev/null
	git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror
	ctest --preset release -R '^lint/'

install: release
	cmake --install build $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf build build-dev build-tsan
