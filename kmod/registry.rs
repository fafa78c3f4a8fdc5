// SPDX-License-Identifier: GPL-2.0
//! Who there is: GPUs and who schedules them, tenants, channels. One table, one lock.
//!
//! Nothing that may fault, wait for a process or drop a channel happens under the lock. It is taken within
//! that of an address space, and no such lock is taken within it.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        atomic::ordering::{Full, Release},
    },
};

use crate::{
    abi::*,
    admission,
    channel::Channel,
    charge::Charge,
    geometry::Geometry,
    scheduler::{Scheduler, now_ns},
    table::{Place, Table},
    tenant::Tenant,
};

/// GPUs of a machine.
const GPUS_MAX: usize = 64;

type Places<T> = Table<Arc<T>, KVVec<Place<Arc<T>>>>;

struct Gpu {
    uuid: [u8; 16],
    geometry: Geometry,
    /// Counts claims and their ends.
    epoch: u64,
    scheduler: Option<Arc<Scheduler>>,
}

struct Registry {
    gpus: KVec<Gpu>,
    tenants: Places<Tenant>,
    channels: Places<Channel>,
}

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is inserted, before there is a device.
    unsafe(uninit) static REGISTRY: Mutex<Option<Registry>> = None;
}

fn with<R>(act: impl FnOnce(&mut Registry) -> Result<R>) -> Result<R> {
    act(REGISTRY.lock().as_mut().ok_or(ENODEV)?)
}

/// Makes room for so many tenants and channels.
///
/// # Safety
///
/// Once, before anything else here.
pub(crate) unsafe fn init(tenants: usize, channels: usize) -> Result {
    // SAFETY: the caller's.
    unsafe { REGISTRY.init() };
    *REGISTRY.lock() = Some(Registry {
        gpus: KVec::with_capacity(GPUS_MAX, GFP_KERNEL)?,
        tenants: Table::new(places(tenants)?),
        channels: Table::new(places(channels)?),
    });
    Ok(())
}

/// Gives the room back. Nobody is there any more.
pub(crate) fn exit() {
    let registry = REGISTRY.lock().take();
    drop(registry);
}

fn places<T>(count: usize) -> Result<KVVec<Place<T>>> {
    let mut places = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        places.push(Place::new(), GFP_KERNEL)?;
    }
    Ok(places)
}

impl Registry {
    fn gpu(&self, uuid: &[u8; 16]) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.uuid == *uuid)
    }

    fn scheduler(&self, uuid: &[u8; 16]) -> Option<&Arc<Scheduler>> {
        self.gpu(uuid)?.scheduler.as_ref()
    }

    fn is_scheduled_by(&self, uuid: &[u8; 16], scheduler: &Arc<Scheduler>) -> bool {
        self.scheduler(uuid)
            .is_some_and(|own| Arc::ptr_eq(own, scheduler))
    }

    /// Tells every scheduler once.
    fn tell_all(&self, event: lithos_event) {
        for (index, gpu) in self.gpus.iter().enumerate() {
            let Some(scheduler) = &gpu.scheduler else {
                continue;
            };
            let mut before = self.gpus[..index]
                .iter()
                .filter_map(|gpu| gpu.scheduler.as_ref());
            if !before.any(|other| Arc::ptr_eq(other, scheduler)) {
                scheduler.tell(event);
            }
        }
    }

    /// Tells the scheduler of a channel. Returns whether there is one that will read it.
    fn tell(&self, channel: &Channel, event: lithos_event) -> bool {
        self.scheduler(&channel.gpu)
            .is_some_and(|scheduler| scheduler.tell(event))
    }

    /// Sets a channel's broker word to what holds on its GPU, unless the channel has ended.
    fn arm(&self, channel: &Channel) {
        let Some(gpu) = self.gpu(&channel.gpu) else {
            return;
        };
        if channel.is_retired() {
            return;
        }
        if gpu.scheduler.is_some() {
            channel.set_broker(LITHOS_BROKER_SCHEDULED, gpu.epoch);
        } else {
            channel.fail_static(gpu.epoch);
        }
    }
}

