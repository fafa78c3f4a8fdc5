// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// What a GPU does with chains and gates while their owner is held, waits, or dies: one program, a role
// per first argument, driven by measure.py. Each role ends by itself, and with status 1 where a statement
// that it tests is wrong.

#include <functional>
#include <random>

#include "chains.h"

// ------------------------------------------------------------------------------------------ neighbours

// What a neighbour writes down, for others to read: how it fares.
struct Log {
    volatile uint64_t count, error;
    struct {
        volatile int64_t end, took;
    } record[1 << 16];
};

static Log *map_log(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, sizeof(Log))) MUST(errno);
    void *got = mmap(nullptr, sizeof(Log), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (got == MAP_FAILED) MUST(errno);
    return static_cast<Log *>(got);
}

// neighbour LOG lc|be SECONDS: five kernels of about 10 us every millisecond at a high priority, or
// kernels of 1 ms one after the other.
static int neighbour(const char *path, bool latency_critical, double seconds) {
    Log *log = map_log(path);
    Tenant tenant(false);
    int low, high;
    MUST(cudaDeviceGetStreamPriorityRange(&low, &high));
    cudaStream_t stream;
    MUST(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, latency_critical ? high : low));
    say("up");
    for (int64_t end = now() + int64_t(seconds * 1e9); now() < end;) {
        int64_t begin = now();
        for (int i = 0; i < (latency_critical ? 5 : 1); i++)
            work<<<SMS, 128, 0, stream>>>(tenant.count, (latency_critical ? 10 : 1000) * MICROSECOND);
        cudaError_t error = cudaStreamSynchronize(stream);
        if (error || (error = cudaGetLastError())) {
            log->error = error;
            _exit(3);
        }
        auto &record = log->record[log->count % (1 << 16)];
        record.end = now();
        record.took = record.end - begin;
        log->count = log->count + 1;
        if (latency_critical) usleep(1000);
    }
    _exit(0);
}

// ------------------------------------------------------------------------------------------ dying

// Keeps launching what `one` launches, two of them queued.
static std::atomic<bool> enough{false};
static void again_and_again(Tenant &tenant, std::function<void(unsigned)> one) {
    cudaEvent_t event[2];
    for (auto &each : event) MUST(cudaEventCreateWithFlags(&each, cudaEventDisableTiming));
    for (unsigned i = 0;; i++) {
        if (i >= 2) MUST(cudaEventSynchronize(event[i % 2]));
        if (enough) return;
        one(i);
        MUST(cudaEventRecord(event[i % 2], tenant.stream));
    }
}

// victim ARENA [PIPE]: enters the state that it is told, and dies as it is told. What it inherits stays
// open: the ends of pipes, one of which is PIPE and becomes a descriptor above all of the driver's.
static int victim(const char *path, int pipe) {
    if (pipe >= 0) {
        MUST(dup2(pipe, 1000) < 0);
        close(pipe);
    }
    Tenant tenant(false);
    own_arena(path);
    say("up");
    string state = heard();
    int ms;
    static std::thread looping;
    auto loop = [&](std::function<void(unsigned)> one) {
        looping = std::thread([&tenant, one] { again_and_again(tenant, one); });
    };
    if (state == "held") {
        launch(tenant.stream, tenant.count, 8, 500, chain(0, 8, true));
        for (int64_t end = now() + 2000000000; !waiting(0, 0)->payload;)
            if (now() > end) {
                say("error: not held");
                return 1;
            }
    } else if (state == "squeezed") {
        loop([&](unsigned i) {
            stamp(i % 4)->payload = 0;
            launch(tenant.stream, tenant.count, 64, 20, chain(i % 4, 64, false, true));
        });
    } else if (state == "open") {
        loop([&](unsigned i) {
            stamp(i % 4)->payload = 0;
            launch(tenant.stream, tenant.count, 64, 500, chain(i % 4, 64, false));
        });
    } else if (state == "open-2s") {
        launch(tenant.stream, tenant.count, 64, 31000, chain(0, 64, false));
    } else if (sscanf(state.c_str(), "ends-%dms", &ms) == 1) {
        auto go = reinterpret_cast<volatile unsigned *>(BASE + offsetof(Table, go));
        work_after<<<SMS, 128, BIG, tenant.stream>>>(go, 1000ll * ms * MICROSECOND);
        MUST(cudaGetLastError());
    } else if (sscanf(state.c_str(), "plain-%dms", &ms) == 1) {
        loop([&](unsigned) { launch(tenant.stream, tenant.count, 1, 1000ll * ms); });
    } else if (state == "waves") {
        loop([&](unsigned) { launch(tenant.stream, tenant.count, 64, 500); });
    } else if (state == "short") {
        loop([&](unsigned) {
            for (int i = 0; i < 100; i++) launch(tenant.stream, tenant.count, 1, 20);
        });
    } else if (state != "idle") {
        return 2;
    }
    usleep(60000);
    say("in");
    for (;;) {
        string told = heard();
        if (told == "exit") {
            if (looping.joinable()) looping.detach();
            exit(0);
        }
        if (told == "_exit") _exit(0);
        if (told.empty()) {
            enough = true;
            act(OPEN);
            if (looping.joinable()) looping.join();
            MUST(cudaDeviceSynchronize());
            _exit(0);
        }
    }
}

