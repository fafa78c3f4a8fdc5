// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// The arena: a file that the owner of chains and anybody else can map, with all that is ours in it.
// Descriptors in places of fixed type, so that a store that comes late still meets a gate; a table of
// where the gates are; and the stamps that the GPU writes. A gate shuts, opens and halts by one store.
// Times are CLOCK_MONOTONIC in nanoseconds.

#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#define MUST(call)                                                                      \
    do {                                                                                \
        int error_ = static_cast<int>(call);                                            \
        if (error_) {                                                                   \
            printf("error %d of %s, line %d\n", error_, #call, __LINE__);               \
            fflush(stdout);                                                             \
            _exit(2);                                                                   \
        }                                                                               \
    } while (0)

using std::string;

static int64_t now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void pause_until(int64_t when) {
    while (now() < when) {
    }
}

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

// The next line that the one who drives us writes; empty at its end.
static string heard() {
    char line[256];
    if (!fgets(line, sizeof(line), stdin)) return "";
    line[strcspn(line, "\n")] = 0;
    return line;
}

template <typename F>
static F driver(const char *name) {
    static void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *found = library ? dlsym(library, name) : nullptr;
    if (!found) {
        say("error: no %s", name);
        _exit(2);
    }
    return reinterpret_cast<F>(found);
}
#define DRIVER(name) driver<decltype(&name)>(#name)

// ------------------------------------------------------------------------------------------ arena

// Dependents are 32-bit numbers of 256-byte units, so descriptors lie below 1 TiB.
constexpr uint64_t BASE = 0x400000000;
constexpr size_t SIZE = 16 << 20;
constexpr unsigned CHAINS = 128, ATOMS = 64, STEP = 512;
constexpr size_t STAMPS = 1 << 20, WAITS = STAMPS + 16 * CHAINS, DESCRIPTORS = 2 << 20;

// A gate shuts, opens and halts by one store of word 11 of A.
constexpr uint32_t SPIN = 1u << 16, PASS = 1u << 21, STAMP = 1u;
enum Action { NONE, OPEN, SHUT, HALT, VOID };

struct Gate {
    uint32_t at, rest;          // where word 11 is, and its other bits
    uint32_t atom, type, exit;  // the atom behind it, and its words 0 and 35 if it is to run nothing
};

struct Chain {
    uint32_t begun;  // what its completion stamp will say; 0 if there is none
    uint32_t gates;
    Gate gate[ATOMS];
};

struct Table {
    pthread_mutex_t owner;  // robust: the kernel marks it when its holder dies
    volatile uint32_t order;
    volatile uint32_t go;  // what the kernels of `ends-Nms` wait for
    Chain chain[CHAINS];
};

struct Stamp {
    volatile uint32_t payload, zero;
    volatile uint64_t time;
};

static uint8_t *arena;
static Table *table() { return reinterpret_cast<Table *>(arena); }
static Stamp *stamp(unsigned chain) { return reinterpret_cast<Stamp *>(arena + STAMPS) + chain; }
static Stamp *waiting(unsigned chain, unsigned gate) {
    return reinterpret_cast<Stamp *>(arena + WAITS) + chain * ATOMS + gate;
}
static uint64_t gpu_address(const void *ours) {
    return BASE + (static_cast<const uint8_t *>(ours) - arena);
}

static void map_arena(const char *path, bool owner) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, SIZE)) MUST(errno);
    void *where = owner ? reinterpret_cast<void *>(BASE) : nullptr;
    void *got = mmap(where, SIZE, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_POPULATE | (owner ? MAP_FIXED_NOREPLACE : 0), fd, 0);
    if (got == MAP_FAILED) MUST(errno);
    close(fd);
    arena = static_cast<uint8_t *>(got);
    static_assert(sizeof(Table) <= STAMPS, "the table fits");
    static_assert(DESCRIPTORS + size_t{CHAINS} * (1 + 3 * ATOMS) * STEP <= SIZE, "chains fit");
}

static void store(uint32_t at, uint32_t value) {
    *reinterpret_cast<volatile uint32_t *>(arena + at) = value;
}

static void act_on(const Chain &chain, Action action) {
    for (unsigned i = chain.gates; i-- > 0;) {
        const Gate &gate = chain.gate[i];
        switch (action) {
        case NONE: break;
        case SHUT: store(gate.at, gate.rest | SPIN | STAMP); break;
        case HALT: store(gate.at, gate.rest); break;
        case VOID:
            store(gate.atom, gate.type);
            store(gate.atom + 4 * 35, gate.exit);
            std::atomic_thread_fence(std::memory_order_seq_cst);
            [[fallthrough]];
        case OPEN: store(gate.at, gate.rest | PASS); break;
        }
    }
}

// Who publishes a chain looks at the order afterwards: either that look sees it, or we see the gates.
static void act(Action action) {
    table()->order = action;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    for (const Chain &chain : table()->chain) act_on(chain, action);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

static Action action_named(const string &name) {
    return name == "open" ? OPEN : name == "shut" ? SHUT : name == "halt" ? HALT
         : name == "void" ? VOID : NONE;
}

static unsigned unfinished() {
    unsigned count = 0;
    for (unsigned i = 0; i < CHAINS; i++) {
        uint32_t begun = table()->chain[i].begun;
        count += begun && stamp(i)->payload != begun;
    }
    return count;
}

static bool done_within(int64_t ns) {
    for (int64_t end = now() + ns; now() < end;)
        if (!unfinished()) return true;
    return !unfinished();
}
