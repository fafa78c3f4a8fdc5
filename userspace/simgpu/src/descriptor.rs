// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Launch descriptors between driver and GPU: the driver's half builds one, the GPU's half reads it.
//!
//! The idea: the 384 bytes are all that passes. [`build`] is what `libcuda.so.1` does at a launch,
//! [`Descriptor::read`] what the engine does with whatever bytes arrive, edited or not. Where the
//! fields lie is known to `lithos-descriptor` alone.
//!
//! Constant bank 0 is laid out as the compiler expects it on Hopper: block shape at 0, grid shape at
//! 12, parameters at 0x210. What is not simulated (queues, waiting latches, reductions, dependents that
//! are fetched early, which lose their launch on an H100) is refused, never ignored.
//!
//! Graphs are not simulated, but the marks of their nodes (`SELF_COPY_ON_COMPLETION`,
//! `REQUIRE_SCHEDULING_PCAS`) are accepted on grids, where they change nothing that can be seen: a node
//! can be scheduled again when it has completed, and so can every descriptor, because the GPU does not
//! write to it. On a NULL descriptor they are refused: on an H100 it hangs the second time.

use lithos_descriptor::hopper::{
    self, Action, DEPENDENTS, Dependent, Kind, RELEASES, WORDS, Words, fields as f,
};
use lithos_descriptor::{Layout, TpcMask, Version};

use crate::board::{CLUSTER_TPC_BITS, SHARED_RESERVED_BYTES};
use crate::wire::DESCRIPTOR_BYTES;

/// Where the parameters begin in constant bank 0.
pub const PARAMETER_OFFSET: usize = 0x210;
/// Where the grid's shape lies in constant bank 0, after the block's.
const BANK_GRID_OFFSET: usize = 12;
/// The unit in which shared memory is allocated.
const SHARED_UNIT_BYTES: u32 = 128;

/// Blocks of the largest cluster for which the driver sets no mask: what one TPC holds for sure.
const UNMASKED_CLUSTER_BLOCKS: u32 = 2;

const _: () = assert!(WORDS * 4 == DESCRIPTOR_BYTES);

/// What the driver knows about a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Where the kernel's code begins.
    pub program: u64,
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster, if the launch has clusters; each divides the grid.
    pub cluster: Option<[u32; 3]>,
    /// Whether all blocks have to be resident at once.
    pub cooperative: bool,
    /// Shared memory of a block, static and dynamic.
    pub shared_bytes: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Where constant bank 0 lies, a multiple of 64.
    pub bank: u64,
    /// The size of constant bank 0.
    pub bank_bytes: u32,
    /// The latch at which the launch arrives when it is complete.
    pub latch: u32,
    /// Where release semaphore 0 writes one word.
    pub release: u64,
    /// The word.
    pub payload: u32,
}

/// The driver area of constant bank 0: what lies before the parameters.
pub fn bank_header(grid: [u32; 3], block: [u32; 3]) -> [u8; PARAMETER_OFFSET] {
    let mut bank = [0; PARAMETER_OFFSET];
    for (i, value) in block.into_iter().chain(grid).enumerate() {
        bank[4 * i..4 * i + 4].copy_from_slice(&value.to_le_bytes());
    }
    bank
}

/// The shared memory that a block takes from its SM.
pub fn shared_allocation(bytes: u32) -> u32 {
    SHARED_RESERVED_BYTES + bytes.next_multiple_of(SHARED_UNIT_BYTES)
}

