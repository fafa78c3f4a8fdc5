/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The contract between a tenant, whoever schedules it, and the broker that stands between them.
 *
 * A *broker* hands out channels: today lithosd itself, over a Unix socket (the embedded broker);
 * later lithos.ko, through /dev/lithos, with the same structures as arguments of its ioctls. A
 * *channel* belongs to one CUDA context and consists of three pieces of shared memory:
 *
 *	grant page	what the channel may do now; written by the scheduler, read-only to the tenant
 *	ring		one record per launch, written by the tenant; the reader believes nothing
 *	arena		what the GPU itself reads and writes (the tenant registers it with the driver):
 *			regions of one type each, so that a late store hits nothing of another type
 *
 * How this file may evolve
 *
 *  - Fixed-width types only; every structure is a multiple of 8 bytes; padding is spelled out, is
 *    called `reserved`, is zero when written and is checked to be zero where it comes from a tenant.
 *  - Fields and enumerators are appended, never moved or reused; no unions, no bit fields, no pointers.
 *  - A change that an old reader would misread raises LITHOS_ABI_VERSION. Both sides refuse a version
 *    that they do not know, and say which they speak.
 *  - All times are nanoseconds: CLOCK_MONOTONIC where the name ends in _ns, the GPU's own clock
 *    where it ends in _gpu_ns. All sizes are bytes. All TPC masks have a bit set for a TPC that may run.
 *  - Words that two sides share are read and written with 64-bit (32-bit where the field is __u32)
 *    aligned atomic accesses; the orders are given at the fields. Nothing here is a lock.
 *
 * lithos-abi makes the Rust of this file with bindgen and asserts every size and offset.
 */
#ifndef LITHOS_H
#define LITHOS_H

#include <linux/types.h>

/* Version 1: grants of masks, launch records with completion stamps. Gates are laid out, not used. */
#define LITHOS_ABI_VERSION 1

#define LITHOS_TPCS_MAX 128	/* mask bits of a launch descriptor */
#define LITHOS_NAME_BYTES 64	/* a partition's name, NUL-terminated and NUL-padded */
#define LITHOS_TEXT_BYTES 256	/* why something was refused, NUL-terminated and NUL-padded */
#define LITHOS_BUILD_ID_BYTES 32	/* the longest build id of a library */
#define LITHOS_PAGE_BYTES 4096

/* A set of TPCs: bit i of word i / 64 is mask bit i of a launch descriptor; set = may run. */
struct lithos_tpcs {
	__u64 words[2];
};

/* ---- Grant page ------------------------------------------------------------------------------ */

#define LITHOS_GRANT_MAGIC 0x746e726773687469ull	/* "ithsgrnt" */

/*
 * One grant: what the channel may do. `sequence` is the grant's number, from 1 on; 0 while the
 * slot is being written.
 */
struct lithos_grant {
	__u64 sequence;
	struct lithos_tpcs tpcs;	/* TPCs that launches may use; never empty once granted */
	__u32 flags;			/* LITHOS_GRANT_* */
	__u32 reserved;
	__u64 atom_ns;			/* target length of an atom; 0: never split */
	__u64 outstanding_ns;		/* bound on predicted unfinished work; 0: none */
	__u64 reserved2[8];
};

#define LITHOS_GRANT_HOLD 1		/* gates are to be shut (not used in version 1) */

/*
 * How old `heartbeat_ns` may be before a launch takes it that nobody schedules. Who schedules beats
 * several times in that span.
 */
#define LITHOS_HEARTBEAT_STALE_NS 60000000

/* What the broker itself says about the scheduler; lives in `broker`, bits 7:0. */
#define LITHOS_BROKER_SCHEDULED 0	/* the latest grant holds */
#define LITHOS_BROKER_FAIL_STATIC 1	/* nobody schedules: the fail-static grant holds */
#define LITHOS_BROKER_RETIRED 2		/* the channel has ended */
#define LITHOS_BROKER_STATE_MASK 0xffull
#define LITHOS_BROKER_EPOCH_SHIFT 8	/* bits 63:8 count takeovers by schedulers */