fn about_tenant(kind: u32, tenant: &Tenant) -> lithos_event {
    lithos_event {
        type_: kind,
        uid: tenant.identity.uid,
        time_ns: now_ns(),
        tenant: tenant.id,
        pid: tenant.identity.pid,
        ..lithos_event::default()
    }
}

fn about_channel(kind: u32, channel: &Channel, value: u64) -> lithos_event {
    lithos_event {
        type_: kind,
        uid: channel.uid,
        time_ns: now_ns(),
        tenant: channel.tenant,
        channel: channel.id,
        pid: channel.pid,
        value,
        ..lithos_event::default()
    }
}

/// Returns what there is.
pub(crate) fn info() -> Result<lithos_info> {
    let pinned_bytes = crate::charge::total().pinned_bytes;
    let (admission, sees_driver) = admission::state();
    let flags = if sees_driver {
        LITHOS_INFO_GPU_DRIVER
    } else {
        0
    };
    with(|registry| {
        let scheduled = registry.gpus.iter().filter(|gpu| gpu.scheduler.is_some());
        Ok(lithos_info {
            version: LITHOS_ABI_VERSION,
            schedulers: scheduled.count() as u32,
            tenants: registry.tenants.len() as u32,
            channels: registry.channels.len() as u32,
            pinned_bytes,
            admission,
            flags,
            ..lithos_info::default()
        })
    })
}

/// Shows each GPU that was ever claimed: UUID, epoch, and for how many nanoseconds its scheduler has
/// been silent, if it has one.
pub(crate) fn each_gpu<E>(
    mut show: impl FnMut(&[u8; 16], u64, Option<u64>) -> Result<(), E>,
) -> Result<(), E> {
    let registry = REGISTRY.lock();
    let gpus = registry.iter().flat_map(|registry| registry.gpus.iter());
    for gpu in gpus {
        let silence = gpu
            .scheduler
            .as_ref()
            .map(|scheduler| scheduler.silence_ns());
        show(&gpu.uuid, gpu.epoch, silence)?;
    }
    Ok(())
}

// ---- Schedulers ----------------------------------------------------------------------------------

/// Gives a scheduler a GPU; returns the epoch.
pub(crate) fn claim(scheduler: &Arc<Scheduler>, uuid: [u8; 16], geometry: Geometry) -> Result<u64> {
    with(|registry| {
        if scheduler.is_revoked() {
            return Err(ESTALE);
        }
        if registry.gpu(&uuid).is_none() {
            if registry.gpus.len() == GPUS_MAX {
                return Err(ENOSPC);
            }
            let gpu = Gpu {
                uuid,
                geometry,
                epoch: 0,
                scheduler: None,
            };
            registry.gpus.push(gpu, GFP_KERNEL)?;
        }
        let gpu = registry
            .gpus
            .iter_mut()
            .find(|gpu| gpu.uuid == uuid)
            .ok_or(ENOSPC)?;
        match &gpu.scheduler {
            Some(other) if !Arc::ptr_eq(other, scheduler) => return Err(EBUSY),
            Some(_) => {
                gpu.geometry = geometry;
                return Ok(gpu.epoch);
            }
            None => {}
        }
        scheduler.beat();
        gpu.geometry = geometry;
        gpu.epoch += 1;
        gpu.scheduler = Some(scheduler.clone());
        let epoch = gpu.epoch;
        for channel in registry
            .channels
            .iter()
            .filter(|channel| channel.gpu == uuid)
        {
            // What the one before was told of it and has not read, nobody will.
            channel.rings.store(0, Release);
            registry.arm(channel);
        }
        Ok(epoch)
    })
}

/// Ends a scheduler: its mappings first, so that nothing that it writes comes after what the kernel
/// says then.
pub(crate) fn scheduler_ended(scheduler: &Arc<Scheduler>) {
    if !scheduler.revoke() {
        return;
    }
    // It may have had none.
    let _ = with(|registry| {
        for gpu in registry.gpus.iter_mut() {
            if gpu
                .scheduler
                .as_ref()
                .is_some_and(|own| Arc::ptr_eq(own, scheduler))
            {
                gpu.scheduler = None;
                gpu.epoch += 1;
            }
        }
        for channel in registry.channels.iter() {
            if registry
                .gpu(&channel.gpu)
                .is_some_and(|gpu| gpu.scheduler.is_none())
            {
                registry.arm(channel);
            }
        }
        Ok(())
    });
}