/// Builds the driver's descriptor of a launch.
///
/// # Panics
///
/// If a number does not fit into its field or the grid is not made of whole clusters: the driver has
/// refused such a launch before.
pub fn build(launch: &Launch) -> [u8; DESCRIPTOR_BYTES] {
    let mut descriptor = hopper::Descriptor::blank();
    let words = descriptor.words_mut();
    for (field, value) in [
        (f::CTA_THREAD_DIMENSION0, launch.block[0].into()),
        (f::CTA_THREAD_DIMENSION1, launch.block[1].into()),
        (f::CTA_THREAD_DIMENSION2, launch.block[2].into()),
        (f::REGISTER_COUNT, launch.registers.into()),
        (f::BARRIER_COUNT, 16),
        (
            f::SHARED_MEMORY_SIZE,
            shared_allocation(launch.shared_bytes).into(),
        ),
        (f::SHARED_ALLOCATION_ENABLE, 1),
        (f::PROGRAM_ADDRESS, launch.program),
        (f::CONSTANT_BUFFER_VALID.at(0), 1),
        (f::CONSTANT_BUFFER_INVALIDATE.at(0), 1),
        (f::CONSTANT_BUFFER_ADDR_SHIFTED6.at(0), launch.bank >> 6),
        (
            f::CONSTANT_BUFFER_SIZE_SHIFTED4.at(0),
            launch.bank_bytes.div_ceil(16).into(),
        ),
        (f::ARRIVE_AT_LATCH_VALID, 1),
        (f::ARRIVE_AT_LATCH_ID, launch.latch.into()),
        (f::RELEASE_ENABLE.at(0), 1),
        (f::RELEASE_STRUCTURE_SIZE.at(0), 1),
        (f::RELEASE_SEMAPHORE_ADDR.at(0), launch.release),
        (f::RELEASE_SEMAPHORE_PAYLOAD.at(0), launch.payload.into()),
    ] {
        field.set(words, value);
    }
    descriptor
        .set_blocks(launch.grid, launch.cluster, launch.cooperative)
        .expect("a shape that was checked");
    let cluster_blocks: u32 = launch.cluster.unwrap_or([1; 3]).iter().product();
    if cluster_blocks > UNMASKED_CLUSTER_BLOCKS {
        descriptor
            .set_allowed(Some(CLUSTER_TPC_BITS))
            .expect("fields as wide as a mask");
    }
    descriptor.to_bytes()
}

/// Why the GPU does not run a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// It is shorter than a descriptor.
    #[error("{0} bytes are no launch descriptor: it has 384")]
    Length(usize),
    /// Hopper runs version 4.0 only.
    #[error("a launch descriptor whose version byte is {0:#x}: this GPU runs 0x40")]
    Version(u8),
    /// A kind of descriptor that is not simulated.
    #[error("a launch descriptor of kind {0:?}: queues are not simulated")]
    Kind(Kind),
    /// Something is asked for that is not simulated.
    #[error("{0} is set, which is not simulated")]
    Unsupported(&'static str),
    /// Constant bank 0 is not there.
    #[error("constant bank 0 is not valid or too short")]
    Bank,
}

/// Something a descriptor writes when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Where.
    pub address: u64,
    /// The payload; its upper half is zero unless 64 bits were asked for.
    pub payload: u64,
    /// How much.
    pub size: ReleaseSize,
}

/// How much a release semaphore writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseSize {
    /// The payload's low word.
    OneWord,
    /// The payload.
    TwoWords,
    /// The payload and the GPU's time in nanoseconds.
    FourWords,
}

/// What a descriptor asks the GPU to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Where the kernel's code begins.
    pub program: u64,
    /// Where constant bank 0 lies, and its size.
    pub bank: (u64, u32),
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; `None` for a plain grid.
    pub cluster: Option<[u32; 3]>,
    /// Whether all blocks have to be resident at once.
    pub cooperative: bool,
    /// The first block (or cluster) to run.
    pub resume: [u32; 3],
    /// The end of the grid in blocks (or clusters).
    pub end: [u32; 3],
    /// Shared memory that each block takes, the system's part included.
    pub shared_allocation: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// The TPCs that may be used.
    pub tpcs: TpcMask,
}

/// A launch descriptor as the GPU understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What to run; `None` for a NULL descriptor.
    pub work: Option<Work>,
    /// What to write on completion.
    pub releases: Vec<Release>,
    /// The latch at which to arrive on completion.
    pub arrival: Option<u32>,
    /// Other descriptors to act on, by their slots.
    pub dependents: [Option<Dependent>; DEPENDENTS as usize],
    /// Whether dependent 0 is acted on when the last block has started, rather than on completion.
    pub pre_exit: bool,
}