/* Kinds of region; a region's place in `regions` is its kind. */
enum lithos_region_kind {
	LITHOS_REGION_STAMPS = 0,		/* struct lithos_stamp, one per ring record */
	LITHOS_REGION_GATES = 1,		/* pairs of NULL descriptors: gate, bounce */
	LITHOS_REGION_ATOMS = 2,		/* descriptors of atoms of plain grids */
	LITHOS_REGION_CLUSTER_ATOMS = 3,	/* descriptors of atoms of clusters */
	LITHOS_REGION_TAILS = 4,		/* NULL descriptors that join a chain */
};
#define LITHOS_REGIONS 8

/* A part of the arena that holds `count` things of one type, `stride` bytes apart. */
struct lithos_region {
	__u64 offset;		/* from the arena's start */
	__u32 stride;
	__u32 count;
};

#define LITHOS_GPC_NONE 0xff		/* no such TPC */
#define LITHOS_GPC_ALONE 0xfe		/* a TPC without GPC company: no cluster wider than itself */

/* What a launch does that needs more co-resident blocks than the grant holds. */
#define LITHOS_OVERSIZE_WIDEN 0		/* runs on the smallest set that fits, and is counted */
#define LITHOS_OVERSIZE_REFUSE 1	/* the launch fails */

/*
 * The grant page. The tenant maps it read-only.
 *
 * Reading: load `latest` (sequentially consistent, see the ring) = n; copy slots[n & 1]; fence
 * (acquire); the copy is good if its sequence was n before and after. Try at most LITHOS_GRANT_TRIES times, then keep the last good
 * copy: the reader runs under driver locks and may never wait for a writer.
 * Writing grant n + 1 (one writer): slots[(n + 1) & 1].sequence = 0; fence (release); the fields;
 * sequence = n + 1 (release); latest = n + 1 (release).
 * `broker` (sequentially consistent) selects the fail-static slot instead, and so does a heartbeat that
 * is older than LITHOS_HEARTBEAT_STALE_NS (0: nobody ever beat, which selects nothing). That slot is
 * written like the others, after the grant whose sequence it bears and of whose TPCs it holds some.
 *
 * So whoever writes grant n and its fail-static slot, and then looks at the ring, knows of all launches
 * begun later that they have no TPCs beyond those of grant n, whichever slot they take: that a scheduler
 * dies, or is taken for dead, changes nothing about whose TPCs are whose.
 */
struct lithos_grant_page {
	__u64 magic;
	__u32 version;
	__u32 bytes;			/* of this page */
	__u64 channel;			/* id of the channel, with its generation */
	__u32 gpu_index;		/* the scheduler's number for the GPU */
	__u32 oversize;			/* LITHOS_OVERSIZE_* */
	__u64 ring_bytes;
	__u64 arena_bytes;
	__u32 records;			/* in the ring, and stamps in the arena; a power of two */
	__u32 tpc_sms;			/* SMs per TPC */
	__u64 reserved;

	/* Words that change, on a cache line of their own. */
	__u64 broker;			/* state and epoch; written by the broker alone */
	__u64 heartbeat_ns;		/* when the scheduler last said that it lives; 0: never */
	__u64 latest;			/* sequence of the latest grant; 0: none yet */
	__u64 reserved2[5];

	struct lithos_grant slots[2];
	struct lithos_grant fail_static;

	struct lithos_region regions[LITHOS_REGIONS];
	struct lithos_tpcs present;	/* TPCs that the GPU has */
	__u8 gpc[LITHOS_TPCS_MAX];	/* the GPC of each TPC, or LITHOS_GPC_* */
	__u8 reserved3[3360];
};

#define LITHOS_GRANT_TRIES 8

/* ---- Ring ------------------------------------------------------------------------------------ */

#define LITHOS_RING_MAGIC 0x676e697273687469ull	/* "ithsring" */

/*
 * Counters that the tenant keeps, each an index into `counters`. They count exceptions: a launch that
 * none of them counts carries a mask within its grant, and the GPU writes its completion.
 */