// kill ARENA PID SIGNAL ACTION US: acts on the gates, and sends the signal US microseconds later;
// "drained" waits until the chains have completed (at most a second) before it; if US is negative, acts
// so long after the signal.
static int kill_role(const char *path, pid_t pid, int signal, const string &action, const string &us) {
    map_arena(path, false);
    Action what = action_named(action);
    int64_t acted = now();
    if (us == "drained") {
        act(what);
        done_within(1000000000);
    } else if (us[0] != '-' && what) {
        act(what);
        pause_until(acted + 1000ll * atoi(us.c_str()));
    }
    unsigned left = unfinished();
    table()->go = 1;
    int64_t killed = now();
    if (pid > 0) kill(pid, signal);
    if (us[0] == '-') {
        pause_until(killed - 1000ll * atoi(us.c_str()));
        act(what);
    }
    say("killed %ld left %u waited %ld", killed, left, killed - acted);
    return 0;
}

// watch ARENA pidfd|pipe|robust ACTION PID FD: learns of a death, and acts on the gates of who has died.
static int watch(const char *path, const string &how, const string &action, pid_t pid, int fd) {
    map_arena(path, false);
    if (how == "pidfd") fd = syscall(SYS_pidfd_open, pid, 0);
    pollfd polled = {fd, short(how == "pidfd" ? POLLIN : 0), 0};
    say("up");
    if (how == "robust") {
        int got = pthread_mutex_lock(&table()->owner);
        if (got != EOWNERDEAD) MUST(got ? got : -1);
    } else {
        while (poll(&polled, 1, -1) != 1) {
        }
    }
    int64_t noticed = now();
    unsigned left = unfinished();
    act(action_named(action));
    int64_t acted = now();
    bool drained = done_within(100000000);
    int64_t done = now();
    say("noticed %ld acted %ld left %u drained %ld", noticed, acted, left, drained ? done : 0);
    return 0;
}

// ------------------------------------------------------------------------------------------ waiting

static const char *MODULE =
    ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry nothing() { ret; }\n";

// blocked ARENA WHAT: a thread does WHAT while a chain of its context is held. Says whether it waits for
// the gates, and how a third thread fares meanwhile; told "open", all must end, every block having run
// once.
static int blocked(const char *path, const string &what) {
    Tenant tenant(true);
    own_arena(path);
    void *buffer;
    MUST(cudaMalloc(&buffer, 1 << 20));
    cudaStream_t spare = Tenant::new_stream(), third = Tenant::new_stream();
    static unsigned host[1024];
    launch(tenant.stream, tenant.count, 8, 500, chain(0, 8, true));
    for (int64_t end = now() + 2000000000; !waiting(0, 0)->payload;)
        if (now() > end) return 1;

    std::atomic<int64_t> returned{0}, result{0};
    std::thread thread([&] {
        MUST(DRIVER(cuCtxSetCurrent)(tenant.context));
        int error = 0;
        if (what == "free") error = cudaFree(buffer);
        if (what == "malloc") error = cudaMalloc(&buffer, 1 << 30);
        if (what == "register") {
            void *fresh = aligned_alloc(4096, 1 << 20);
            error = cudaHostRegister(fresh, 1 << 20, cudaHostRegisterMapped);
        }
        if (what == "load") {
            never_used_before<<<1, 1, 0, spare>>>(tenant.count + 10000);
            error = cudaStreamSynchronize(spare);
        }
        if (what == "module") {
            CUmodule module;
            error = DRIVER(cuModuleLoadData)(&module, MODULE);
        }
        if (what == "queue" || what == "queue of another stream") {
            for (int i = 0; i < 3000 && !error; i++) {
                uneven<<<1, 32, 0, what == "queue" ? tenant.stream : spare>>>(tenant.count + 10000, i, 9);
                error = cudaGetLastError();
            }
            if (!error && what != "queue") error = cudaStreamSynchronize(spare);
        }
        if (what == "stream") error = cudaStreamSynchronize(tenant.stream);
        if (what == "legacy stream") error = cudaMemcpy(host, buffer, sizeof(host), cudaMemcpyDeviceToHost);
        if (what == "stream destroy") error = cudaStreamDestroy(tenant.stream);
        if (what == "context") error = DRIVER(cuCtxSynchronize)();
        if (what == "context destroy") error = DRIVER(cuCtxDestroy)(tenant.context);
        if (what == "new context") {
            CUcontext fresh;
            error = DRIVER(cuCtxCreate_v4)(&fresh, nullptr, 0, 0);
        }
        result = error;
        returned = now();
    });
    bool destroys = what == "context destroy";
    std::atomic<unsigned> others{0};
    std::atomic<bool> stop{false};
    std::thread peer([&] {
        MUST(DRIVER(cuCtxSetCurrent)(tenant.context));
        usleep(100000);
        while (!stop && !destroys) {
            uneven<<<1, 32, 0, third>>>(tenant.count + 20000, 1, 9);
            if (cudaStreamSynchronize(third)) break;
            others++;
            usleep(1000);
        }
    });
    int64_t begun = now();
    usleep(400000);
    say("shut %ld waits %d others %u", begun, returned == 0, others.load());
    heard();
    unsigned meanwhile = others;
    int64_t opened = now();
    act(OPEN);
    bool done = done_within(3000000000);
    for (int64_t end = now() + 3000000000; !returned && now() < end;) usleep(100);
    stop = true;
    bool ended = returned != 0, right = done && ended && !result;
    unsigned wrong = 0;
    if (right && !destroys) {
        peer.join();
        check<<<1, 256, 0, third>>>(tenant.count, 8 * SMS, tenant.wrong);
        MUST(cudaMemcpyAsync(&wrong, tenant.wrong, 4, cudaMemcpyDeviceToHost, third));
        MUST(cudaStreamSynchronize(third));
    }
    say("opened %ld completed %d returned %d error %ld us %ld wrong %u others %u", opened, done, ended,
        result.load(), ended ? (returned - opened) / 1000 : -1, wrong, meanwhile);
    _exit(right && !wrong ? 0 : 1);
}