impl Descriptor {
    /// Reads a descriptor. Its RESUME is used as it stands: the driver's own launch and
    /// INVALIDATE_COPY_SCHEDULE reset it first ([`Work::restart`]).
    pub fn read(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let length = DescriptorError::Length(bytes.len());
        let bytes: &[u8; DESCRIPTOR_BYTES] = bytes.try_into().map_err(|_| length)?;
        if Layout::detect(bytes).map(|layout| layout.version) != Some(Version::V04_00) {
            return Err(DescriptorError::Version(bytes[72]));
        }
        let mut words: Words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            // PANIC: `chunks_exact(4)` yields four bytes.
            *word = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
        }
        let descriptor =
            hopper::Descriptor::new(&words).map_err(|_| DescriptorError::Version(bytes[72]))?;
        let kind = descriptor.kind();
        let marks: &[_] = match kind {
            Kind::Null => &[f::REQUIRE_SCHEDULING_PCAS, f::SELF_COPY_ON_COMPLETION],
            _ => &[],
        };
        let never = [
            f::WAIT_ON_LATCH_VALID,
            // Whoever counts it down has it run at 0; what else runs it with a count is not known.
            f::DEPENDENCE_COUNTER,
            f::HW_ONLY_DEPENDENCE_COUNTER,
            f::SEQUENTIALLY_RUN_CTAS,
        ];
        for field in never.iter().chain(marks) {
            if field.get(&words) != 0 {
                return Err(DescriptorError::Unsupported(field.name()));
            }
        }
        let work = match kind {
            Kind::Null => None,
            Kind::Grid | Kind::Clusters | Kind::Cooperative | Kind::CooperativeClusters => {
                Some(Work::read(&words, kind)?)
            }
            Kind::Queue | Kind::Unknown(_) => return Err(DescriptorError::Kind(kind)),
        };
        let mut releases = Vec::new();
        for slot in 0..RELEASES {
            releases.extend(Release::read(&words, slot)?);
        }
        let dependents = [0, 1].map(|slot| descriptor.dependent(slot));
        for (slot, dependent) in (0..).zip(dependents) {
            let unsupported = match dependent {
                Some(Dependent { prefetch: true, .. }) => f::DEPENDENT_QMD_PREFETCH,
                Some(Dependent {
                    action: Action::IncrementPut | Action::Unknown(_),
                    ..
                }) => f::DEPENDENT_QMD_ACTION,
                _ => continue,
            };
            return Err(DescriptorError::Unsupported(unsupported.at(slot).name()));
        }
        Ok(Self {
            work,
            releases,
            arrival: descriptor.arrival_latch(),
            dependents,
            pre_exit: f::PRE_EXIT_AT_LAST_CTA_LAUNCH.get(&words) != 0,
        })
    }
}

impl Work {
    fn read(words: &Words, kind: Kind) -> Result<Self, DescriptorError> {
        let bank_bytes = word(words, f::CONSTANT_BUFFER_SIZE_SHIFTED4.at(0)) << 4;
        let valid = f::CONSTANT_BUFFER_VALID.at(0).get(words) != 0;
        if !valid || (bank_bytes as usize) < PARAMETER_OFFSET {
            return Err(DescriptorError::Bank);
        }
        let three = |fields: [lithos_descriptor::Field; 3]| fields.map(|field| word(words, field));
        let mut resume = three([
            f::GRID_WIDTH_RESUME,
            f::GRID_HEIGHT_RESUME,
            f::GRID_DEPTH_RESUME,
        ]);
        let mut end = three([f::GRID_WIDTH, f::GRID_HEIGHT, f::GRID_DEPTH]);
        if kind.is_cooperative() {
            // The grid counts groups of blocks that are resident together. The driver makes one; what
            // hardware does with several is not known.
            if end.iter().any(|&groups| groups > 1) {
                return Err(DescriptorError::Unsupported(
                    "more than one cooperative group",
                ));
            }
            let group = three([f::GPU_CGA_WIDTH, f::GPU_CGA_HEIGHT, f::GPU_CGA_DEPTH]);
            for ((resume, end), size) in resume.iter_mut().zip(&mut end).zip(group) {
                *resume = resume.saturating_mul(size);
                *end *= size;
            }
        }
        let masked = f::TPC_DISABLE_MASK_VALID.get(words) != 0;
        Ok(Self {
            program: f::PROGRAM_ADDRESS.get(words),
            bank: (
                f::CONSTANT_BUFFER_ADDR_SHIFTED6.at(0).get(words) << 6,
                bank_bytes,
            ),
            block: three([
                f::CTA_THREAD_DIMENSION0,
                f::CTA_THREAD_DIMENSION1,
                f::CTA_THREAD_DIMENSION2,
            ]),
            cluster: kind
                .has_clusters()
                .then(|| three([f::GPC_CGA_WIDTH, f::GPC_CGA_HEIGHT, f::GPC_CGA_DEPTH])),
            cooperative: kind.is_cooperative(),
            resume,
            end,
            shared_allocation: word(words, f::SHARED_MEMORY_SIZE),
            registers: word(words, f::REGISTER_COUNT),
            tpcs: if masked {
                TpcMask::from_disable_words(
                    [0, 1, 2, 3].map(|i| word(words, f::TPC_DISABLE_MASK.at(i))),
                )
            } else {
                TpcMask::ALL
            },
        })
    }

