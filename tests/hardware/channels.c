// SPDX-License-Identifier: GPL-2.0-only OR MIT
//
// Writes down which process asks the NVIDIA driver for GPU channels: LD_PRELOAD=channels.so,
// CHANNELS_LOG=FOLDER.
//
// Each process appends to FOLDER/<pid>, one line of JSON per allocation, free and duplication of an object
// of the resource manager (RM), and per channel that it registers with the unified memory driver. Times are
// CLOCK_MONOTONIC in nanoseconds. A program marks its own progress with ioctl(-1, CHANNELS_MARK, "text").
// As CUDA_INJECTION64_PATH it also marks when the driver calls the library that it is told to load.
//
// CHANNELS_REFUSE=CLASSES, hexadecimal with commas between, 6f for all classes of channels: allocations of
// these never reach the driver and are answered as lithos.ko answers strangers.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHANNELS_MARK 0x4c4f4721

// The driver's ioctls have the type 'F'; these are their numbers.
enum { RM_ALLOC_OBJECT = 0x28, RM_FREE = 0x29, RM_ALLOC = 0x2b, RM_DUP_OBJECT = 0x34, XFER = 0xd3 };
// Those of the unified memory driver are plain numbers.
enum { UVM_REGISTER_CHANNEL = 27 };

static void say(const char *format, ...)
{
	char path[PATH_MAX], line[512], comm[64] = "?";
	const char *folder = getenv("CHANNELS_LOG");
	struct timespec now;
	int fd, length;
	va_list arguments;

	if (!folder)
		return;
	fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		length = read(fd, comm, sizeof(comm) - 1);
		comm[length > 0 ? length - 1 : 0] = 0;
		close(fd);
	}
	snprintf(path, sizeof(path), "%s/%d", folder, getpid());
	clock_gettime(CLOCK_MONOTONIC, &now);
	length = snprintf(line, sizeof(line), "{\"ns\":%lld,\"pid\":%d,\"comm\":\"%s\",",
			  now.tv_sec * 1000000000ll + now.tv_nsec, getpid(), comm);
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - length - 2, format, arguments);
	va_end(arguments);
	line[length++] = '}';
	line[length++] = '\n';
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd >= 0) {
		if (write(fd, line, length) != length)
			abort();
		close(fd);
	}
}

static uint32_t word(const void *parameters, size_t at)
{
	uint32_t value;

	memcpy(&value, (const char *)parameters + at, sizeof(value));
	return value;
}

static void allocated(const char *how, const void *p, uint32_t status)
{
	say("\"what\":\"%s\",\"root\":%u,\"parent\":%u,\"new\":%u,\"class\":%u,\"status\":%u", how,
	    word(p, 0), word(p, 4), word(p, 8), word(p, 12), status);
}

// "The requester does not have sufficient permissions".
enum { NOT_PERMITTED = 0x1b };

static int is_refused(uint32_t class)
{
	const char *next = getenv("CHANNELS_REFUSE");
	char *end;

	for (; next && *next; next = *end ? end + 1 : end) {
		uint32_t wanted = strtoul(next, &end, 16);

		if (end == next)
			abort();
		if (class == wanted || (wanted == 0x6f && (class & 0xff) == 0x6f))
			return 1;
	}
	return 0;
}

// Answers an allocation itself, if it is to be refused.
static int refuses(unsigned number, size_t size, void *p)
{
	const uint32_t status = NOT_PERMITTED;

	if (number != RM_ALLOC || (size != 32 && size != 48) || !is_refused(word(p, 12)))
		return 0;
	memcpy((char *)p + (size == 32 ? 28 : 40), &status, sizeof(status));
	return 1;
}

static void seen(unsigned number, size_t size, const void *p)
{
	if (number == RM_ALLOC && size == 32)
		allocated("alloc", p, word(p, 28));
	else if (number == RM_ALLOC && size == 48)
		allocated("alloc", p, word(p, 40));
	else if (number == RM_ALLOC)
		say("\"what\":\"alloc of unknown size\",\"size\":%zu", size);
	else if (number == RM_ALLOC_OBJECT)
		allocated("old alloc", p, word(p, 16));
	else if (number == RM_FREE)
		say("\"what\":\"free\",\"root\":%u,\"old\":%u,\"status\":%u", word(p, 0), word(p, 8),
		    word(p, 12));
	else if (number == RM_DUP_OBJECT)
		say("\"what\":\"dup\",\"root\":%u,\"new\":%u,\"from\":%u,\"old\":%u,\"status\":%u",
		    word(p, 0), word(p, 8), word(p, 12), word(p, 16), word(p, 24));
}

int ioctl(int fd, unsigned long request, ...);

int InitializeInjection(void)
{
	ioctl(-1, CHANNELS_MARK, "injected");
	return 1;
}

int ioctl(int fd, unsigned long request, ...)
{
	static int (*next)(int, unsigned long, void *);
	unsigned type = request >> 8 & 0xff, number = request & 0xff;
	size_t size = request >> 16 & 0x3fff;
	va_list arguments;
	void *p, *inner;
	int result, error;

	va_start(arguments, request);
	p = va_arg(arguments, void *);
	va_end(arguments);
	if (request == CHANNELS_MARK) {
		say("\"what\":\"mark\",\"text\":\"%s\"", (const char *)p);
		return 0;
	}
	if (!next)
		next = dlsym(RTLD_NEXT, "ioctl");
	inner = p;
	if (type == 'F' && number == XFER && p) {
		number = word(p, 0);
		size = word(p, 4);
		memcpy(&inner, (char *)p + 8, sizeof(inner));
	}
	if (type == 'F' && inner && refuses(number, size, inner)) {
		seen(number, size, inner);
		return 0;
	}
	result = next(fd, request, p);
	error = errno;
	if (type == 'F' && inner) {
		seen(number, size, inner);
	} else if (request == UVM_REGISTER_CHANNEL && p) {
		char link[64], path[64];
		ssize_t length;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		length = readlink(link, path, sizeof(path) - 1);
		path[length > 0 ? length : 0] = 0;
		if (strstr(path, "nvidia-uvm"))
			say("\"what\":\"uvm register\",\"root\":%u,\"old\":%u", word(p, 20), word(p, 24));
	}
	errno = error;
	return result;
}
