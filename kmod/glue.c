// SPDX-License-Identifier: GPL-2.0
/* What the kernel has for C alone: inline functions and headers that its Rust bindings leave out. */
#include <linux/cgroup.h>
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/shmem_fs.h>
#include <linux/workqueue.h>

struct file *lithos_shmem_file(const char *name, loff_t bytes);
struct page *lithos_shmem_page(struct file *file, pgoff_t index);
void lithos_put_page(struct page *page);
u64 lithos_current_cgroup(void);

struct file *lithos_shmem_file(const char *name, loff_t bytes)
{
	struct file *file = shmem_file_setup(name, bytes, mk_vma_flags(VMA_NORESERVE_BIT));

	if (!IS_ERR(file)) {
		/* Whoever pins a page for long would want to move it out of there, and could not. */
		mapping_set_gfp_mask(file->f_mapping, GFP_HIGHUSER | __GFP_ACCOUNT);
		mapping_set_unevictable(file->f_mapping);
	}
	return file;
}

struct page *lithos_shmem_page(struct file *file, pgoff_t index)
{
	cond_resched();
	return shmem_read_mapping_page(file->f_mapping, index);
}

void lithos_put_page(struct page *page)
{
	/* It may have been written through a mapping that nobody watches. */
	set_page_dirty(page);
	put_page(page);
}

u64 lithos_current_cgroup(void)
{
	u64 id;

	rcu_read_lock();
	id = cgroup_id(task_dfl_cgroup(current));
	rcu_read_unlock();
	return id;
}

void lithos_kill_users(struct mm_struct *mm);

/* Kills every process that has an address space: there may be several, and none of them the one that it
 * once was.
 */
void lithos_kill_users(struct mm_struct *mm)
{
	struct task_struct *process, *thread;

	rcu_read_lock();
	for_each_process(process) {
		if (process->flags & PF_KTHREAD)
			continue;
		/* Threads that have ended have none. */
		for_each_thread(process, thread) {
			struct mm_struct *its = READ_ONCE(thread->mm);

			if (its == mm)
				kill_pid(task_tgid(process), SIGKILL, 1);
			if (its)
				break;
		}
	}
	rcu_read_unlock();
}

/* ---- summary.rs: a file of kernel::debugfs does not keep the module while it is open. ---- */

void lithos_summary(struct seq_file *to);
struct dentry *lithos_summary_add(void);
void lithos_summary_remove(struct dentry *folder);

static int lithos_summary_show(struct seq_file *to, void *unused)
{
	lithos_summary(to);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lithos_summary);

struct dentry *lithos_summary_add(void)
{
	struct dentry *folder = debugfs_create_dir("lithos", NULL);

	debugfs_create_file("summary", 0400, folder, NULL, &lithos_summary_fops);
	return folder;
}

void lithos_summary_remove(struct dentry *folder)
{
	debugfs_remove(folder);
}

/* ---- watchdog.rs: kernel::workqueue cannot cancel, and wait for, delayed work. ---- */

void lithos_watchdog_start(unsigned int after_ms);
void lithos_watchdog_stop(void);
unsigned int lithos_watchdog_look(void);

static void look(struct work_struct *work);
static DECLARE_DELAYED_WORK(watchdog, look);

static void look(struct work_struct *work)
{
	unsigned int again_ms = lithos_watchdog_look();

	if (again_ms)
		lithos_watchdog_start(again_ms);
}

void lithos_watchdog_start(unsigned int after_ms)
{
	queue_delayed_work(system_highpri_wq, &watchdog, msecs_to_jiffies(after_ms));
}

void lithos_watchdog_stop(void)
{
	cancel_delayed_work_sync(&watchdog);
}
