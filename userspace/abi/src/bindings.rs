// SPDX-License-Identifier: GPL-2.0-only OR MIT
// Made by bindgen from include/lithos.h; tests/abi compares it, and writes it with LITHOS_BLESS=1.

pub const LITHOS_ABI_VERSION: u32 = 1;
pub const LITHOS_TPCS_MAX: u32 = 128;
pub const LITHOS_NAME_BYTES: u32 = 64;
pub const LITHOS_TEXT_BYTES: u32 = 256;
pub const LITHOS_BUILD_ID_BYTES: u32 = 32;
pub const LITHOS_PAGE_BYTES: u32 = 4096;
pub const LITHOS_GRANT_MAGIC: u64 = 8389768944481236073;
pub const LITHOS_ORDER_OPEN: u32 = 0;
pub const LITHOS_ORDER_SHUT: u32 = 1;
pub const LITHOS_ORDER_HALT: u32 = 2;
pub const LITHOS_ATOM_LONGEST_NS: u32 = 1000000;
pub const LITHOS_HEARTBEAT_STALE_NS: u32 = 60000000;
pub const LITHOS_BROKER_SCHEDULED: u32 = 0;
pub const LITHOS_BROKER_FAIL_STATIC: u32 = 1;
pub const LITHOS_BROKER_RETIRED: u32 = 2;
pub const LITHOS_BROKER_STATE_MASK: u32 = 255;
pub const LITHOS_BROKER_EPOCH_SHIFT: u32 = 8;
pub const LITHOS_REGIONS: u32 = 8;
pub const LITHOS_GPC_NONE: u32 = 255;
pub const LITHOS_GPC_ALONE: u32 = 254;
pub const LITHOS_OVERSIZE_WIDEN: u32 = 0;
pub const LITHOS_OVERSIZE_REFUSE: u32 = 1;
pub const LITHOS_GRANT_TRIES: u32 = 8;
pub const LITHOS_RING_MAGIC: u64 = 7453010373628163177;
pub const LITHOS_COUNTERS: u32 = 32;
pub const LITHOS_RECORD_STAMPED: u32 = 1;
pub const LITHOS_RECORD_GRAPH_NODE: u32 = 2;
pub const LITHOS_RECORD_COOPERATIVE: u32 = 4;
pub const LITHOS_RECORD_WIDENED: u32 = 8;
pub const LITHOS_RECORD_UNMANAGED: u32 = 16;
pub const LITHOS_RECORD_VOID: u32 = 32;
pub const LITHOS_RECORD_FAIL_STATIC: u32 = 64;
pub const LITHOS_RECORD_SPLIT: u32 = 128;
pub const LITHOS_GATE_SHUT: u32 = 4390913;
pub const LITHOS_GATE_WAITED: u32 = 1;
pub const LITHOS_GATE_OPEN: u32 = 6422528;
pub const LITHOS_GATE_HALTED: u32 = 6815744;
pub const LITHOS_DESCRIPTOR_STRIDE: u32 = 512;
pub const LITHOS_ATOM_EXIT_WORD: u32 = 35;
pub const LITHOS_ATOM_EXIT: u32 = 1073741824;
pub const LITHOS_ATOM_KIND_WORD: u32 = 0;
pub const LITHOS_ATOM_KIND: u32 = 58720256;
pub const LITHOS_ATOM_NULL: u32 = 8388608;
pub const LITHOS_TAIL_LATCH_WORD: u32 = 0;
pub const LITHOS_TAIL_LATCH: u32 = 268435456;
pub const LITHOS_TAIL_RELEASE_WORD: u32 = 10;
pub const LITHOS_TAIL_RELEASE_0: u32 = 1;
pub const LITHOS_TAIL_RELEASE_1: u32 = 65536;
pub const LITHOS_TAIL_DEPENDENTS_WORD: u32 = 11;
pub const LITHOS_TAIL_RELEASE_2: u32 = 1;
pub const LITHOS_TAIL_DEPENDENTS: u32 = 2162688;
pub const LITHOS_TAIL_ADDRESS_WORD: u32 = 24;
pub const LITHOS_MESSAGE_ATTACH: u32 = 1;
pub const LITHOS_MESSAGE_CHANNEL_CREATE: u32 = 2;
pub const LITHOS_MESSAGE_CHANNEL_DESTROY: u32 = 3;
pub const LITHOS_MESSAGE_RESUME: u32 = 4;
pub const LITHOS_MESSAGE_CHANNEL_RESUME: u32 = 5;
pub const LITHOS_MESSAGE_CHANNEL_RESUMED: u32 = 6;
pub const LITHOS_MESSAGE_REPLY: u32 = 32768;
pub const LITHOS_ATTACHED_ENFORCE: u32 = 1;
pub const LITHOS_ATTACHED_LEAST: u32 = 2;
pub const LITHOS_ATTACHED_SMS_SHIFT: u32 = 16;
pub const LITHOS_ATTACHED_SMS_MASK: u32 = 4294901760;
pub const LITHOS_ID_PLACE_BITS: u32 = 16;
pub const LITHOS_INFO_GPU_DRIVER: u32 = 1;
pub const LITHOS_TIMEOUT_NS_MAX: u64 = 600000000000;
pub const LITHOS_MAP_GRANT: u32 = 0;
pub const LITHOS_MAP_RING: u32 = 1;
pub const LITHOS_MAP_ARENA: u32 = 2;
pub const LITHOS_MAP_SHIFT: u32 = 25;
pub const LITHOS_MAP_ID_BITS: u32 = 36;
pub const LITHOS_TENANT_ANSWERED: u32 = 1;
pub const LITHOS_CHANNEL_ANSWERED: u32 = 1;
pub const LITHOS_EVENT_TENANT: u32 = 1;
pub const LITHOS_EVENT_TENANT_END: u32 = 2;
pub const LITHOS_EVENT_CHANNEL: u32 = 3;
pub const LITHOS_EVENT_CHANNEL_END: u32 = 4;
pub const LITHOS_EVENT_DOORBELL: u32 = 5;
pub const LITHOS_EVENT_WATCHDOG: u32 = 6;
pub const LITHOS_EVENT_LOST: u32 = 7;
pub const LITHOS_EVENT_GPU_REFUSED: u32 = 8;
pub const LITHOS_ADMISSION_OFF: u32 = 0;
pub const LITHOS_ADMISSION_AUDIT: u32 = 1;
pub const LITHOS_ADMISSION_ENFORCE: u32 = 2;
pub const LITHOS_ADMIT_PROCESS: u32 = 1;
pub const LITHOS_ADMIT_CGROUP: u32 = 2;
pub const LITHOS_GPU_USER_INEXACT: u32 = 1;
pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_tpcs {
    pub words: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_tpcs"][::core::mem::size_of::<lithos_tpcs>() - 16usize];
    ["Alignment of lithos_tpcs"][::core::mem::align_of::<lithos_tpcs>() - 8usize];
    ["Offset of field: lithos_tpcs::words"][::core::mem::offset_of!(lithos_tpcs, words) - 0usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_grant {
    pub sequence: __u64,
    pub tpcs: lithos_tpcs,
    pub reserved: __u64,
    pub atom_ns: __u64,
    pub outstanding_ns: __u64,
    pub lent: lithos_tpcs,
    pub reserved2: [__u64; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_grant"][::core::mem::size_of::<lithos_grant>() - 112usize];
    ["Alignment of lithos_grant"][::core::mem::align_of::<lithos_grant>() - 8usize];
    ["Offset of field: lithos_grant::sequence"]
        [::core::mem::offset_of!(lithos_grant, sequence) - 0usize];
    ["Offset of field: lithos_grant::tpcs"][::core::mem::offset_of!(lithos_grant, tpcs) - 8usize];
    ["Offset of field: lithos_grant::reserved"]
        [::core::mem::offset_of!(lithos_grant, reserved) - 24usize];
    ["Offset of field: lithos_grant::atom_ns"]
        [::core::mem::offset_of!(lithos_grant, atom_ns) - 32usize];
    ["Offset of field: lithos_grant::outstanding_ns"]
        [::core::mem::offset_of!(lithos_grant, outstanding_ns) - 40usize];
    ["Offset of field: lithos_grant::lent"][::core::mem::offset_of!(lithos_grant, lent) - 48usize];
    ["Offset of field: lithos_grant::reserved2"]
        [::core::mem::offset_of!(lithos_grant, reserved2) - 64usize];
};
pub const LITHOS_REGION_STAMPS: lithos_region_kind = 0;
pub const LITHOS_REGION_GATES: lithos_region_kind = 1;
pub const LITHOS_REGION_ATOMS: lithos_region_kind = 2;
pub const LITHOS_REGION_CLUSTER_ATOMS: lithos_region_kind = 3;
pub const LITHOS_REGION_TAILS: lithos_region_kind = 4;
pub type lithos_region_kind = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_region {
    pub offset: __u64,
    pub stride: __u32,
    pub count: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_region"][::core::mem::size_of::<lithos_region>() - 16usize];
    ["Alignment of lithos_region"][::core::mem::align_of::<lithos_region>() - 8usize];
    ["Offset of field: lithos_region::offset"]
        [::core::mem::offset_of!(lithos_region, offset) - 0usize];
    ["Offset of field: lithos_region::stride"]
        [::core::mem::offset_of!(lithos_region, stride) - 8usize];
    ["Offset of field: lithos_region::count"]
        [::core::mem::offset_of!(lithos_region, count) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_grant_page {
    pub magic: __u64,
    pub version: __u32,
    pub bytes: __u32,
    pub channel: __u64,
    pub gpu_index: __u32,
    pub oversize: __u32,
    pub ring_bytes: __u64,
    pub arena_bytes: __u64,
    pub records: __u32,
    pub tpc_sms: __u32,
    pub reserved: __u64,
    pub broker: __u64,
    pub heartbeat_ns: __u64,
    pub latest: __u64,
    pub order: __u64,
    pub ring: __u64,
    pub held: __u64,
    pub borrowed: lithos_tpcs,
    pub slots: [lithos_grant; 2usize],
    pub fail_static: lithos_grant,
    pub regions: [lithos_region; 8usize],
    pub present: lithos_tpcs,
    pub gpc: [__u8; 128usize],
    pub reserved3: [__u8; 3360usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_grant_page"][::core::mem::size_of::<lithos_grant_page>() - 4096usize];
    ["Alignment of lithos_grant_page"][::core::mem::align_of::<lithos_grant_page>() - 8usize];
    ["Offset of field: lithos_grant_page::magic"]
        [::core::mem::offset_of!(lithos_grant_page, magic) - 0usize];
    ["Offset of field: lithos_grant_page::version"]
        [::core::mem::offset_of!(lithos_grant_page, version) - 8usize];
    ["Offset of field: lithos_grant_page::bytes"]
        [::core::mem::offset_of!(lithos_grant_page, bytes) - 12usize];
    ["Offset of field: lithos_grant_page::channel"]
        [::core::mem::offset_of!(lithos_grant_page, channel) - 16usize];
    ["Offset of field: lithos_grant_page::gpu_index"]
        [::core::mem::offset_of!(lithos_grant_page, gpu_index) - 24usize];
    ["Offset of field: lithos_grant_page::oversize"]
        [::core::mem::offset_of!(lithos_grant_page, oversize) - 28usize];
    ["Offset of field: lithos_grant_page::ring_bytes"]
        [::core::mem::offset_of!(lithos_grant_page, ring_bytes) - 32usize];
    ["Offset of field: lithos_grant_page::arena_bytes"]
        [::core::mem::offset_of!(lithos_grant_page, arena_bytes) - 40usize];
    ["Offset of field: lithos_grant_page::records"]
        [::core::mem::offset_of!(lithos_grant_page, records) - 48usize];
    ["Offset of field: lithos_grant_page::tpc_sms"]
        [::core::mem::offset_of!(lithos_grant_page, tpc_sms) - 52usize];
    ["Offset of field: lithos_grant_page::reserved"]
        [::core::mem::offset_of!(lithos_grant_page, reserved) - 56usize];
    ["Offset of field: lithos_grant_page::broker"]
        [::core::mem::offset_of!(lithos_grant_page, broker) - 64usize];
    ["Offset of field: lithos_grant_page::heartbeat_ns"]
        [::core::mem::offset_of!(lithos_grant_page, heartbeat_ns) - 72usize];
    ["Offset of field: lithos_grant_page::latest"]
        [::core::mem::offset_of!(lithos_grant_page, latest) - 80usize];
    ["Offset of field: lithos_grant_page::order"]
        [::core::mem::offset_of!(lithos_grant_page, order) - 88usize];
    ["Offset of field: lithos_grant_page::ring"]
        [::core::mem::offset_of!(lithos_grant_page, ring) - 96usize];
    ["Offset of field: lithos_grant_page::held"]
        [::core::mem::offset_of!(lithos_grant_page, held) - 104usize];
    ["Offset of field: lithos_grant_page::borrowed"]
        [::core::mem::offset_of!(lithos_grant_page, borrowed) - 112usize];
    ["Offset of field: lithos_grant_page::slots"]
        [::core::mem::offset_of!(lithos_grant_page, slots) - 128usize];
    ["Offset of field: lithos_grant_page::fail_static"]
        [::core::mem::offset_of!(lithos_grant_page, fail_static) - 352usize];
    ["Offset of field: lithos_grant_page::regions"]
        [::core::mem::offset_of!(lithos_grant_page, regions) - 464usize];
    ["Offset of field: lithos_grant_page::present"]
        [::core::mem::offset_of!(lithos_grant_page, present) - 592usize];
    ["Offset of field: lithos_grant_page::gpc"]
        [::core::mem::offset_of!(lithos_grant_page, gpc) - 608usize];
    ["Offset of field: lithos_grant_page::reserved3"]
        [::core::mem::offset_of!(lithos_grant_page, reserved3) - 736usize];
};
impl Default for lithos_grant_page {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub const LITHOS_COUNT_UNSTAMPED: lithos_counter = 0;
pub const LITHOS_COUNT_OVERRUN: lithos_counter = 1;
pub const LITHOS_COUNT_GRAPH_NODES: lithos_counter = 2;
pub const LITHOS_COUNT_NULL: lithos_counter = 3;
pub const LITHOS_COUNT_UNKNOWN_VERSION: lithos_counter = 4;
pub const LITHOS_COUNT_UNKNOWN_BITS: lithos_counter = 5;
pub const LITHOS_COUNT_DRIVER_MASK_KEPT: lithos_counter = 6;
pub const LITHOS_COUNT_WIDENED_COOPERATIVE: lithos_counter = 7;
pub const LITHOS_COUNT_WIDENED_CLUSTER: lithos_counter = 8;
pub const LITHOS_COUNT_REFUSED_COOPERATIVE: lithos_counter = 9;
pub const LITHOS_COUNT_REFUSED_CLUSTER: lithos_counter = 10;
pub const LITHOS_COUNT_STALE_GRANT: lithos_counter = 11;
pub const LITHOS_COUNT_UNGRANTED: lithos_counter = 12;
pub const LITHOS_COUNT_VOID: lithos_counter = 13;
pub const LITHOS_COUNT_SPLIT: lithos_counter = 14;
pub const LITHOS_COUNT_ATOMS: lithos_counter = 15;
pub const LITHOS_COUNT_WHOLE_FULL: lithos_counter = 16;
pub const LITHOS_COUNT_WHOLE_COOPERATIVE: lithos_counter = 17;
pub const LITHOS_COUNT_WHOLE_GRAPH_NODE: lithos_counter = 18;
pub const LITHOS_COUNT_WHOLE_PROGRAMMATIC: lithos_counter = 19;
pub const LITHOS_COUNT_WHOLE_UNKNOWN: lithos_counter = 20;
pub const LITHOS_COUNT_WHOLE_STUCK: lithos_counter = 21;
pub const LITHOS_COUNT_WHOLE_ENDING: lithos_counter = 22;
pub const LITHOS_COUNT_WAITED: lithos_counter = 23;
pub const LITHOS_COUNT_IMPATIENT: lithos_counter = 24;
pub type lithos_counter = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_ring {
    pub magic: __u64,
    pub version: __u32,
    pub records: __u32,
    pub reserved_line: [__u64; 6usize],
    pub reserved: __u64,
    pub chains: __u64,
    pub waiting: __u64,
    pub backlog_ns: __u64,
    pub reserved_line2: [__u64; 4usize],
    pub rung: __u32,
    pub reserved_rung: __u32,
    pub reserved_line3: [__u64; 7usize],
    pub counters: [__u64; 32usize],
    pub reserved3: [__u64; 456usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_ring"][::core::mem::size_of::<lithos_ring>() - 4096usize];
    ["Alignment of lithos_ring"][::core::mem::align_of::<lithos_ring>() - 8usize];
    ["Offset of field: lithos_ring::magic"][::core::mem::offset_of!(lithos_ring, magic) - 0usize];
    ["Offset of field: lithos_ring::version"]
        [::core::mem::offset_of!(lithos_ring, version) - 8usize];
    ["Offset of field: lithos_ring::records"]
        [::core::mem::offset_of!(lithos_ring, records) - 12usize];
    ["Offset of field: lithos_ring::reserved_line"]
        [::core::mem::offset_of!(lithos_ring, reserved_line) - 16usize];
    ["Offset of field: lithos_ring::reserved"]
        [::core::mem::offset_of!(lithos_ring, reserved) - 64usize];
    ["Offset of field: lithos_ring::chains"]
        [::core::mem::offset_of!(lithos_ring, chains) - 72usize];
    ["Offset of field: lithos_ring::waiting"]
        [::core::mem::offset_of!(lithos_ring, waiting) - 80usize];
    ["Offset of field: lithos_ring::backlog_ns"]
        [::core::mem::offset_of!(lithos_ring, backlog_ns) - 88usize];
    ["Offset of field: lithos_ring::reserved_line2"]
        [::core::mem::offset_of!(lithos_ring, reserved_line2) - 96usize];
    ["Offset of field: lithos_ring::rung"][::core::mem::offset_of!(lithos_ring, rung) - 128usize];
    ["Offset of field: lithos_ring::reserved_rung"]
        [::core::mem::offset_of!(lithos_ring, reserved_rung) - 132usize];
    ["Offset of field: lithos_ring::reserved_line3"]
        [::core::mem::offset_of!(lithos_ring, reserved_line3) - 136usize];
    ["Offset of field: lithos_ring::counters"]
        [::core::mem::offset_of!(lithos_ring, counters) - 192usize];
    ["Offset of field: lithos_ring::reserved3"]
        [::core::mem::offset_of!(lithos_ring, reserved3) - 448usize];
};
impl Default for lithos_ring {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_record {
    pub sequence: __u64,
    pub submitted_ns: __u64,
    pub grant: __u64,
    pub tpcs: lithos_tpcs,
    pub program: __u64,
    pub function: __u64,
    pub stream: __u64,
    pub grid: [__u32; 3usize],
    pub shared_bytes: __u32,
    pub block: [__u16; 3usize],
    pub cluster: [__u16; 3usize],
    pub flags: __u32,
    pub reserved: [__u64; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_record"][::core::mem::size_of::<lithos_record>() - 128usize];
    ["Alignment of lithos_record"][::core::mem::align_of::<lithos_record>() - 8usize];
    ["Offset of field: lithos_record::sequence"]
        [::core::mem::offset_of!(lithos_record, sequence) - 0usize];
    ["Offset of field: lithos_record::submitted_ns"]
        [::core::mem::offset_of!(lithos_record, submitted_ns) - 8usize];
    ["Offset of field: lithos_record::grant"]
        [::core::mem::offset_of!(lithos_record, grant) - 16usize];
    ["Offset of field: lithos_record::tpcs"]
        [::core::mem::offset_of!(lithos_record, tpcs) - 24usize];
    ["Offset of field: lithos_record::program"]
        [::core::mem::offset_of!(lithos_record, program) - 40usize];
    ["Offset of field: lithos_record::function"]
        [::core::mem::offset_of!(lithos_record, function) - 48usize];
    ["Offset of field: lithos_record::stream"]
        [::core::mem::offset_of!(lithos_record, stream) - 56usize];
    ["Offset of field: lithos_record::grid"]
        [::core::mem::offset_of!(lithos_record, grid) - 64usize];
    ["Offset of field: lithos_record::shared_bytes"]
        [::core::mem::offset_of!(lithos_record, shared_bytes) - 76usize];
    ["Offset of field: lithos_record::block"]
        [::core::mem::offset_of!(lithos_record, block) - 80usize];
    ["Offset of field: lithos_record::cluster"]
        [::core::mem::offset_of!(lithos_record, cluster) - 86usize];
    ["Offset of field: lithos_record::flags"]
        [::core::mem::offset_of!(lithos_record, flags) - 92usize];
    ["Offset of field: lithos_record::reserved"]
        [::core::mem::offset_of!(lithos_record, reserved) - 96usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_stamp {
    pub sequence: __u32,
    pub zero: __u32,
    pub completed_gpu_ns: __u64,
    pub reserved: [__u64; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_stamp"][::core::mem::size_of::<lithos_stamp>() - 64usize];
    ["Alignment of lithos_stamp"][::core::mem::align_of::<lithos_stamp>() - 8usize];
    ["Offset of field: lithos_stamp::sequence"]
        [::core::mem::offset_of!(lithos_stamp, sequence) - 0usize];
    ["Offset of field: lithos_stamp::zero"][::core::mem::offset_of!(lithos_stamp, zero) - 4usize];
    ["Offset of field: lithos_stamp::completed_gpu_ns"]
        [::core::mem::offset_of!(lithos_stamp, completed_gpu_ns) - 8usize];
    ["Offset of field: lithos_stamp::reserved"]
        [::core::mem::offset_of!(lithos_stamp, reserved) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_gate {
    pub descriptor: [__u8; 44usize],
    pub word: __u32,
    pub rest: [__u8; 336usize],
    pub waiting: __u32,
    pub zero: __u32,
    pub waiting_gpu_ns: __u64,
    pub atom_done: __u32,
    pub zero2: __u32,
    pub atom_done_gpu_ns: __u64,
    pub reserved: [__u8; 96usize],
    pub bounce: [__u8; 512usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_gate"][::core::mem::size_of::<lithos_gate>() - 1024usize];
    ["Alignment of lithos_gate"][::core::mem::align_of::<lithos_gate>() - 8usize];
    ["Offset of field: lithos_gate::descriptor"]
        [::core::mem::offset_of!(lithos_gate, descriptor) - 0usize];
    ["Offset of field: lithos_gate::word"][::core::mem::offset_of!(lithos_gate, word) - 44usize];
    ["Offset of field: lithos_gate::rest"][::core::mem::offset_of!(lithos_gate, rest) - 48usize];
    ["Offset of field: lithos_gate::waiting"]
        [::core::mem::offset_of!(lithos_gate, waiting) - 384usize];
    ["Offset of field: lithos_gate::zero"][::core::mem::offset_of!(lithos_gate, zero) - 388usize];
    ["Offset of field: lithos_gate::waiting_gpu_ns"]
        [::core::mem::offset_of!(lithos_gate, waiting_gpu_ns) - 392usize];
    ["Offset of field: lithos_gate::atom_done"]
        [::core::mem::offset_of!(lithos_gate, atom_done) - 400usize];
    ["Offset of field: lithos_gate::zero2"][::core::mem::offset_of!(lithos_gate, zero2) - 404usize];
    ["Offset of field: lithos_gate::atom_done_gpu_ns"]
        [::core::mem::offset_of!(lithos_gate, atom_done_gpu_ns) - 408usize];
    ["Offset of field: lithos_gate::reserved"]
        [::core::mem::offset_of!(lithos_gate, reserved) - 416usize];
    ["Offset of field: lithos_gate::bounce"]
        [::core::mem::offset_of!(lithos_gate, bounce) - 512usize];
};
impl Default for lithos_gate {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_tail {
    pub descriptor: [__u8; 384usize],
    pub published: __u64,
    pub remaining_ns: __u64,
    pub first_gate: __u32,
    pub gates: __u32,
    pub shut: __u32,
    pub stuck: __u32,
    pub done: __u32,
    pub zero: __u32,
    pub done_gpu_ns: __u64,
    pub first: __u32,
    pub zero2: __u32,
    pub first_gpu_ns: __u64,
    pub number: __u64,
    pub tpcs: lithos_tpcs,
    pub reserved2: [__u64; 5usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_tail"][::core::mem::size_of::<lithos_tail>() - 512usize];
    ["Alignment of lithos_tail"][::core::mem::align_of::<lithos_tail>() - 8usize];
    ["Offset of field: lithos_tail::descriptor"]
        [::core::mem::offset_of!(lithos_tail, descriptor) - 0usize];
    ["Offset of field: lithos_tail::published"]
        [::core::mem::offset_of!(lithos_tail, published) - 384usize];
    ["Offset of field: lithos_tail::remaining_ns"]
        [::core::mem::offset_of!(lithos_tail, remaining_ns) - 392usize];
    ["Offset of field: lithos_tail::first_gate"]
        [::core::mem::offset_of!(lithos_tail, first_gate) - 400usize];
    ["Offset of field: lithos_tail::gates"][::core::mem::offset_of!(lithos_tail, gates) - 404usize];
    ["Offset of field: lithos_tail::shut"][::core::mem::offset_of!(lithos_tail, shut) - 408usize];
    ["Offset of field: lithos_tail::stuck"][::core::mem::offset_of!(lithos_tail, stuck) - 412usize];
    ["Offset of field: lithos_tail::done"][::core::mem::offset_of!(lithos_tail, done) - 416usize];
    ["Offset of field: lithos_tail::zero"][::core::mem::offset_of!(lithos_tail, zero) - 420usize];
    ["Offset of field: lithos_tail::done_gpu_ns"]
        [::core::mem::offset_of!(lithos_tail, done_gpu_ns) - 424usize];
    ["Offset of field: lithos_tail::first"][::core::mem::offset_of!(lithos_tail, first) - 432usize];
    ["Offset of field: lithos_tail::zero2"][::core::mem::offset_of!(lithos_tail, zero2) - 436usize];
    ["Offset of field: lithos_tail::first_gpu_ns"]
        [::core::mem::offset_of!(lithos_tail, first_gpu_ns) - 440usize];
    ["Offset of field: lithos_tail::number"]
        [::core::mem::offset_of!(lithos_tail, number) - 448usize];
    ["Offset of field: lithos_tail::tpcs"][::core::mem::offset_of!(lithos_tail, tpcs) - 456usize];
    ["Offset of field: lithos_tail::reserved2"]
        [::core::mem::offset_of!(lithos_tail, reserved2) - 472usize];
};
impl Default for lithos_tail {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_message {
    pub type_: __u32,
    pub bytes: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_message"][::core::mem::size_of::<lithos_message>() - 8usize];
    ["Alignment of lithos_message"][::core::mem::align_of::<lithos_message>() - 4usize];
    ["Offset of field: lithos_message::type_"]
        [::core::mem::offset_of!(lithos_message, type_) - 0usize];
    ["Offset of field: lithos_message::bytes"]
        [::core::mem::offset_of!(lithos_message, bytes) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_reply {
    pub error: __u32,
    pub reserved: __u32,
    pub text: [::core::ffi::c_char; 256usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_reply"][::core::mem::size_of::<lithos_reply>() - 264usize];
    ["Alignment of lithos_reply"][::core::mem::align_of::<lithos_reply>() - 4usize];
    ["Offset of field: lithos_reply::error"][::core::mem::offset_of!(lithos_reply, error) - 0usize];
    ["Offset of field: lithos_reply::reserved"]
        [::core::mem::offset_of!(lithos_reply, reserved) - 4usize];
    ["Offset of field: lithos_reply::text"][::core::mem::offset_of!(lithos_reply, text) - 8usize];
};
impl Default for lithos_reply {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_attach {
    pub version: __u32,
    pub reserved: __u32,
    pub partition: [::core::ffi::c_char; 64usize],
    pub edits: __u64,
    pub driver: [__u8; 32usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_attach"][::core::mem::size_of::<lithos_attach>() - 112usize];
    ["Alignment of lithos_attach"][::core::mem::align_of::<lithos_attach>() - 8usize];
    ["Offset of field: lithos_attach::version"]
        [::core::mem::offset_of!(lithos_attach, version) - 0usize];
    ["Offset of field: lithos_attach::reserved"]
        [::core::mem::offset_of!(lithos_attach, reserved) - 4usize];
    ["Offset of field: lithos_attach::partition"]
        [::core::mem::offset_of!(lithos_attach, partition) - 8usize];
    ["Offset of field: lithos_attach::edits"]
        [::core::mem::offset_of!(lithos_attach, edits) - 72usize];
    ["Offset of field: lithos_attach::driver"]
        [::core::mem::offset_of!(lithos_attach, driver) - 80usize];
};
impl Default for lithos_attach {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_attached {
    pub reply: lithos_reply,
    pub tenant: __u64,
    pub flags: __u32,
    pub version: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_attached"][::core::mem::size_of::<lithos_attached>() - 280usize];
    ["Alignment of lithos_attached"][::core::mem::align_of::<lithos_attached>() - 8usize];
    ["Offset of field: lithos_attached::reply"]
        [::core::mem::offset_of!(lithos_attached, reply) - 0usize];
    ["Offset of field: lithos_attached::tenant"]
        [::core::mem::offset_of!(lithos_attached, tenant) - 264usize];
    ["Offset of field: lithos_attached::flags"]
        [::core::mem::offset_of!(lithos_attached, flags) - 272usize];
    ["Offset of field: lithos_attached::version"]
        [::core::mem::offset_of!(lithos_attached, version) - 276usize];
};
impl Default for lithos_attached {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_create {
    pub gpu: [__u8; 16usize],
    pub context: __u64,
    pub reserved: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_create"][::core::mem::size_of::<lithos_channel_create>() - 40usize];
    ["Alignment of lithos_channel_create"]
        [::core::mem::align_of::<lithos_channel_create>() - 8usize];
    ["Offset of field: lithos_channel_create::gpu"]
        [::core::mem::offset_of!(lithos_channel_create, gpu) - 0usize];
    ["Offset of field: lithos_channel_create::context"]
        [::core::mem::offset_of!(lithos_channel_create, context) - 16usize];
    ["Offset of field: lithos_channel_create::reserved"]
        [::core::mem::offset_of!(lithos_channel_create, reserved) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel {
    pub reply: lithos_reply,
    pub channel: __u64,
    pub ring_bytes: __u64,
    pub arena_bytes: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel"][::core::mem::size_of::<lithos_channel>() - 288usize];
    ["Alignment of lithos_channel"][::core::mem::align_of::<lithos_channel>() - 8usize];
    ["Offset of field: lithos_channel::reply"]
        [::core::mem::offset_of!(lithos_channel, reply) - 0usize];
    ["Offset of field: lithos_channel::channel"]
        [::core::mem::offset_of!(lithos_channel, channel) - 264usize];
    ["Offset of field: lithos_channel::ring_bytes"]
        [::core::mem::offset_of!(lithos_channel, ring_bytes) - 272usize];
    ["Offset of field: lithos_channel::arena_bytes"]
        [::core::mem::offset_of!(lithos_channel, arena_bytes) - 280usize];
};
impl Default for lithos_channel {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_destroy {
    pub channel: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_destroy"][::core::mem::size_of::<lithos_channel_destroy>() - 8usize];
    ["Alignment of lithos_channel_destroy"]
        [::core::mem::align_of::<lithos_channel_destroy>() - 8usize];
    ["Offset of field: lithos_channel_destroy::channel"]
        [::core::mem::offset_of!(lithos_channel_destroy, channel) - 0usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_resume {
    pub version: __u32,
    pub reserved: __u32,
    pub tenant: __u64,
    pub partition: [::core::ffi::c_char; 64usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_resume"][::core::mem::size_of::<lithos_resume>() - 80usize];
    ["Alignment of lithos_resume"][::core::mem::align_of::<lithos_resume>() - 8usize];
    ["Offset of field: lithos_resume::version"]
        [::core::mem::offset_of!(lithos_resume, version) - 0usize];
    ["Offset of field: lithos_resume::reserved"]
        [::core::mem::offset_of!(lithos_resume, reserved) - 4usize];
    ["Offset of field: lithos_resume::tenant"]
        [::core::mem::offset_of!(lithos_resume, tenant) - 8usize];
    ["Offset of field: lithos_resume::partition"]
        [::core::mem::offset_of!(lithos_resume, partition) - 16usize];
};
impl Default for lithos_resume {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_resume {
    pub channel: __u64,
    pub reserved: [__u64; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_resume"][::core::mem::size_of::<lithos_channel_resume>() - 32usize];
    ["Alignment of lithos_channel_resume"]
        [::core::mem::align_of::<lithos_channel_resume>() - 8usize];
    ["Offset of field: lithos_channel_resume::channel"]
        [::core::mem::offset_of!(lithos_channel_resume, channel) - 0usize];
    ["Offset of field: lithos_channel_resume::reserved"]
        [::core::mem::offset_of!(lithos_channel_resume, reserved) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_resumed {
    pub channel: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_resumed"][::core::mem::size_of::<lithos_channel_resumed>() - 8usize];
    ["Alignment of lithos_channel_resumed"]
        [::core::mem::align_of::<lithos_channel_resumed>() - 8usize];
    ["Offset of field: lithos_channel_resumed::channel"]
        [::core::mem::offset_of!(lithos_channel_resumed, channel) - 0usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_info {
    pub version: __u32,
    pub schedulers: __u32,
    pub tenants: __u32,
    pub channels: __u32,
    pub pinned_bytes: __u64,
    pub admission: __u32,
    pub flags: __u32,
    pub reserved: [__u64; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_info"][::core::mem::size_of::<lithos_info>() - 64usize];
    ["Alignment of lithos_info"][::core::mem::align_of::<lithos_info>() - 8usize];
    ["Offset of field: lithos_info::version"]
        [::core::mem::offset_of!(lithos_info, version) - 0usize];
    ["Offset of field: lithos_info::schedulers"]
        [::core::mem::offset_of!(lithos_info, schedulers) - 4usize];
    ["Offset of field: lithos_info::tenants"]
        [::core::mem::offset_of!(lithos_info, tenants) - 8usize];
    ["Offset of field: lithos_info::channels"]
        [::core::mem::offset_of!(lithos_info, channels) - 12usize];
    ["Offset of field: lithos_info::pinned_bytes"]
        [::core::mem::offset_of!(lithos_info, pinned_bytes) - 16usize];
    ["Offset of field: lithos_info::admission"]
        [::core::mem::offset_of!(lithos_info, admission) - 24usize];
    ["Offset of field: lithos_info::flags"][::core::mem::offset_of!(lithos_info, flags) - 28usize];
    ["Offset of field: lithos_info::reserved"]
        [::core::mem::offset_of!(lithos_info, reserved) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_tenant_attach {
    pub request: lithos_attach,
    pub tenant: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_tenant_attach"][::core::mem::size_of::<lithos_tenant_attach>() - 120usize];
    ["Alignment of lithos_tenant_attach"][::core::mem::align_of::<lithos_tenant_attach>() - 8usize];
    ["Offset of field: lithos_tenant_attach::request"]
        [::core::mem::offset_of!(lithos_tenant_attach, request) - 0usize];
    ["Offset of field: lithos_tenant_attach::tenant"]
        [::core::mem::offset_of!(lithos_tenant_attach, tenant) - 112usize];
};
impl Default for lithos_tenant_attach {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_answer {
    pub id: __u64,
    pub timeout_ns: __u64,
    pub flags: __u32,
    pub reserved: __u32,
    pub reply: lithos_reply,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_answer"][::core::mem::size_of::<lithos_answer>() - 288usize];
    ["Alignment of lithos_answer"][::core::mem::align_of::<lithos_answer>() - 8usize];
    ["Offset of field: lithos_answer::id"][::core::mem::offset_of!(lithos_answer, id) - 0usize];
    ["Offset of field: lithos_answer::timeout_ns"]
        [::core::mem::offset_of!(lithos_answer, timeout_ns) - 8usize];
    ["Offset of field: lithos_answer::flags"]
        [::core::mem::offset_of!(lithos_answer, flags) - 16usize];
    ["Offset of field: lithos_answer::reserved"]
        [::core::mem::offset_of!(lithos_answer, reserved) - 20usize];
    ["Offset of field: lithos_answer::reply"]
        [::core::mem::offset_of!(lithos_answer, reply) - 24usize];
};
impl Default for lithos_answer {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_open {
    pub request: lithos_channel_create,
    pub channel: __u64,
    pub ring_bytes: __u64,
    pub arena_bytes: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_open"][::core::mem::size_of::<lithos_channel_open>() - 64usize];
    ["Alignment of lithos_channel_open"][::core::mem::align_of::<lithos_channel_open>() - 8usize];
    ["Offset of field: lithos_channel_open::request"]
        [::core::mem::offset_of!(lithos_channel_open, request) - 0usize];
    ["Offset of field: lithos_channel_open::channel"]
        [::core::mem::offset_of!(lithos_channel_open, channel) - 40usize];
    ["Offset of field: lithos_channel_open::ring_bytes"]
        [::core::mem::offset_of!(lithos_channel_open, ring_bytes) - 48usize];
    ["Offset of field: lithos_channel_open::arena_bytes"]
        [::core::mem::offset_of!(lithos_channel_open, arena_bytes) - 56usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_sleep {
    pub channel: __u64,
    pub timeout_ns: __u64,
    pub seen: __u64,
    pub reserved: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_sleep"][::core::mem::size_of::<lithos_sleep>() - 32usize];
    ["Alignment of lithos_sleep"][::core::mem::align_of::<lithos_sleep>() - 8usize];
    ["Offset of field: lithos_sleep::channel"]
        [::core::mem::offset_of!(lithos_sleep, channel) - 0usize];
    ["Offset of field: lithos_sleep::timeout_ns"]
        [::core::mem::offset_of!(lithos_sleep, timeout_ns) - 8usize];
    ["Offset of field: lithos_sleep::seen"][::core::mem::offset_of!(lithos_sleep, seen) - 16usize];
    ["Offset of field: lithos_sleep::reserved"]
        [::core::mem::offset_of!(lithos_sleep, reserved) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_id {
    pub id: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_id"][::core::mem::size_of::<lithos_id>() - 8usize];
    ["Alignment of lithos_id"][::core::mem::align_of::<lithos_id>() - 8usize];
    ["Offset of field: lithos_id::id"][::core::mem::offset_of!(lithos_id, id) - 0usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_scheduler_claim {
    pub version: __u32,
    pub records: __u32,
    pub gpu: [__u8; 16usize],
    pub ring_bytes: __u64,
    pub arena_bytes: __u64,
    pub epoch: __u64,
    pub regions: [lithos_region; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_scheduler_claim"][::core::mem::size_of::<lithos_scheduler_claim>() - 176usize];
    ["Alignment of lithos_scheduler_claim"]
        [::core::mem::align_of::<lithos_scheduler_claim>() - 8usize];
    ["Offset of field: lithos_scheduler_claim::version"]
        [::core::mem::offset_of!(lithos_scheduler_claim, version) - 0usize];
    ["Offset of field: lithos_scheduler_claim::records"]
        [::core::mem::offset_of!(lithos_scheduler_claim, records) - 4usize];
    ["Offset of field: lithos_scheduler_claim::gpu"]
        [::core::mem::offset_of!(lithos_scheduler_claim, gpu) - 8usize];
    ["Offset of field: lithos_scheduler_claim::ring_bytes"]
        [::core::mem::offset_of!(lithos_scheduler_claim, ring_bytes) - 24usize];
    ["Offset of field: lithos_scheduler_claim::arena_bytes"]
        [::core::mem::offset_of!(lithos_scheduler_claim, arena_bytes) - 32usize];
    ["Offset of field: lithos_scheduler_claim::epoch"]
        [::core::mem::offset_of!(lithos_scheduler_claim, epoch) - 40usize];
    ["Offset of field: lithos_scheduler_claim::regions"]
        [::core::mem::offset_of!(lithos_scheduler_claim, regions) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct lithos_tenant_info {
    pub tenant: __u64,
    pub pid: __s32,
    pub uid: __u32,
    pub cgroup: __u64,
    pub start_ns: __u64,
    pub channels: __u32,
    pub gpu_channels: __u32,
    pub flags: __u32,
    pub reserved: __u32,
    pub request: lithos_attach,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_tenant_info"][::core::mem::size_of::<lithos_tenant_info>() - 160usize];
    ["Alignment of lithos_tenant_info"][::core::mem::align_of::<lithos_tenant_info>() - 8usize];
    ["Offset of field: lithos_tenant_info::tenant"]
        [::core::mem::offset_of!(lithos_tenant_info, tenant) - 0usize];
    ["Offset of field: lithos_tenant_info::pid"]
        [::core::mem::offset_of!(lithos_tenant_info, pid) - 8usize];
    ["Offset of field: lithos_tenant_info::uid"]
        [::core::mem::offset_of!(lithos_tenant_info, uid) - 12usize];
    ["Offset of field: lithos_tenant_info::cgroup"]
        [::core::mem::offset_of!(lithos_tenant_info, cgroup) - 16usize];
    ["Offset of field: lithos_tenant_info::start_ns"]
        [::core::mem::offset_of!(lithos_tenant_info, start_ns) - 24usize];
    ["Offset of field: lithos_tenant_info::channels"]
        [::core::mem::offset_of!(lithos_tenant_info, channels) - 32usize];
    ["Offset of field: lithos_tenant_info::gpu_channels"]
        [::core::mem::offset_of!(lithos_tenant_info, gpu_channels) - 36usize];
    ["Offset of field: lithos_tenant_info::flags"]
        [::core::mem::offset_of!(lithos_tenant_info, flags) - 40usize];
    ["Offset of field: lithos_tenant_info::reserved"]
        [::core::mem::offset_of!(lithos_tenant_info, reserved) - 44usize];
    ["Offset of field: lithos_tenant_info::request"]
        [::core::mem::offset_of!(lithos_tenant_info, request) - 48usize];
};
impl Default for lithos_tenant_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_channel_info {
    pub channel: __u64,
    pub tenant: __u64,
    pub gpu: [__u8; 16usize],
    pub context: __u64,
    pub ring_bytes: __u64,
    pub arena_bytes: __u64,
    pub records: __u32,
    pub flags: __u32,
    pub regions: [lithos_region; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_channel_info"][::core::mem::size_of::<lithos_channel_info>() - 192usize];
    ["Alignment of lithos_channel_info"][::core::mem::align_of::<lithos_channel_info>() - 8usize];
    ["Offset of field: lithos_channel_info::channel"]
        [::core::mem::offset_of!(lithos_channel_info, channel) - 0usize];
    ["Offset of field: lithos_channel_info::tenant"]
        [::core::mem::offset_of!(lithos_channel_info, tenant) - 8usize];
    ["Offset of field: lithos_channel_info::gpu"]
        [::core::mem::offset_of!(lithos_channel_info, gpu) - 16usize];
    ["Offset of field: lithos_channel_info::context"]
        [::core::mem::offset_of!(lithos_channel_info, context) - 32usize];
    ["Offset of field: lithos_channel_info::ring_bytes"]
        [::core::mem::offset_of!(lithos_channel_info, ring_bytes) - 40usize];
    ["Offset of field: lithos_channel_info::arena_bytes"]
        [::core::mem::offset_of!(lithos_channel_info, arena_bytes) - 48usize];
    ["Offset of field: lithos_channel_info::records"]
        [::core::mem::offset_of!(lithos_channel_info, records) - 56usize];
    ["Offset of field: lithos_channel_info::flags"]
        [::core::mem::offset_of!(lithos_channel_info, flags) - 60usize];
    ["Offset of field: lithos_channel_info::regions"]
        [::core::mem::offset_of!(lithos_channel_info, regions) - 64usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_event {
    pub type_: __u32,
    pub uid: __u32,
    pub time_ns: __u64,
    pub tenant: __u64,
    pub channel: __u64,
    pub pid: __s32,
    pub reserved: __u32,
    pub value: __u64,
    pub reserved2: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_event"][::core::mem::size_of::<lithos_event>() - 64usize];
    ["Alignment of lithos_event"][::core::mem::align_of::<lithos_event>() - 8usize];
    ["Offset of field: lithos_event::type_"][::core::mem::offset_of!(lithos_event, type_) - 0usize];
    ["Offset of field: lithos_event::uid"][::core::mem::offset_of!(lithos_event, uid) - 4usize];
    ["Offset of field: lithos_event::time_ns"]
        [::core::mem::offset_of!(lithos_event, time_ns) - 8usize];
    ["Offset of field: lithos_event::tenant"]
        [::core::mem::offset_of!(lithos_event, tenant) - 16usize];
    ["Offset of field: lithos_event::channel"]
        [::core::mem::offset_of!(lithos_event, channel) - 24usize];
    ["Offset of field: lithos_event::pid"][::core::mem::offset_of!(lithos_event, pid) - 32usize];
    ["Offset of field: lithos_event::reserved"]
        [::core::mem::offset_of!(lithos_event, reserved) - 36usize];
    ["Offset of field: lithos_event::value"]
        [::core::mem::offset_of!(lithos_event, value) - 40usize];
    ["Offset of field: lithos_event::reserved2"]
        [::core::mem::offset_of!(lithos_event, reserved2) - 48usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_admission {
    pub mode: __u32,
    pub tenant_channels_max: __u32,
    pub reserved: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_admission"][::core::mem::size_of::<lithos_admission>() - 24usize];
    ["Alignment of lithos_admission"][::core::mem::align_of::<lithos_admission>() - 8usize];
    ["Offset of field: lithos_admission::mode"]
        [::core::mem::offset_of!(lithos_admission, mode) - 0usize];
    ["Offset of field: lithos_admission::tenant_channels_max"]
        [::core::mem::offset_of!(lithos_admission, tenant_channels_max) - 4usize];
    ["Offset of field: lithos_admission::reserved"]
        [::core::mem::offset_of!(lithos_admission, reserved) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_admit {
    pub kind: __u32,
    pub admitted: __u32,
    pub id: __u64,
    pub reserved: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_admit"][::core::mem::size_of::<lithos_admit>() - 24usize];
    ["Alignment of lithos_admit"][::core::mem::align_of::<lithos_admit>() - 8usize];
    ["Offset of field: lithos_admit::kind"][::core::mem::offset_of!(lithos_admit, kind) - 0usize];
    ["Offset of field: lithos_admit::admitted"]
        [::core::mem::offset_of!(lithos_admit, admitted) - 4usize];
    ["Offset of field: lithos_admit::id"][::core::mem::offset_of!(lithos_admit, id) - 8usize];
    ["Offset of field: lithos_admit::reserved"]
        [::core::mem::offset_of!(lithos_admit, reserved) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct lithos_gpu_user {
    pub pid: __s32,
    pub channels: __u32,
    pub groups: __u32,
    pub doorbells: __u32,
    pub refused: __u64,
    pub tenant: __u64,
    pub command: [::core::ffi::c_char; 16usize],
    pub flags: __u32,
    pub reserved: __u32,
    pub reserved2: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lithos_gpu_user"][::core::mem::size_of::<lithos_gpu_user>() - 64usize];
    ["Alignment of lithos_gpu_user"][::core::mem::align_of::<lithos_gpu_user>() - 8usize];
    ["Offset of field: lithos_gpu_user::pid"]
        [::core::mem::offset_of!(lithos_gpu_user, pid) - 0usize];
    ["Offset of field: lithos_gpu_user::channels"]
        [::core::mem::offset_of!(lithos_gpu_user, channels) - 4usize];
    ["Offset of field: lithos_gpu_user::groups"]
        [::core::mem::offset_of!(lithos_gpu_user, groups) - 8usize];
    ["Offset of field: lithos_gpu_user::doorbells"]
        [::core::mem::offset_of!(lithos_gpu_user, doorbells) - 12usize];
    ["Offset of field: lithos_gpu_user::refused"]
        [::core::mem::offset_of!(lithos_gpu_user, refused) - 16usize];
    ["Offset of field: lithos_gpu_user::tenant"]
        [::core::mem::offset_of!(lithos_gpu_user, tenant) - 24usize];
    ["Offset of field: lithos_gpu_user::command"]
        [::core::mem::offset_of!(lithos_gpu_user, command) - 32usize];
    ["Offset of field: lithos_gpu_user::flags"]
        [::core::mem::offset_of!(lithos_gpu_user, flags) - 48usize];
    ["Offset of field: lithos_gpu_user::reserved"]
        [::core::mem::offset_of!(lithos_gpu_user, reserved) - 52usize];
    ["Offset of field: lithos_gpu_user::reserved2"]
        [::core::mem::offset_of!(lithos_gpu_user, reserved2) - 56usize];
};
pub const LITHOS_INFO: lithos_command = 2151697408;
pub const LITHOS_TENANT_ATTACH: lithos_command = 3229109264;
pub const LITHOS_TENANT_WAIT: lithos_command = 3240119313;
pub const LITHOS_CHANNEL_OPEN: lithos_command = 3225439250;
pub const LITHOS_CHANNEL_WAIT: lithos_command = 3240119315;
pub const LITHOS_CHANNEL_SLEEP: lithos_command = 3223342100;
pub const LITHOS_CHANNEL_RING: lithos_command = 1074285589;
pub const LITHOS_CHANNEL_CLOSE: lithos_command = 1074285590;
pub const LITHOS_SCHEDULER_CLAIM: lithos_command = 3232779296;
pub const LITHOS_SCHEDULER_BEAT: lithos_command = 19489;
pub const LITHOS_TENANT_ANSWER: lithos_command = 1092635682;
pub const LITHOS_CHANNEL_ANSWER: lithos_command = 1092635683;
pub const LITHOS_CHANNEL_WAKE: lithos_command = 1074285604;
pub const LITHOS_TENANT_EVICT: lithos_command = 1074285605;
pub const LITHOS_TENANT_NEXT: lithos_command = 3231730726;
pub const LITHOS_CHANNEL_NEXT: lithos_command = 3233827879;
pub const LITHOS_ADMISSION_SET: lithos_command = 1075334192;
pub const LITHOS_ADMIT: lithos_command = 1075334193;
pub const LITHOS_GPU_USER_NEXT: lithos_command = 3225439282;
pub type lithos_command = ::core::ffi::c_uint;