/// Ends schedulers that have been silent for too long. Returns whether any is left.
pub(crate) fn look_after_schedulers() -> bool {
    loop {
        let mut any = false;
        let silent = with(|registry| {
            let mut schedulers = registry
                .gpus
                .iter()
                .filter_map(|gpu| gpu.scheduler.as_ref());
            Ok(schedulers
                .find(|scheduler| {
                    any = true;
                    scheduler.silence_ns() > u64::from(crate::silence_ms()) * 1_000_000
                })
                .cloned())
        });
        let Ok(Some(silent)) = silent else {
            return any;
        };
        let silence = silent.silence_ns();
        pr_warn!(
            "a scheduler has been silent for {} ms: fail-static\n",
            silence / 1_000_000
        );
        // Before its end, which wakes it: what it reads last is why.
        silent.tell(lithos_event {
            type_: LITHOS_EVENT_WATCHDOG,
            time_ns: now_ns(),
            value: silence,
            ..lithos_event::default()
        });
        scheduler_ended(&silent);
    }
}

/// Passes on what a scheduler says to a tenant.
pub(crate) fn answer_tenant(scheduler: &Arc<Scheduler>, answer: lithos_answer) -> Result {
    let tenant = tenant_for(scheduler, answer.id)?;
    tenant.awaited.answer(answer)?;
    if answer.reply.error != 0 {
        tenant.admit_no_longer();
    }
    Ok(())
}

/// Passes on what a scheduler says about a channel.
pub(crate) fn answer_channel(scheduler: &Arc<Scheduler>, answer: lithos_answer) -> Result {
    channel_for(scheduler, answer.id)?.awaited.answer(answer)
}

/// Wakes who sleeps on a channel.
pub(crate) fn wake(scheduler: &Arc<Scheduler>, id: u64) -> Result {
    channel_for(scheduler, id)?.awaited.wake();
    Ok(())
}

/// Kills a tenant's process.
pub(crate) fn evict(scheduler: &Arc<Scheduler>, id: u64) -> Result {
    let tenant = tenant_for(scheduler, id)?;
    pr_info!(
        "tenant {} (process {}) is evicted\n",
        id,
        tenant.identity.pid
    );
    tenant.kill();
    Ok(())
}

/// Returns what there is of the tenant after one.
pub(crate) fn next_tenant(after: u64) -> Result<lithos_tenant_info> {
    with(|registry| {
        let tenant = registry.tenants.next(after).ok_or(ENOENT)?;
        let own = registry
            .channels
            .iter()
            .filter(|channel| channel.tenant == tenant.id);
        let answered = tenant.awaited.is_answered();
        Ok(lithos_tenant_info {
            tenant: tenant.id,
            pid: tenant.identity.pid,
            uid: tenant.identity.uid,
            cgroup: tenant.identity.cgroup,
            start_ns: tenant.identity.start_ns,
            channels: own.count() as u32,
            gpu_channels: admission::channels_of(tenant.identity.pid, tenant.identity.start_ns),
            flags: if answered { LITHOS_TENANT_ANSWERED } else { 0 },
            request: tenant.request,
            ..lithos_tenant_info::default()
        })
    })
}

/// Returns what there is of the channel after one, on the scheduler's GPUs.
pub(crate) fn next_channel(scheduler: &Arc<Scheduler>, after: u64) -> Result<lithos_channel_info> {
    with(|registry| {
        let mut id = after;
        loop {
            let channel = registry.channels.next(id).ok_or(ENOENT)?;
            if !registry.is_scheduled_by(&channel.gpu, scheduler) {
                id = channel.id;
                continue;
            }
            let answered = channel.awaited.is_answered();
            return Ok(lithos_channel_info {
                channel: channel.id,
                tenant: channel.tenant,
                gpu: channel.gpu,
                context: channel.context,
                ring_bytes: channel.geometry.ring_bytes,
                arena_bytes: channel.geometry.arena_bytes,
                records: channel.geometry.records,
                flags: if answered { LITHOS_CHANNEL_ANSWERED } else { 0 },
                regions: channel.geometry.regions,
            });
        }
    })
}