    /// Starts at the first block, whatever RESUME says: what the driver's own launch and
    /// INVALIDATE_COPY_SCHEDULE do.
    pub fn restart(&mut self) {
        self.resume = [0; 3];
    }

    /// The grid's whole shape in blocks, as constant bank 0 tells it to the kernel.
    pub fn grid(bank: &[u8]) -> [u32; 3] {
        [0, 1, 2].map(|i| {
            let at = BANK_GRID_OFFSET + 4 * i;
            // PANIC: `read` refused a bank that ends before the parameters.
            u32::from_le_bytes(bank[at..at + 4].try_into().expect("four bytes"))
        })
    }

    /// Threads of a block; more than a `u32` holds saturates.
    pub fn threads(&self) -> u32 {
        self.block.iter().fold(1, |n, &d| n.saturating_mul(d))
    }
}

impl Release {
    fn read(words: &Words, slot: u16) -> Result<Option<Self>, DescriptorError> {
        if f::RELEASE_ENABLE.at(slot).get(words) == 0 {
            return Ok(None);
        }
        for field in [f::RELEASE_REDUCTION_ENABLE, f::RELEASE_TRAP_TYPE] {
            if field.at(slot).get(words) != 0 {
                return Err(DescriptorError::Unsupported(field.name()));
            }
        }
        let size = match f::RELEASE_STRUCTURE_SIZE.at(slot).get(words) {
            0 => ReleaseSize::FourWords,
            1 => ReleaseSize::OneWord,
            2 => ReleaseSize::TwoWords,
            _ => {
                return Err(DescriptorError::Unsupported(
                    f::RELEASE_STRUCTURE_SIZE.name(),
                ));
            }
        };
        let payload = f::RELEASE_SEMAPHORE_PAYLOAD.at(slot).get(words);
        let wide = f::RELEASE_PAYLOAD64B.at(slot).get(words) != 0;
        Ok(Some(Self {
            address: f::RELEASE_SEMAPHORE_ADDR.at(slot).get(words),
            payload: if wide { payload } else { payload & 0xffff_ffff },
            size,
        }))
    }

    /// What is written at the address when the descriptor completes at `at_ns`.
    pub fn bytes(&self, at_ns: u64) -> Vec<u8> {
        let mut bytes = self.payload.to_le_bytes().to_vec();
        match self.size {
            ReleaseSize::OneWord => bytes.truncate(4),
            ReleaseSize::TwoWords => {}
            ReleaseSize::FourWords => bytes.extend(at_ns.to_le_bytes()),
        }
        bytes
    }
}

