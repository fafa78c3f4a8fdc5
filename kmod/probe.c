// SPDX-License-Identifier: GPL-2.0
/*
 * Where the NVIDIA driver is looked at. What is seen is judged in admission.rs; kprobes have no Rust.
 *
 *	rm_ioctl			a call begins: it may be refused; and it is over: what came of it
 *	rm_cleanup_file_private		an open file of the driver ends, and its clients with it
 *	nvidia_unlocked_ioctl		only where the first two are not there, see admission.rs
 *
 * At `rm_ioctl` the parameters are a copy in the kernel, which no other thread of the process can change
 * after it was judged. The signature has been the same from 515 to 595:
 *
 *	NV_STATUS rm_ioctl(nvidia_stack_t *, nv_state_t *, nv_file_private_t *, NvU32 command,
 *			   void *parameters, NvU32 bytes);
 *	void rm_cleanup_file_private(nvidia_stack_t *, nv_state_t *, nv_file_private_t *);
 *	long nvidia_unlocked_ioctl(struct file *, unsigned int command, unsigned long argument);
 *
 * How a call is refused. The handler before the first instruction sets the return value, sets the
 * instruction pointer to a function that only returns, and returns 1, which tells the kprobe to leave the
 * registers as they are. That needs
 *
 *  - a breakpoint. One that is optimised into a jump does not take the instruction pointer back; one with a
 *    post_handler is not optimised. Where ftrace calls a function's kprobes (nvidia_unlocked_ioctl, but
 *    not rm_ioctl, which is in a part of the driver that ftrace does not know) the same post_handler would
 *    do; but the kernel loses count of those with and without one on the same function, and frees what it
 *    still uses, if somebody else's without one was there before. So ours is behind ftrace's call there;
 *  - nothing of the function to have run: only the return address is on the stack. What comes before the
 *    breakpoint, an ENDBR and ftrace's call, has done nothing;
 *  - no indirect branch, which would have to land on an ENDBR: the processor gets to our function by the
 *    return from the exception, and from there by a return, the kernel's kind of it;
 *  - whoever sees the return (a kretprobe has its trampoline where the return address was) sees it.
 *
 * A kretprobe tells what came of a call. It may have been called before or after the refusal, and its pool
 * may be empty: admission.rs relies on neither.
 *
 * The handlers run in what the kernel takes for an NMI: they take no lock of the usual kinds, see
 * lithos_probe_lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cgroup.h>
#include <linux/ftrace.h>
#include <linux/irq_work.h>
#include <linux/kobject.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/objtool.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/workqueue.h>

#ifndef CONFIG_X86_64
#error "how a call is refused is known for x86-64 only"
#endif

#define DRIVER "nvidia"
/* Calls of which the kretprobe sees the end, at once; more than admission.rs has tickets. */
#define CALLS_MAX 512
/* No status: the call goes on. */
#define PASS (-1LL)

/* Caller in holders.rs. */
struct lithos_caller {
	u64 start_ns;
	unsigned long task;
	s32 pid;
	u32 uid;
	char command[TASK_COMM_LEN];
};

/* admission.rs */
s64 lithos_call_begins(const struct lithos_caller *caller, unsigned long file, u32 command,
		       void *parameters, u32 bytes);
bool lithos_call_matters(u32 command, const void *parameters, u32 bytes);
bool lithos_call_is_awaited(const struct lithos_caller *caller, u32 command, void *parameters, u32 bytes);
void lithos_call_is_over(unsigned long task, u32 status);
bool lithos_call_is_refused_blindly(const struct lithos_caller *caller, u32 command);
void lithos_file_ends(unsigned long file);
bool lithos_tell(void);
int lithos_driver_comes(void);
void lithos_driver_goes(void);

/* and here, for it */
int lithos_probe_start(void);
int lithos_probe_start_blind(void);
void lithos_probe_stop(void);
int lithos_probe_init(void);
void lithos_probe_exit(void);
bool lithos_driver_is_there(void);
unsigned long lithos_probe_lock(void);
void lithos_probe_unlock(unsigned long flags);
void lithos_probe_tell(void);
bool lithos_is_below(const u64 *cgroups, size_t count);
bool lithos_cgroup_is_there(u64 id);
int lithos_process_start(pid_t pid, u64 *start_ns);
void lithos_say_refused(const char *command, int pid, u32 uid, u32 class, bool permitted);
void lithos_say_first(const char *command, int pid, u32 uid);
void lithos_say_more(u64 count);

/* ---- Refusing ---- */

asmlinkage void lithos_only_return(void);
asm(".text\n"
    ".type lithos_only_return, @function\n"
    ".globl lithos_only_return\n"
    ASM_FUNC_ALIGN
    "lithos_only_return:\n"
    ANNOTATE_NOENDBR "\n"
    ASM_RET
    ".size lithos_only_return, .-lithos_only_return\n");

static int refuse(struct pt_regs *regs, long value)
{
	regs_set_return_value(regs, value);
	instruction_pointer_set(regs, (unsigned long)lithos_only_return);
	return 1;
}
NOKPROBE_SYMBOL(refuse);

