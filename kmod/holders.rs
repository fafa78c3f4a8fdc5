// SPDX-License-Identifier: GPL-2.0
//! Which process has how many GPU channels, and which may have more.
//!
//! The driver is seen twice in each call: when it is entered, which is when a call can be refused, and when
//! it is left, which is when it is known what came of it. In between lies a *ticket* of the thread.
//!
//! ```text
//!   enter ── refused
//!     │ counted already, so that two threads at once do not pass a limit for one
//!     ▼
//!   ticket ── leave: it failed ── counted no more
//!     │ leave: it is done
//!     ▼
//!   object ── freed by its handle, or with what it is below, or with its client, or with its file
//! ```
//!
//! A count is not lower than what its process has, whatever its threads do with a handle at once: what is
//! freed are only objects whose making was over before the freeing began. It is higher for a moment while
//! a call is under way, and for as long as a client lives of which two threads made and freed one handle at
//! once, or of which a call's end was missed. It is lower, and its process marked as counted inexactly,
//! when there is no room: then nothing more is let through where that is what is asked for.
//!
//! An object goes with the file through which it was made. The driver knows files that are registered with
//! another one, whose objects live as long as that: of those a count is too low when the first is closed.
//!
//! No user can use a table up: of one that is more than half full, nobody has more places than are left. What
//! strangers may make, subdevices, are as if one user's.
//!
//! Whoever calls may do so at any time and never allocates. Pure arithmetic; tests/kmod compiles it
//! a second time.

use crate::{
    chains::{Chains, Storage},
    nvidia::{Call, KINDS_COUNTED, Kind, NO_RESOURCES, NOT_PERMITTED},
    queue::Queue,
};

/// A process's first refusals are told each, later ones when their number has doubled.
const REFUSALS_TOLD: u64 = 8;
/// No process.
const NOBODY: u32 = u32::MAX;

/// What is done about those who are neither tenants nor admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Off,
    Audit,
    Enforce,
}

/// A thread that calls the driver, as `probe.c` says it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Caller {
    /// When its process started. With the pid it says which process: no pid has two at one time.
    pub(crate) start_ns: u64,
    pub(crate) task: usize,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) command: [u8; 16],
}

/// A process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pub(crate) start_ns: u64,
    /// The tenant that it is, by the latest of its open files.
    pub(crate) tenant: u64,
    /// Allocations that were refused.
    pub(crate) refused: u64,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// How many tenants it is.
    tenancies: u32,
    /// How many it has of each kind.
    pub(crate) has: [u32; KINDS_COUNTED],
    pub(crate) command: [u8; 16],
    is_admitted: bool,
    /// That it has GPU channels has been told.
    is_told: bool,
    pub(crate) is_inexact: bool,
}

impl Process {
    fn is(&self, pid: i32, start_ns: u64) -> bool {
        self.pid == pid && self.start_ns == start_ns
    }

    /// Returns whether there is anything to tell of it.
    fn is_user(&self) -> bool {
        self.has != [0; KINDS_COUNTED] || self.refused > 0 || self.is_inexact
    }

    fn is_idle(&self) -> bool {
        !self.is_user() && self.tenancies == 0 && !self.is_admitted
    }
}

/// Something that the driver has made.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    /// The open file that it goes with.
    file: usize,
    /// When its making was over.
    clock: u64,
    root: u32,
    /// 0 if it is not known, because the call's end was missed.
    handle: u32,
    parent: u32,
    /// Of the parent, if that is an object here: a device has subdevices and groups, those have doorbells
    /// and channels, and that is how deep it goes.
    grandparent: u32,
    /// Place of the process that it counts for.
    process: u32,
    kind: Kind,
}

impl Object {
    /// Returns whether it goes when a handle of its client is freed.
    fn goes_with(&self, handle: u32) -> bool {
        let with = [self.root, self.handle, self.parent, self.grandparent];
        handle != 0 && with.contains(&handle)
    }
}

/// The parameters of a call, for as long as it is under way.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Parameters {
    pub(crate) command: u32,
    pub(crate) bytes: u32,
    pub(crate) at: usize,
}

/// A call under way.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    task: usize,
    uid: u32,
    file: usize,
    /// When it began.
    clock: u64,
    call: Call,
    process: u32,
    parameters: Parameters,
}

