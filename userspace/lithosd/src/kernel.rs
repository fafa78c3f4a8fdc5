// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel's broker: tenants and channels that come by `/dev/lithos`. It stands where `tenants.rs` does
//! for the embedded one.
//!
//! The kernel knows who is there and keeps the pages, over any number of daemons; what it says are events,
//! and lists where events were lost. This daemon decides, writes grants, and answers. It has to beat: one
//! that the kernel takes for dead has lost its GPUs and its mappings, and can only end.
//!
//! A daemon that starts finds channels that the one before has granted, and goes on in their pages: nobody
//! hands anything over. What the estate has and the kernel has not, has ended meanwhile.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lithos_abi::arena::Counts;
use lithos_abi::bindings::*;
use lithos_abi::grant::Terms;
use lithos_abi::message::{reply, text};
use lithos_device::Identity;
use lithos_device::kernel::DEFAULT_DEVICE;
use lithos_device::scheduler::Scheduler;
use lithos_policy::{ChannelId, Nanos, TenantId};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::broker::{Answer, Broker, BrokerKind, Process, Refused};
use crate::clock;
use crate::config::{BrokerChoice, Config};
use crate::gpu::{Gpu, Unfit, format_uuid};
use crate::heartbeat::Hearts;
use crate::token::{Kind, Token};

/// Events that are read at once.
const EVENTS: usize = 64;
/// How long the daemon before may still have its GPUs: until the kernel has ended it, or misses it.
const CLAIM: Nanos = Nanos::from_secs(5);
/// Between two tries. Whoever has claimed one GPU of several beats in between.
const RETRY: Duration = Duration::from_millis(10);

/// What a daemon says that was taken for dead.
const TAKEN_FOR_DEAD: &str = "the kernel took this lithosd for dead, because it was stopped or hung; another \
     one may have taken over; this one ends";

/// The kernel's broker, of which this process is the scheduler.
#[derive(Debug)]
pub(crate) struct Kernel {
    scheduler: Arc<Scheduler>,
    /// Tenants whose address space has ended, and some of whose channels have not yet.
    ended: BTreeSet<TenantId>,
}

/// Why a call has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    /// This process is no scheduler any more.
    #[error("{TAKEN_FOR_DEAD}")]
    TakenForDead,
    /// Anything else, which should not be.
    #[error("{DEFAULT_DEVICE} fails")]
    Io(#[source] io::Error),
}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESTALE) => Self::TakenForDead,
            _ => Self::Io(error),
        }
    }
}

