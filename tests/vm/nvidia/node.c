// SPDX-License-Identifier: GPL-2.0
/* Open files, and the way of a call to rm_ioctl and back: what is in the parameters then goes back to the
 * program, whatever came of it; a status of rm_ioctl itself is EINVAL. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "nvidia.h"

#define BYTES_MAX 4096

static char log[16384];
static size_t log_bytes;
static DEFINE_MUTEX(log_lock);

void note(const char *format, ...)
{
	va_list arguments;

	mutex_lock(&log_lock);
	va_start(arguments, format);
	log_bytes += vscnprintf(log + log_bytes, sizeof(log) - log_bytes, format, arguments);
	va_end(arguments);
	mutex_unlock(&log_lock);
}

static ssize_t nvidia_read(struct file *file, char __user *to, size_t bytes, loff_t *at)
{
	ssize_t read;

	mutex_lock(&log_lock);
	read = simple_read_from_buffer(to, bytes, at, log, log_bytes);
	mutex_unlock(&log_lock);
	return read;
}

static long rm_call(struct file_private *file, u32 command, void __user *argument, size_t bytes)
{
	struct nv_xfer xfer;
	void *copy;
	long error = 0;

	if (command == NV_ESC_IOCTL_XFER_CMD) {
		if (bytes != sizeof(xfer))
			return -EINVAL;
		if (copy_from_user(&xfer, argument, sizeof(xfer)))
			return -EFAULT;
		command = xfer.command;
		bytes = xfer.bytes;
		argument = u64_to_user_ptr(xfer.at);
	}
	if (bytes > BYTES_MAX)
		return -EINVAL;
	copy = kmalloc(bytes, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	if (copy_from_user(copy, argument, bytes)) {
		kfree(copy);
		return -EFAULT;
	}
	if (rm_ioctl(NULL, NULL, file, command, copy, bytes) != NV_OK)
		error = -EINVAL;
	if (copy_to_user(argument, copy, bytes))
		error = -EFAULT;
	kfree(copy);
	return error;
}

static long test_call(struct file_private *file, unsigned int command, void __user *argument)
{
	struct test_count count;

	if (command != TEST_COUNT)
		return gpu_ioctl(file, command, argument);
	if (copy_from_user(&count, argument, sizeof(count)))
		return -EFAULT;
	rm_count(&count);
	return copy_to_user(argument, &count, sizeof(count)) ? -EFAULT : 0;
}

long nvidia_unlocked_ioctl(struct file *file, unsigned int command, unsigned long argument);

noinline long nvidia_unlocked_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *at = (void __user *)argument;

	switch (_IOC_TYPE(command)) {
	case 'F':
		return rm_call(file->private_data, _IOC_NR(command), at, _IOC_SIZE(command));
	case 'T':
		return test_call(file->private_data, command, at);
	}
	return -ENOTTY;
}

static int nvidia_open(struct inode *inode, struct file *file)
{
	struct file_private *private = kzalloc(sizeof(*private), GFP_KERNEL);

	if (!private)
		return -ENOMEM;
	private->pid = task_tgid_nr(current);
	INIT_LIST_HEAD(&private->pins);
	INIT_LIST_HEAD(&private->walks);
	file->private_data = private;
	return 0;
}

static int nvidia_close(struct inode *inode, struct file *file)
{
	struct file_private *private = file->private_data;

	gpu_close(private);
	rm_cleanup_file_private(NULL, NULL, private);
	kfree(private);
	return 0;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = nvidia_open,
	.release = nvidia_close,
	.read = nvidia_read,
	.unlocked_ioctl = nvidia_unlocked_ioctl,
};

static struct miscdevice nodes[] = {
	{ .minor = MISC_DYNAMIC_MINOR, .name = "nvidiactl", .fops = &operations, .mode = 0666 },
	{ .minor = MISC_DYNAMIC_MINOR, .name = "nvidia0", .fops = &operations, .mode = 0666 },
};

static int __init nvidia_init(void)
{
	int error = misc_register(&nodes[0]);

	if (error)
		return error;
	error = misc_register(&nodes[1]);
	if (error)
		misc_deregister(&nodes[0]);
	return error;
}
module_init(nvidia_init);

static void __exit nvidia_exit(void)
{
	misc_deregister(&nodes[1]);
	misc_deregister(&nodes[0]);
}
module_exit(nvidia_exit);

MODULE_DESCRIPTION("A stand-in for NVIDIA's driver, for tests of lithos.ko");
MODULE_LICENSE("GPL");
