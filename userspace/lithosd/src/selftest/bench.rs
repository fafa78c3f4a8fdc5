// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The self-test on a GPU: launches with the edits that the shim makes, beside launches without.
//!
//! What is shown, in this order, each from what is harmless to what is less so:
//!
//! 1. **Callbacks**: the parameters name our context and function; the descriptor is of the version
//!    that is known, has no unknown bit, and says what was launched.
//! 2. **Masks**: as many SMs run blocks as the mask leaves, for masks of many shapes, for clusters and
//!    for cooperative launches. The first mask takes one TPC away and cannot hang anything; no mask is
//!    without a TPC that discovery saw; an ignored mask is noticed because more blocks are launched
//!    than the mask has SMs.
//! 3. **Outputs**: the same bits with and without edits, and those that they should be.
//! 4. **Stamps**: payload and place are right, nothing beside them is written, and the time is
//!    between the end of the launch and the beginning of the next, on the GPU's clock.
//! 5. **Order**: a launch behind an edited one sees all that this one wrote.
//! 6. **Nothing stays**: without edits all SMs run blocks, as before.
//!
//! Whatever is edited, only the bits that the edit is about may differ.

use std::ffi::c_void;
use std::os::fd::OwnedFd;

use anyhow::{Context, bail, ensure};
use cudarc::driver::sys::{self, CUdeviceptr, CUfunction};
use lithos_abi::arena::{Counts, Stamps};
use lithos_abi::bindings::{lithos_channel, lithos_reply};
use lithos_abi::grant::Terms;
use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{Descriptor, Kind, StampSlot, stray_bit};
use lithos_device::{Channel, pages};
use lithos_policy::{Topology, TpcSet};

use crate::board::Board;
use crate::discover::driver::{Gpu, Shape, check};
use crate::discover::hook::{Edit, Seen};

const PTX: &str = include_str!("kernels.ptx");
/// Threads of a block of these kernels.
const THREADS: u32 = 64;
/// Blocks for each SM of the GPU.
const BLOCKS_PER_SM: u32 = 3;
/// Launches in a row, with edits and without, that are not waited for.
const ROW: u32 = 12;
/// How often a count that is too low is made again: something else may have held a block up.
const TRIES: u32 = 3;
/// How far readings of the GPU's clock by a kernel and by a semaphore may be apart.
const CLOCK_SLACK_NS: u64 = 1_000_000;
/// Places for stamps, and the number that the first stamp bears.
const STAMPS: u32 = 64;
const FIRST_STAMP: u32 = 0x5e1f_0001;

/// A GPU, and what the self-test has on it.
pub(super) struct Bench<'a> {
    gpu: &'a Gpu,
    tpcs: &'a Topology,
    tpc_sms: u32,
    mark: CUfunction,
    verify: CUfunction,
    blocks: u32,
    out: CUdeviceptr,
    times: CUdeviceptr,
    wrong: CUdeviceptr,
    /// Memory of the kind that tenants have stamps in.
    channel: Channel,
    stamped: u32,
}

/// A stamp that was ordered.
#[derive(Clone, Copy)]
struct Ordered {
    place: usize,
    payload: u32,
}

impl<'a> Bench<'a> {
    pub(super) fn new(gpu: &'a Gpu, board: &'a Board) -> anyhow::Result<Self> {
        ensure!(
            board.sms == gpu.sms() && board.sms == board.tpc_sms * board.tpcs.total(),
            "the driver speaks of {} SMs, and the topology has {}",
            gpu.sms(),
            board.sms
        );
        let [mark, verify] = gpu.load(PTX, [c"mark", c"verify"])?;
        let blocks = BLOCKS_PER_SM * gpu.sms();
        Ok(Self {
            gpu,
            tpcs: &board.tpcs,
            tpc_sms: board.tpc_sms,
            mark,
            verify,
            blocks,
            out: gpu.allocate((blocks * THREADS) as usize)?,
            times: gpu.allocate(4 * blocks as usize)?,
            wrong: gpu.allocate(1)?,
            channel: channel(board)?,
            stamped: 0,
        })
    }

