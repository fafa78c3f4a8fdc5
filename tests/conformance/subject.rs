// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The GPU that statements are about, with the kernels that show what became of a launch.
//!
//! Two things can be seen from outside. *Where* a launch ran: blocks that take a whole SM's shared
//! memory are launched twice as many as there are SMs, so that the hardware uses every SM that the
//! launch may use, and each notes its `%smid`. And *what fits at once*: such blocks wait for each other
//! for a set time of the GPU's own.

use std::thread;

use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::Restricted;
use lithos_tests::cuda::{
    self, Buffer, Gpu, HostWords, Kernel, Module, Shape, SmSet, Stream, source,
};

use crate::subscriber::{Editable, Subscriber, Upload};

/// SMs of a TPC.
pub(crate) const TPC_SMS: u32 = 2;
/// Iterations of a block's work: long enough for every SM to get a block before the first ends.
const ITERATIONS: u64 = 20_000;
/// The same where every instruction is interpreted.
const SIMULATED_ITERATIONS: u64 = 50;
/// How often and how long blocks that wait for each other sleep: some milliseconds. Starting a block on
/// every SM takes far less.
const POLLS: u64 = 200;
const POLL_NS: u64 = 20_000;

/// Blocks of the largest grid whose blocks nobody looks at.
const SCRATCH_BLOCKS: usize = 64;

/// Leaves a descriptor as the driver made it.
pub(crate) fn nothing(_: &mut Editable) {}

/// An edit that leaves a launch no TPCs but these.
pub(crate) fn only(tpcs: TpcMask) -> impl FnMut(&mut Editable) + Send {
    move |descriptor| descriptor.set_allowed(Some(tpcs)).expect("a mask fits")
}

/// An edit that takes these TPCs away, too.
pub(crate) fn without(tpcs: TpcMask) -> impl FnMut(&mut Editable) + Send {
    move |descriptor| match descriptor.restrict(!tpcs, TpcMask::ALL) {
        Restricted::To(_) => {}
        Restricted::Unchanged(left) => panic!("nothing would be left of {left}"),
    }
}

/// The GPU, a context on it that is current, and this process as the driver's subscriber.
pub(crate) struct Subject {
    pub(crate) subscriber: Subscriber,
    pub(crate) gpu: Gpu,
    pub(crate) stream: Stream,
    scratch: Buffer,
    /// Says how often each block of a grid ran; for any grid, of 32 threads and more.
    pub(crate) trace: Kernel,
    /// Has every block stay until it is told to go: see [`crate::stay`].
    pub(crate) stay: Kernel,
    work: Kernel,
    clock: Kernel,
    remask: Kernel,
    meet: Kernel,
    // Kernels end with their modules.
    _modules: [Module; 4],
    _context: cuda::Context,
}

/// What a launch of `trace` came to.
#[derive(Debug)]
pub(crate) struct Trace {
    /// How often each block ran, x fastest.
    pub(crate) counts: Vec<u32>,
    /// The grid that the blocks saw.
    pub(crate) grid: [u32; 3],
}

impl Subject {
    /// Sets everything up on the first GPU.
    pub(crate) fn new() -> Self {
        cuda::initialise().expect("the driver");
        let gpu = Gpu::find(0).expect("a GPU");
        let context = gpu.primary().expect("a context");
        let sources = [source::WORK, source::TRACE, source::MEET, source::STAY];
        let [work, trace, meet, stay] = sources.map(|ptx| Module::load(ptx).expect("PTX"));
        let kernel = |module: &Module, name| module.kernel(name).expect("a kernel");
        let subject = Self {
            subscriber: Subscriber::new(),
            gpu,
            stream: Stream::new().expect("a stream"),
            scratch: buffer(SCRATCH_BLOCKS + 3),
            stay: kernel(&stay, c"stay"),
            work: kernel(&work, c"work"),
            trace: kernel(&trace, c"trace"),
            clock: kernel(&trace, c"clock"),
            remask: kernel(&trace, c"remask"),
            meet: kernel(&meet, c"meet"),
            _modules: [work, trace, meet, stay],
            _context: context,
        };
        for kernel in [subject.work, subject.meet] {
            kernel
                .allow_shared(gpu.shared_bytes_max)
                .expect("shared memory");
        }
        subject
    }

