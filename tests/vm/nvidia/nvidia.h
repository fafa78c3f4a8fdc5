/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A stand-in for NVIDIA's driver: what of it lithos.ko looks at, and a GPU that walks an arena as the
 * hardware does. It has the driver's names, nodes and calls (the layouts are facts of NVIDIA's published
 * headers); nothing else is the driver's.
 *
 *	node	/dev/nvidiactl and /dev/nvidia0: open files, and the way of a call to rm_ioctl and back
 *	rm	clients and their objects, which go with what they are below and with their file
 *	gpu	pages that are pinned; chains that wait at gates
 */
#ifndef NVIDIA_H
#define NVIDIA_H

#include <linux/ioctl.h>
#include <linux/list.h>
#include <linux/types.h>

/* ---- As in the driver ---- */

#define NV_ESC_RM_ALLOC_OBJECT 0x28
#define NV_ESC_RM_FREE 0x29
#define NV_ESC_RM_ALLOC 0x2b
#define NV_ESC_IOCTL_XFER_CMD 211

#define NV_OK 0
#define NV_ERR_INSERT_DUPLICATE_NAME 0x19
#define NV_ERR_INVALID_ARGUMENT 0x1f
#define NV_ERR_INVALID_CLASS 0x22
#define NV_ERR_INVALID_CLIENT 0x23
#define NV_ERR_INVALID_OBJECT_HANDLE 0x33
#define NV_ERR_NO_MEMORY 0x51
#define NV_ERR_NOT_SUPPORTED 0x56

struct nv_alloc {		/* 32 bytes */
	__u32 root, parent, handle, class;
	__u64 parameters;
	__u32 bytes, status;
};

struct nv_alloc_access {	/* 48 bytes */
	__u32 root, parent, handle, class;
	__u64 parameters, rights;
	__u32 bytes, flags, status, padding;
};

/* Of no driver that there is yet. */
struct nv_alloc_future {
	__u32 root, parent, handle, class;
	__u64 parameters, rights;
	__u32 bytes, flags, status, padding;
	__u64 more;
};

struct nv_alloc_object {	/* 20 bytes */
	__u32 root, parent, handle, class, status;
};

struct nv_free {
	__u32 root, parent, handle, status;
};

struct nv_xfer {
	__u32 command, bytes;
	__u64 at;
};

/* ---- For tests ---- */

/* What a process has made, by its pid. */
struct test_count {
	__s32 pid;
	__u32 channels, groups, doorbells;
};

struct test_pin {
	__u64 address, bytes;
	__u64 id;		/* out */
};

struct test_peek {
	__u64 id, offset;
	__u64 value;		/* out */
};

/*
 * A chain in an arena: it waits while the gate is shut, runs for a time, and is done then. Its place goes with
 * the file, whose end tells on it in the log.
 */
struct test_walk {
	__u64 address, bytes;	/* of the arena */
	__u64 gate, tail;	/* offsets */
	__u64 run_ms;
};

#define TEST_COUNT _IOWR('T', 0, struct test_count)
#define TEST_PIN _IOWR('T', 1, struct test_pin)
#define TEST_UNPIN _IOW('T', 2, __u64)
#define TEST_PEEK _IOWR('T', 3, struct test_peek)
#define TEST_WALK _IOW('T', 4, struct test_walk)

/* ---- Between the parts ---- */

struct file_private {
	int pid;
	struct list_head pins;
	struct list_head walks;
};

u32 rm_ioctl(void *stack, void *state, struct file_private *file, u32 command, void *parameters,
	     u32 bytes);
void rm_cleanup_file_private(void *stack, void *state, struct file_private *file);
void rm_count(struct test_count *count);

long gpu_ioctl(struct file_private *file, unsigned int command, void __user *argument);
void gpu_close(struct file_private *file);

/* A line of what can be read from /dev/nvidiactl. */
__printf(1, 2) void note(const char *format, ...);

#endif /* NVIDIA_H */