    /// Runs the whole test; the error says what is not as it should be.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        self.outputs(Edit::NONE, 1).context("without edits")?;
        self.sms(Edit::NONE).context("without edits")?;
        let masks = self.masks();
        for &mask in &masks {
            self.sms(self.only(mask))?;
        }
        self.clusters()?;
        self.cooperative()?;
        for (seed, &mask) in (2..).zip(&masks) {
            self.outputs(self.only(mask), seed)
                .with_context(|| format!("on TPC bits {mask}"))?;
        }
        self.row(&masks)?;
        self.nothing_beside_the_stamps()?;
        self.sms(Edit::NONE).context("without edits, at the end")
    }

    /// Masks of many shapes; the first takes one TPC away.
    fn masks(&self) -> Vec<TpcMask> {
        let all = self.tpcs.all();
        let half = all.lowest(all.len() / 2);
        let sets = [
            all - all.lowest(1),
            all,
            half,
            all - half,
            all.iter().step_by(2).collect(),
            self.largest_group(),
            all.lowest(1),
            all - all.lowest(all.len() - 1),
        ];
        let sets = sets.into_iter().filter(|set| !set.is_empty());
        sets.map(|set| TpcMask::from_bits(set.words())).collect()
    }

    fn largest_group(&self) -> TpcSet {
        let groups = self.tpcs.groups().iter().copied();
        groups.max_by_key(|group| group.len()).unwrap_or_default()
    }

    fn only(&self, allowed: TpcMask) -> Edit {
        Edit {
            present: TpcMask::from_bits(self.tpcs.all().words()),
            allowed,
            stamp: None,
        }
    }

    /// SMs that an edit leaves.
    fn left(&self, edit: Edit) -> u32 {
        let present = TpcMask::from_bits(self.tpcs.all().words());
        self.tpc_sms * (edit.allowed & present).count()
    }

    /// As many SMs run blocks as are left.
    fn sms(&self, edit: Edit) -> anyhow::Result<()> {
        let expected = self.left(edit);
        self.counted(Shape::plain(self.gpu.sms(), 1), edit, expected)
    }

    /// So do clusters of one TPC and of two, in the GPC with the most TPCs. The driver itself sets a mask
    /// for those of two.
    fn clusters(&self) -> anyhow::Result<()> {
        let group = TpcMask::from_bits(self.largest_group().words());
        let edit = self.only(group);
        for cluster_blocks in [self.tpc_sms, 2 * self.tpc_sms] {
            let whole = |sms: u32| sms / cluster_blocks * cluster_blocks;
            let shape = Shape {
                cluster_blocks,
                ..Shape::plain(whole(self.gpu.sms()), 1)
            };
            let expected = whole(self.left(edit));
            // None would have a place, and the launch would hang.
            if expected > 0 {
                self.counted(shape, edit, expected)
                    .with_context(|| format!("clusters of {cluster_blocks}"))?;
            }
        }
        Ok(())
    }

    /// So does a cooperative launch that fills what is left.
    fn cooperative(&self) -> anyhow::Result<()> {
        let all = self.tpcs.all();
        let half = all.lowest(all.len().div_ceil(2));
        let edit = self.only(TpcMask::from_bits(half.words()));
        let expected = self.left(edit);
        let shape = Shape {
            is_cooperative: true,
            ..Shape::plain(expected, 1)
        };
        self.counted(shape, edit, expected)
            .context("a cooperative launch")
    }

    fn counted(&self, shape: Shape, edit: Edit, expected: u32) -> anyhow::Result<()> {
        let mut seen = 0;
        for _ in 0..TRIES {
            seen = self.gpu.count(shape, edit)?;
            if seen >= expected {
                break;
            }
        }
        ensure!(
            seen == expected,
            "{seen} SMs ran blocks at once where TPC bits {} leave {expected}; is something else \
             running on the GPU, or are masks not what they should be?",
            edit.allowed
        );
        Ok(())
    }

    /// A launch writes what it should, its descriptor is as expected, and its stamp comes in time.
    fn outputs(&mut self, edit: Edit, seed: u32) -> anyhow::Result<()> {
        self.gpu.clear(self.out, self.words())?;
        let (edit, stamp) = self.stamped(edit);
        self.mark(edit, seed)?;
        let mut found = vec![0; self.words()];
        self.gpu.read(self.out, &mut found)?;
        let wrong = (0..)
            .zip(&found)
            .filter(|&(i, &word)| word != output(i, seed));
        let (first, count) = (wrong.clone().next(), wrong.count());
        if let Some((i, word)) = first {
            bail!(
                "{count} of {} words of a kernel's output are wrong, word {i} first: {word:#x} and \
                 not {:#x}",
                found.len(),
                output(i, seed)
            );
        }
        let (_, end) = self.span()?;
        let at = self.stamp_time(stamp)?;
        self.verify(Edit::NONE, seed)?;
        let (begin, _) = self.span()?;
        ensure!(
            at.saturating_add(CLOCK_SLACK_NS) >= end && at <= begin.saturating_add(CLOCK_SLACK_NS),
            "a launch that ended at {end} ns, and the next of which began at {begin} ns, is said to \
             have completed at {at} ns"
        );
        Ok(())
    }

    /// Launches that are not waited for, one after the other: each pair of them sees what it wrote.
    fn row(&mut self, masks: &[TpcMask]) -> anyhow::Result<()> {
        self.gpu.clear(self.wrong, 1)?;
        let mut stamps = Vec::new();
        for (seed, &mask) in (100..100 + ROW).zip(masks.iter().rev().cycle()) {
            self.gpu.clear(self.out, self.words())?;
            let (edit, stamp) = self.stamped(self.only(mask));
            self.mark(edit, seed)?;
            stamps.push(stamp);
            let other = self.only(masks[seed as usize % masks.len()]);
            let next = if seed % 2 == 0 { Edit::NONE } else { other };
            self.verify(next, seed)?;
        }
        let mut wrong = [0];
        self.gpu.read(self.wrong, &mut wrong)?;
        ensure!(
            wrong == [0],
            "launches behind edited ones did not see {} words that these had written",
            wrong[0]
        );
        let times = stamps.into_iter().map(|stamp| self.stamp_time(stamp));
        let times = times.collect::<anyhow::Result<Vec<u64>>>()?;
        ensure!(
            times.is_sorted(),
            "launches of one stream completed out of order: at {times:?} ns"
        );
        Ok(())
    }

    /// Adds the next stamp to an edit, by way of either semaphore in turn.
    fn stamped(&mut self, edit: Edit) -> (Edit, Ordered) {
        let ordered = Ordered {
            place: self.stamped as usize,
            payload: FIRST_STAMP + self.stamped,
        };
        let slot = match self.stamped % 2 {
            0 => StampSlot::One,
            _ => StampSlot::Two,
        };
        self.stamped += 1;
        let address = self.stamps().address(ordered.place);
        let stamp = Some((slot, address, ordered.payload));
        (Edit { stamp, ..edit }, ordered)
    }

    fn stamp_time(&self, stamp: Ordered) -> anyhow::Result<u64> {
        let sequence = u64::from(stamp.payload);
        let at = self.stamps().completed_gpu_ns(stamp.place, sequence);
        at.context("a launch has completed, and the stamp that says so is missing or wrong")
    }

    fn nothing_beside_the_stamps(&self) -> anyhow::Result<()> {
        let stamps = self.stamps();
        let strays = (self.stamped as usize..stamps.count())
            .filter(|&place| !stamps.has_completed(place, 0));
        ensure!(
            strays.count() == 0,
            "stamps were written where none was wanted"
        );
        Ok(())
    }

    fn stamps(&self) -> Stamps<'_> {
        // PANIC: a channel without an arena is an error of `new`.
        self.channel.arena().expect("an arena").stamps()
    }

    fn words(&self) -> usize {
        (self.blocks * THREADS) as usize
    }

    fn mark(&self, edit: Edit, seed: u32) -> anyhow::Result<()> {
        let (mut out, mut times, mut seed) = (self.out, self.times, seed);
        let mut parameters: [*mut c_void; 3] = [
            (&raw mut out).cast(),
            (&raw mut times).cast(),
            (&raw mut seed).cast(),
        ];
        // SAFETY: these are the parameters of the kernel.
        unsafe { self.launch(self.mark, &mut parameters, edit) }
    }

    fn verify(&self, edit: Edit, seed: u32) -> anyhow::Result<()> {
        let (mut out, mut times) = (self.out, self.times);
        let (mut seed, mut wrong) = (seed, self.wrong);
        let mut parameters: [*mut c_void; 4] = [
            (&raw mut out).cast(),
            (&raw mut times).cast(),
            (&raw mut seed).cast(),
            (&raw mut wrong).cast(),
        ];
        // SAFETY: these are the parameters of the kernel.
        unsafe { self.launch(self.verify, &mut parameters, edit) }
    }

    /// Launches a kernel, and looks at what the driver showed.
    ///
    /// # Safety
    ///
    /// The parameters are those of the function.
    unsafe fn launch(
        &self,
        function: CUfunction,
        parameters: &mut [*mut c_void],
        edit: Edit,
    ) -> anyhow::Result<()> {
        let shape = Shape::plain(self.blocks, THREADS);
        // SAFETY: the caller's.
        let seen = unsafe { self.gpu.launch(function, shape, parameters, edit) }?;
        let told = (seen.context, seen.function);
        ensure!(
            told == (self.gpu.context(), function.addr() as u64),
            "the callback names another context or function than that of the launch"
        );
        look(&seen, shape, edit)
    }

    /// When the first block of the last launch began and the last one ended.
    fn span(&self) -> anyhow::Result<(u64, u64)> {
        let mut words = vec![0; 4 * self.blocks as usize];
        self.gpu.read(self.times, &mut words)?;
        let (pairs, _) = words.as_chunks::<2>();
        let times = pairs
            .iter()
            .map(|&[low, high]| u64::from(low) | u64::from(high) << 32);
        let begin = times.clone().step_by(2).min().unwrap_or_default();
        let end = times.skip(1).step_by(2).max().unwrap_or_default();
        ensure!(
            begin > 0 && begin <= end,
            "blocks ran from {begin} to {end} ns"
        );
        Ok((begin, end))
    }
}

