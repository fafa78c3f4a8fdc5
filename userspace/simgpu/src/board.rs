// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A simulated board: its TPCs, where their mask bits lie, and the limits of its SMs.
//!
//! The idea: a TPC mask has 128 bits and they are not dense. On the H100 that was measured, bit =
//! 9 x GPC + TPC for eight *virtual* GPCs in rising order of size, and TPCs without GPC company sit
//! at every third bit from 75 on. A [`Layout`] says how many TPCs each GPC has and how many stand
//! alone; a [`Board`] is what follows from it: for every TPC its bit and its GPC, in rising order of
//! bits. Everything else about a TPC is its index in that order; its two SMs are `2 * index` and
//! `2 * index + 1`. Programs see other numbers (`%smid`), which count the first TPC of each GPC, then the
//! second of each, and so on, TPCs that stand alone last; a mask does not change them (seen on an H100).
//!
//! Units: TPCs are counted, memory is in bytes.

use std::fmt;
use std::str::FromStr;

use lithos_descriptor::TpcMask;

/// The bits of a TPC mask.
pub const MASK_BITS: u32 = 128;
/// SMs of one TPC.
pub const SMS_PER_TPC: u32 = 2;
/// The most TPCs of one GPC.
pub const TPCS_PER_GPC_MAX: u32 = 9;
/// Threads of a warp.
pub const WARP_THREADS: u32 = 32;
/// Threads that a block can have.
pub const BLOCK_THREADS_MAX: u32 = 1024;
/// Warps that can be resident on an SM (2048 threads).
pub const SM_WARPS: u32 = 64;
/// Blocks that can be resident on an SM.
pub const SM_BLOCKS: u32 = 32;
/// 32-bit registers of an SM.
pub const SM_REGISTERS: u32 = 65_536;
/// Shared memory of an SM.
pub const SM_SHARED_BYTES: u32 = 228 * 1024;
/// Shared memory that the system takes from each resident block.
pub const SHARED_RESERVED_BYTES: u32 = 1024;
/// Shared memory that a block can have when it has opted in.
pub const BLOCK_SHARED_BYTES_OPTIN: u32 = 227 * 1024;
/// Shared memory that a block can have without.
pub const BLOCK_SHARED_BYTES: u32 = 48 * 1024;
/// Blocks of the largest cluster (beyond 8 only where the kernel allows it).
pub const CLUSTER_BLOCKS_MAX: u32 = 16;

/// Virtual GPCs that have a row of nine bits each, below [`LONE_FIRST_BIT`].
const GPC_ROWS: u32 = 8;
/// The TPCs that the driver leaves to clusters which one TPC may not hold: those in the rows of GPCs.
pub const CLUSTER_TPC_BITS: TpcMask =
    TpcMask::from_bits([u64::MAX, (1 << (GPC_ROWS * TPCS_PER_GPC_MAX - 64)) - 1]);
/// The bit of the first TPC that stands alone, on the measured board.
const LONE_FIRST_BIT: u32 = 75;
/// Bits from one lone TPC to the next.
const LONE_STRIDE: u32 = 3;
/// TPCs of the board that was measured.
pub const MEASURED_TPCS: u32 = 66;
/// Its GPCs.
const MEASURED_GPCS: [u32; 8] = [4, 8, 8, 8, 8, 8, 9, 9];

/// How TPCs are spread over GPCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    gpcs: Vec<u32>,
    lone: u32,
}

/// Why there is no such board.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The mask has no bits for it.
    #[error("{0} TPCs do not fit into a mask: 1 to 126 do")]
    Count(u32),
    /// The list of GPCs cannot be read.
    #[error("{0:?} is no layout: expected sizes such as 4,8,9 or 4,8,9+2 (two TPCs without GPC)")]
    Syntax(String),
    /// A GPC is empty or too large.
    #[error("a GPC of {0} TPCs: 1 to 9 are possible")]
    Gpc(u32),
    /// The rows of the GPCs and the bits of the lone TPCs overlap, or leave the mask.
    #[error("{gpcs} GPCs and {lone} TPCs without GPC do not fit into a mask of 128 bits")]
    Room {
        /// GPCs asked for.
        gpcs: usize,
        /// Lone TPCs asked for.
        lone: u32,
    },
    /// `--tpcs` and `--gpcs` disagree.
    #[error("the GPCs have {found} TPCs, not {wanted}")]
    Disagree {
        /// What the list of GPCs comes to.
        found: u32,
        /// What was asked for.
        wanted: u32,
    },
}