enum lithos_counter {
	LITHOS_COUNT_UNSTAMPED = 0,		/* launches without stamp: no memory registered, no free slot */
	LITHOS_COUNT_OVERRUN = 1,		/* launches not recorded: their record's place is in use */
	LITHOS_COUNT_GRAPH_NODES = 2,		/* nodes of graphs: masked at upload, never stamped */
	LITHOS_COUNT_NULL = 3,			/* descriptors that run nothing; they have no sequence */
	LITHOS_COUNT_UNKNOWN_VERSION = 4,	/* left alone: descriptor version without a proof */
	LITHOS_COUNT_UNKNOWN_BITS = 5,		/* left alone: a bit that no known field covers */
	LITHOS_COUNT_DRIVER_MASK_KEPT = 6,	/* the driver's mask and the grant's have no TPC in common */
	LITHOS_COUNT_WIDENED_COOPERATIVE = 7,	/* ran on more than the grant: cooperative */
	LITHOS_COUNT_WIDENED_CLUSTER = 8,	/* ran on more than the grant: cluster */
	LITHOS_COUNT_REFUSED_COOPERATIVE = 9,	/* failed instead; they have no sequence */
	LITHOS_COUNT_REFUSED_CLUSTER = 10,
	LITHOS_COUNT_STALE_GRANT = 11,		/* read the grant in vain and used the last good copy */
	LITHOS_COUNT_UNGRANTED = 12,		/* launches before the first grant */
	LITHOS_COUNT_VOID = 13,			/* sequences that no launch came of */
};
#define LITHOS_COUNTERS 32

/*
 * Ring header, one page, written by the tenant.
 *
 * A launch first adds one to `reserved` (sequentially consistent), the result being its sequence,
 * from 1 on; only then does it read the grant; then it writes its record. So a scheduler that writes
 * a grant, fences (sequentially consistent), and reads `reserved` = n knows that every launch after n
 * saw the new grant: when the launches up to n have completed, no older grant is in use.
 *
 * A record's place is written again only when the launch that it holds has completed (its stamp says
 * so) or was never stamped; a launch that finds its place in use is counted as an overrun and not
 * recorded, and its completion is never known. To take the place, a launch exchanges the sequence in
 * it for 0, so that of two launches that are a whole ring apart only one gets it. The hardware queues
 * fewer launches than there are places, so an overrun does not happen to an honest tenant.
 */
struct lithos_ring {
	__u64 magic;
	__u32 version;
	__u32 records;
	__u64 reserved_line[6];
	__u64 reserved;			/* sequence of the last launch begun */
	__u64 reserved_line2[7];
	__u64 counters[LITHOS_COUNTERS];
	__u64 reserved3[464];
};

/* One launch. Record i of the ring holds sequences congruent to i modulo `records`. */
struct lithos_record {
	__u64 sequence;			/* written last (release), 0 while the record is being written */
	__u64 submitted_ns;
	__u64 grant;			/* sequence of the grant that was followed */
	struct lithos_tpcs tpcs;	/* mask that the descriptor carries */
	__u64 program;			/* GPU address of the code */
	__u64 function;			/* CUfunction */
	__u64 stream;			/* identity of the stream within the channel; 0: not known */
	__u32 grid[3];			/* blocks */
	__u32 shared_bytes;		/* per block */
	__u16 block[3];			/* threads */
	__u16 cluster[3];		/* blocks; 1, 1, 1 without clusters */
	__u32 flags;			/* LITHOS_RECORD_* */
	__u64 reserved[4];
};

#define LITHOS_RECORD_STAMPED 1		/* the GPU writes stamp i of the arena on completion */
#define LITHOS_RECORD_GRAPH_NODE 2	/* may run again at any time: its TPCs stay with the channel */
#define LITHOS_RECORD_COOPERATIVE 4
#define LITHOS_RECORD_WIDENED 8		/* carries TPCs beyond the grant */
#define LITHOS_RECORD_UNMANAGED 16	/* left as the driver made it */
#define LITHOS_RECORD_VOID 32		/* no launch came of the sequence: there is nothing to wait for */
#define LITHOS_RECORD_FAIL_STATIC 64	/* nobody scheduled: it followed the fail-static grant */

/*
 * A completion. The GPU writes the first 16 bytes: a four-word release with the launch's sequence as
 * payload. A cache line each, so that the GPU's writes for launches in flight do not take the line
 * away from a launch that looks at its neighbour.
 */
