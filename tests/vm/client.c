/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * A scheduler and a tenant in C, from include/lithos.h alone: says `ok` and what was, line by line, and
 * `ok the end`; or `not ok` and what was not, and ends with 1.
 *
 * The parent is the scheduler, its child the tenant. Neither waits for a time to pass: each waits for
 * what the other does, in the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lithos.h>

#define RECORDS 64
#define RING_BYTES (3 * LITHOS_PAGE_BYTES)
#define ARENA_BYTES (16 * LITHOS_PAGE_BYTES)
#define TIMEOUT_NS 60000000000ull
#define MARK 0x6c6974686f73ull

static const char GPU[] = "a GPU of C's own";

static void check(int is_so, const char *what, ...)
{
	char text[200];
	va_list arguments;

	va_start(arguments, what);
	vsnprintf(text, sizeof(text), what, arguments);
	va_end(arguments);
	/* In one write: two processes say such lines. */
	dprintf(1, is_so ? "ok %s\n" : "not ok %s (errno %d)\n", text, errno);
	if (!is_so)
		exit(1);
}

static int open_device(void)
{
	int device = open("/dev/lithos", O_RDWR | O_CLOEXEC);

	check(device >= 0, "%d opens the device", getpid());
	return device;
}

static volatile __u64 *map(int device, __u64 channel, int kind, size_t bytes, int may)
{
	void *pages = mmap(NULL, bytes, may, MAP_SHARED, device, LITHOS_MAP_OFFSET(channel, kind));

	check(pages != MAP_FAILED, "%d maps piece %d of a channel", getpid(), kind);
	return pages;
}

static void unmap(volatile __u64 *pages, size_t bytes)
{
	check(munmap((void *)pages, bytes) == 0, "%d unmaps it again", getpid());
}

/* ---- The tenant -------------------------------------------------------------------------------- */

static void attach(int device)
{
	struct lithos_tenant_attach attach = { .request.version = LITHOS_ABI_VERSION };
	struct lithos_answer answer = { .timeout_ns = TIMEOUT_NS };

	strcpy(attach.request.partition, "client");
	check(ioctl(device, LITHOS_TENANT_ATTACH, &attach) == 0, "the tenant attaches");
	check(attach.tenant != 0, "it has an id");
	answer.id = attach.tenant;
	check(ioctl(device, LITHOS_TENANT_WAIT, &answer) == 0, "it waits for what the scheduler says");
	check(answer.reply.error == 0 && strcmp(answer.reply.text, "be welcome") == 0,
	      "it reads what the scheduler says");
	check(answer.flags == LITHOS_ATTACHED_ENFORCE, "it reads the flags");
}

static void tenant(void)
{
	int device = open_device();
	struct lithos_channel_open open = { .request.context = 7 };
	struct lithos_answer answer = { .timeout_ns = TIMEOUT_NS };
	struct lithos_sleep sleep = { .timeout_ns = TIMEOUT_NS };
	struct lithos_id id;
	volatile __u64 *grant, *ring, *arena;

	attach(device);
	memcpy(open.request.gpu, GPU, 16);
	check(ioctl(device, LITHOS_CHANNEL_OPEN, &open) == 0, "the tenant opens a channel");
	check(open.ring_bytes == RING_BYTES && open.arena_bytes == ARENA_BYTES, "it reads the sizes");
	answer.id = id.id = sleep.channel = open.channel;
	check(ioctl(device, LITHOS_CHANNEL_WAIT, &answer) == 0, "it waits for the grant");
	check(answer.reply.error == 0, "it may use the channel");

	grant = map(device, open.channel, LITHOS_MAP_GRANT, LITHOS_PAGE_BYTES, PROT_READ);
	ring = map(device, open.channel, LITHOS_MAP_RING, RING_BYTES, PROT_READ | PROT_WRITE);
	arena = map(device, open.channel, LITHOS_MAP_ARENA, ARENA_BYTES, PROT_READ | PROT_WRITE);
	check(grant[0] == MARK, "it reads in the grant page what the scheduler has written");
	ring[0] = MARK;
	arena[ARENA_BYTES / 8 - 1] = MARK;
	check(mprotect((void *)grant, LITHOS_PAGE_BYTES, PROT_READ | PROT_WRITE) < 0 && errno == EACCES,
	      "it can never write the grant page");

	check(ioctl(device, LITHOS_CHANNEL_RING, &id) == 0, "it rings");
	check(ioctl(device, LITHOS_CHANNEL_SLEEP, &sleep) == 0, "it sleeps until it is woken");
	check(sleep.seen == 1, "it has been woken once");

	unmap(grant, LITHOS_PAGE_BYTES);
	unmap(ring, RING_BYTES);
	unmap(arena, ARENA_BYTES);
	check(ioctl(device, LITHOS_CHANNEL_CLOSE, &id) == 0, "it closes the channel");
	check(ioctl(device, LITHOS_CHANNEL_CLOSE, &id) < 0 && errno == ENOENT, "the channel is gone");
	/* It ends without closing the device. */
}

