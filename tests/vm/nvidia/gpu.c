// SPDX-License-Identifier: GPL-2.0
/* Pages that are pinned as NVIDIA's driver does, for as long as it takes, and chains that the GPU walks. */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <lithos.h>

#include "nvidia.h"

#define PAGES_MAX 8192

struct pin {
	struct list_head list;
	u64 id;
	int count;
	struct page **pages;
};

struct walk {
	struct list_head list;
	struct pin *pin;
	u32 *gate;
	struct lithos_tail *tail;
	unsigned int run_ms;
	struct task_struct *thread;
};

static DEFINE_MUTEX(gpu_lock);
static u64 last_pin;

static void unpin(struct pin *pin)
{
	unpin_user_pages_dirty_lock(pin->pages, pin->count, true);
	kvfree(pin->pages);
	kfree(pin);
}

static struct pin *pin(u64 address, u64 bytes)
{
	struct pin *pin;
	int count = bytes / PAGE_SIZE, pinned;

	if (address % PAGE_SIZE || bytes % PAGE_SIZE || !bytes || bytes / PAGE_SIZE > PAGES_MAX)
		return ERR_PTR(-EINVAL);
	pin = kzalloc(sizeof(*pin), GFP_KERNEL);
	if (!pin)
		return ERR_PTR(-ENOMEM);
	pin->pages = kvcalloc(count, sizeof(*pin->pages), GFP_KERNEL);
	if (!pin->pages) {
		kfree(pin);
		return ERR_PTR(-ENOMEM);
	}
	pinned = pin_user_pages_fast(address, count, FOLL_WRITE | FOLL_LONGTERM, pin->pages);
	pin->count = max(pinned, 0);
	if (pinned != count) {
		unpin(pin);
		return ERR_PTR(pinned < 0 ? pinned : -EFAULT);
	}
	return pin;
}

static void *at(struct pin *pin, u64 offset)
{
	return page_address(pin->pages[offset / PAGE_SIZE]) + offset % PAGE_SIZE;
}

static bool is_within(struct pin *pin, u64 offset, size_t bytes)
{
	return offset % bytes == 0 && offset / PAGE_SIZE < pin->count;
}

static int run(void *data)
{
	struct walk *walk = data;

	while (!kthread_should_stop() && READ_ONCE(*walk->gate) == LITHOS_GATE_SHUT)
		msleep(1);
	if (!kthread_should_stop()) {
		/* Ends early if the thread is to stop. */
		schedule_timeout_interruptible(msecs_to_jiffies(walk->run_ms));
		WRITE_ONCE(walk->tail->done, (u32)READ_ONCE(walk->tail->published));
	}
	while (!kthread_should_stop())
		msleep(1);
	return 0;
}

static int begin_walk(struct file_private *file, struct test_walk *what)
{
	struct walk *walk = kzalloc(sizeof(*walk), GFP_KERNEL);
	int error;

	if (!walk)
		return -ENOMEM;
	walk->pin = pin(what->address, what->bytes);
	error = PTR_ERR_OR_ZERO(walk->pin);
	if (error)
		goto no_pin;
	error = -EINVAL;
	if (!is_within(walk->pin, what->gate, sizeof(struct lithos_gate)) ||
	    !is_within(walk->pin, what->tail, sizeof(struct lithos_tail)))
		goto no_walk;
	walk->gate = &((struct lithos_gate *)at(walk->pin, what->gate))->word;
	walk->tail = at(walk->pin, what->tail);
	walk->run_ms = what->run_ms;
	walk->thread = kthread_run(run, walk, "nvidia-walk");
	error = PTR_ERR_OR_ZERO(walk->thread);
	if (error)
		goto no_walk;
	mutex_lock(&gpu_lock);
	list_add(&walk->list, &file->walks);
	mutex_unlock(&gpu_lock);
	return 0;
no_walk:
	unpin(walk->pin);
no_pin:
	kfree(walk);
	return error;
}

static struct pin *pin_of(struct file_private *file, u64 id)
{
	struct pin *pin;

	list_for_each_entry(pin, &file->pins, list)
		if (pin->id == id)
			return pin;
	return NULL;
}

static int keep(struct file_private *file, struct test_pin *what)
{
	struct pin *made = pin(what->address, what->bytes);

	if (IS_ERR(made))
		return PTR_ERR(made);
	mutex_lock(&gpu_lock);
	made->id = what->id = ++last_pin;
	list_add(&made->list, &file->pins);
	mutex_unlock(&gpu_lock);
	return 0;
}

static int let_go(struct file_private *file, u64 id)
{
	struct pin *pin;

	mutex_lock(&gpu_lock);
	pin = pin_of(file, id);
	if (pin)
		list_del(&pin->list);
	mutex_unlock(&gpu_lock);
	if (!pin)
		return -ENOENT;
	unpin(pin);
	return 0;
}

static int peek(struct file_private *file, struct test_peek *what)
{
	struct pin *pin;
	int error = -ENOENT;

	mutex_lock(&gpu_lock);
	pin = pin_of(file, what->id);
	if (pin && is_within(pin, what->offset, sizeof(u64))) {
		what->value = *(u64 *)at(pin, what->offset);
		error = 0;
	}
	mutex_unlock(&gpu_lock);
	return error;
}

long gpu_ioctl(struct file_private *file, unsigned int command, void __user *argument)
{
	union {
		struct test_pin pin;
		struct test_peek peek;
		struct test_walk walk;
		u64 id;
	} what = {};
	long error;

	if (_IOC_SIZE(command) > sizeof(what))
		return -ENOTTY;
	if (copy_from_user(&what, argument, _IOC_SIZE(command)))
		return -EFAULT;
	switch (command) {
	case TEST_PIN:
		error = keep(file, &what.pin);
		break;
	case TEST_UNPIN:
		return let_go(file, what.id);
	case TEST_PEEK:
		error = peek(file, &what.peek);
		break;
	case TEST_WALK:
		return begin_walk(file, &what.walk);
	default:
		return -ENOTTY;
	}
	if (!error && copy_to_user(argument, &what, _IOC_SIZE(command)))
		error = -EFAULT;
	return error;
}

/* Where the driver takes the pages away from the GPU, whatever it does just then: that is told. */
void gpu_close(struct file_private *file)
{
	struct walk *walk, *next_walk;
	struct pin *pin, *next_pin;

	list_for_each_entry_safe(walk, next_walk, &file->walks, list) {
		bool open = READ_ONCE(*walk->gate) != LITHOS_GATE_SHUT;
		bool done = READ_ONCE(walk->tail->done) == (u32)READ_ONCE(walk->tail->published);

		note("closed by %d: gate %s, chain %s\n", file->pid, open ? "open" : "shut",
		     done ? "done" : "running");
		kthread_stop(walk->thread);
		unpin(walk->pin);
		kfree(walk);
	}
	list_for_each_entry_safe(pin, next_pin, &file->pins, list)
		unpin(pin);
}