/* Keeps a kprobe from being optimised. */
static void nothing(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}
NOKPROBE_SYMBOL(nothing);

/* ---- Handlers ---- */

/* All of them are in place: what begins before would have no end. */
static bool started;

static struct lithos_caller current_caller(void)
{
	struct task_struct *leader = current->group_leader;
	struct lithos_caller caller = {
		.start_ns = leader->start_boottime,
		.task = (unsigned long)current,
		.pid = task_tgid_nr(current),
		.uid = from_kuid(&init_user_ns, current_euid()),
	};

	memcpy(caller.command, leader->comm, sizeof(caller.command));
	return caller;
}

static int call_begins(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long file = regs_get_kernel_argument(regs, 2);
	u32 command = regs_get_kernel_argument(regs, 3);
	void *parameters = (void *)regs_get_kernel_argument(regs, 4);
	u32 bytes = regs_get_kernel_argument(regs, 5);
	struct lithos_caller caller;
	s64 status;

	if (!READ_ONCE(started) || !lithos_call_matters(command, parameters, bytes))
		return 0;
	caller = current_caller();
	status = lithos_call_begins(&caller, file, command, parameters, bytes);
	return status == PASS ? 0 : refuse(regs, status);
}
NOKPROBE_SYMBOL(call_begins);

/* Returns whether its end is of no interest: then it has nothing of the pool, which strangers could empty. */
static int call_is_ignored(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	u32 command = regs_get_kernel_argument(regs, 3);
	void *parameters = (void *)regs_get_kernel_argument(regs, 4);
	u32 bytes = regs_get_kernel_argument(regs, 5);
	struct lithos_caller caller;

	if (!lithos_call_matters(command, parameters, bytes))
		return 1;
	caller = current_caller();
	return !lithos_call_is_awaited(&caller, command, parameters, bytes);
}
NOKPROBE_SYMBOL(call_is_ignored);

static int call_is_over(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	lithos_call_is_over((unsigned long)current, regs_return_value(regs));
	return 0;
}
NOKPROBE_SYMBOL(call_is_over);

static int file_ends(struct kprobe *probe, struct pt_regs *regs)
{
	lithos_file_ends(regs_get_kernel_argument(regs, 2));
	return 0;
}
NOKPROBE_SYMBOL(file_ends);

static int blind_call_begins(struct kprobe *probe, struct pt_regs *regs)
{
	struct lithos_caller caller = current_caller();

	if (lithos_call_is_refused_blindly(&caller, _IOC_NR(regs_get_kernel_argument(regs, 1))))
		return refuse(regs, -EPERM);
	return 0;
}
NOKPROBE_SYMBOL(blind_call_begins);

/* ---- Probes ---- */

static struct kprobe begin, file_end, blind;
static struct kretprobe end;

/* By module and name: whatever else has a function of that name is not meant. */
static int start(struct kprobe *probe, const char *symbol, kprobe_pre_handler_t handler)
{
	kprobe_opcode_t *at;
	int error;

	/* Where would it be, and who would call it? */
	*probe = (struct kprobe){ .symbol_name = symbol, .flags = KPROBE_FLAG_DISABLED };
	error = register_kprobe(probe);
	if (error)
		return error;
	at = probe->addr;
#ifdef CONFIG_KPROBES_ON_FTRACE
	if (probe->flags & KPROBE_FLAG_FTRACE)
		at += MCOUNT_INSN_SIZE;
#endif
	unregister_kprobe(probe);
	*probe = (struct kprobe){ .addr = at, .pre_handler = handler, .post_handler = nothing };
	return register_kprobe(probe);
}

int lithos_probe_start(void)
{
	int error = start(&begin, DRIVER ":rm_ioctl", call_begins);

	if (error)
		return error;
	error = start(&file_end, DRIVER ":rm_cleanup_file_private", file_ends);
	if (error)
		goto no_file_end;
	end = (struct kretprobe){
		.kp.symbol_name = DRIVER ":rm_ioctl",
		.entry_handler = call_is_ignored,
		.handler = call_is_over,
		.maxactive = CALLS_MAX,
	};
	error = register_kretprobe(&end);
	if (error)
		goto no_end;
	WRITE_ONCE(started, true);
	return 0;
no_end:
	unregister_kprobe(&file_end);
no_file_end:
	unregister_kprobe(&begin);
	return error;
}

int lithos_probe_start_blind(void)
{
	return start(&blind, DRIVER ":nvidia_unlocked_ioctl", blind_call_begins);
}

/* Ends what was started. No handler runs any more then, and nobody is about to return from ours. */
void lithos_probe_stop(void)
{
	if (READ_ONCE(started)) {
		WRITE_ONCE(started, false);
		unregister_kretprobe(&end);
		unregister_kprobe(&file_end);
		unregister_kprobe(&begin);
		if (begin.nmissed)
			pr_warn("%lu calls of the NVIDIA driver were not seen\n", begin.nmissed);
	}
	if (blind.addr) {
		unregister_kprobe(&blind);
		blind.addr = NULL;
	}
	/* A thread may have been preempted in lithos_only_return, which is not a place where RCU waits. */
	synchronize_rcu_tasks();
}