/// The descriptor says what was launched, and only what the edit is about differs from it.
fn look(seen: &Seen, shape: Shape, edit: Edit) -> anyhow::Result<()> {
    let before = Descriptor::new(&seen.before)?;
    ensure!(
        before.kind() == Kind::Grid
            && before.blocks() == [u64::from(shape.blocks), 1, 1]
            && before.block() == [shape.threads, 1, 1]
            && before.program() != 0,
        "the descriptor of {} blocks of {} threads says {:?} of {:?}, {:?}",
        shape.blocks,
        shape.threads,
        before.blocks(),
        before.block(),
        before.kind()
    );
    if let Some(bit) = stray_bit(&seen.before, &seen.after) {
        bail!("an edit changed bit {bit} of a descriptor, which it is not about");
    }
    let after = Descriptor::new(&seen.after)?;
    ensure!(
        after.allowed() == edit.allowed,
        "a mask of TPC bits {} became one of {}",
        edit.allowed,
        after.allowed()
    );
    Ok(())
}

/// Word `i` of the output.
fn output(i: u32, seed: u32) -> u32 {
    let mix = |x: u32| {
        let h = (x ^ seed).wrapping_mul(0x9e37_79b1);
        let h = (h ^ h >> 15).wrapping_mul(0x85eb_ca77);
        h ^ h >> 13
    };
    mix(i).wrapping_add(mix(i ^ (THREADS - 1)).wrapping_mul(3))
}