fn tenant_for(scheduler: &Scheduler, id: u64) -> Result<Arc<Tenant>> {
    if scheduler.is_revoked() {
        return Err(ESTALE);
    }
    with(|registry| registry.tenants.get(id).cloned().ok_or(ENOENT))
}

/// Returns a channel of one of the scheduler's GPUs.
pub(crate) fn channel_for(scheduler: &Arc<Scheduler>, id: u64) -> Result<Arc<Channel>> {
    if scheduler.is_revoked() {
        return Err(ESTALE);
    }
    with(|registry| {
        let channel = registry.channels.get(id).ok_or(ENOENT)?;
        if !registry.is_scheduled_by(&channel.gpu, scheduler) {
            return Err(ENOENT);
        }
        Ok(channel.clone())
    })
}

/// Tells that a process was refused a GPU channel.
pub(crate) fn gpu_refused(pid: i32, uid: u32, tenant: u64, class: u32) {
    let event = lithos_event {
        type_: LITHOS_EVENT_GPU_REFUSED,
        uid,
        time_ns: now_ns(),
        tenant,
        pid,
        value: class.into(),
        ..lithos_event::default()
    };
    // Nobody is told while the module goes.
    let _ = with(|registry| {
        registry.tell_all(event);
        Ok(())
    });
}

// ---- Tenants --------------------------------------------------------------------------------------

/// Takes an id for a tenant, if anybody schedules.
pub(crate) fn reserve_tenant() -> Result<u64> {
    with(|registry| {
        if registry.gpus.iter().all(|gpu| gpu.scheduler.is_none()) {
            return Err(ENXIO);
        }
        registry.tenants.reserve().ok_or(EUSERS)
    })
}

/// Gives the id back that nobody became.
pub(crate) fn cancel_tenant(id: u64) {
    let nobody = with(|registry| Ok(registry.tenants.remove(id)));
    drop(nobody);
}

/// Takes a tenant in.
pub(crate) fn tenant_attached(tenant: &Arc<Tenant>) -> Result {
    with(|registry| {
        let identity = &tenant.identity;
        admission::tenant_attached(identity.pid, identity.start_ns, identity.uid, tenant.id)?;
        let put = registry.tenants.put(tenant.id, tenant.clone());
        if put.is_err() {
            admission::tenant_ended(identity.pid, identity.start_ns);
            return Err(EINVAL);
        }
        registry.tell_all(about_tenant(LITHOS_EVENT_TENANT, tenant));
        Ok(())
    })
}

/// Lets a tenant go, and its channels, each as soon as its arena is unmapped.
pub(crate) fn tenant_ended(tenant: &Tenant) {
    let mut known = None;
    let _ = with(|registry| {
        known = registry.tenants.remove(tenant.id);
        Ok(())
    });
    if known.is_none() {
        return;
    }
    tenant.admit_no_longer();
    let mut id = 0;
    loop {
        let next = with(|registry| registry.channels.next(id).cloned().ok_or(ENOENT));
        let Ok(channel) = next else {
            break;
        };
        id = channel.id;
        if channel.tenant == tenant.id {
            retire(&channel, true);
            if !channel.is_arena_mapped() {
                end_channel(&channel);
            }
        }
    }
    let _ = with(|registry| {
        registry.tell_all(about_tenant(LITHOS_EVENT_TENANT_END, tenant));
        Ok(())
    });
}

/// Returns how many channels a tenant has, and of how many bytes.
pub(crate) fn usage(tenant: &Tenant) -> (usize, u64) {
    let usage = with(|registry| {
        let own = registry
            .channels
            .iter()
            .filter(|channel| channel.tenant == tenant.id);
        Ok(own.fold((0, 0), |(count, bytes), channel| {
            (count + 1, bytes + channel.geometry.pinned_bytes())
        }))
    });
    usage.unwrap_or_default()
}

