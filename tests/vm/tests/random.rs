// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Random calls, valid and not, by several processes at once, privileged and not: afterwards nobody is
//! there, nothing is lost, and the kernel has reported nothing.
//!
//! What each process calls depends on the seed and on what it finds. Both numbers can be given, as
//! `LITHOS_VM_CALLS` and `LITHOS_VM_SEED`, to `scripts/vm`.

use std::ptr::{null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lithos_abi::bindings::*;
use lithos_vm::device::{GPU, answer, attach, channel_open, claim, map_offset, question};
use lithos_vm::log::{Log, is_report};
use lithos_vm::memory::Memory;
use lithos_vm::nvidia::Variant;
use lithos_vm::process::NOBODY;
use lithos_vm::{Device, Module, Process, wait_until};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

const CALLS: u64 = 1_000_000;
const PROCESSES: u64 = 4;
const FILES: usize = 6;
const MAPPINGS: usize = 8;
const IDS: usize = 8;
const GPUS: [[u8; 16]; 3] = [GPU, [2; 16], [3; 16]];
/// Longer than any structure of the contract, and the lengths of all of them.
const WORDS: usize = 128;
const COMMANDS: [lithos_command; 19] = [
    LITHOS_INFO,
    LITHOS_TENANT_ATTACH,
    LITHOS_TENANT_WAIT,
    LITHOS_CHANNEL_OPEN,
    LITHOS_CHANNEL_WAIT,
    LITHOS_CHANNEL_SLEEP,
    LITHOS_CHANNEL_RING,
    LITHOS_CHANNEL_CLOSE,
    LITHOS_SCHEDULER_CLAIM,
    LITHOS_SCHEDULER_BEAT,
    LITHOS_TENANT_ANSWER,
    LITHOS_CHANNEL_ANSWER,
    LITHOS_CHANNEL_WAKE,
    LITHOS_TENANT_EVICT,
    LITHOS_TENANT_NEXT,
    LITHOS_CHANNEL_NEXT,
    LITHOS_ADMISSION_SET,
    LITHOS_ADMIT,
    LITHOS_GPU_USER_NEXT,
];

fn number(name: &str, otherwise: u64) -> u64 {
    let said = std::env::var(name).ok().filter(|said| !said.is_empty());
    said.map_or(otherwise, |said| said.parse().expect("a number"))
}

/// A number that all processes see.
fn shared_count() -> &'static AtomicU64 {
    let (may, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: at a place that the kernel chooses.
    let page = unsafe { libc::mmap(null_mut(), 4096, may, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: mapped for good, zeroed, aligned.
    unsafe { &*page.cast() }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

struct Caller {
    chance: Chance,
    files: [i32; FILES],
    mappings: [(usize, usize); MAPPINGS],
    ids: [u64; IDS],
    pipe: [i32; 2],
    argument: [u64; WORDS],
}

impl Caller {
    fn new(seed: u64) -> Self {
        let mut pipe = [0; 2];
        // SAFETY: two descriptors fit.
        let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK) };
        assert_eq!(made, 0);
        Self {
            chance: Chance(seed),
            files: [-1; FILES],
            mappings: [(0, 0); MAPPINGS],
            ids: [0; IDS],
            pipe,
            argument: [0; WORDS],
        }
    }

    fn call(&mut self) {
        match self.chance.below(100) {
            0..70 => self.ioctl(),
            70..75 => self.map(),
            75..79 => self.change_mapping(),
            79..82 => self.unmap(),
            82..86 => self.touch(),
            86..92 => self.read(),
            92..94 => self.poll(),
            94..96 => self.close(),
            96..98 => self.duplicate(),
            98 => self.open(),
            _ if self.chance.one_in(20) => self.fork(),
            _ => self.open(),
        }
    }

    fn open(&mut self) {
        let place = self.chance.below(FILES);
        if self.files[place] < 0 {
            let how = self
                .chance
                .of(&[libc::O_RDWR, libc::O_RDWR, libc::O_RDWR, libc::O_RDONLY]);
            // SAFETY: a text that ends. Nothing waits: reads are tried.
            self.files[place] =
                unsafe { libc::open(c"/dev/lithos".as_ptr(), how | libc::O_NONBLOCK) };
        }
    }

    fn close(&mut self) {
        let place = self.chance.below(FILES);
        if self.files[place] >= 0 {
            // SAFETY: this process's own, and forgotten here.
            unsafe { libc::close(self.files[place]) };
            self.files[place] = -1;
        }
    }

    fn duplicate(&mut self) {
        let (from, to) = (self.chance.below(FILES), self.chance.below(FILES));
        if self.files[to] < 0 && self.files[from] >= 0 {
            // SAFETY: a descriptor.
            self.files[to] = unsafe { libc::dup(self.files[from]) };
        }
    }

    fn id(&mut self) -> u64 {
        match self.chance.below(20) {
            0 => self.chance.next(),
            1 => 0,
            _ => self.chance.of(&self.ids.clone()),
        }
    }

    fn learn(&mut self, id: u64) {
        let place = self.chance.below(IDS);
        self.ids[place] = id;
    }

    /// Puts a structure where the argument is.
    fn put<T: Copy>(&mut self, structure: T) {
        assert!(size_of::<T>() <= WORDS * 8 && align_of::<T>() <= 8);
        // SAFETY: it fits, is aligned, and has no padding.
        unsafe { self.argument.as_mut_ptr().cast::<T>().write(structure) };
    }

    fn ioctl(&mut self) {
        let command = self.chance.of(&COMMANDS);
        // To be killed takes time.
        if command == LITHOS_TENANT_EVICT && !self.chance.one_in(100) {
            return self.open();
        }
        // As does a change of what is looked at.
        if command == LITHOS_ADMISSION_SET && !self.chance.one_in(20) {
            return self.open();
        }
        let id = self.id();
        let gpu = self.chance.of(&GPUS);
        match command {
            LITHOS_TENANT_ATTACH => self.put(attach()),
            LITHOS_TENANT_WAIT | LITHOS_CHANNEL_WAIT => self.put(question(id)),
            LITHOS_CHANNEL_OPEN => self.put(channel_open(gpu)),
            LITHOS_CHANNEL_SLEEP => self.put(lithos_sleep {
                channel: id,
                ..lithos_sleep::default()
            }),
            LITHOS_SCHEDULER_CLAIM => self.put(claim(gpu)),
            LITHOS_TENANT_ANSWER | LITHOS_CHANNEL_ANSWER => self.put(answer(id)),
            LITHOS_ADMISSION_SET => {
                let mode = self.chance.of(&[0, 1, 2, 3]);
                self.put(lithos_admission {
                    mode,
                    ..lithos_admission::default()
                });
            }
            LITHOS_ADMIT => {
                let (kind, admitted) = (self.chance.of(&[1, 2]), self.chance.of(&[0, 1]));
                // The first processes and cgroups there are.
                let id = self.chance.below(200) as u64;
                self.put(lithos_admit {
                    kind,
                    admitted,
                    id,
                    reserved: 0,
                });
            }
            LITHOS_GPU_USER_NEXT => self.put(lithos_gpu_user::default()),
            _ => self.argument = [id; WORDS],
        }
        let bytes = (command >> 16 & 0x3fff) as usize;
        // Mostly as it should be; with something wrong in it; anything.
        match self.chance.below(10) {
            0..2 => {
                let word = self.chance.below(bytes.max(8) / 8);
                self.argument[word] ^= 1 << self.chance.below(64);
            }
            2 => {
                for word in &mut self.argument[..bytes / 8] {
                    *word = self.chance.next();
                }
            }
            _ => (),
        }
        // No wait is for longer than a moment.
        if [
            LITHOS_TENANT_WAIT,
            LITHOS_CHANNEL_WAIT,
            LITHOS_CHANNEL_SLEEP,
        ]
        .contains(&command)
            && self.argument[1] <= LITHOS_TIMEOUT_NS_MAX
        {
            self.argument[1] %= 2_000_000;
        }
        let own = self.argument.as_mut_ptr() as usize;
        let address = match self.chance.below(40) {
            0 => 0,
            1 => usize::MAX - 64,
            2 => 0xffff_8880_0000_0000,
            // Shared with others, who change it.
            3 => self.chance.of(&self.mappings.clone()).0,
            _ => own,
        };
        let command = match self.chance.below(40) {
            0 => command ^ (1 << self.chance.below(32)),
            _ => command,
        };
        // By another size in the command the kernel might be meant to write more.
        if (command >> 16 & 0x3fff) as usize > WORDS * 8 {
            return;
        }
        let file = self.chance.of(&self.files.clone());
        // SAFETY: whatever the kernel writes there, nothing of Rust's lies at these addresses but the
        // argument, which is as long as the command says.
        let called = unsafe { libc::ioctl(file, u64::from(command), address) };
        if called == 0 && address == own {
            match command {
                LITHOS_TENANT_ATTACH => self.learn(self.argument[size_of::<lithos_attach>() / 8]),
                LITHOS_CHANNEL_OPEN => {
                    self.learn(self.argument[size_of::<lithos_channel_create>() / 8]);
                }
                LITHOS_TENANT_NEXT | LITHOS_CHANNEL_NEXT => self.learn(self.argument[0]),
                _ => (),
            }
        }
    }

    fn map(&mut self) {
        let place = self.chance.below(MAPPINGS);
        if self.mappings[place].1 != 0 {
            return;
        }
        let kind = u32::try_from(self.chance.below(4)).expect("a kind");
        let sizes = claim(GPU);
        let right = [4096, sizes.ring_bytes, sizes.arena_bytes, 4096][kind as usize];
        let bytes = match self.chance.below(10) {
            0 => self.chance.of(&[0, 1, 8192, 1 << 20]),
            _ => usize::try_from(right).expect("a size"),
        };
        let mut offset = map_offset(self.id(), kind);
        if self.chance.one_in(20) {
            offset ^= 1 << self.chance.below(64);
        }
        let may = self.chance.of(&[1, 1, 3, 3, 3, 2, 0, 5, 7]);
        let flags = self
            .chance
            .of(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE])
            | self
                .chance
                .of(&[0, 0, libc::MAP_POPULATE, libc::MAP_LOCKED]);
        let file = self.chance.of(&self.files.clone());
        // SAFETY: at a place that the kernel chooses.
        let at = unsafe { libc::mmap(null_mut(), bytes, may, flags, file, offset.cast_signed()) };
        if at != libc::MAP_FAILED {
            self.mappings[place] = (at as usize, bytes);
        }
    }

    /// A mapping, or a part of one.
    fn part(&mut self) -> (usize, usize, usize) {
        let place = self.chance.below(MAPPINGS);
        let (at, bytes) = self.mappings[place];
        if bytes >= 8192 && self.chance.one_in(3) {
            (place, at + 4096, bytes - 4096)
        } else {
            (place, at, bytes)
        }
    }

    fn unmap(&mut self) {
        let (place, at, bytes) = self.part();
        // SAFETY: this value's own, which nothing refers to.
        if bytes > 0 && unsafe { libc::munmap(without_provenance_mut(at), bytes) } == 0 {
            let (start, _) = self.mappings[place];
            self.mappings[place] = if at == start {
                (0, 0)
            } else {
                (start, at - start)
            };
        }
    }

    fn change_mapping(&mut self) {
        let (place, at, bytes) = self.part();
        if bytes == 0 {
            return;
        }
        let address = without_provenance_mut(at);
        match self.chance.below(4) {
            0 => {
                let may = self.chance.of(&[0, 1, 2, 3, 5, 7]);
                // SAFETY: this value's own, which nothing refers to.
                unsafe { libc::mprotect(address, bytes, may) };
            }
            1 => {
                let other = self.chance.of(&[0, 4096, bytes, bytes + 4096, bytes * 2]);
                let flags = self
                    .chance
                    .of(&[0, libc::MREMAP_MAYMOVE, libc::MREMAP_MAYMOVE | 4]);
                let from = self.chance.of(&[bytes, bytes, bytes, 0]);
                // SAFETY: as above, to a place that the kernel chooses.
                let to = unsafe { libc::mremap(address, from, other, flags) };
                let is_whole = at == self.mappings[place].0;
                if to != libc::MAP_FAILED && is_whole && from == bytes {
                    self.mappings[place] = (to as usize, other);
                }
            }
            // Without those that damage the machine's memory on purpose.
            2 => {
                let advice = i32::try_from(self.chance.below(26)).expect("small");
                // SAFETY: this value's own, which nothing refers to.
                unsafe { libc::madvise(address, bytes, advice) };
            }
            _ => {
                // SAFETY: as above.
                unsafe { libc::msync(address, bytes, libc::MS_SYNC) };
            }
        }
    }

    /// Reads or writes pages through the kernel, which says EFAULT where a process would be ended.
    fn touch(&mut self) {
        let (_, at, bytes) = self.part();
        if bytes == 0 {
            return;
        }
        let at = without_provenance_mut::<libc::c_void>(at + self.chance.below(bytes) / 8 * 8);
        // SAFETY: a mapping of this value's, or nothing.
        unsafe {
            if libc::write(self.pipe[1], at, 8) > 0 && self.chance.one_in(2) {
                libc::read(self.pipe[0], at, 8);
            } else {
                libc::read(self.pipe[0], self.argument.as_mut_ptr().cast(), 8);
            }
        }
    }

    fn read(&mut self) {
        let file = self.chance.of(&self.files.clone());
        let bytes = self.chance.of(&[64, 64, 128, WORDS * 8, 1, 0, 63]);
        let at = match self.chance.below(20) {
            0 => null_mut(),
            _ => self.argument.as_mut_ptr(),
        };
        // SAFETY: as many bytes as the argument has, or nowhere.
        if unsafe { libc::read(file, at.cast(), bytes) } >= 64 {
            let id = self.argument[if self.chance.one_in(2) { 2 } else { 3 }];
            self.learn(id);
        }
    }

    fn poll(&mut self) {
        let mut asked = self.files.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN | libc::POLLOUT,
            revents: 0,
        });
        // SAFETY: as many as there are.
        unsafe { libc::poll(asked.as_mut_ptr(), FILES as u64, 0) };
    }

    /// A child goes on with what it inherits, for a moment.
    fn fork(&mut self) {
        // SAFETY: this process has one thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            self.chance.0 ^= 0x5555;
            for _ in 0..self.chance.below(50) {
                self.call();
            }
            // SAFETY: it ends this process.
            unsafe { libc::_exit(0) };
        } else if child > 0 {
            // SAFETY: a child of this process.
            unsafe { libc::waitpid(child, null_mut(), 0) };
        }
    }
}

