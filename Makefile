# The doors. `make demo` and `make test` install what is missing, build, and run; everything else is
# CMake's (CMakePresets.json has the other configurations).
BUILD       ?= build
BUILD_TYPE  ?= Release
CMAKE_FLAGS ?=
PREFIX      ?= /usr/local
JOBS        ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

.PHONY: all deps build test demo install clean asan format
all: build

deps:
	@bash scripts/deps.sh

# The generator is chosen once: an existing build folder keeps its own.
build: deps
	@generator=; \
	if [ ! -f $(BUILD)/CMakeCache.txt ] && command -v ninja >/dev/null 2>&1; then \
	  generator='-G Ninja'; fi; \
	cmake -S . -B $(BUILD) $$generator -DCMAKE_BUILD_TYPE=$(BUILD_TYPE) \
	  -DCMAKE_INSTALL_PREFIX=$(PREFIX) $(CMAKE_FLAGS)
	@cmake --build $(BUILD) --parallel $(JOBS) $(if $(ONLY_TARGET),--target $(ONLY_TARGET))

test: build
	@cd $(BUILD) && ctest --output-on-failure -j2

# The program alone: tests take half of a build.
demo: ONLY_TARGET = nibble_cli
demo: build
	@BUILD=$(BUILD) bash scripts/demo.sh

install: build
	@cmake --install $(BUILD)

# The whole suite under the address and undefined-behaviour sanitizers.
asan: deps
	@cmake --preset asan $(CMAKE_FLAGS)
	@cmake --build --preset asan --parallel $(JOBS)
	@cd build-asan && ctest --output-on-failure -j2

clean:
	@rm -rf $(BUILD) build-release build-debug build-asan build-clang build-werror

format:
	@command -v clang-format >/dev/null 2>&1 || { echo 'format needs clang-format' >&2; exit 1; }
	@find src include cli examples tests -name '*.[ch]' -exec clang-format -i {} +