    /// So many blocks, of which an SM holds one.
    pub(crate) fn whole_sms(&self, blocks: u32) -> Shape {
        Shape::row(blocks, 32).with_shared(self.gpu.shared_bytes_max)
    }

    /// Launches a kernel that has one descriptor, edits that, and does not wait.
    pub(crate) fn launch(
        &self,
        kernel: &Kernel,
        shape: &Shape,
        stream: &Stream,
        words: &[u64],
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> Upload {
        let launch = || kernel.launch(shape, stream, words).expect("a launch");
        let ((), mut uploads) = self.subscriber.editing(edit, launch);
        assert_eq!(uploads.len(), 1, "a launch has one descriptor");
        uploads.remove(0)
    }

    /// The set of `%smid` that a launch sees, in rising order.
    pub(crate) fn smids(&self, edit: impl FnMut(&mut Editable) + Send + 'static) -> Vec<u32> {
        let (sms, blocks) = (SmSet::new().expect("a set"), buffer(2));
        let launch = || self.launch_work(&sms, &blocks);
        let (launched, uploads) = self.subscriber.editing(edit, launch);
        launched.expect("a launch");
        assert_eq!(uploads.len(), 1, "a launch has one descriptor");
        self.stream.synchronize().expect("the end of the launch");
        assert_eq!(read(&blocks)[0], 2 * self.gpu.sms, "blocks that ran");
        sms.members().expect("its words")
    }

    /// Launches blocks that use every SM that they may use, and does not wait.
    pub(crate) fn launch_work(&self, sms: &SmSet, blocks: &Buffer) -> Result<(), cuda::Error> {
        let iterations = if cuda::is_simulated() {
            SIMULATED_ITERATIONS
        } else {
            ITERATIONS
        };
        let words = [sms.address(), blocks.address(), iterations];
        let shape = self.whole_sms(2 * self.gpu.sms);
        self.work.launch(&shape, &self.stream, &words)
    }

    /// How many SMs a launch runs on.
    pub(crate) fn sms(&self, edit: impl FnMut(&mut Editable) + Send + 'static) -> u32 {
        u32::try_from(self.smids(edit).len()).expect("some SMs")
    }

    /// Whether there is a TPC at a bit: a launch without it runs on two SMs fewer, or on all. Nothing can
    /// hang, as all others are left.
    pub(crate) fn is_present(&self, bit: u32) -> bool {
        let sms = self.sms(without(TpcMask::single(bit)));
        assert!(
            sms == self.gpu.sms || sms == self.gpu.sms - TPC_SMS,
            "without bit {bit} a launch runs on {sms} of {} SMs",
            self.gpu.sms
        );
        sms != self.gpu.sms
    }

    /// The lowest TPCs that there are.
    pub(crate) fn lowest_tpcs(&self, count: usize) -> TpcMask {
        let found = (0..TpcMask::BITS).filter(|&bit| self.is_present(bit));
        let found: TpcMask = found.take(count).collect();
        assert_eq!(found.count() as usize, count, "TPCs of the GPU");
        found
    }

    /// A bit that stands for no TPC.
    pub(crate) fn absent_bit(&self) -> u32 {
        let mut absent = (0..TpcMask::BITS).filter(|&bit| !self.is_present(bit));
        absent.next().expect("a mask has more bits than TPCs")
    }

    /// Launches `trace` and waits for its end.
    pub(crate) fn trace(
        &self,
        shape: &Shape,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> Trace {
        let blocks: u32 = shape.grid.iter().product();
        let counts = buffer(blocks as usize);
        let grid = buffer(3);
        let words = [counts.address(), grid.address()];
        self.launch(&self.trace, shape, &self.stream, &words, edit);
        self.stream.synchronize().expect("the end of the launch");
        let seen = read(&grid);
        Trace {
            counts: read(&counts),
            grid: [seen[0], seen[1], seen[2]],
        }
    }

    /// A launch that makes sure that launches work, and take no time.
    pub(crate) fn control(&self) {
        assert_eq!(self.trace(&Shape::row(3, 32), nothing).counts, [1; 3]);
    }

    /// Launches `trace` where nobody asks what it counts, and does not wait.
    pub(crate) fn launch_trace(
        &self,
        shape: &Shape,
        stream: &Stream,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> Upload {
        let blocks: u32 = shape.grid.iter().product();
        assert!(blocks as usize <= SCRATCH_BLOCKS, "{blocks} blocks");
        self.launch(&self.trace, shape, stream, &self.scratch(), edit)
    }

    /// What `trace` may write, for grids of so many blocks at most.
    pub(crate) fn scratch(&self) -> [u64; 2] {
        let address = self.scratch.address();
        [address, address + 4 * SCRATCH_BLOCKS as u64]
    }

    /// Launches blocks that wait for each other, and does not wait.
    pub(crate) fn launch_meeting(
        &self,
        meeting: &Meeting,
        shape: &Shape,
        stream: &Stream,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) {
        let words = meeting.words(false);
        self.launch(&self.meet, shape, stream, &words, edit);
    }

    /// The same, with blocks that stay until they are told to go or the process ends; waits until all
    /// are there.
    pub(crate) fn hold(
        &self,
        meeting: &Meeting,
        shape: &Shape,
        stream: &Stream,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) {
        let words = meeting.words(true);
        self.launch(&self.meet, shape, stream, &words, edit);
        while !meeting.has_met() {
            thread::yield_now();
        }
    }

    /// Whether all blocks of a launch are resident at once.
    pub(crate) fn meets(
        &self,
        shape: &Shape,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> bool {
        let meeting = Meeting::new();
        self.launch_meeting(&meeting, shape, &self.stream, edit);
        self.stream.synchronize().expect("the end of the launch");
        meeting.has_met()
    }

    /// Launches `clock`, which writes the GPU's time to an address, and does not wait.
    pub(crate) fn launch_clock(
        &self,
        time: u64,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) -> Upload {
        self.launch(&self.clock, &Shape::row(1, 1), &self.stream, &[time], edit)
    }

    /// Rewrites the mask of a descriptor that lies in device memory, and does not wait.
    pub(crate) fn remask(&self, descriptor: u64, tpcs: TpcMask) {
        let [a, b, c, d] = tpcs.disable_words().map(u64::from);
        let words = [descriptor, a, b, c, d];
        self.launch(
            &self.remask,
            &Shape::row(1, 1),
            &self.stream,
            &words,
            nothing,
        );
    }
}

/// Where blocks wait for each other.
pub(crate) struct Meeting {
    sms: SmSet,
    counters: Buffer,
    host: HostWords,
}

impl Meeting {
    /// Makes a place for one launch. Waits for everything before: nobody may be held elsewhere.
    pub(crate) fn new() -> Self {
        Self {
            sms: SmSet::new().expect("a set"),
            counters: buffer(2),
            host: HostWords::zeroed(2).expect("host memory"),
        }
    }

    fn words(&self, hold: bool) -> [u64; 6] {
        [
            self.sms.address(),
            self.counters.address(),
            self.host.address(),
            hold.into(),
            if hold { u32::MAX.into() } else { POLLS },
            POLL_NS,
        ]
    }

    /// Whether the last block has seen that all are there.
    pub(crate) fn has_met(&self) -> bool {
        self.host.load(1) != 0
    }

    /// How many SMs the blocks were on; the launch has ended.
    pub(crate) fn sms(&self) -> u32 {
        self.sms.count().expect("its words")
    }

    /// Tells held blocks to go.
    pub(crate) fn let_go(&self) {
        self.host.store(0, 1);
    }
}

/// Zeroed device memory.
pub(crate) fn buffer(words: usize) -> Buffer {
    Buffer::zeroed(words).expect("device memory")
}

/// What is in device memory when all is done.
pub(crate) fn read(buffer: &Buffer) -> Vec<u32> {
    buffer.read().expect("device memory")
}