/// Makes so many calls, and as many more as processes come to that were killed.
fn call_at_random(count: &AtomicU64, seed: u64, calls: u64) {
    count.store(0, Relaxed);
    let mut seeds = (0..).map(|process| seed.wrapping_add(process << 32));
    let start = |seed, uid| {
        Process::start(uid, |_| {
            let mut caller = Caller::new(seed);
            while count.fetch_add(1, Relaxed) < calls {
                caller.call();
            }
        })
    };
    let mut processes: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let uid = if process % 2 == 0 { 0 } else { NOBODY };
            (uid, start(seeds.next().expect("a seed"), uid))
        })
        .collect();
    while let Some((uid, process)) = processes.pop() {
        let pid = process.pid();
        match process.wait() {
            WaitStatus::Exited(_, 0) => (),
            // Evicted.
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
                processes.push((uid, start(seeds.next().expect("a seed"), uid)));
            }
            other => panic!("process {pid}: {other:?}"),
        }
    }
}

#[test]
fn random_calls_leave_nothing_behind() {
    let calls = number("LITHOS_VM_CALLS", CALLS);
    let seed = number(
        "LITHOS_VM_SEED",
        u64::from(std::process::id()) << 16 ^ CALLS,
    );
    println!("LITHOS_VM_SEED={seed} LITHOS_VM_CALLS={calls}");
    let mut log = Log::from_now();
    // For those who change admission.
    let _driver = Variant::Plain.insert();
    let mut module = Module::insert(lithos_vm::module::LITHOS, "silence_ms=200 death_wait_ms=1")
        .expect("lithos.ko can be inserted");
    // What is allocated once, by the kernel and by this program.
    let count = shared_count();
    call_at_random(count, !seed, calls / 20);
    let before = Memory::settled();
    let start = std::time::Instant::now();
    call_at_random(count, seed, calls);
    println!(
        "{calls} calls in {:?} of the machine's time",
        start.elapsed()
    );
    wait_until("nobody is there", || {
        let info = Device::open().info().expect("info");
        [info.tenants, info.channels, info.schedulers] == [0; 3] && info.pinned_bytes == 0
    });
    Memory::settled().assert_as(&before);
    wait_until("the module can be removed", || module.remove().is_ok());
    let reports: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| is_report(line))
        .collect();
    assert_eq!(reports, [""; 0]);
}