// many ARENA CONTEXTS STREAMS STAMPED: a held chain in each stream of each context, until told "open";
// then every block must have run once.
static int many(const char *path, unsigned contexts, unsigned streams, bool stamped) {
    std::vector<Tenant> tenants;
    for (unsigned i = 0; i < contexts; i++) tenants.emplace_back(true);
    own_arena(path);
    unsigned chains = 0;
    for (auto &tenant : tenants) {
        MUST(DRIVER(cuCtxSetCurrent)(tenant.context));
        for (unsigned i = 0; i < streams; i++, chains++) {
            launch(Tenant::new_stream(), tenant.count + i * 8 * SMS, 8, 20, chain(chains, 8, true));
        }
    }
    usleep(100000);
    unsigned held = 0;
    for (unsigned i = 0; i < chains; i++) held += waiting(i, 0)->payload != 0;
    // How long a turn from A to B and back takes: times that one gate's stamp bears.
    std::vector<uint64_t> turns;
    uint64_t last = 0;
    for (int64_t end = now() + 20000000; chains && now() < end;) {
        uint64_t time = waiting(0, 0)->time;
        if (last && time != last) turns.push_back(time - last);
        last = time;
    }
    std::sort(turns.begin(), turns.end());
    if (!stamped)
        for (unsigned i = 0; i < chains; i++)
            for (unsigned g = 0; g < table()->chain[i].gates; g++) {
                const Gate &gate = table()->chain[i].gate[g];
                store(gate.at, gate.rest | SPIN);
            }
    say("held %u of %u turn %lu", held, chains, turns.empty() ? 0ul : (unsigned long)turns[turns.size() / 2]);
    heard();
    unsigned early = chains - unfinished();
    int64_t opened = now();
    act(OPEN);
    bool done = done_within(5000000000);
    int64_t took = now() - opened;
    unsigned wrong = 0;
    for (auto &tenant : tenants) {
        MUST(DRIVER(cuCtxSetCurrent)(tenant.context));
        MUST(DRIVER(cuCtxSynchronize)());
        for (unsigned i = 0; i < streams; i++)
            check<<<1, 256, 0, tenant.stream>>>(tenant.count + i * 8 * SMS, 8 * SMS, tenant.wrong);
        wrong += tenant.found_wrong();
    }
    say("completed %d early %u us %ld wrong %u", done, early, took / 1000, wrong);
    _exit(done && held == chains && !early && !wrong ? 0 : 1);
}

