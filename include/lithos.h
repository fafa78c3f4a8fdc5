/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The contract between a tenant, whoever schedules it, and the broker that stands between them.
 *
 * A *broker* hands out channels: lithos.ko, through /dev/lithos, or, where no module can be loaded,
 * lithosd itself, over a Unix socket (the embedded broker). A
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

#include <linux/ioctl.h>
#include <linux/types.h>

/* Version 1: grants of masks, launch records with completion stamps, chains of atoms behind gates. */
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
	__u64 reserved;
	__u64 atom_ns;			/* longest that an atom may take; 0: never split */
	__u64 outstanding_ns;		/* bound on predicted work under way that no gate holds up; 0: none */
	struct lithos_tpcs lent;	/* those of `tpcs` that are another partition's: see `borrowed` */
	__u64 reserved2[6];
};

/*
 * What the gates of a channel's chains are to do: the *order*, a word of the grant page. Whoever writes
 * it, the scheduler, fences (sequentially consistent) and then stores the same into the gates of
 * the chains that are published; whoever publishes a chain fences and then looks at the order, stores it
 * into the chain's gates if it is not what they say, and looks again until it is. So no
 * chain runs on behind gates that should be shut. HALT is the last order that a channel gets; what is to
 * be stored besides stands at LITHOS_GATE_HALTED.
 */
#define LITHOS_ORDER_OPEN 0
#define LITHOS_ORDER_SHUT 1
#define LITHOS_ORDER_HALT 2

/*
 * The longest that an atom may become by what its channel does without. Where its own TPCs are so many that atoms
 * that are to take `atom_ns` on all of a grant's take no longer than that on these, launches whose mask cannot be changed later (clusters,
 * cooperative ones, nodes of graphs) have none that are lent.
 */
#define LITHOS_ATOM_LONGEST_NS 1000000

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
 * written like the others, after the grant whose sequence it bears and of whose TPCs it holds some. With
 * it, the order is LITHOS_ORDER_OPEN, whatever `order` says.
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
	__u64 order;			/* LITHOS_ORDER_* */
	__u64 ring;			/* the scheduler sleeps, for the so-manieth time: see `rung`; 0: it does not */
	__u64 held;			/* 1: launches that are not split, and are bounded, are not to begin */
	/*
	 * Those of the TPCs that are `lent` that it may use now; the others their owners need. Each bit counts for itself.
	 * A chain that is published says in `tpcs` which of them its atoms have; whoever schedules changes that later.
	 */
	struct lithos_tpcs borrowed;

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

	/* What became of launches where the grant has a length of atoms. Not counted: those known to be short. */
	LITHOS_COUNT_SPLIT = 14,		/* launches that became chains */
	LITHOS_COUNT_ATOMS = 15,		/* atoms of these */
	LITHOS_COUNT_WHOLE_FULL = 16,		/* not split: no room in the arena */
	LITHOS_COUNT_WHOLE_COOPERATIVE = 17,	/* not split: all blocks have to be resident at once */
	LITHOS_COUNT_WHOLE_GRAPH_NODE = 18,	/* not split: a node of a graph */
	LITHOS_COUNT_WHOLE_PROGRAMMATIC = 19,	/* not split: others may start before it has completed */
	LITHOS_COUNT_WHOLE_UNKNOWN = 20,	/* not split: a bit, a field or a kind that no measured launch had */
	LITHOS_COUNT_WHOLE_STUCK = 21,		/* not split: its operator was once stuck behind a shut gate */
	LITHOS_COUNT_WHOLE_ENDING = 22,		/* not split: the context, or the process, is about to end */

	/* What became of launches that are not split where the grant bounds them (`outstanding_ns`). */
	LITHOS_COUNT_WAITED = 23,		/* launch calls that waited before they began */
	LITHOS_COUNT_IMPATIENT = 24,		/* those of them that went on because nothing moved */
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
	__u64 chains;			/* number of the last chain begun */
	__u64 waiting;			/* launch calls that wait before they begin */
	__u64 backlog_ns;		/* predicted work under way that no gate holds up, where the grant bounds it */
	__u64 reserved_line2[4];

	/*
	 * A futex that a scheduler sleeps on which has to know at once that something is launched, and no longer
	 * looks all the time. A launch that finds another number in the grant page's `ring` than here, and not 0,
	 * stores it here and wakes who waits: once for each sleep.
	 */
	__u32 rung;			/* low half */
	__u32 reserved_rung;
	__u64 reserved_line3[7];
	__u64 counters[LITHOS_COUNTERS];
	__u64 reserved3[456];
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
#define LITHOS_RECORD_SPLIT 128		/* it is a chain */

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