/* ---- The driver comes and goes ---- */

static int driver_changes(struct notifier_block *block, unsigned long what, void *data)
{
	struct module *module = data;

	if (strcmp(module->name, DRIVER))
		return NOTIFY_DONE;
	switch (what) {
	case MODULE_STATE_COMING:
		return notifier_from_errno(lithos_driver_comes());
	case MODULE_STATE_LIVE:
		/* It was coming already when this notifier was registered. */
		if (lithos_driver_comes())
			pr_err("the NVIDIA driver came in unseen\n");
		return NOTIFY_DONE;
	case MODULE_STATE_GOING:
		lithos_driver_goes();
		return NOTIFY_DONE;
	}
	return NOTIFY_DONE;
}

/* Before kprobes' own, so that a driver that goes is let go of while its code is still there. */
static struct notifier_block notifier = { .notifier_call = driver_changes, .priority = 1 };

bool lithos_driver_is_there(void)
{
	struct kobject *found = kset_find_obj(THIS_MODULE->mkobj.kobj.kset, DRIVER);
	bool there;

	if (!found)
		return false;
	there = container_of(found, struct module_kobject, kobj)->mod->state != MODULE_STATE_GOING;
	kobject_put(found);
	return there;
}

/* ---- Telling ---- */

static void tell(struct work_struct *work)
{
	/* In turns: whoever goes on being refused does not keep the worker. */
	if (lithos_tell())
		schedule_work(work);
}
static DECLARE_WORK(telling, tell);

static void tell_soon(struct irq_work *work)
{
	schedule_work(&telling);
}
static DEFINE_IRQ_WORK(telling_soon, tell_soon);

/* From a handler, where nothing can be woken. */
void lithos_probe_tell(void)
{
	irq_work_queue(&telling_soon);
}

int lithos_probe_init(void)
{
	return register_module_notifier(&notifier);
}

void lithos_probe_exit(void)
{
	unregister_module_notifier(&notifier);
	lithos_probe_stop();
	irq_work_sync(&telling_soon);
	cancel_work_sync(&telling);
}

void lithos_say_refused(const char *command, int pid, u32 uid, u32 class, bool permitted)
{
	pr_warn_ratelimited("%.16s (process %d of user %u) is refused a GPU channel (class 0x%x): %s\n",
			    command, pid, uid, class,
			    permitted ? "there are too many" : "it is no tenant and not admitted");
}

void lithos_say_first(const char *command, int pid, u32 uid)
{
	pr_info_ratelimited("%.16s (process %d of user %u) has GPU channels and is no tenant\n",
			    command, pid, uid);
}

void lithos_say_more(u64 count)
{
	pr_warn_ratelimited("%llu more calls of the NVIDIA driver were refused\n", count);
}

/* ---- The lock of what handlers look at ---- */

/*
 * An exception is to lockdep an NMI, which may come while a lock is held by the thread that it interrupts.
 * Here it cannot: the exception is that of calling the driver, and nobody does under this lock, which is
 * held with interrupts off. So it is a lock that lockdep does not know.
 */
static arch_spinlock_t lock = __ARCH_SPIN_LOCK_UNLOCKED;

unsigned long lithos_probe_lock(void)
{
	unsigned long flags;

	local_irq_save(flags);
	arch_spin_lock(&lock);
	return flags;
}
NOKPROBE_SYMBOL(lithos_probe_lock);

void lithos_probe_unlock(unsigned long flags)
{
	arch_spin_unlock(&lock);
	local_irq_restore(flags);
}
NOKPROBE_SYMBOL(lithos_probe_unlock);

/* ---- Processes and cgroups ---- */

/* Whether the current process is in one of these cgroups (of version 2), or below. */
bool lithos_is_below(const u64 *cgroups, size_t count)
{
	struct cgroup *own;
	bool found = false;

	rcu_read_lock();
	own = task_dfl_cgroup(current);
	for (int level = 0; level <= own->level && !found; level++)
		for (size_t i = 0; i < count && !found; i++)
			found = cgroup_id(own->ancestors[level]) == cgroups[i];
	rcu_read_unlock();
	return found;
}

bool lithos_cgroup_is_there(u64 id)
{
	struct cgroup *cgroup = cgroup_get_from_id(id);

	if (IS_ERR(cgroup))
		return false;
	cgroup_put(cgroup);
	return true;
}

/* When the process with a pid of the initial namespace started. */
int lithos_process_start(pid_t pid, u64 *start_ns)
{
	struct task_struct *process;
	int error = -ESRCH;

	rcu_read_lock();
	process = pid_task(find_pid_ns(pid, &init_pid_ns), PIDTYPE_TGID);
	if (process) {
		*start_ns = process->start_boottime;
		error = 0;
	}
	rcu_read_unlock();
	return error;
}