/// Something to tell, later.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// What the call is answered with; 0: it was let through, the first one of a process that is no tenant.
    pub(crate) status: u32,
    pub(crate) class: u32,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) tenant: u64,
    pub(crate) command: [u8; 16],
    /// So many notes found no room; the rest says nothing.
    pub(crate) lost: u64,
}

/// What is to become of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass,
    /// With this status.
    Refuse(u32),
}

/// All of it.
pub(crate) struct Holders<S: Storage> {
    pub(crate) mode: Mode,
    /// GPU channels that a tenant may have; 0: any number.
    pub(crate) tenant_channels_max: u32,
    processes: Chains<Process, S>,
    objects: Chains<Object, S>,
    notes: Queue<S::Slice<Note>>,
    tickets: S::Slice<Option<Ticket>>,
    /// Tickets whose objects have room already.
    making: usize,
    /// Objects that count for nobody.
    uncounted: usize,
    clock: u64,
    cgroups: S::Slice<u64>,
    cgroup_count: usize,
    /// Places kept for tenants.
    tenants_max: usize,
    /// Processes that are tenants.
    tenants: usize,
    /// See [`Self::missed`].
    missed: u64,
}

impl<S: Storage> Holders<S> {
    /// Nobody. So many of the places of processes are kept for tenants; as many calls can be under way at
    /// once as there are tickets, and as many cgroups be admitted as have room.
    pub(crate) fn new(
        processes: Chains<Process, S>,
        objects: Chains<Object, S>,
        tickets: S::Slice<Option<Ticket>>,
        notes: S::Slice<Note>,
        cgroups: S::Slice<u64>,
        tenants_max: usize,
    ) -> Self {
        Self {
            mode: Mode::Off,
            tenant_channels_max: 0,
            processes,
            objects,
            notes: Queue::new(notes),
            tickets,
            making: 0,
            uncounted: 0,
            clock: 0,
            cgroups,
            cgroup_count: 0,
            tenants_max,
            tenants: 0,
            missed: 0,
        }
    }

    // ---- Calls of the driver ------------------------------------------------------------------------

    /// Looks at a call that begins. `is_below` returns whether the caller is in a cgroup of these, or
    /// below.
    pub(crate) fn enter(
        &mut self,
        caller: &Caller,
        file: usize,
        call: Call,
        parameters: Parameters,
        is_below: impl FnOnce(&[u64]) -> bool,
    ) -> Verdict {
        self.clock += 1;
        self.miss(caller.task);
        let mut ticket = Ticket {
            task: caller.task,
            uid: caller.uid,
            file,
            clock: self.clock,
            call,
            process: NOBODY,
            parameters,
        };
        match call {
            Call::Free { root, handle } => {
                if self.frees_any(root, handle) && !self.put(ticket) {
                    // Too much is counted from now on, and not too little.
                    self.missed += 1;
                }
                Verdict::Pass
            }
            Call::Unclear { class } => {
                let found = self.find(caller.pid, caller.start_ns);
                if !self.may_have(found, is_below) {
                    return self.refuse(caller, class, NOT_PERMITTED);
                }
                self.lose(found);
                Verdict::Pass
            }
            Call::Make { kind, .. } if !kind.is_counted() => {
                if self.has_room_below() {
                    self.put(ticket);
                }
                Verdict::Pass
            }
            Call::Make { class, kind, .. } => {
                let found = self.find(caller.pid, caller.start_ns);
                if !self.may_have(found, is_below) {
                    return self.refuse(caller, class, NOT_PERMITTED);
                }
                if kind == Kind::Channel && self.has_all(found) {
                    return self.refuse(caller, class, NO_RESOURCES);
                }
                let found = found.or_else(|| self.meet(caller));
                if let Some(at) = found.filter(|&at| self.has_room(at)) {
                    ticket.process = at;
                    if self.put(ticket) {
                        self.count(at, kind, caller);
                        return Verdict::Pass;
                    }
                }
                if self.mode == Mode::Enforce {
                    return self.refuse(caller, class, NO_RESOURCES);
                }
                self.lose(found);
                Verdict::Pass
            }
        }
    }