impl Kernel {
    /// Becomes the scheduler of all GPUs, if the configuration wants that. What keeps a configuration that
    /// leaves the choice from it is added to `problems`.
    pub(crate) fn claim(
        config: &Config,
        gpus: &[Gpu],
        unfit: &[Unfit],
        hearts: &Hearts,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Option<Self>> {
        if config.broker == BrokerChoice::Embedded {
            return Ok(None);
        }
        let is_wanted = config.broker == BrokerChoice::Kernel;
        let claimed = match Scheduler::open(Path::new(DEFAULT_DEVICE)) {
            Ok(scheduler) => {
                // Those that cannot be managed, too, so that whoever asks for one is told why.
                let unfit = unfit.iter().filter_map(Unfit::uuid_bytes);
                let all = gpus.iter().map(|gpu| gpu.uuid_bytes).chain(unfit);
                claim_all(&scheduler, all, config).map(|()| scheduler)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_wanted => return Ok(None),
            Err(error) => Err(anyhow::Error::from(error).context(format!(
                "cannot use {DEFAULT_DEVICE}; is the lithos.ko of this release loaded?"
            ))),
        };
        let scheduler = match claimed {
            Ok(scheduler) => Arc::new(scheduler),
            // Somebody else's GPUs are none for the embedded broker, either.
            Err(error) if is_wanted || is_busy(&error) => return Err(error),
            Err(error) => {
                let problem =
                    format!("lithos.ko is there, and lithosd is the broker itself: {error:#}");
                tracing::error!("{problem}");
                problems.push(problem);
                return Ok(None);
            }
        };
        hearts.claimed(Arc::clone(&scheduler), clock::now());
        say_so_on_sigbus().context("cannot handle SIGBUS")?;
        Ok(Some(Self {
            scheduler,
            ended: BTreeSet::new(),
        }))
    }

    /// Goes on with the tenants and channels that are there, when the daemon starts, and hears of others
    /// from then on.
    pub(crate) fn take_over(
        &mut self,
        broker: &mut Broker,
        epoll: &Epoll,
        now: Nanos,
    ) -> anyhow::Result<()> {
        self.reconcile(broker, true, now)?;
        let (kind, number) = (Kind::Kernel, 0);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token { kind, number }.into());
        Ok(epoll.add(self.scheduler.as_ref(), event)?)
    }

    /// Returns whether this process is still the scheduler.
    pub(crate) fn check(&self) -> Result<(), KernelError> {
        Ok(self.scheduler.beat()?)
    }

    /// Takes in what has happened, so much at most that others have their turn.
    pub(crate) fn readable(&mut self, broker: &mut Broker, now: Nanos) -> Result<(), KernelError> {
        let mut events = [lithos_event::default(); EVENTS];
        let count = self.scheduler.read_events(&mut events)?;
        for event in &events[..count] {
            // However much has happened.
            broker.hearts.turned(clock::now());
            let (tenant, channel) = (TenantId(event.tenant), ChannelId(event.channel));
            match event.type_ {
                LITHOS_EVENT_TENANT => self.attach(tenant, broker, now)?,
                LITHOS_EVENT_TENANT_END => self.tenant_ended(tenant, broker, now),
                LITHOS_EVENT_CHANNEL => self.open(channel, broker, now)?,
                LITHOS_EVENT_CHANNEL_END => {
                    if event.value > 0 {
                        let chains = event.value;
                        tracing::warn!(%channel, chains, "the GPU may still run chains of a channel");
                    }
                    broker.end_channel(tenant, channel, now);
                    self.end_if_bare(tenant, broker, now);
                }
                LITHOS_EVENT_DOORBELL => broker.look_at_rings(now),
                LITHOS_EVENT_GPU_REFUSED => {
                    let (pid, uid, class) = (event.pid, event.uid, event.value);
                    tracing::debug!(pid, uid, class, "process refused a GPU channel");
                }
                LITHOS_EVENT_WATCHDOG => return Err(KernelError::TakenForDead),
                LITHOS_EVENT_LOST => {
                    tracing::warn!(lost = event.value, "events were lost");
                    self.reconcile(broker, false, now)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Says to tenants that their channels are granted, or why not.
    pub(crate) fn deliver(
        &self,
        answers: Vec<Answer>,
        broker: &mut Broker,
    ) -> Result<(), KernelError> {
        for Answer {
            tenant,
            channel,
            outcome,
        } in answers
        {
            let reply = match outcome {
                Ok(()) => reply(0, ""),
                Err(why) => {
                    broker.note_refusal(broker.pid(tenant), &why);
                    why.reply()
                }
            };
            said(self.scheduler.answer_channel(channel.0, reply))?;
        }
        Ok(())
    }

    /// Makes the broker know what the kernel has, and nothing else of it. `is_first`: a daemon before this
    /// one may have answered.
    fn reconcile(
        &mut self,
        broker: &mut Broker,
        is_first: bool,
        now: Nanos,
    ) -> Result<(), KernelError> {
        // In this order: whose channel is listed is known, or is looked for.
        let tenants = self.scheduler.tenants()?;
        let channels = self.scheduler.channels()?;
        for info in &tenants {
            let tenant = TenantId(info.tenant);
            broker.hearts.turned(clock::now());
            if is_first {
                broker.welcome_back(tenant, process(info), now);
            }
            let is_refused = !is_first && info.flags & LITHOS_TENANT_ANSWERED != 0;
            if !broker.knows(tenant) && !is_refused {
                self.take_in(info, broker, now)?;
            }
        }
        for info in &channels {
            let (tenant, channel) = (TenantId(info.tenant), ChannelId(info.channel));
            let is_answered = info.flags & LITHOS_CHANNEL_ANSWERED != 0;
            broker.hearts.turned(clock::now());
            if broker.has_left(tenant, channel) {
                self.adopt(tenant, channel, is_answered, broker, now)?;
            } else if !broker.has_channel(channel) && (is_first || !is_answered) {
                self.open_as(info, broker, now)?;
            }
        }
        let there: BTreeSet<u64> = channels.iter().map(|info| info.channel).collect();
        for (tenant, channel) in broker.kernel_channels() {
            if !there.contains(&channel.0) {
                broker.end_channel(tenant, channel, now);
            }
        }
        let there: BTreeSet<u64> = tenants.iter().map(|info| info.tenant).collect();
        for tenant in broker.kernel_tenants() {
            if !there.contains(&tenant.0) {
                self.tenant_ended(tenant, broker, now);
            }
        }
        Ok(())
    }

    /// Takes in a process that has attached.
    fn attach(&self, tenant: TenantId, broker: &mut Broker, now: Nanos) -> Result<(), KernelError> {
        // It may have been listed before.
        if broker.knows(tenant) {
            return Ok(());
        }
        match self.scheduler.tenant(tenant.0)? {
            Some(info) if info.flags & LITHOS_TENANT_ANSWERED == 0 => {
                self.take_in(&info, broker, now)
            }
            _ => Ok(()),
        }
    }

    /// Takes in a process, or refuses it.
    fn take_in(
        &self,
        info: &lithos_tenant_info,
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<(), KernelError> {
        let identity = Identity {
            edits: info.request.edits,
            driver: info.request.driver,
        };
        let partition = text(&info.request.partition).unwrap_or_default();
        let id = TenantId(info.tenant);
        let attached = broker.attach(id, process(info), identity, &partition, now);
        let (flags, message) = match attached {
            Ok(flags) => (flags, reply(0, "")),
            Err(why) => {
                broker.note_refusal(info.pid, &why);
                (0, why.reply())
            }
        };
        said((self.scheduler).answer_tenant(info.tenant, flags, message))
    }

    /// Makes a channel for which its tenant waits.
    fn open(&self, channel: ChannelId, broker: &mut Broker, now: Nanos) -> Result<(), KernelError> {
        if broker.has_channel(channel) {
            return Ok(());
        }
        match self.scheduler.channel(channel.0)? {
            Some(info) if info.flags & LITHOS_CHANNEL_ANSWERED == 0 => {
                self.open_as(&info, broker, now)
            }
            _ => Ok(()),
        }
    }

    fn open_as(
        &self,
        info: &lithos_channel_info,
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<(), KernelError> {
        let tenant = TenantId(info.tenant);
        if self.ended.contains(&tenant) {
            return Ok(());
        }
        self.attach(tenant, broker, now)?;
        let request = lithos_channel_create {
            gpu: info.gpu,
            context: info.context,
            reserved: [0; 2],
        };
        let make = |terms: &Terms| self.scheduler.pages(terms);
        let id = ChannelId(info.channel);
        let made = counts(info)
            .and_then(|counts| broker.create_channel(tenant, id, &request, counts, make, now));
        if let Err(why) = made {
            broker.note_refusal(broker.pid(tenant), &why);
            said((self.scheduler).answer_channel(info.channel, why.reply()))?;
        }
        Ok(())
    }

    /// Goes on with a channel of the daemon before, which had granted it something, or was about to.
    fn adopt(
        &self,
        tenant: TenantId,
        channel: ChannelId,
        is_answered: bool,
        broker: &mut Broker,
        now: Nanos,
    ) -> Result<(), KernelError> {
        let make = |terms: &Terms| self.scheduler.pages(terms);
        match broker.adopt_channel(tenant, channel, make, now) {
            Ok(()) if is_answered => Ok(()),
            Ok(()) => said(self.scheduler.answer_channel(channel.0, reply(0, ""))),
            // What it may use stays as it is until it ends.
            Err(why) => {
                let pid = broker.pid(tenant);
                let problem = format!("process {pid} keeps what it had, restart it: {why}");
                tracing::error!("{problem}");
                broker.problems.push(problem);
                Ok(())
            }
        }
    }

    /// Ends a tenant, when its channels have ended: until then the GPU may be at work for it.
    fn tenant_ended(&mut self, tenant: TenantId, broker: &mut Broker, now: Nanos) {
        if broker.knows(tenant) {
            self.ended.insert(tenant);
            self.end_if_bare(tenant, broker, now);
        }
    }

    fn end_if_bare(&mut self, tenant: TenantId, broker: &mut Broker, now: Nanos) {
        if self.ended.contains(&tenant) && !broker.has_channels(tenant) {
            self.ended.remove(&tenant);
            broker.end_tenant(tenant, "its process ended", now);
        }
    }
}

/// What the kernel's broker asks about, and says to, the state of all brokers.
impl Broker {
    fn knows(&self, tenant: TenantId) -> bool {
        let tenant = self.tenants.get(&tenant);
        tenant.is_some_and(|tenant| tenant.broker == BrokerKind::Kernel)
    }

    fn pid(&self, tenant: TenantId) -> i32 {
        let tenant = self.tenants.get(&tenant);
        tenant.map_or(0, |tenant| tenant.process.pid)
    }

    fn has_channel(&self, channel: ChannelId) -> bool {
        self.channels.contains_key(&channel)
    }

    fn has_channels(&self, tenant: TenantId) -> bool {
        let tenant = self.tenants.get(&tenant);
        tenant.is_some_and(|tenant| !tenant.channels.is_empty() || !tenant.left.is_empty())
    }

    fn has_left(&self, tenant: TenantId, channel: ChannelId) -> bool {
        let tenant = self.tenants.get(&tenant);
        tenant.is_some_and(|tenant| {
            tenant.broker == BrokerKind::Kernel && tenant.left.contains_key(&channel)
        })
    }

    fn kernel_tenants(&self) -> Vec<TenantId> {
        let tenants = self.tenants.iter();
        let tenants = tenants.filter(|(_, tenant)| tenant.broker == BrokerKind::Kernel);
        tenants.map(|(&id, _)| id).collect()
    }

    fn kernel_channels(&self) -> Vec<(TenantId, ChannelId)> {
        let tenants = self.kernel_tenants().into_iter();
        let channels = tenants.flat_map(|id| {
            let tenant = &self.tenants[&id];
            let channels = tenant.channels.iter().chain(tenant.left.keys());
            channels.map(move |&channel| (id, channel))
        });
        channels.collect()
    }

    /// Takes note that a tenant of the daemon before is there, if it is that one.
    fn welcome_back(&mut self, id: TenantId, process: Process, now: Nanos) {
        let tenant = self.tenants.get_mut(&id);
        let tenant = tenant.filter(|t| t.is_absent && t.broker == BrokerKind::Kernel);
        let Some(tenant) = tenant else {
            return;
        };
        // A module that was loaded anew gives ids anew.
        if tenant.is_process(process) {
            tenant.is_absent = false;
            tracing::info!(tenant = %id, pid = process.pid, "tenant is still there");
        } else {
            self.end_tenant(id, "its process ended", now);
        }
    }

    /// Ends a channel of a tenant, if it is known.
    fn end_channel(&mut self, tenant: TenantId, channel: ChannelId, now: Nanos) {
        // One that was refused is not.
        let _ = self.destroy_channel(tenant, channel.0, now);
    }
}

/// Claims GPUs.
fn claim_all(
    scheduler: &Scheduler,
    gpus: impl Iterator<Item = [u8; 16]>,
    config: &Config,
) -> anyhow::Result<()> {
    let terms = Terms::sized(config.regions);
    let most = 1 << LITHOS_MAP_SHIFT;
    if terms.ring_bytes > most || terms.arena_bytes > most {
        bail!(
            "ring and arena of a channel have {} and {} bytes, and lithos.ko takes {most} at most: \
             lower channel.ring_records",
            terms.ring_bytes,
            terms.arena_bytes
        );
    }
    let deadline = clock::now().after(CLAIM);
    for gpu in gpus {
        while let Err(error) = scheduler.claim(gpu, &terms) {
            let is_taken = error.raw_os_error() == Some(libc::EBUSY);
            if !is_taken || clock::now() >= deadline {
                let what = match is_taken {
                    true => "another process schedules",
                    false => "cannot claim",
                };
                return Err(error).with_context(|| format!("{what} {}", format_uuid(&gpu)));
            }
            std::thread::sleep(RETRY);
            // Without a GPU it is no scheduler yet.
            let _ = scheduler.beat();
        }
    }
    Ok(())
}

fn is_busy(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.and_then(io::Error::raw_os_error) == Some(libc::EBUSY)
}

/// What was said to somebody who has ended meanwhile, or was said before, is no error.
fn said(result: io::Result<()>) -> Result<(), KernelError> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EALREADY)) => Ok(()),
        other => Ok(other?),
    }
}

fn process(info: &lithos_tenant_info) -> Process {
    // SAFETY: the call takes a number.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let hz = u64::try_from(hz).ok().filter(|&hz| hz > 0).unwrap_or(100);
    Process {
        pid: info.pid,
        uid: info.uid,
        start_ticks: info.start_ns / (1_000_000_000 / hz),
    }
}

/// What an arena holds that was laid out when the channel was opened, by the daemon of that time.
fn counts(info: &lithos_channel_info) -> Result<Counts, Refused> {
    let count = |kind: lithos_region_kind| info.regions[kind as usize].count;
    let counts = Counts {
        stamps: count(LITHOS_REGION_STAMPS),
        gates: count(LITHOS_REGION_GATES),
        atoms: count(LITHOS_REGION_ATOMS),
        cluster_atoms: count(LITHOS_REGION_CLUSTER_ATOMS),
        tails: count(LITHOS_REGION_TAILS),
    };
    let terms = Terms::sized(counts);
    let ours = (terms.records, terms.ring_bytes, terms.arena_bytes);
    let its = (info.records, info.ring_bytes, info.arena_bytes);
    if ours != its || terms.regions != info.regions {
        let text =
            "the channel was laid out by another release of lithosd; start the program again";
        return Err(Refused::new(libc::EPROTO, text));
    }
    Ok(counts)
}

/// A daemon that was taken for dead has no pages any more; it may find that out by touching one.
fn say_so_on_sigbus() -> nix::Result<()> {
    extern "C" fn on_sigbus(_: c_int) {
        for part in ["lithosd: ", TAKEN_FOR_DEAD, "\n"] {
            // SAFETY: writes what is there. Writing may be done in a signal handler, and so may ending.
            unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: as above.
        unsafe { libc::_exit(1) };
    }
    let handler = SigHandler::Handler(on_sigbus);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does only what may be done in one.
    unsafe { sigaction(Signal::SIGBUS, &action) }.map(drop)
}
