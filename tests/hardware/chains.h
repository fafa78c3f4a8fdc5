// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// Chains: built in the pre-upload callback of the CUDA driver from the launch's own descriptor, which
// becomes atom 0. Every further atom has a gate A and its bounce B before it, NULL descriptors that
// schedule one another for as long as the gate is shut; atoms schedule the next when their last block has
// started; and a NULL tail, on which each atom decrements a counter, carries the launch's completion.
// Fields are bit ranges `hi, lo` as in NVIDIA's clcbc0qmd.h. And the kernels that are launched so, which
// spin for a number of SM cycles.

#pragma once

#include "arena.h"

static uint64_t get(const uint8_t *q, int hi, int lo) {
    uint64_t value = 0;
    for (int bit = hi; bit >= lo; bit--) value = value << 1 | (q[bit / 8] >> bit % 8 & 1);
    return value;
}

static void put(uint8_t *q, int hi, int lo, uint64_t value) {
    for (int bit = lo; bit <= hi; bit++)
        q[bit / 8] = (q[bit / 8] & ~(1 << bit % 8)) | (value >> (bit - lo) & 1) << bit % 8;
}

constexpr int PLAIN = 2, NULL_TYPE = 1, SCHEDULE = 1, DECREMENT = 4;

static void dependent(uint8_t *q, int slot, int action, const uint8_t *to) {
    int enable = 368 + 5 * slot, pointer = slot ? 480 : 448;
    put(q, enable, enable, 1);
    put(q, enable + 3, enable + 1, action);
    put(q, enable + 4, enable + 4, 0);
    put(q, pointer + 31, pointer, gpu_address(to) >> 8);
}

static void release(uint8_t *q, int slot, const Stamp *to, uint32_t payload, bool on) {
    int enable = 320 + 16 * slot, address = 640 + 128 * slot;
    put(q, enable + 12, enable, on);
    put(q, address + 56, address, gpu_address(const_cast<Stamp *>(to)));
    put(q, address + 127, address + 64, payload);
}

// What the next launch of this thread becomes.
struct Plan {
    bool on = false, shut = false, narrow = false;
    unsigned chain = 0, atoms = 0;
    uint32_t number = 1;
};
static thread_local Plan plan;

static uint8_t *copy(const uint8_t *original, unsigned chain, unsigned place) {
    uint8_t *q = arena + DESCRIPTORS + (size_t{chain} * (1 + 3 * ATOMS) + place) * STEP;
    memcpy(q, original, 384);
    put(q, 15, 0, 0);
    put(q, 303, 288, 0);
    for (int bit : {28, 29, 320, 336, 352, 368, 373}) put(q, bit, bit, 0);
    return q;
}