/* ---- Chains ----------------------------------------------------------------------------------- */

/*
 * A gate as it lies in its region: two NULL descriptors that schedule each other for as long as the gate
 * is shut. `word` decides, and is one of three constants, stored plainly by whoever may: dependent 0 (the
 * bounce) or dependent 1 (the atom) is enabled, with the action SCHEDULE. Gate i stands
 * before atom i, counted through the atoms of plain grids first and those of clusters after them; it is built
 * once, and a chain that has it brings nothing but the word. Whoever is about to shut it first says 0 in
 * `waiting`, which means something only while the gate is shut.
 */
struct lithos_gate {
	__u8 descriptor[44];
	__u32 word;			/* LITHOS_GATE_*; 0: never built */
	__u8 rest[336];
	__u32 waiting;			/* the GPU writes LITHOS_GATE_WAITED: a chain waits here */
	__u32 zero;
	__u64 waiting_gpu_ns;		/* when it was last seen to */
	__u32 atom_done;		/* the same when the atom behind it has completed */
	__u32 zero2;
	__u64 atom_done_gpu_ns;
	__u8 reserved[96];
	__u8 bounce[512];
};
#define LITHOS_GATE_SHUT 0x00430001	/* with the stamp that says that it is waited here */
#define LITHOS_GATE_WAITED 1
#define LITHOS_GATE_OPEN 0x00620000
/*
 * It passes, and what is behind it is void: a chain that is never to run on. It must run out all the
 * same, for the GPU remembers a tail that was counted down in part, by its address alone and beyond the
 * end of its process. So whoever halts a chain makes its tail silent first, then each atom behind a gate
 * void, and then stores this into the gate before that, which nobody changes any more.
 */
#define LITHOS_GATE_HALTED 0x00680000

#define LITHOS_DESCRIPTOR_STRIDE 512	/* from one atom to the next, from one tail to the next */

/* An atom is void without the bits of EXIT in word 35, and then with NULL for those of KIND in word 0. */
#define LITHOS_ATOM_EXIT_WORD 35
#define LITHOS_ATOM_EXIT 0x40000000
#define LITHOS_ATOM_KIND_WORD 0
#define LITHOS_ATOM_KIND 0x03800000
#define LITHOS_ATOM_NULL 0x00800000
/*
 * A tail is silent without its latch in word 0, without releases in words 10 and 11 but for the stamp
 * `done`, which is release 1 or 2, and without dependents in word 11: the launch is never done.
 */
#define LITHOS_TAIL_LATCH_WORD 0
#define LITHOS_TAIL_LATCH 0x10000000
#define LITHOS_TAIL_RELEASE_WORD 10
#define LITHOS_TAIL_RELEASE_0 0x00000001
#define LITHOS_TAIL_RELEASE_1 0x00010000
#define LITHOS_TAIL_DEPENDENTS_WORD 11
#define LITHOS_TAIL_RELEASE_2 0x00000001
#define LITHOS_TAIL_DEPENDENTS 0x00210000
#define LITHOS_TAIL_ADDRESS_WORD 24	/* of release 1: within a page that of `done`, if that is the stamp */

/*
 * The end of a chain. Chain number n, counted in the ring's `chains`, has tail n modulo their number; if
 * that is still in use, the number goes unused. The tenant fills in the rest, sets `published` to the
 * launch's sequence when the chain may run, and back to 0 when it uses the tail again; the GPU writes
 * `done`, its low half, on completion. So a chain may still run if `published` is not 0 and its
 * low half is not `done`.
 */