    /// Returns whether the end of a call has to be seen. It begins; [`Self::enter`] has looked at it
    /// already, or is about to.
    pub(crate) fn awaits(
        &self,
        caller: &Caller,
        call: Call,
        is_below: impl FnOnce(&[u64]) -> bool,
    ) -> bool {
        let mut tickets = self.tickets.iter().flatten();
        if tickets.any(|ticket| ticket.task == caller.task) {
            return true;
        }
        match call {
            Call::Free { root, handle } => self.frees_any(root, handle),
            Call::Unclear { .. } => false,
            Call::Make { kind, .. } if !kind.is_counted() => {
                self.has_room_below() && self.has_ticket(caller.uid)
            }
            Call::Make { .. } => self.may_have(self.find(caller.pid, caller.start_ns), is_below),
        }
    }

    /// Looks at a call that may make something, and of which nothing is known.
    pub(crate) fn enter_blindly(
        &mut self,
        caller: &Caller,
        is_below: impl FnOnce(&[u64]) -> bool,
    ) -> Verdict {
        let found = self.find(caller.pid, caller.start_ns);
        if self.may_have(found, is_below) {
            return Verdict::Pass;
        }
        self.refuse(caller, 0, NOT_PERMITTED)
    }

    /// Takes in that a thread's call is over. `done` returns the handle of what it was about, if it has
    /// done it.
    pub(crate) fn leave(&mut self, task: usize, done: impl FnOnce(Parameters) -> Option<u32>) {
        if let Some(ticket) = self.take(task) {
            self.clock += 1;
            let handle = done(ticket.parameters);
            self.settle(ticket, handle);
        }
    }

    /// Takes in that an open file of the driver ends: all that goes with it does, and none of its calls is
    /// under way.
    pub(crate) fn file_closed(&mut self, file: usize) {
        for slot in 0..self.tickets.len() {
            let ended = self.tickets[slot].filter(|ticket| ticket.file == file);
            if let Some(ticket) = ended.and_then(|ticket| self.take(ticket.task)) {
                self.settle(ticket, None);
            }
        }
        for at in 0..self.objects.end() {
            let object = self.objects.get(at).filter(|object| object.file == file);
            if let Some(root) = object.map(|object| object.root) {
                self.forget_where(root, |object| object.file == file);
            }
        }
    }

    /// Takes in that the driver has gone, or that nobody looks at it any more.
    pub(crate) fn forget_all(&mut self) {
        self.objects.clear();
        self.uncounted = 0;
        self.tickets.fill(None);
        self.making = 0;
        for at in 0..self.processes.end() {
            if let Some(process) = self.processes.get_mut(at) {
                process.has = [0; KINDS_COUNTED];
                process.is_inexact = false;
            }
            let_go_if_idle(&mut self.processes, at);
        }
    }

    // ---- Who may ------------------------------------------------------------------------------------

    /// Makes a process a tenant. Returns whether there is room.
    pub(crate) fn tenant_attached(
        &mut self,
        pid: i32,
        start_ns: u64,
        uid: u32,
        tenant: u64,
    ) -> bool {
        let new = Process {
            pid,
            start_ns,
            uid,
            ..Process::default()
        };
        let found = self.find(pid, start_ns);
        let found = found.or_else(|| self.processes.insert(key(pid), new));
        let Some(process) = found.and_then(|at| self.processes.get_mut(at)) else {
            return false;
        };
        process.tenant = tenant;
        process.tenancies += 1;
        if process.tenancies == 1 {
            self.tenants += 1;
        }
        true
    }

    /// Makes it one no longer.
    pub(crate) fn tenant_ended(&mut self, pid: i32, start_ns: u64) {
        let Some(at) = self.find(pid, start_ns) else {
            return;
        };
        let Some(process) = self
            .processes
            .get_mut(at)
            .filter(|process| process.tenancies > 0)
        else {
            return;
        };
        process.tenancies -= 1;
        if process.tenancies == 0 {
            process.tenant = 0;
            self.tenants -= 1;
            let_go_if_idle(&mut self.processes, at);
        }
    }

    /// Admits a process, or no longer. Returns whether there is room.
    pub(crate) fn admit_process(&mut self, pid: i32, start_ns: u64, admitted: bool) -> bool {
        let caller = Caller {
            pid,
            start_ns,
            ..Caller::default()
        };
        let found = self.find(pid, start_ns);
        let found = found.or_else(|| admitted.then(|| self.take_in(&caller)).flatten());
        let Some(at) = found else {
            return !admitted;
        };
        if let Some(process) = self.processes.get_mut(at) {
            process.is_admitted = admitted;
        }
        let_go_if_idle(&mut self.processes, at);
        true
    }