static void build(uint8_t *q) {
    unsigned n = plan.atoms, width = get(q, 1055, 1024), c = plan.chain;
    uint8_t original[384];
    memcpy(original, q, 384);
    Chain &chain = table()->chain[c];

    // Keeps what the launch does when it completes, and its latch; waits for all atoms.
    uint8_t *tail = copy(original, c, 0);
    memcpy(tail, original, 384);
    put(tail, 25, 23, NULL_TYPE);
    put(tail, 29, 29, 0);
    put(tail, 15, 0, n);
    put(tail, 303, 288, n);
    release(tail, 1, stamp(c), plan.number, true);

    std::vector<uint8_t *> atoms{q}, gates{nullptr};
    for (int bit : {28, 320, 336, 352, 368, 373}) put(q, bit, bit, 0);
    for (unsigned i = 1; i < n; i++) {
        uint8_t *a = copy(original, c, 3 * i - 2), *b = copy(original, c, 3 * i - 1);
        put(a, 25, 23, NULL_TYPE);
        put(b, 25, 23, NULL_TYPE);
        put(b, 1150, 1150, 0);
        put(a, 1150, 1150, 0);
        dependent(b, 0, SCHEDULE, a);
        dependent(a, 0, SCHEDULE, b);
        gates.push_back(a);
        atoms.push_back(copy(original, c, 3 * i));
    }
    for (unsigned i = 0; i < n; i++) {
        uint8_t *atom = atoms[i];
        put(atom, 1055, 1024, uint64_t{width} * (i + 1) / n);
        put(atom, 1439, 1408, uint64_t{width} * i / n);
        put(atom, 1471, 1440, 0);
        put(atom, 1150, 1150, 1);
        dependent(atom, 1, DECREMENT, tail);
        if (plan.narrow && i) {
            uint32_t mask[4] = {~3u, ~0u, ~0u, ~0u};
            memcpy(atom + 304, mask, sizeof(mask));
            put(atom, 31, 31, 1);
        }
        if (i + 1 < n) dependent(atom, 0, SCHEDULE, gates[i + 1]);
    }
    for (unsigned i = 1; i < n; i++) {
        uint8_t *a = gates[i], *atom = atoms[i], empty[384];
        dependent(a, 1, SCHEDULE, atom);
        release(a, 2, waiting(c, i - 1), plan.number, false);
        memcpy(empty, atom, 384);
        put(empty, 25, 23, NULL_TYPE);
        put(empty, 1150, 1150, 0);
        Gate &gate = chain.gate[i - 1];
        uint32_t word;
        memcpy(&word, a + 44, 4);
        gate.at = a + 44 - arena;
        gate.rest = word & ~(SPIN | PASS | STAMP);
        gate.atom = atom - arena;
        memcpy(&gate.type, empty, 4);
        memcpy(&gate.exit, empty + 4 * 35, 4);
        waiting(c, i - 1)->payload = 0;
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    chain.gates = n - 1;
    chain.begun = plan.number;
    act_on(chain, plan.shut ? SHUT : OPEN);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (uint32_t order = table()->order) act_on(chain, static_cast<Action>(order));
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

static void uploaded(void *, int, int, const void *parameters) {
    if (!plan.on) return;
    uint8_t *q = static_cast<uint8_t *const *>(parameters)[4];
    if (q[72] != 0x40 || get(q, 25, 23) != PLAIN) {
        say("error: a descriptor of version %x and type %d", q[72], (int)get(q, 25, 23));
        _exit(2);
    }
    build(q);
}

static void subscribe() {
    const CUuuid id = {{0x2c, char(0x8e), 0x0a, char(0xd8), 0x07, 0x10, char(0xab), 0x4e, char(0x90),
                        char(0xdd), 0x54, 0x71, char(0x9f), char(0xe5), char(0xf7), 0x4b}};
    const void *found = nullptr;
    MUST(DRIVER(cuGetExportTable)(&found, &id));
    auto entry = static_cast<const uintptr_t *>(found);
    uint32_t handle = 0;
    MUST(reinterpret_cast<int (*)(uint32_t *, void (*)(void *, int, int, const void *), void *)>(
        entry[3])(&handle, uploaded, nullptr));
    MUST(reinterpret_cast<int (*)(uint32_t, uint32_t, int, int)>(entry[6])(1, handle, 0xb, 1));
}

// ------------------------------------------------------------------------------------------ kernels

constexpr long long MICROSECOND = 1755;  // cycles, about
constexpr unsigned SMS = 132;
// So much shared memory that an SM has room for one block of ours, and for others without any.
constexpr int BIG = 120 * 1024;

__global__ void work(unsigned *count, long long cycles) {
    long long begin = clock64();
    while (clock64() - begin < cycles) {
    }
    if (threadIdx.x == 0) atomicAdd(&count[blockIdx.x], 1u);
}

// Runs on until it is told, and `cycles` then.
__global__ void work_after(volatile unsigned *go, long long cycles) {
    while (!*go) {
    }
    long long begin = clock64();
    while (clock64() - begin < cycles) {
    }
}

// Blocks of up to `cycles`, no two alike.
__global__ void uneven(unsigned *count, unsigned seed, int cycles) {
    unsigned hash = (blockIdx.x * 2654435761u) ^ seed;
    hash ^= hash >> 15;
    hash *= 2246822519u;
    long long begin = clock64();
    while (clock64() - begin < (hash >> 8) % cycles) {
    }
    if (threadIdx.x == 0) atomicAdd(&count[blockIdx.x], 1u);
}

// Counts the blocks that did not run exactly once, and begins anew.
__global__ void check(unsigned *count, unsigned blocks, unsigned *wrong) {
    for (unsigned i = threadIdx.x; i < blocks; i += blockDim.x) {
        if (atomicExch(&count[i], 0u) != 1) atomicAdd(wrong, 1u);
    }
}

__global__ void never_used_before(unsigned *count) { atomicAdd(count, 1u); }

struct Tenant {
    CUcontext context = nullptr;
    cudaStream_t stream = nullptr, other = nullptr;
    unsigned *count = nullptr, *wrong = nullptr;

    explicit Tenant(bool own) {
        MUST(DRIVER(cuInit)(0));
        CUdevice device;
        MUST(DRIVER(cuDeviceGet)(&device, 0));
        if (own) {
            MUST(DRIVER(cuCtxCreate_v4)(&context, nullptr, 0, device));
        } else {
            MUST(cudaSetDevice(0));
            MUST(cudaFree(nullptr));
        }
        MUST(cudaMalloc(&count, 1 << 20));
        MUST(cudaMalloc(&wrong, 4));
        MUST(cudaMemset(count, 0, 1 << 20));
        MUST(cudaMemset(wrong, 0, 4));
        stream = new_stream();
        other = new_stream();
        MUST(cudaFuncSetAttribute(work, cudaFuncAttributeMaxDynamicSharedMemorySize, BIG));
        MUST(cudaFuncSetAttribute(work_after, cudaFuncAttributeMaxDynamicSharedMemorySize, BIG));
        check<<<1, 256, 0, stream>>>(count, 0, wrong);
        work<<<1, 128, BIG, stream>>>(count, 0);
        uneven<<<1, 128, 0, stream>>>(count, 0, 1);
        MUST(cudaStreamSynchronize(stream));
        MUST(cudaMemset(count, 0, 1 << 20));
    }

    static cudaStream_t new_stream() {
        int low, high;
        MUST(cudaDeviceGetStreamPriorityRange(&low, &high));
        cudaStream_t made;
        MUST(cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, low));
        return made;
    }

    unsigned found_wrong() const {
        unsigned found;
        MUST(cudaMemcpyAsync(&found, wrong, 4, cudaMemcpyDeviceToHost, stream));
        MUST(cudaStreamSynchronize(stream));
        return found;
    }
};

// A kernel of `waves` waves of one block per SM, as a chain of `atoms` if there are any.
static void launch(cudaStream_t stream, unsigned *count, unsigned waves, long long us,
                   const Plan &as = Plan()) {
    plan = as;
    plan.on = as.atoms > 0;
    work<<<waves * SMS, 128, BIG, stream>>>(count, us * MICROSECOND);
    plan.on = false;
    MUST(cudaGetLastError());
}

static Plan chain(unsigned which, unsigned atoms, bool shut, bool narrow = false, uint32_t number = 1) {
    Plan made;
    made.atoms = atoms;
    made.chain = which;
    made.shut = shut;
    made.narrow = narrow;
    made.number = number;
    return made;
}

static void own_arena(const char *path) {
    map_arena(path, true);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&table()->owner, &attributes);
    pthread_mutex_lock(&table()->owner);
    MUST(cudaHostRegister(arena, SIZE, cudaHostRegisterMapped | cudaHostRegisterPortable));
    subscribe();
}