impl Layout {
    /// The layout of a board with so many TPCs: the measured one for 66, otherwise GPCs of about
    /// equal size in rising order, one TPC in sixteen standing alone.
    pub fn with_tpcs(tpcs: u32) -> Result<Self, LayoutError> {
        if tpcs == 0 || tpcs > MASK_BITS / TPCS_PER_GPC_MAX * TPCS_PER_GPC_MAX {
            return Err(LayoutError::Count(tpcs));
        }
        if tpcs == MEASURED_TPCS {
            return Self::new(MEASURED_GPCS.to_vec(), 4);
        }
        let rows = GPC_ROWS * TPCS_PER_GPC_MAX;
        let lone_most = (MASK_BITS - 1 - LONE_FIRST_BIT) / LONE_STRIDE + 1;
        let lone = (tpcs / 16).max(tpcs.saturating_sub(rows));
        if lone > lone_most {
            let full = tpcs / TPCS_PER_GPC_MAX;
            let rest = tpcs % TPCS_PER_GPC_MAX;
            let mut gpcs = Vec::new();
            gpcs.extend((rest > 0).then_some(rest));
            gpcs.extend((0..full).map(|_| TPCS_PER_GPC_MAX));
            return Self::new(gpcs, 0);
        }
        let together = tpcs - lone;
        let count = together.div_ceil(8).min(GPC_ROWS);
        let larger = together % count;
        let gpcs = (0..count)
            .map(|i| together / count + u32::from(i >= count - larger))
            .collect();
        Self::new(gpcs, lone)
    }

    fn new(gpcs: Vec<u32>, lone: u32) -> Result<Self, LayoutError> {
        if let Some(&size) = gpcs.iter().find(|&&n| n == 0 || n > TPCS_PER_GPC_MAX) {
            return Err(LayoutError::Gpc(size));
        }
        let layout = Self { gpcs, lone };
        let rows = u32::try_from(layout.gpcs.len()).unwrap_or(u32::MAX);
        let fits = if layout.lone > 0 {
            rows <= GPC_ROWS
                && layout.lone <= MASK_BITS
                && LONE_FIRST_BIT + LONE_STRIDE * (layout.lone - 1) < MASK_BITS
        } else {
            rows <= MASK_BITS / TPCS_PER_GPC_MAX
        };
        if !fits || layout.tpcs() == 0 {
            return Err(LayoutError::Room {
                gpcs: layout.gpcs.len(),
                lone: layout.lone,
            });
        }
        Ok(layout)
    }

    /// The number of TPCs.
    pub fn tpcs(&self) -> u32 {
        self.gpcs.iter().sum::<u32>() + self.lone
    }

    /// This layout if it has `tpcs` TPCs.
    pub fn expect_tpcs(self, tpcs: u32) -> Result<Self, LayoutError> {
        if self.tpcs() == tpcs {
            Ok(self)
        } else {
            Err(LayoutError::Disagree {
                found: self.tpcs(),
                wanted: tpcs,
            })
        }
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        let syntax = || LayoutError::Syntax(text.to_owned());
        let (sizes, lone) = match text.split_once('+') {
            Some((sizes, lone)) => (sizes, lone.trim().parse().map_err(|_| syntax())?),
            None => (text, 0),
        };
        let gpcs = sizes
            .split(',')
            .map(|size| size.trim().parse().map_err(|_| syntax()))
            .collect::<Result<Vec<u32>, _>>()?;
        Self::new(gpcs, lone)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.gpcs.iter().map(u32::to_string).collect();
        write!(f, "{}", sizes.join(","))?;
        if self.lone > 0 {
            write!(f, "+{}", self.lone)?;
        }
        Ok(())
    }
}

/// One TPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tpc {
    /// Its bit in a mask.
    pub bit: u32,
    /// The GPC that it belongs to; a TPC that stands alone is one of its own.
    pub gpc: u32,
}

/// A board's TPCs, in rising order of their bits.
#[derive(Clone, Debug)]
pub struct Board {
    tpcs: Vec<Tpc>,
    gpcs: u32,
    /// The place of each TPC in the order in which programs see SMs numbered.
    places: Vec<u32>,
}