    /// Admits a cgroup, or no longer. Returns whether there is room.
    pub(crate) fn admit_cgroup(&mut self, id: u64, admitted: bool) -> bool {
        let known = self.cgroups().iter().position(|&known| known == id);
        match (known, admitted) {
            (None, true) if self.cgroup_count == self.cgroups.len() => return false,
            (None, true) => {
                self.cgroups[self.cgroup_count] = id;
                self.cgroup_count += 1;
            }
            (Some(at), false) => {
                self.cgroup_count -= 1;
                self.cgroups[at] = self.cgroups[self.cgroup_count];
            }
            (None, false) | (Some(_), true) => {}
        }
        true
    }

    /// Returns the cgroup that is admitted at a place, if there is one.
    pub(crate) fn cgroup_at(&self, at: usize) -> Option<u64> {
        self.cgroups().get(at).copied()
    }

    /// Returns the cgroups that are admitted.
    pub(crate) fn cgroups(&self) -> &[u64] {
        &self.cgroups[..self.cgroup_count]
    }

    // ---- What there is ------------------------------------------------------------------------------

    /// Returns how many GPU channels a process has.
    pub(crate) fn channels_of(&self, pid: i32, start_ns: u64) -> u32 {
        let process = self
            .find(pid, start_ns)
            .and_then(|at| self.processes.get(at));
        process.map_or(0, |process| process.has[Kind::Channel as usize])
    }

    /// Returns what there is of the process with the next pid, if it has anything or was refused it. What
    /// lives on of a process whose pid another one has by now is part of it.
    pub(crate) fn next_user(&self, after: i32) -> Option<Process> {
        let users = || self.processes.iter().map(|(_, process)| process);
        let users = || users().filter(|process| process.pid > after && process.is_user());
        let pid = users().map(|process| process.pid).min()?;
        let same = users().filter(|process| process.pid == pid).copied();
        same.reduce(|one, other| {
            let (old, mut new) = if one.start_ns < other.start_ns {
                (one, other)
            } else {
                (other, one)
            };
            for (sum, more) in new.has.iter_mut().zip(old.has) {
                *sum += more;
            }
            new.refused += old.refused;
            new.is_inexact |= old.is_inexact;
            new
        })
    }

    /// Returns whether there is anything to tell.
    pub(crate) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Takes what is to be told next.
    pub(crate) fn next_note(&mut self) -> Option<Note> {
        self.notes.pop(|lost| Note {
            lost,
            ..Note::default()
        })
    }

    /// Returns how many calls could not be judged, or found no room, or whose outcome is not known.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Returns how many places of processes there are to look at with [`Self::forget_if_dead`].
    pub(crate) fn places(&self) -> u32 {
        self.processes.end()
    }

    /// Forgets what is left of the process at a place, but for what it has, if it lives no more.
    pub(crate) fn forget_if_dead(&mut self, at: u32, lives: impl FnOnce(i32, u64) -> bool) {
        let Some(process) = self.processes.get_mut(at) else {
            return;
        };
        if process.tenancies == 0 && !lives(process.pid, process.start_ns) {
            process.is_admitted = false;
            process.refused = 0;
            process.is_inexact &= process.has != [0; KINDS_COUNTED];
            let_go_if_idle(&mut self.processes, at);
        }
    }

    // ---- Processes ----------------------------------------------------------------------------------

    fn find(&self, pid: i32, start_ns: u64) -> Option<u32> {
        let mut same = self.processes.chain(key(pid));
        let found = same.find(|(_, process)| process.is(pid, start_ns));
        found.map(|(at, _)| at)
    }

    /// Takes in a process that is no tenant, if the places kept for tenants allow.
    fn take_in(&mut self, caller: &Caller) -> Option<u32> {
        let kept = self.tenants_max.saturating_sub(self.tenants);
        if self.processes.room() <= kept {
            return None;
        }
        let new = Process {
            pid: caller.pid,
            start_ns: caller.start_ns,
            uid: caller.uid,
            command: caller.command,
            ..Process::default()
        };
        self.processes.insert(key(caller.pid), new)
    }

