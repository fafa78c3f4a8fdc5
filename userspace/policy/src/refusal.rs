// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Why an event was refused, with the numbers that tell what would have been accepted.
//!
//! Printed, each says what was wrong and, where there is one, what would be right.

use std::fmt;

use crate::id::{ChannelId, GpuId, Revision, TenantId};
use crate::partition::PartitionName;

/// Why an event was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The GPU is known already.
    GpuExists {
        /// The GPU.
        gpu: GpuId,
    },
    /// The GPU has channels already, so nothing can be inherited there.
    InUse {
        /// The GPU.
        gpu: GpuId,
    },
    /// A TPC that was held is held twice, or is none of the GPU's.
    HeldTpc {
        /// The GPU.
        gpu: GpuId,
        /// The TPC's bit.
        bit: u8,
    },
    /// There is no such GPU.
    UnknownGpu {
        /// The GPU.
        gpu: GpuId,
    },
    /// The partitions that exist would have guarantees on this GPU beyond its TPCs.
    GpuTooSmall {
        /// The GPU.
        gpu: GpuId,
        /// The sum of the guarantees.
        guaranteed: u32,
        /// The TPCs that it has.
        total: u32,
    },
    /// The guarantee does not fit beside what others are sure of.
    NoRoom {
        /// The first GPU where it does not fit.
        gpu: GpuId,
        /// The TPCs asked for. A partition with guarantee 0 and running channels asks for one.
        asked: u32,
        /// The TPCs that are left for it.
        free: u32,
        /// The TPCs of the GPU.
        total: u32,
        /// How many are taken because running channels of partitions with guarantee 0 keep one.
        kept: u32,
    },
    /// The ceiling is below the guarantee.
    CeilingBelowGuarantee {
        /// The guarantee.
        guarantee: u32,
        /// The ceiling.
        ceiling: u32,
    },
    /// With a ceiling of 0 the partition could never run anything.
    CeilingZero,
    /// A partition of weight 0 would get nothing of what it shares with others.
    WeightZero,
    /// The partition would exist on no GPU.
    NoGpu,
    /// There are as many partitions as there may be.
    TooManyPartitions {
        /// How many that is.
        limit: usize,
    },
    /// The partition cannot leave a GPU where it has channels.
    ChannelsOnGpu {
        /// The GPU.
        gpu: GpuId,
        /// How many channels it has there.
        channels: usize,
    },
    /// There is no such partition.
    UnknownPartition {
        /// The name asked for.
        partition: PartitionName,
    },
    /// The partition still has tenants.
    HasTenants {
        /// How many.
        tenants: usize,
    },
    /// The tenant is attached already.
    TenantExists {
        /// The tenant.
        tenant: TenantId,
        /// Where it is attached.
        partition: PartitionName,
    },
    /// There is no such tenant.
    UnknownTenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// The channel is open already.
    ChannelExists {
        /// The channel.
        channel: ChannelId,
    },
    /// There is no such channel.
    UnknownChannel {
        /// The channel.
        channel: ChannelId,
    },
    /// The tenant's partition does not exist on this GPU.
    NotOnGpu {
        /// The partition.
        partition: PartitionName,
        /// The GPU asked for.
        gpu: GpuId,
        /// The GPUs where the partition exists.
        exists_on: Vec<GpuId>,
    },
    /// The channel has not had a grant with this revision.
    RevisionAhead {
        /// The channel.
        channel: ChannelId,
        /// The revision reported.
        reported: Revision,
        /// The revision of its last grant; 0 if it has had none.
        granted: Revision,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GpuExists { gpu } => write!(f, "GPU {gpu} is known already"),
            Self::InUse { gpu } => write!(
                f,
                "GPU {gpu} has channels already; what was there before comes before them"
            ),
            Self::HeldTpc { gpu, bit } => write!(
                f,
                "TPC {bit} of GPU {gpu} cannot have been held: it is not there, or held twice"
            ),
            Self::UnknownGpu { gpu } => write!(f, "there is no GPU {gpu}"),
            Self::GpuTooSmall {
                gpu,
                guaranteed,
                total,
            } => write!(
                f,
                "GPU {gpu} has {total} TPCs, but the partitions on it have guarantees of \
                 {guaranteed} together; lower them, or name the GPUs of each"
            ),
            Self::NoRoom {
                gpu,
                asked,
                free,
                total,
                kept,
            } => {
                write!(
                    f,
                    "asked for {asked} of the {total} TPCs of GPU {gpu}, {free} are free"
                )?;
                match kept {
                    0 => write!(f, "; ask for at most {free}, or lower another guarantee"),
                    kept => write!(
                        f,
                        " ({kept} more are kept for running channels of partitions without a \
                         guarantee); ask for at most {free}, or lower another guarantee"
                    ),
                }
            }
            Self::CeilingBelowGuarantee { guarantee, ceiling } => write!(
                f,
                "the ceiling of {ceiling} TPCs is below the guarantee of {guarantee}; it must be \
                 {guarantee} or more"
            ),
            Self::WeightZero => write!(f, "the weight is 0: it must be 1 or more"),
            Self::CeilingZero => write!(
                f,
                "with a ceiling of 0 TPCs nothing could ever run; it must be 1 or more"
            ),
            Self::NoGpu => write!(
                f,
                "the partition names no GPU; name at least one, or leave the list out for all"
            ),
            Self::TooManyPartitions { limit } => write!(
                f,
                "there are {limit} partitions, and that is the most there may be; delete one first"
            ),
            Self::ChannelsOnGpu { gpu, channels } => write!(
                f,
                "the partition cannot leave GPU {gpu} while it has {channels} channels there"
            ),
            Self::UnknownPartition { partition } => {
                write!(f, "there is no partition {partition}; create it first")
            }
            Self::HasTenants { tenants } => write!(
                f,
                "the partition still has {tenants} tenants; it can go when they have ended"
            ),
            Self::TenantExists { tenant, partition } => {
                write!(
                    f,
                    "tenant {tenant} is attached to partition {partition} already"
                )
            }
            Self::UnknownTenant { tenant } => write!(f, "there is no tenant {tenant}"),
            Self::ChannelExists { channel } => write!(f, "channel {channel} is open already"),
            Self::UnknownChannel { channel } => write!(f, "there is no channel {channel}"),
            Self::NotOnGpu {
                partition,
                gpu,
                exists_on,
            } => {
                write!(
                    f,
                    "partition {partition} does not exist on GPU {gpu}, but on"
                )?;
                for (i, gpu) in exists_on.iter().enumerate() {
                    write!(f, "{} {gpu}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::RevisionAhead {
                channel,
                reported,
                granted,
            } => write!(
                f,
                "channel {channel} reports on grant {reported}, but its last one is {granted}"
            ),
        }
    }
}

impl std::error::Error for Refusal {}