impl Board {
    /// The board that a layout describes.
    pub fn new(layout: &Layout) -> Self {
        let mut tpcs = Vec::new();
        let mut gpcs = 0;
        // Row in the GPC, and GPC.
        let mut order = Vec::new();
        for &size in &layout.gpcs {
            order.extend((0..size).map(|i| (i, gpcs)));
            tpcs.extend((0..size).map(|i| Tpc {
                bit: TPCS_PER_GPC_MAX * gpcs + i,
                gpc: gpcs,
            }));
            gpcs += 1;
        }
        for i in 0..layout.lone {
            order.push((u32::MAX, gpcs));
            tpcs.push(Tpc {
                bit: LONE_FIRST_BIT + LONE_STRIDE * i,
                gpc: gpcs,
            });
            gpcs += 1;
        }
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let place = |of: &(u32, u32)| sorted.partition_point(|other| other < of);
        let places = order.iter().map(place);
        let places = places.map(|place| u32::try_from(place).unwrap_or(u32::MAX));
        Self {
            places: places.collect(),
            tpcs,
            gpcs,
        }
    }

    /// The number under which programs see an SM.
    pub fn smid(&self, sm: u32) -> u32 {
        let (tpc, which) = (sm / SMS_PER_TPC, sm % SMS_PER_TPC);
        SMS_PER_TPC * self.places[tpc as usize] + which
    }

    /// The TPCs.
    pub fn tpcs(&self) -> &[Tpc] {
        &self.tpcs
    }

    /// The number of GPCs, each lone TPC counted as one.
    pub fn gpcs(&self) -> u32 {
        self.gpcs
    }

    /// The number of SMs.
    pub fn sms(&self) -> u32 {
        SMS_PER_TPC * u32::try_from(self.tpcs.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(layout: &Layout) -> Vec<u32> {
        Board::new(layout).tpcs().iter().map(|t| t.bit).collect()
    }

    #[test]
    fn the_default_board_has_the_bits_that_were_measured() {
        let mut measured: Vec<u32> = [0..=3, 9..=16, 18..=25, 27..=34, 36..=43, 45..=52, 54..=71]
            .into_iter()
            .flatten()
            .collect();
        measured.extend([75, 78]);
        let found = bits(&Layout::with_tpcs(66).expect("the measured board"));
        let (below, above): (Vec<u32>, Vec<u32>) = found.iter().partition(|&&bit| bit < 80);
        assert_eq!(below, measured);
        assert_eq!(above.len(), 2);
    }

    #[test]
    fn the_default_board_numbers_sms_as_was_measured() {
        let board = Board::new(&Layout::with_tpcs(66).expect("the measured board"));
        let smid = |bit: u32| {
            let index = board.tpcs().iter().position(|tpc| tpc.bit == bit);
            let sm = SMS_PER_TPC * u32::try_from(index.expect("a TPC")).expect("an index");
            assert_eq!(board.smid(sm + 1), board.smid(sm) + 1);
            board.smid(sm)
        };
        assert_eq!([0, 1, 2, 3].map(smid), [0, 16, 32, 48]);
        assert_eq!([9, 10, 27].map(smid), [2, 18, 6]);
        let seventh = [12, 28, 44, 60, 74, 88, 102, 116, 120];
        assert_eq!([54, 55, 56, 57, 58, 59, 60, 61, 62].map(smid), seventh);
        assert_eq!([71, 75, 78].map(smid), [122, 124, 126]);
    }

    #[test]
    fn any_number_of_tpcs_has_distinct_bits_inside_the_mask() {
        for tpcs in 1..=126 {
            let layout = Layout::with_tpcs(tpcs).expect("a board");
            let bits = bits(&layout);
            assert_eq!(bits.len(), tpcs as usize);
            assert!(bits.windows(2).all(|pair| pair[0] < pair[1]), "{layout}");
            assert!(bits.iter().all(|&bit| bit < MASK_BITS), "{layout}");
        }
        assert_eq!(Layout::with_tpcs(0), Err(LayoutError::Count(0)));
        assert_eq!(Layout::with_tpcs(127), Err(LayoutError::Count(127)));
    }

    #[test]
    fn a_written_layout_is_read_back() {
        for text in ["4,8,8,8,8,8,9,9+4", "1", "2,3+1"] {
            let layout: Layout = text.parse().expect(text);
            assert_eq!(layout.to_string(), text);
        }
        for text in ["", "0", "10", "4,x", "9,9,9,9,9,9,9,9,9+1", "1+90"] {
            assert!(text.parse::<Layout>().is_err(), "{text}");
        }
    }
}