struct lithos_tail {
	__u8 descriptor[384];
	__u64 published;
	__u64 remaining_ns;		/* predicted length of the chain, when it was published */
	__u32 first_gate;		/* its gates are one after another, */
	__u32 gates;			/* so many */
	__u32 shut;			/* times that the scheduler has shut them; written by it */
	__u32 stuck;			/* 1: it could not go on while they were shut; written by it */
	__u32 done;			/* the GPU writes 16 bytes from here */
	__u32 zero;
	__u64 done_gpu_ns;
	__u32 first;			/* and here, when the first atom has completed */
	__u32 zero2;
	__u64 first_gpu_ns;
	__u64 number;			/* of the chain; written before `published` is set to 0 for it */
	struct lithos_tpcs tpcs;	/* which its atoms behind gates may use, when it was published; none: of clusters */
	__u64 reserved2[5];
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
#define LITHOS_ATTACHED_LEAST 2		/* its streams are to have the least priority that there is */
#define LITHOS_ATTACHED_SMS_SHIFT 16	/* bits 31:16: so many SMs it is to be told that a GPU has; 0: all */
#define LITHOS_ATTACHED_SMS_MASK 0xffff0000u

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

/* ---- /dev/lithos ------------------------------------------------------------------------------ */

/*
 * An open file is nothing at first. SCHEDULER_CLAIM makes it a scheduler, TENANT_ATTACH a tenant; it is
 * one of them until it is closed, and the calls of the other fail with EPERM. A reserved field that is not
 * zero, a flag that is not known, a text that does not end: EINVAL. A pointer to nothing: EFAULT. An
 * id of what is gone, or of somebody else: ENOENT. Any other command: ENOTTY. Only what says so of itself
 * ends with EINTR when a signal comes; then nothing has happened, and it may be called again.
 *
 * Ids of tenants and channels: a place in bits 15:0, its generation above; never 0, never used again.
 */
#define LITHOS_ID_PLACE_BITS 16

/* What is there. Anybody may ask. */
struct lithos_info {
	__u32 version;			/* LITHOS_ABI_VERSION */
	__u32 schedulers;		/* GPUs that somebody schedules */
	__u32 tenants;
	__u32 channels;
	__u64 pinned_bytes;		/* of rings and arenas */
	__u32 admission;		/* LITHOS_ADMISSION_* */
	__u32 flags;			/* LITHOS_INFO_* */
	__u64 reserved[4];
};

#define LITHOS_INFO_GPU_DRIVER 1	/* the NVIDIA driver is loaded and its allocations are seen */

/* -- Tenants.  Only the process whose address space it was when the file became a tenant: else EPERM. */

/*
 * Makes the file a tenant. ENXIO: nobody schedules; EPROTONOSUPPORT: another version; EUSERS: the limit
 * of tenants, of all or of this user; EALREADY: the file is one already; EINTR: a signal, and it is none.
 * What the scheduler says to it comes with TENANT_WAIT.
 */
struct lithos_tenant_attach {
	struct lithos_attach request;
	__u64 tenant;			/* out */
};

/*
 * What a scheduler says to a tenant, or about a channel. The scheduler fills in all but the timeout and
 * calls TENANT_ANSWER or CHANNEL_ANSWER, once; the tenant gives id and timeout and waits for it, as often
 * as it likes. ETIMEDOUT: none came in time; EINTR: a signal.
 */
struct lithos_answer {
	__u64 id;			/* of the tenant, or of the channel */
	__u64 timeout_ns;		/* at most LITHOS_TIMEOUT_NS_MAX */
	__u32 flags;			/* LITHOS_ATTACHED_* */
	__u32 reserved;
	struct lithos_reply reply;
};
#define LITHOS_TIMEOUT_NS_MAX 600000000000ull

/*
 * Makes a channel. ENODEV: nobody schedules that GPU; EUSERS: the limit of channels; EDQUOT: the limit of
 * pinned pages; ENOMEM. It may be mapped from now on, all zeros; it has terms and a grant when CHANNEL_WAIT
 * says so.
 *
 * It ends with CHANNEL_CLOSE, or with its tenant: then the kernel opens its gates, and when its arena is
 * unmapped, which is before the process's other files are closed, waits for its tails, bounded. Its TPCs
 * are somebody else's after LITHOS_EVENT_CHANNEL_END.
 */
struct lithos_channel_open {
	struct lithos_channel_create request;
	__u64 channel;			/* out */
	__u64 ring_bytes;		/* out */
	__u64 arena_bytes;		/* out */
};

/* Sleeps until the channel has been woken another number of times than `seen`. ETIMEDOUT, EINTR. */
struct lithos_sleep {
	__u64 channel;
	__u64 timeout_ns;
	__u64 seen;			/* in and out */
	__u64 reserved;
};

struct lithos_id {
	__u64 id;
};

/*
 * Pages of a channel, for its tenant and for its scheduler: mmap at this offset, all of it, MAP_SHARED,
 * at any address. Grant page: the tenant reads it. Ring and arena: the scheduler reads the ring. A
 * mapping is not inherited, cannot grow, and is never executable. A scheduler's ends with its claim
 * (SIGBUS), a tenant's lives on.
 */
#define LITHOS_MAP_GRANT 0
#define LITHOS_MAP_RING 1
#define LITHOS_MAP_ARENA 2
#define LITHOS_MAP_SHIFT 25		/* ring and arena have at most so many bits of bytes */
#define LITHOS_MAP_ID_BITS 36		/* of the id; what is above comes back only after a million channels */
#define LITHOS_MAP_OFFSET(channel, kind) \
	((((__u64)(channel) & ((1ull << LITHOS_MAP_ID_BITS) - 1)) << 2 | (kind)) << LITHOS_MAP_SHIFT)

/* -- Schedulers. CAP_SYS_ADMIN in the initial user namespace, or EPERM. */

/*
 * Claims a GPU, or gives a GPU that this file has new sizes for channels to come. EBUSY: somebody else has
 * it. A scheduler says every LITHOS_HEARTBEAT_STALE_NS / 3 that it lives (SCHEDULER_BEAT); when it has
 * not for longer than that (the module's parameter silence_ms may say another time), or is closed, the kernel opens every gate, selects the
 * fail-static grants, takes its mappings away and forgets its claims; each call of it fails with ESTALE
 * from then on. The channels stay, for whoever claims the GPU next; to it they are re-armed.
 */
struct lithos_scheduler_claim {
	__u32 version;			/* LITHOS_ABI_VERSION */
	__u32 records;			/* of a channel's ring; a power of two */
	__u8 gpu[16];			/* UUID */
	__u64 ring_bytes;		/* whole pages */
	__u64 arena_bytes;		/* whole pages */
	__u64 epoch;			/* out: of the claim */
	struct lithos_region regions[LITHOS_REGIONS];
};

/*
 * TENANT_EVICT: the tenant's process gets SIGKILL, and with it goes whatever it has, its GPU channels
 * too, as soon as the kernel has ended it.
 */

/*
 * In the order of their places: next after the id that is given, 0 for the first; ENOENT after the last.
 */
struct lithos_tenant_info {
	__u64 tenant;			/* in and out */
	__s32 pid;			/* of the process, in the initial namespace */
	__u32 uid;			/* in the initial user namespace */
	__u64 cgroup;			/* id, as in the file system's inode number */
	__u64 start_ns;			/* of the process, since the machine started */
	__u32 channels;
	__u32 gpu_channels;		/* that the NVIDIA driver gave it, if they are counted */
	__u32 flags;			/* LITHOS_TENANT_* */
	__u32 reserved;
	struct lithos_attach request;
};
#define LITHOS_TENANT_ANSWERED 1

/* Only those of GPUs that this file has claimed. */
struct lithos_channel_info {
	__u64 channel;			/* in and out */
	__u64 tenant;
	__u8 gpu[16];
	__u64 context;
	__u64 ring_bytes;
	__u64 arena_bytes;
	__u32 records;
	__u32 flags;			/* LITHOS_CHANNEL_* */
	struct lithos_region regions[LITHOS_REGIONS];
};
#define LITHOS_CHANNEL_ANSWERED 1

/*
 * Events: read() gives whole ones, as many as fit; EAGAIN, or sleep (EINTR), if there is none; poll() tells.
 * The queue is bounded. When it is full the oldest stay, what is new is lost, and LITHOS_EVENT_LOST comes
 * in its place: then TENANT_NEXT and CHANNEL_NEXT tell what there is. Doorbells of a channel that were
 * not read yet are one. An event about a channel goes to its GPU's scheduler, another one to all.
 */
struct lithos_event {
	__u32 type;			/* LITHOS_EVENT_* */
	__u32 uid;
	__u64 time_ns;
	__u64 tenant;
	__u64 channel;
	__s32 pid;
	__u32 reserved;
	__u64 value;
	__u64 reserved2[2];
};

#define LITHOS_EVENT_TENANT 1		/* attached; waits for TENANT_ANSWER */
#define LITHOS_EVENT_TENANT_END 2	/* its address space has ended, or its file was closed */
#define LITHOS_EVENT_CHANNEL 3		/* opened; waits for CHANNEL_ANSWER; value: context */
#define LITHOS_EVENT_CHANNEL_END 4	/* value: chains that may still run, because they did not end in time */
#define LITHOS_EVENT_DOORBELL 5		/* the tenant calls */
#define LITHOS_EVENT_WATCHDOG 6		/* this scheduler was taken for dead; value: ns since it beat */
#define LITHOS_EVENT_LOST 7		/* value: events that found no room */
#define LITHOS_EVENT_GPU_REFUSED 8	/* a process was refused a GPU channel; value: class. 8 times each, then rarely */

/*
 * -- Who may have GPU channels (NVIDIA's). For whoever may become a scheduler, and need not be one: what
 * is in force stays so when the schedulers are gone.
 */

#define LITHOS_ADMISSION_OFF 0		/* nothing is looked at */
#define LITHOS_ADMISSION_AUDIT 1	/* who has how many is counted and told */
#define LITHOS_ADMISSION_ENFORCE 2	/* refused to all but tenants and those admitted */

/*
 * A tenant is one to admission until it ends or a scheduler's answer to it is an error.
 *
 * ENFORCE without the NVIDIA driver's symbol, while that driver is loaded: EOPNOTSUPP, and whatever was
 * in force stays. The driver loaded later without the symbol: whoever is neither tenant nor admitted can
 * allocate nothing of any kind, and LITHOS_INFO says that nobody is counted.
 */
struct lithos_admission {
	__u32 mode;			/* LITHOS_ADMISSION_* */
	__u32 tenant_channels_max;	/* GPU channels a tenant may have; 0: any number */
	__u64 reserved[2];
};

struct lithos_admit {
	__u32 kind;			/* LITHOS_ADMIT_* */
	__u32 admitted;			/* 1, or 0: no longer */
	__u64 id;
	__u64 reserved;
};
#define LITHOS_ADMIT_PROCESS 1		/* id: a pid; until it ends */
#define LITHOS_ADMIT_CGROUP 2		/* id: of a cgroup; whoever is in it or below, until it is removed */

/* Next process after the pid that is given, 0 for the first; ENOENT after the last. */
struct lithos_gpu_user {
	__s32 pid;			/* in and out */
	__u32 channels;			/* GPU channels that it has */
	__u32 groups;			/* channel groups */
	__u32 doorbells;		/* mappings of doorbells */
	__u64 refused;			/* allocations that were refused it */
	__u64 tenant;			/* 0: it is none */
	char command[16];
	__u32 flags;			/* LITHOS_GPU_USER_* */
	__u32 reserved;
	__u64 reserved2;
};
#define LITHOS_GPU_USER_INEXACT 1	/* it has more, which found no room where they are counted */

/* The commands. */
enum lithos_command {
	/* Anybody. */
	LITHOS_INFO = _IOR('L', 0x00, struct lithos_info),