/* ---- The scheduler ----------------------------------------------------------------------------- */

static int claim(void)
{
	int device = open_device();
	struct lithos_scheduler_claim claim = {
		.version = LITHOS_ABI_VERSION,
		.records = RECORDS,
		.ring_bytes = RING_BYTES,
		.arena_bytes = ARENA_BYTES,
		.regions = { [LITHOS_REGION_STAMPS] = { 0, sizeof(struct lithos_stamp), RECORDS } },
	};

	memcpy(claim.gpu, GPU, 16);
	check(ioctl(device, LITHOS_SCHEDULER_CLAIM, &claim) == 0, "the scheduler claims a GPU");
	return device;
}

/* Waits for an event, and says meanwhile that the scheduler lives. */
static struct lithos_event next(int device, __u32 type, const char *what)
{
	struct pollfd pollfd = { .fd = device, .events = POLLIN };
	struct lithos_event event = { 0 };

	while (poll(&pollfd, 1, LITHOS_HEARTBEAT_STALE_NS / 3 / 1000000) == 0)
		if (ioctl(device, LITHOS_SCHEDULER_BEAT) < 0)
			check(0, "the scheduler lives");
	check(read(device, &event, sizeof(event)) == sizeof(event), "the scheduler reads an event");
	check(event.type == type, "the event says that %s", what);
	return event;
}

static void schedule(int device, pid_t child)
{
	struct lithos_event event;
	struct lithos_answer answer = { .flags = LITHOS_ATTACHED_ENFORCE };
	struct lithos_tenant_info tenant = { 0 };
	struct lithos_channel_info channel = { 0 };
	struct lithos_id id;
	volatile __u64 *grant, *ring;

	event = next(device, LITHOS_EVENT_TENANT, "a tenant has attached");
	check(event.pid == child, "the event says which process it is");
	check(ioctl(device, LITHOS_TENANT_NEXT, &tenant) == 0, "the scheduler looks for tenants");
	check(tenant.tenant == event.tenant && tenant.pid == child, "it finds the one that the event names");
	check(strcmp(tenant.request.partition, "client") == 0, "it reads what the tenant asked for");
	answer.id = event.tenant;
	strcpy(answer.reply.text, "be welcome");
	check(ioctl(device, LITHOS_TENANT_ANSWER, &answer) == 0, "it lets the tenant in");

	event = next(device, LITHOS_EVENT_CHANNEL, "a channel was opened");
	check(event.tenant == tenant.tenant && event.value == 7, "the event says whose, and for what");
	check(ioctl(device, LITHOS_CHANNEL_NEXT, &channel) == 0, "the scheduler looks for channels");
	check(channel.channel == event.channel && channel.arena_bytes == ARENA_BYTES,
	      "it finds the one that the event names");
	id.id = event.channel;
	grant = map(device, event.channel, LITHOS_MAP_GRANT, LITHOS_PAGE_BYTES, PROT_READ | PROT_WRITE);
	ring = map(device, event.channel, LITHOS_MAP_RING, RING_BYTES, PROT_READ);
	grant[0] = MARK;
	answer = (struct lithos_answer){ .id = event.channel };
	check(ioctl(device, LITHOS_CHANNEL_ANSWER, &answer) == 0, "it lets the channel be used");

	event = next(device, LITHOS_EVENT_DOORBELL, "the tenant rings");
	check(event.channel == id.id, "the event says for which channel");
	check(ring[0] == MARK, "it reads in the ring what the tenant has written");
	check(ioctl(device, LITHOS_CHANNEL_WAKE, &id) == 0, "it wakes the tenant");

	event = next(device, LITHOS_EVENT_CHANNEL_END, "the channel has ended");
	check(event.channel == id.id && event.value == 0, "the event says that nothing was left to run");
	unmap(grant, LITHOS_PAGE_BYTES);
	unmap(ring, RING_BYTES);
	event = next(device, LITHOS_EVENT_TENANT_END, "the tenant has ended");
	check(event.tenant == tenant.tenant, "the event says which one");
}

int main(void)
{
	int device = claim(), status;
	pid_t child = fork();

	if (child == 0) {
		/* As another process that has never seen the scheduler's file. */
		close(device);
		tenant();
		return 0;
	}
	schedule(device, child);
	check(waitpid(child, &status, 0) == child && status == 0, "the tenant is content");
	check(1, "the end");
	return 0;
}