/// Makes a channel of a tenant.
pub(crate) fn open_channel(
    tenant: &Tenant,
    request: &lithos_channel_create,
) -> Result<Arc<Channel>> {
    let geometry = with(|registry| {
        let gpu = registry
            .gpu(&request.gpu)
            .filter(|gpu| gpu.scheduler.is_some());
        Ok(gpu.ok_or(ENODEV)?.geometry)
    })?;
    let charge = Charge::take(tenant.identity.uid, Channel::price(&geometry))?;
    let id = with(|registry| registry.channels.reserve().ok_or(EUSERS))?;
    let channel = Channel::new(id, tenant, request, geometry, charge);
    let taken_in = channel.and_then(|channel| {
        with(|registry| {
            // It may have ended meanwhile, in another thread.
            registry.tenants.get(tenant.id).ok_or(ENOENT)?;
            registry.arm(&channel);
            registry
                .channels
                .put(id, channel.clone())
                .map_err(|_| EINVAL)?;
            let event = about_channel(LITHOS_EVENT_CHANNEL, &channel, channel.context);
            registry.tell(&channel, event);
            Ok(channel.clone())
        })
    });
    if taken_in.is_err() {
        let nothing = with(|registry| Ok(registry.channels.remove(id)));
        drop(nothing);
    }
    taken_in
}

/// Returns a channel of a tenant.
pub(crate) fn channel_of(tenant: &Tenant, id: u64) -> Result<Arc<Channel>> {
    with(|registry| {
        let channel = registry
            .channels
            .get(id)
            .filter(|channel| channel.tenant == tenant.id);
        Ok(channel.ok_or(ENOENT)?.clone())
    })
}

/// Returns the channel whose id has these low bits.
pub(crate) fn channel_at(bits: u64) -> Result<Arc<Channel>> {
    let mask = (1 << LITHOS_MAP_ID_BITS) - 1;
    with(|registry| {
        let place = bits & ((1 << LITHOS_ID_PLACE_BITS) - 1);
        let channel = registry.channels.at(place as usize);
        let channel = channel.filter(|channel| channel.id & mask == bits);
        Ok(channel.ok_or(ENOENT)?.clone())
    })
}

/// Ends a channel at its tenant's wish.
pub(crate) fn close_channel(tenant: &Tenant, id: u64) -> Result {
    let channel = channel_of(tenant, id)?;
    retire(&channel, false);
    end_channel(&channel);
    Ok(())
}

/// Retires a channel: its chains go on without anybody, or run out if its tenant ends; and what waits on it
/// is told.
fn retire(channel: &Channel, ends: bool) {
    // Whoever arms a channel does it under the lock: it does not come after this.
    let _ = with(|_| {
        channel.retire();
        Ok(())
    });
    channel.let_go(ends);
    channel.awaited.end();
}

/// Passes a tenant's call on, once until it is heard.
pub(crate) fn ring(channel: &Channel) -> Result {
    if channel.rings.xchg(1, Full) != 0 {
        return Ok(());
    }
    with(|registry| {
        if !registry.tell(channel, about_channel(LITHOS_EVENT_DOORBELL, channel, 0)) {
            // Nobody will hear this one: the next is to be tried again.
            channel.rings.store(0, Release);
        }
        Ok(())
    })
}

/// Lets a channel be called for again: its doorbell was heard.
pub(crate) fn heard(id: u64) {
    let channel = with(|registry| registry.channels.get(id).cloned().ok_or(ENOENT));
    if let Ok(channel) = channel {
        channel.rings.store(0, Release);
    }
}

/// Waits, bounded, until the GPU has left an arena that was unmapped; if its tenant has ended, its
/// channel does now.
pub(crate) fn arena_unmapped(channel: &Arc<Channel>) {
    let has_ended = || {
        let ended = with(|registry| Ok(registry.tenants.get(channel.tenant).is_none()));
        ended.unwrap_or(true)
    };
    channel.wait_for_tails(crate::death_wait_ms(), has_ended());
    if has_ended() {
        end_channel(channel);
    }
}

/// Forgets a channel, once, and says so.
fn end_channel(channel: &Arc<Channel>) {
    let chains = channel.chains();
    let removed = with(|registry| {
        let removed = registry.channels.remove(channel.id).ok_or(ENOENT)?;
        registry.tell(
            channel,
            about_channel(LITHOS_EVENT_CHANNEL_END, channel, chains),
        );
        Ok(removed)
    });
    drop(removed);
}