	/* Tenants. */
	LITHOS_TENANT_ATTACH = _IOWR('L', 0x10, struct lithos_tenant_attach),
	LITHOS_TENANT_WAIT = _IOWR('L', 0x11, struct lithos_answer),
	LITHOS_CHANNEL_OPEN = _IOWR('L', 0x12, struct lithos_channel_open),
	LITHOS_CHANNEL_WAIT = _IOWR('L', 0x13, struct lithos_answer),
	LITHOS_CHANNEL_SLEEP = _IOWR('L', 0x14, struct lithos_sleep),
	LITHOS_CHANNEL_RING = _IOW('L', 0x15, struct lithos_id),
	LITHOS_CHANNEL_CLOSE = _IOW('L', 0x16, struct lithos_id),

	/* Schedulers. */
	LITHOS_SCHEDULER_CLAIM = _IOWR('L', 0x20, struct lithos_scheduler_claim),
	LITHOS_SCHEDULER_BEAT = _IO('L', 0x21),
	LITHOS_TENANT_ANSWER = _IOW('L', 0x22, struct lithos_answer),
	LITHOS_CHANNEL_ANSWER = _IOW('L', 0x23, struct lithos_answer),
	LITHOS_CHANNEL_WAKE = _IOW('L', 0x24, struct lithos_id),
	LITHOS_TENANT_EVICT = _IOW('L', 0x25, struct lithos_id),
	LITHOS_TENANT_NEXT = _IOWR('L', 0x26, struct lithos_tenant_info),
	LITHOS_CHANNEL_NEXT = _IOWR('L', 0x27, struct lithos_channel_info),

	/* Schedulers, about GPU channels. */
	LITHOS_ADMISSION_SET = _IOW('L', 0x30, struct lithos_admission),
	LITHOS_ADMIT = _IOW('L', 0x31, struct lithos_admit),
	LITHOS_GPU_USER_NEXT = _IOWR('L', 0x32, struct lithos_gpu_user),
};

#endif /* LITHOS_H */