/// A channel as a broker makes it, registered with the driver as the shim does it.
fn channel(board: &Board) -> anyhow::Result<Channel> {
    let terms = Terms {
        channel: 1,
        present: board.tpcs.all().words(),
        ..Terms::sized(Counts {
            stamps: STAMPS,
            ..Counts::default()
        })
    };
    let pages = pages::create(&terms)?;
    let reply = lithos_channel {
        reply: lithos_reply::default(),
        channel: terms.channel,
        ring_bytes: terms.ring_bytes,
        arena_bytes: terms.arena_bytes,
    };
    let mut descriptors = Vec::<OwnedFd>::new();
    for page in pages.descriptors() {
        descriptors.push(page.try_clone_to_owned()?);
    }
    let channel = Channel::map(&reply, descriptors)?;
    let arena = channel.arena().context("no free address below 1 TiB")?;
    let start = arena.start().as_ptr().cast::<c_void>();
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
    // SAFETY: the arena is mapped for as long as the channel lives, which is until the process ends.
    check("cuMemHostRegister", unsafe {
        sys::cuMemHostRegister_v2(start, arena.bytes(), flags)
    })?;
    let mut address = 0;
    // SAFETY: writes one address; the arena is registered.
    check("cuMemHostGetDevicePointer", unsafe {
        sys::cuMemHostGetDevicePointer_v2(&raw mut address, start, 0)
    })?;
    ensure!(
        address == start.addr() as u64,
        "the GPU sees registered memory at another address than the process"
    );
    Ok(channel)
}