// reuse ARENA CHAINS SLOTS: chains one after the other on two streams, each in the descriptors of the one
// SLOTS before as soon as the GPU has written that one's stamp, others still queued, with gates shut and
// opened at random all the time. Every block must run once, and before its successor.
static int reuse(const char *path, unsigned chains, unsigned slots) {
    Tenant tenant(false);
    own_arena(path);
    std::atomic<bool> stop{false};
    std::atomic<unsigned> shut{0};
    std::thread opener([&] {
        std::mt19937 random(5);
        while (!stop) {
            act(SHUT);
            pause_until(now() + random() % 60000);
            act(OPEN);
            pause_until(now() + random() % 200000);
            shut++;
        }
        act(OPEN);
    });
    std::mt19937 random(7);
    std::vector<uint32_t> number(slots, 0);
    unsigned waited = 0, queued = 0;
    cudaStream_t stream[2] = {tenant.stream, tenant.other};
    int64_t begin = now();
    for (unsigned i = 0; i < chains; i++) {
        unsigned slot = i % slots, blocks = SMS + random() % 2000, atoms = 2 + random() % 15;
        if (number[slot] && stamp(slot)->payload != number[slot]) {
            waited++;
            for (int64_t end = now() + 3000000000; stamp(slot)->payload != number[slot];)
                if (now() > end) {
                    say("error: chain %u of slot %u hangs", number[slot], slot);
                    _exit(1);
                }
        }
        queued += unfinished();
        table()->chain[slot].gates = 0;
        number[slot] = i + 1;
        unsigned *count = tenant.count + slot * 4096;
        plan = chain(slot, atoms, false, false, i + 1);
        plan.on = true;
        uneven<<<blocks, 128, 0, stream[i & 1]>>>(count, random(), 20000);
        plan.on = false;
        check<<<1, 256, 0, stream[i & 1]>>>(count, blocks, tenant.wrong);
        MUST(cudaGetLastError());
    }
    stop = true;
    opener.join();
    bool done = done_within(3000000000);
    MUST(cudaStreamSynchronize(tenant.other));
    unsigned wrong = tenant.found_wrong();
    say("chains %u slots %u wrong %u done %d waited %u queued %.1f shut %u us %.0f", chains, slots, wrong,
        done, waited, double(queued) / chains, shut.load(), (now() - begin) / 1e3 / chains);
    _exit(done && !wrong ? 0 : 1);
}

// stages: what a plain program does, a step at a time, marked for channels.so.
static int stages() {
    auto mark = [](const char *text) { ioctl(-1, 0x4c4f4721, text); };
    mark("cuInit");
    MUST(DRIVER(cuInit)(0));
    unsigned *count;
    for (int i = 0; i < 2; i++) {
        CUcontext context;
        mark(i ? "second context" : "first context");
        MUST(DRIVER(cuCtxCreate_v4)(&context, nullptr, 0, 0));
        mark("memory");
        MUST(cudaMalloc(&count, 4096));
        mark("first launch");
        never_used_before<<<1, 1>>>(count);
        MUST(cudaDeviceSynchronize());
        mark("first stream");
        cudaStream_t stream[16];
        MUST(cudaStreamCreateWithFlags(&stream[0], cudaStreamNonBlocking));
        never_used_before<<<1, 1, 0, stream[0]>>>(count);
        MUST(cudaDeviceSynchronize());
        mark("second stream");
        MUST(cudaStreamCreateWithFlags(&stream[1], cudaStreamNonBlocking));
        never_used_before<<<1, 1, 0, stream[1]>>>(count);
        MUST(cudaDeviceSynchronize());
        mark("14 more streams");
        for (int k = 2; k < 16; k++) {
            MUST(cudaStreamCreateWithFlags(&stream[k], cudaStreamNonBlocking));
            never_used_before<<<1, 1, 0, stream[k]>>>(count);
        }
        MUST(cudaDeviceSynchronize());
        mark("copy");
        unsigned host[1024];
        MUST(cudaMemcpy(host, count, sizeof(host), cudaMemcpyDeviceToHost));
        if (i) {
            mark("destruction of the second context");
            MUST(DRIVER(cuCtxDestroy)(context));
        }
    }
    mark("exit");
    return 0;
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    string role = argc > 1 ? argv[1] : "";
    auto argument = [&](int i) { return i < argc ? argv[i] : const_cast<char *>("-1"); };
    auto number = [&](int i) { return atoi(argument(i)); };
    if (role == "neighbour") return neighbour(argument(2), !strcmp(argument(3), "lc"), atof(argument(4)));
    if (role == "victim") return victim(argument(2), number(3));
    if (role == "kill") return kill_role(argument(2), number(3), number(4), argument(5), argument(6));
    if (role == "watch") return watch(argument(2), argument(3), argument(4), number(5), number(6));
    if (role == "blocked") return blocked(argument(2), argument(3));
    if (role == "many") return many(argument(2), number(3), number(4), number(5));
    if (role == "reuse") return reuse(argument(2), number(3), number(4));
    if (role == "stages") return stages();
    say("roles: neighbour, victim, kill, watch, blocked, many, reuse, stages");
    return 2;
}
