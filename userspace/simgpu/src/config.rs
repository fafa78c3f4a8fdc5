// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a server simulates: the checked form of its options.
//!
//! Units: a clock in kHz is modelled cycles per millisecond; the *speed factor* stretches modelled
//! time, so that a block takes `cycles / clock * factor`.

use crate::board::{Board, Layout, LayoutError, MEASURED_TPCS};
use crate::wire::GpuInfo;

/// The options of a server. `simgpu serve --help` is its manual.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Number of GPUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gpus: u32,
    /// TPCs of each GPU, two SMs each: 66 unless --gpcs says otherwise.
    #[arg(long)]
    pub tpcs: Option<u32>,
    /// TPCs of each GPC and, after a plus, how many TPCs belong to none: 4,8,8,8,8,8,9,9+4.
    #[arg(long)]
    pub gpcs: Option<Layout>,
    /// Clock of the SMs. A block's modelled time is its cycles at this clock, and the interpreter has
    /// to keep up: it runs some ten million instructions of a warp per second, for all SMs together.
    #[arg(long, default_value_t = 0.1)]
    pub clock_mhz: f64,
    /// Stretches the modelled time of every block.
    #[arg(long, default_value_t = 1.0)]
    pub speed_factor: f64,
    /// Device memory of each GPU. It is not touched before it is used.
    #[arg(long, default_value_t = 81_559)]
    pub memory_mib: u64,
    /// How far modelled time may lag behind the wall clock before the simulation counts as failed.
    #[arg(long, default_value_t = 100)]
    pub tolerance_ms: u64,
    /// Makes the death of a client what it is under MPS: its work goes on for so long, and what of it is
    /// not over then ends everybody on the GPU. On an H100 it is 5 to 10 ms. Without, nobody is harmed.
    #[arg(long, value_name = "MS")]
    pub mps_death_ms: Option<u64>,
}

/// What was wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such board.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The clock, stretched by the factor, is no clock.
    #[error(
        "a clock of {clock_mhz} MHz with a factor of {speed_factor}: their quotient must be 0.001 to 1000000 MHz"
    )]
    Clock {
        /// The clock asked for.
        clock_mhz: f64,
        /// The factor asked for.
        speed_factor: f64,
    },
    /// No device memory, or more than addresses can tell apart.
    #[error("{0} MiB of device memory: 1 to 2097152 are possible")]
    Memory(u64),
}

/// What a server simulates.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of GPUs.
    pub gpus: u32,
    /// Where the TPCs of each are.
    pub layout: Layout,
    /// Modelled cycles per millisecond of the GPU's time, the speed factor included.
    pub clock_khz: u64,
    /// Device memory of each GPU.
    pub memory_bytes: u64,
    /// The lag that is tolerated.
    pub tolerance_ns: u64,
    /// How long the memory of a client outlives it, as under MPS; `None` if its work goes with it.
    pub death_ns: Option<u64>,
}

/// The most device memory: half of what an address range of a GPU spans.
const MEMORY_MIB_MAX: u64 = 2 << 20;

impl TryFrom<&Options> for Config {
    type Error = ConfigError;

    fn try_from(options: &Options) -> Result<Self, ConfigError> {
        let layout = match (&options.gpcs, options.tpcs) {
            (Some(layout), Some(tpcs)) => layout.clone().expect_tpcs(tpcs)?,
            (Some(layout), None) => layout.clone(),
            (None, tpcs) => Layout::with_tpcs(tpcs.unwrap_or(MEASURED_TPCS))?,
        };
        let khz = options.clock_mhz * 1000.0 / options.speed_factor;
        if !(1.0..=1e9).contains(&khz) {
            return Err(ConfigError::Clock {
                clock_mhz: options.clock_mhz,
                speed_factor: options.speed_factor,
            });
        }
        if !(1..=MEMORY_MIB_MAX).contains(&options.memory_mib) {
            return Err(ConfigError::Memory(options.memory_mib));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked just above: 1 to 10^9"
        )]
        let clock_khz = khz.round() as u64;
        Ok(Self {
            gpus: options.gpus,
            layout,
            clock_khz,
            memory_bytes: options.memory_mib << 20,
            tolerance_ns: options.tolerance_ms.saturating_mul(1_000_000),
            death_ns: options.mps_death_ms.map(|ms| ms.saturating_mul(1_000_000)),
        })
    }
}

impl Config {
    /// What the GPU with this index tells about itself.
    pub fn gpu_info(&self, index: u32) -> GpuInfo {
        let board = Board::new(&self.layout);
        GpuInfo {
            name: "LithOS simulated H100".to_owned(),
            uuid: self.uuid(index),
            pci: (0, 0x10 + index, 0),
            tpcs: board.sms() / crate::board::SMS_PER_TPC,
            gpcs: board.gpcs(),
            clock_khz: self.clock_khz,
            memory_bytes: self.memory_bytes,
        }
    }

    /// A UUID that is the same for the same board in the same place, and no other: discoveries are
    /// remembered by it.
    fn uuid(&self, index: u32) -> [u8; 16] {
        let text = format!("simgpu {index} {}", self.layout);
        let half = |basis: u64| {
            // FNV-1a.
            text.bytes().fold(basis, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
        };
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&half(0xcbf2_9ce4_8422_2325).to_be_bytes());
        uuid[8..].copy_from_slice(&half(0x6c62_272e_07bb_0142).to_be_bytes());
        // Version 8 (vendor specific), variant 1.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// A UUID as NVIDIA's tools write it: `GPU-...`.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "GPU-{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