/// A field of at most 32 bits.
fn word(words: &Words, field: lithos_descriptor::Field) -> u32 {
    // PANIC: every field that is read this way is at most 32 bits wide.
    u32::try_from(field.get(words)).expect("a field of at most 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCH: Launch = Launch {
        program: 0x0a00_1234_5600,
        grid: [12, 8, 6],
        block: [32, 4, 2],
        cluster: None,
        cooperative: false,
        shared_bytes: 1000,
        registers: 40,
        bank: 0x7f12_3456_7840,
        bank_bytes: 0x210 + 24,
        latch: 77,
        release: 0x7f12_3456_7ff0,
        payload: 5,
    };

    #[test]
    fn what_the_driver_builds_the_gpu_reads() {
        let read = Descriptor::read(&build(&LAUNCH)).expect("a descriptor");
        let work = read.work.expect("a grid");
        assert_eq!(work.program, LAUNCH.program);
        assert_eq!(work.bank, (LAUNCH.bank, 0x230));
        assert_eq!((work.block, work.end), (LAUNCH.block, LAUNCH.grid));
        assert_eq!((work.resume, work.cluster), ([0; 3], None));
        assert_eq!(work.shared_allocation, 1024 + 1024);
        assert_eq!(work.tpcs, TpcMask::ALL);
        assert_eq!(read.arrival, Some(77));
        let release = Release {
            address: LAUNCH.release,
            payload: 5,
            size: ReleaseSize::OneWord,
        };
        assert_eq!(read.releases, [release]);
    }

    #[test]
    fn a_grid_of_clusters_counts_clusters() {
        let launch = Launch {
            cluster: Some([4, 2, 1]),
            ..LAUNCH
        };
        let work = Descriptor::read(&build(&launch))
            .expect("a descriptor")
            .work
            .expect("a grid");
        assert_eq!((work.cluster, work.end), (Some([4, 2, 1]), [3, 4, 6]));
    }

    #[test]
    fn a_cooperative_grid_is_one_group_of_all_its_blocks() {
        let read = |cluster| {
            let bytes = build(&Launch {
                cluster,
                cooperative: true,
                ..LAUNCH
            });
            let descriptor = hopper::Descriptor::from_bytes(&bytes).expect("a descriptor");
            assert_eq!(descriptor.grid(), [1; 3]);
            assert_eq!(descriptor.blocks(), LAUNCH.grid.map(u64::from));
            let work = Descriptor::read(&bytes).expect("a descriptor").work;
            work.expect("a grid")
        };
        let work = read(None);
        assert!(work.cooperative && work.cluster.is_none());
        assert_eq!((work.resume, work.end), ([0; 3], LAUNCH.grid));
        let work = read(Some([4, 2, 1]));
        assert!(work.cooperative && work.cluster == Some([4, 2, 1]));
        assert_eq!((work.resume, work.end), ([0; 3], [3, 4, 6]));
    }

    #[test]
    fn the_driver_masks_clusters_of_more_than_two_blocks() {
        let allowed = |cluster| {
            let bytes = build(&Launch {
                cluster: Some(cluster),
                ..LAUNCH
            });
            let work = Descriptor::read(&bytes).expect("a descriptor").work;
            work.expect("a grid").tpcs
        };
        assert_eq!(allowed([2, 1, 1]), TpcMask::ALL);
        let mask = allowed([3, 1, 1]);
        assert!((0..72).all(|bit| mask.contains(bit)));
        assert!((72..128).all(|bit| !mask.contains(bit)));
    }

    #[test]
    fn dependents_are_read_and_a_dependent_that_is_fetched_early_is_refused() {
        let schedule = Dependent {
            address: 0x4_0000_0100,
            action: Action::Schedule,
            prefetch: false,
        };
        let read = |dependent| {
            let bytes = build(&LAUNCH);
            let mut descriptor = hopper::Descriptor::from_bytes(&bytes).expect("a descriptor");
            let set = descriptor.set_dependent(1, Some(dependent));
            set.expect("an address of a descriptor");
            Descriptor::read(&descriptor.to_bytes())
        };
        let found = read(schedule).expect("a descriptor");
        assert_eq!(found.dependents, [None, Some(schedule)]);
        assert!(!found.pre_exit);
        let early = Dependent {
            prefetch: true,
            ..schedule
        };
        assert!(matches!(read(early), Err(DescriptorError::Unsupported(_))));
    }

    #[test]
    fn what_is_not_simulated_is_refused() {
        let edited = |bit: usize, kind: Kind| {
            let mut words = *hopper::Descriptor::from_bytes(&build(&LAUNCH))
                .expect("a descriptor")
                .words();
            f::QMD_TYPE.set(&mut words, kind.bits().into());
            words[bit / 32] |= 1 << (bit % 32);
            Descriptor::read(&words.map(u32::to_le_bytes).concat())
        };
        let refusal = |bit| edited(bit, Kind::Grid);
        let is_unsupported = |read| matches!(read, Err(DescriptorError::Unsupported(_)));
        // A dependent whose action is 0 belongs to a queue.
        for bit in [368, 373, 29, 0, 288, 324] {
            assert!(is_unsupported(refusal(bit)), "bit {bit}");
        }
        for mark in [30, 378] {
            assert!(edited(mark, Kind::Grid).is_ok());
            assert!(is_unsupported(edited(mark, Kind::Null)));
        }
        assert_eq!(refusal(576), Err(DescriptorError::Version(0x41)));
        assert_eq!(
            Descriptor::read(&[0; 256]),
            Err(DescriptorError::Length(256))
        );
    }

    #[test]
    fn a_release_of_four_words_ends_with_the_time() {
        let release = Release {
            address: 0,
            payload: 7,
            size: ReleaseSize::FourWords,
        };
        let mut expected = vec![7, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(0x0123_4567_89ab_u64.to_le_bytes());
        assert_eq!(release.bytes(0x0123_4567_89ab), expected);
    }
}