    /// The same, if its user has not taken too many already.
    fn meet(&mut self, caller: &Caller) -> Option<u32> {
        let all = self.processes.places().saturating_sub(self.tenants_max);
        let kept = self.tenants_max.saturating_sub(self.tenants);
        let left = self.processes.room().saturating_sub(kept);
        let may_come = is_fair(left, all, || {
            let strangers = self.processes.iter().map(|(_, process)| process);
            let strangers = strangers.filter(|process| process.tenancies == 0);
            strangers
                .filter(|process| process.uid == caller.uid)
                .count()
        });
        may_come.then(|| self.take_in(caller)).flatten()
    }

    fn may_have(&self, process: Option<u32>, is_below: impl FnOnce(&[u64]) -> bool) -> bool {
        let process = process.and_then(|at| self.processes.get(at));
        self.mode != Mode::Enforce
            || process.is_some_and(|process| process.tenancies > 0 || process.is_admitted)
            || is_below(self.cgroups())
    }

    /// Returns whether a process is a tenant with all the channels that it may have.
    fn has_all(&self, process: Option<u32>) -> bool {
        let process = process.and_then(|at| self.processes.get(at));
        self.mode == Mode::Enforce
            && self.tenant_channels_max > 0
            && process.is_some_and(|process| {
                process.tenancies > 0
                    && process.has[Kind::Channel as usize] >= self.tenant_channels_max
            })
    }

    fn refuse(&mut self, caller: &Caller, class: u32, status: u32) -> Verdict {
        let found = self.find(caller.pid, caller.start_ns);
        let found = found.or_else(|| self.meet(caller));
        if let Some(process) = found.and_then(|at| self.processes.get_mut(at)) {
            process.refused += 1;
            process.command = caller.command;
            // Whoever goes on trying does not drown what others are told of.
            if process.refused <= REFUSALS_TOLD || process.refused.is_power_of_two() {
                self.notes.push(Note {
                    status,
                    class,
                    pid: caller.pid,
                    uid: caller.uid,
                    tenant: process.tenant,
                    command: caller.command,
                    lost: 0,
                });
            }
        }
        Verdict::Refuse(status)
    }

    /// Tells that a process that is no tenant has a GPU channel, once.
    fn tell_first(&mut self, at: u32, class: u32) {
        let process = self.processes.get_mut(at);
        if let Some(process) = process.filter(|process| process.tenancies == 0 && !process.is_told)
        {
            process.is_told = true;
            self.notes.push(Note {
                class,
                pid: process.pid,
                uid: process.uid,
                command: process.command,
                ..Note::default()
            });
        }
    }

    fn count(&mut self, at: u32, kind: Kind, caller: &Caller) {
        if let Some(process) = self.processes.get_mut(at) {
            process.has[kind as usize] += 1;
            process.uid = caller.uid;
            process.command = caller.command;
        }
    }

    /// Counts a call that is not counted as what it is.
    fn lose(&mut self, process: Option<u32>) {
        self.missed += 1;
        if let Some(process) = process.and_then(|at| self.processes.get_mut(at)) {
            process.is_inexact = true;
        }
    }

    // ---- Tickets ------------------------------------------------------------------------------------

    /// Returns whether one more object can be made for a process.
    fn has_room(&self, process: u32) -> bool {
        let left = self.objects.room().saturating_sub(self.making);
        is_fair(left, self.objects.places(), || {
            let uid = self.processes.get(process).map(|process| process.uid);
            let processes = self.processes.iter().map(|(_, process)| process);
            let own = processes.filter(|process| Some(process.uid) == uid);
            own.flat_map(|process| process.has).sum::<u32>() as usize
        })
    }

    /// Returns whether one more object can be made that counts for nobody.
    fn has_room_below(&self) -> bool {
        let left = self.objects.room().saturating_sub(self.making);
        is_fair(left, self.objects.places(), || self.uncounted)
    }

    /// Returns whether one more call of a user can be followed.
    fn has_ticket(&self, uid: u32) -> bool {
        let used = || self.tickets.iter().flatten();
        let left = self.tickets.len() - used().count();
        is_fair(left, self.tickets.len(), || {
            used().filter(|ticket| ticket.uid == uid).count()
        })
    }