struct lithos_stamp {
	__u32 sequence;			/* low 32 bits */
	__u32 zero;
	__u64 completed_gpu_ns;
	__u64 reserved[6];
};

/* ---- Messages to the embedded broker --------------------------------------------------------- */

/*
 * A SOCK_SEQPACKET Unix socket; one message a packet: the header and the structure that the type
 * names. Every request gets one reply of the type given with it; `error` is an errno, 0 if granted,
 * and `text` says then what was wrong and what would be right. The connection is the tenant: it ends
 * with it. The broker takes the peer's identity from the kernel, not from here.
 */
struct lithos_message {
	__u32 type;			/* LITHOS_MESSAGE_* */
	__u32 bytes;			/* of the structure that follows */
};

#define LITHOS_MESSAGE_ATTACH 1			/* lithos_attach -> lithos_attached */
#define LITHOS_MESSAGE_CHANNEL_CREATE 2		/* lithos_channel_create -> lithos_channel + 3 fds */
#define LITHOS_MESSAGE_CHANNEL_DESTROY 3	/* lithos_channel_destroy -> lithos_reply */
#define LITHOS_MESSAGE_RESUME 4			/* lithos_resume -> lithos_attached */
#define LITHOS_MESSAGE_CHANNEL_RESUME 5		/* lithos_channel_resume + 2 fds -> lithos_channel + 1 fd */
#define LITHOS_MESSAGE_CHANNEL_RESUMED 6	/* lithos_channel_resumed -> lithos_reply */
#define LITHOS_MESSAGE_REPLY 0x8000		/* or-ed into the type of the first request above with this reply */

struct lithos_reply {
	__u32 error;
	__u32 reserved;
	char text[LITHOS_TEXT_BYTES];
};

struct lithos_attach {
	__u32 version;			/* LITHOS_ABI_VERSION */
	__u32 reserved;
	char partition[LITHOS_NAME_BYTES];
	__u64 edits;			/* what the shim does to launch descriptors, as one number */
	__u8 driver[LITHOS_BUILD_ID_BYTES];	/* build id of the CUDA driver in the process; zeros follow */
};

struct lithos_attached {
	struct lithos_reply reply;
	__u64 tenant;			/* id, with its generation */
	__u32 flags;			/* LITHOS_ATTACHED_* */
	__u32 version;			/* that the broker speaks */
};

#define LITHOS_ATTACHED_ENFORCE 1	/* a process that cannot be managed must not run */

struct lithos_channel_create {
	__u8 gpu[16];			/* UUID, as cuDeviceGetUuid gives it */
	__u64 context;			/* the tenant's own name for it, for status */
	__u64 reserved[2];
};

/* With three descriptors: grant page (read-only), ring, arena. Comes when there is a first grant. */
struct lithos_channel {
	struct lithos_reply reply;
	__u64 channel;			/* id, with its generation */
	__u64 ring_bytes;
	__u64 arena_bytes;
};

struct lithos_channel_destroy {
	__u64 channel;
};

/*
 * A daemon that starts takes over the tenants of the one before, whose connections have ended with it:
 *
 *	tenant					broker
 *	RESUME: I am tenant t		->	knows t, by pid and start time, from the daemon before
 *	CHANNEL_RESUME: ring, arena	->	looks at their sizes and seals; a new grant page
 *	from now on reads the new page	<-
 *	CHANNEL_RESUMED			->	reads `reserved` = n: launches after n follow the new page
 *
 * Until CHANNEL_RESUMED a channel may still follow the old page, to which the daemon before may yet
 * write, if it was stopped and not killed; so until then every TPC that the channel's partition had
 * stays with it. Grants in the new page have larger sequences than any in the old one.
 */
struct lithos_resume {
	__u32 version;			/* LITHOS_ABI_VERSION */
	__u32 reserved;
	__u64 tenant;			/* its id under the broker before */
	char partition[LITHOS_NAME_BYTES];
};

/* With two descriptors: ring, arena. The reply brings one: the new grant page (read-only). */
struct lithos_channel_resume {
	__u64 channel;			/* its id under the broker before, which it keeps */
	__u64 reserved[3];
};

struct lithos_channel_resumed {
	__u64 channel;
};

#endif /* LITHOS_H */