    fn put(&mut self, ticket: Ticket) -> bool {
        if !self.has_ticket(ticket.uid) {
            return false;
        }
        let Some(slot) = self.tickets.iter_mut().find(|slot| slot.is_none()) else {
            return false;
        };
        *slot = Some(ticket);
        self.making += usize::from(matches!(ticket.call, Call::Make { .. }));
        true
    }

    fn take(&mut self, task: usize) -> Option<Ticket> {
        let mut slots = self.tickets.iter_mut();
        let slot = slots.find(|slot| slot.is_some_and(|ticket| ticket.task == task))?;
        let ticket = slot.take()?;
        self.making -= usize::from(matches!(ticket.call, Call::Make { .. }));
        Some(ticket)
    }

    /// Takes in that the end of a thread's last call, if any, was missed: whatever it made is there.
    fn miss(&mut self, task: usize) {
        if let Some(ticket) = self.take(task) {
            self.missed += 1;
            if matches!(ticket.call, Call::Make { .. }) {
                self.settle(ticket, Some(0));
            }
        }
    }

    fn settle(&mut self, ticket: Ticket, handle: Option<u32>) {
        match (ticket.call, handle) {
            (
                Call::Make {
                    root,
                    parent,
                    class,
                    kind,
                },
                Some(handle),
            ) => {
                let mut objects = self.objects_of(root);
                let above = objects.find(|object| object.handle == parent);
                let object = Object {
                    file: ticket.file,
                    clock: self.clock,
                    root,
                    handle,
                    parent,
                    grandparent: above.map_or(0, |above| above.parent),
                    process: ticket.process,
                    kind,
                };
                drop(objects);
                self.objects.insert(root.into(), object);
                self.uncounted += usize::from(!kind.is_counted());
                if kind == Kind::Channel {
                    self.tell_first(ticket.process, class);
                }
            }
            (Call::Make { kind, .. }, None) => {
                uncount(&mut self.processes, ticket.process, kind);
            }
            (Call::Free { root, handle }, Some(_)) => {
                self.forget_where(root, |object| {
                    object.clock < ticket.clock && object.goes_with(handle)
                });
            }
            _ => {}
        }
    }

    // ---- Objects ------------------------------------------------------------------------------------

    fn objects_of(&self, root: u32) -> impl Iterator<Item = &Object> {
        let chain = self.objects.chain(root.into());
        chain
            .filter(move |object| object.1.root == root)
            .map(|(_, object)| object)
    }

    /// Returns whether anything goes when a handle of a client is freed.
    fn frees_any(&self, root: u32, handle: u32) -> bool {
        self.objects_of(root).any(|object| object.goes_with(handle))
    }

    /// Forgets what a client has, if it goes.
    fn forget_where(&mut self, root: u32, goes: impl Fn(&Object) -> bool) {
        let Self {
            objects,
            processes,
            uncounted,
            ..
        } = self;
        let goes = |object: &Object| object.root == root && goes(object);
        objects.remove_where(root.into(), goes, |object| {
            *uncounted -= usize::from(!object.kind.is_counted());
            uncount(processes, object.process, object.kind);
        });
    }
}

/// Returns whether a user may have one more place of a table, who has so many: of those that are left, of all.
fn is_fair(left: usize, all: usize, own: impl FnOnce() -> usize) -> bool {
    left > 0 && (2 * left > all || own() < left)
}

/// Counts one less of what a process has; nothing, of what counts for nobody.
fn uncount<S: Storage>(processes: &mut Chains<Process, S>, at: u32, kind: Kind) {
    let Some(process) = processes.get_mut(at) else {
        return;
    };
    if let Some(has) = process.has.get_mut(kind as usize) {
        *has = has.saturating_sub(1);
    }
    let_go_if_idle(processes, at);
}

fn let_go_if_idle<S: Storage>(processes: &mut Chains<Process, S>, at: u32) {
    let idle = processes.get(at).filter(|process| process.is_idle());
    if let Some(&idle) = idle {
        processes.remove_where(
            key(idle.pid),
            |process| process.is(idle.pid, idle.start_ns),
            drop,
        );
    }
}

fn key(pid: i32) -> u64 {
    u64::from(pid.unsigned_abs())
}
