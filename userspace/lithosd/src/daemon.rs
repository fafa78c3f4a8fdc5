// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon: one thread that owns the broker and waits in one place.
//!
//! Everything that can happen is a descriptor in one epoll set: signals, a timer for what the broker
//! wants done at a time, the kernel's broker or the socket of the embedded one, the socket of the command,
//! connections, and processes (pidfds). Between two waits nothing blocks.
//!
//! There is one broker at a time. What the other one handed out under a daemon before lives on with what
//! it had, and nobody else gets that, until its process ends.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use lithos_abi::bindings::{LITHOS_ABI_VERSION, LITHOS_HEARTBEAT_STALE_NS};
use lithos_policy::{Nanos, TenantId};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::admission::Admission;
use crate::broker::{Broker, BrokerKind};
use crate::clients::{Clients, Desk, Group};
use crate::clock::{self, now};
use crate::config::{Config, MpsEnable};
use crate::discover;
use crate::estate::{self, EstateError, Will};
use crate::gpu::{Gpu, Machine, Unfit};
use crate::heartbeat::Hearts;
use crate::kernel::Kernel;
use crate::listener::Listener;
use crate::lock::Locks;
pub use crate::lock::TakeOver;
use crate::memory;
use crate::notify::Manager;
use crate::operator::Partitions;
use crate::peer;
use crate::selftest::{self, Proof, Subject, Verdict};
use crate::status::{AdmissionStatus, DaemonStatus, MpsStatus};
use crate::store::Store;
use crate::tenants::Tenants;
use crate::token::{Kind, Token};

/// Events taken out of the epoll set at once.
const EVENTS: usize = 64;

/// What is the same for all who ask, for status and replies.
#[derive(Debug)]
pub struct Facts {
    /// Where tenants connect.
    pub broker_socket: String,
    /// MPS.
    pub mps: MpsStatus,
    /// Who may have GPU channels, if anybody can see to that.
    pub admission: Option<Admission>,
    /// When the daemon started.
    pub started: Nanos,
}

impl Facts {
    pub fn status(&self, now: Nanos, broker: &Broker) -> DaemonStatus {
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            abi_version: LITHOS_ABI_VERSION,
            pid: std::process::id(),
            broker: broker.kind,
            broker_socket: self.broker_socket.clone(),
            uptime_ms: now.0.saturating_sub(self.started.0) / 1_000_000,
            refused: broker.refused,
            mps: self.mps.clone(),
            admission: self.admission.as_ref().and_then(admission_status),
            state_directory: broker.config.state_directory.display().to_string(),
            group: broker.config.group.clone(),
        }
    }
}

/// Everything that the loop works with.
struct Daemon {
    epoll: Epoll,
    timer: TimerFd,
    signals: SignalFd,
    broker: Broker,
    facts: Facts,
    door: Door,
    clients: Clients,
    owners: BTreeMap<u64, (OwnedFd, String)>,
    owners_seen: u64,
    /// Processes that were tenants of the daemon before and may come back.
    absent: BTreeMap<u64, OwnedFd>,
    locks: Locks,
    manager: Manager,
    /// When the loop last went round.
    turned: Nanos,
}

/// Where tenants come in.
enum Door {
    Kernel(Kernel),
    Socket(Tenants),
}

/// Runs the daemon until it is told to end. The machine is what NVML says, or what the caller makes up.
pub fn run(config: Config, machine: Option<Machine>, take_over: TakeOver) -> anyhow::Result<()> {
    let run_dir = &config.runtime_directory;
    make_directory(run_dir)?;
    make_directory(&config.state_directory)?;
    make_directory(&estate::folder(run_dir))?;
    let locks = Locks::take(run_dir, &config.state_directory, take_over)?;
    raise_descriptor_limit();
    let without_driver = machine.is_some();
    let machine = match machine {
        Some(machine) => machine,
        None => Machine::read()?,
    };
    let (gpus, unfit) = read_gpus(&machine, &config.state_directory, without_driver)?;
    for gpu in &gpus {
        let (index, name) = (gpu.index, &gpu.name);
        let tpcs = gpu.board.tpcs.total();
        tracing::info!(index, name, uuid = gpu.board.uuid, tpcs, "GPU");
    }
    let mut daemon = Daemon::new(config, &machine, gpus, unfit, locks)?;
    let pid = std::process::id();
    let absent = daemon.broker.absent_tenants().count();
    let broker = daemon.broker.kind;
    tracing::info!(
        pid,
        %broker,
        tenants_to_come_back = absent,
        "lithosd is ready"
    );
    daemon.manager.say("READY=1");
    daemon.serve()?;
    daemon.manager.say("STOPPING=1");
    daemon.broker.leave();
    tracing::info!("lithosd ends; tenants keep their guarantees");
    Ok(())
}

impl Daemon {
    fn new(
        config: Config,
        machine: &Machine,
        gpus: Vec<Gpu>,
        unfit: Vec<Unfit>,
        mut locks: Locks,
    ) -> anyhow::Result<Self> {
        let now = now();
        let run_dir = config.runtime_directory.clone();
        let store = Store::open(&config.state_directory)?;
        let mut facts = Facts {
            broker_socket: config.broker_socket().display().to_string(),
            mps: mps_status(&config, machine)?,
            admission: None,
            started: now,
        };
        let group = group(&config.group);
        // Discovery and proofs, which take memory of their own, have ended.
        if let Err(error) = memory::lock() {
            tracing::warn!("the daemon's memory may be paged out: {error}");
        }
        // From here on signals come as events. Discovery has ended, so no child inherits that.
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGTERM);
        wanted.add(Signal::SIGINT);
        wanted.thread_block()?;
        let signals =
            SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = |kind| EpollEvent::new(EpollFlags::EPOLLIN, Token { kind, number: 0 }.into());
        epoll.add(&signals, event(Kind::Signals))?;
        epoll.add(&timer, event(Kind::Timer))?;
        let listen = |path: &Path, kind| {
            let listener = Listener::bind(path, kind, &epoll);
            listener.with_context(|| format!("cannot listen at {}", path.display()))
        };
        let partitions = Partitions::new(config.partitions.clone(), store);
        let (broker_socket, control_socket) = (config.broker_socket(), config.control_socket());
        let hearts = Hearts::default();
        hearts.start().context("cannot start the heartbeat")?;
        let mut problems = Vec::new();
        let kernel = Kernel::claim(&config, &gpus, &unfit, &hearts, &mut problems)?;
        facts.admission = Admission::begin(&config, kernel.is_some())?;
        // From now on no other daemon grants anything by the kernel's broker, so what the one before has
        // left is what it left.
        let now = clock::now();
        let (estate, problem) = match locks.before.map(|pid| Will::of(&run_dir, pid).read()) {
            Some(Ok(estate)) => (estate, None),
            Some(Err(error)) => (None, Some(unknown_tenants(&error))),
            None => (None, None),
        };
        let mut broker = Broker::succeeding(config, gpus, unfit, partitions, estate, now);
        broker.problems.extend(problem.into_iter().chain(problems));
        broker.hearts = hearts;
        // What this daemon leaves holds from when it has signed its lock.
        let will = Will::of(&run_dir, std::process::id());
        broker.make_will(will);
        locks.sign().context("cannot sign the lock")?;
        if let Err(error) = Will::of(&run_dir, std::process::id()).remove_others() {
            tracing::warn!("cannot tidy up what daemons before have left: {error}");
        }
        // Only now may tenants find the way.
        let door = match kernel {
            Some(mut kernel) => {
                broker.kind = BrokerKind::Kernel;
                kernel.take_over(&mut broker, &epoll, now)?;
                Door::Kernel(kernel)
            }
            None => Door::Socket(Tenants::new(listen(&broker_socket, Kind::TenantListener)?)),
        };
        let clients = listen(&control_socket, Kind::ClientListener)?;
        let mut daemon = Self {
            broker,
            epoll,
            timer,
            signals,
            facts,
            door,
            clients: Clients::new(clients, group),
            owners: BTreeMap::new(),
            owners_seen: 0,
            absent: BTreeMap::new(),
            locks,
            manager: Manager::from_environment(),
            turned: now,
        };
        daemon.watch_left(now);
        Ok(daemon)
    }

    /// Watches the processes that the daemon before has left: those of its tenants, until they come back,
    /// and those that it made partitions for.
    fn watch_left(&mut self, now: Nanos) {
        for (tenant, process) in self.broker.absent_tenants().collect::<Vec<_>>() {
            let event = EpollEvent::new(
                EpollFlags::EPOLLIN,
                Token {
                    kind: Kind::Absent,
                    number: tenant.0,
                }
                .into(),
            );
            match peer::watch(process) {
                Ok(Some(pidfd)) if self.epoll.add(&pidfd, event).is_ok() => {
                    self.absent.insert(tenant.0, pidfd);
                }
                Ok(None) => self.broker.end_absent(tenant, now),
                // It keeps what it has until it comes back.
                Ok(Some(_)) | Err(_) => {
                    tracing::error!(
                        pid = process.pid,
                        "cannot watch a tenant of the daemon before"
                    );
                }
            }
        }
        for (name, process) in self.broker.run_owners() {
            match peer::watch(process) {
                Ok(Some(pidfd)) => self.watch_owner(pidfd, name, now),
                Ok(None) | Err(_) => self.broker.end_run_owner(&name, now),
            }
        }
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            self.turn()?;
            self.arm()?;
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error).context("cannot wait for events"),
            };
            self.look_around()?;
            for event in &events[..count] {
                if !self.take(Token::from(event.data()))? {
                    return Ok(());
                }
                // After each, so that no number of peers can delay what is due, or the heartbeat.
                self.turn()?;
            }
        }
    }

    /// After a time in which it could be taken for dead, looks whether somebody has taken over.
    fn look_around(&mut self) -> anyhow::Result<()> {
        let slept = now().0.saturating_sub(self.turned.0);
        if slept > u64::from(LITHOS_HEARTBEAT_STALE_NS) {
            if !self.locks.hold() {
                bail!("another lithosd has taken over; this one, which was stopped or hung, ends");
            }
            if let Door::Kernel(kernel) = &self.door {
                kernel.check()?;
            }
        }
        Ok(())
    }

    /// Takes in one event, and returns whether to go on.
    fn take(&mut self, token: Token) -> anyhow::Result<bool> {
        let now = now();
        let Token { kind, number } = token;
        match kind {
            Kind::Signals => {
                if let Some(signal) = self.signals.read_signal()? {
                    tracing::info!(signal = signal.ssi_signo, "told to end");
                    return Ok(false);
                }
            }
            // What is due is done in each turn of the loop; the timer only ends the wait.
            Kind::Timer => match self.timer.wait() {
                Ok(()) | Err(nix::Error::EAGAIN) => {}
                Err(error) => return Err(error).context("cannot read the timer"),
            },
            Kind::Kernel | Kind::TenantListener | Kind::Tenant | Kind::TenantProcess => {
                self.take_of_tenants(token, now)?;
            }
            Kind::ClientListener => self.clients.accept(&self.epoll, now),
            Kind::Client => {
                let mut desk = Desk {
                    broker: &mut self.broker,
                    facts: &mut self.facts,
                    owners: Vec::new(),
                };
                self.clients.ready(number, &mut desk, &self.epoll, now);
                for (pidfd, name) in desk.owners {
                    self.watch_owner(pidfd, name, now);
                }
            }
            Kind::Absent => {
                self.absent.remove(&number);
                self.broker.end_absent(TenantId(number), now);
            }
            Kind::RunOwner => {
                if let Some((_, name)) = self.owners.remove(&number) {
                    self.broker.end_run_owner(&name, now);
                }
            }
        }
        Ok(true)
    }

    /// Takes in an event of tenants.
    fn take_of_tenants(&mut self, token: Token, now: Nanos) -> anyhow::Result<()> {
        let Token { kind, number } = token;
        let (broker, epoll) = (&mut self.broker, &self.epoll);
        match (&mut self.door, kind) {
            (Door::Kernel(kernel), _) => kernel.readable(broker, now)?,
            (Door::Socket(tenants), Kind::TenantListener) => tenants.accept(broker, epoll, now),
            (Door::Socket(tenants), Kind::TenantProcess) => {
                tenants.process_ended(number, broker, now);
            }
            (Door::Socket(tenants), _) => tenants.readable(number, broker, epoll, now),
        }
        Ok(())
    }

    fn watch_owner(&mut self, pidfd: OwnedFd, name: String, now: Nanos) {
        self.owners_seen += 1;
        let (kind, number) = (Kind::RunOwner, self.owners_seen);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Token { kind, number }.into());
        match self.epoll.add(&pidfd, event) {
            Ok(()) => drop(self.owners.insert(number, (pidfd, name))),
            Err(error) => {
                tracing::error!("cannot watch the process that {name} was made for: {error}");
                self.broker.end_run_owner(&name, now);
            }
        }
    }

    /// Does what is due.
    fn turn(&mut self) -> anyhow::Result<()> {
        self.look_around()?;
        let now = now();
        self.turned = now;
        self.broker.turn(now);
        self.clients.turn(&self.epoll, now);
        self.manager.turn(now);
        let (broker, epoll) = (&mut self.broker, &self.epoll);
        match &mut self.door {
            Door::Kernel(kernel) => kernel.deliver(broker.take_answers(), broker)?,
            Door::Socket(tenants) => {
                tenants.turn(broker, epoll, now);
                tenants.deliver(broker.take_answers(), broker, epoll, now);
            }
        }
        Ok(())
    }

    /// Sets the timer to what is due next.
    fn arm(&self) -> anyhow::Result<()> {
        let dues = [
            self.broker.next_turn(),
            match &self.door {
                Door::Kernel(_) => None,
                Door::Socket(tenants) => tenants.next_turn(),
            },
            self.clients.next_turn(),
            self.manager.next_turn(),
        ];
        let Some(due) = dues.into_iter().flatten().min() else {
            return Ok(self.timer.unset()?);
        };
        // A time of 0 would disarm it.
        let due = TimeSpec::from_duration(Duration::from_nanos(due.0.max(1)));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        Ok(self.timer.set(Expiration::OneShot(due), flags)?)
    }
}

/// Makes a directory that all can look into, if it is missing.
fn make_directory(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)));
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}

fn unknown_tenants(error: &EstateError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!(
        "tenants of the daemon before are not taken over, and may use TPCs of others until they are \
         restarted: {error}{}",
        cause.unwrap_or_default()
    )
}

/// Lets the daemon have as many descriptors as the system allows: each tenant takes two, each channel
/// three.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit of descriptors: {error}");
    }
}

/// Learns what has to be known of each GPU. One that cannot be managed does not keep the others from it.
fn read_gpus(
    machine: &Machine,
    state_dir: &Path,
    without_driver: bool,
) -> anyhow::Result<(Vec<Gpu>, Vec<Unfit>)> {
    let program = std::env::current_exe().context("cannot find the daemon's own program")?;
    let (mut gpus, mut unfit) = (Vec::new(), Vec::new());
    for listed in &machine.gpus {
        let uuid = &listed.uuid;
        let command = |task: &str| {
            let mut command = Command::new(&program);
            command.args([task, "--gpu", uuid]);
            command
        };
        let board = match listed.mig {
            true => Err(format!(
                "it is cut into MIG instances, or will be, and LithOS manages whole GPUs; to have it \
                 managed: nvidia-smi -i {} -mig 0",
                listed.index
            )),
            false => discover::load_or_discover(state_dir, uuid, || command("discover"))
                .map_err(|error| format!("{error:#}")),
        };
        let board = match board {
            Ok(board) => board,
            Err(why) => {
                let listed = listed.clone();
                unfit.push(Unfit { listed, why });
                continue;
            }
        };
        let verdict = match without_driver {
            true => Verdict::Passed(Proof::made_up(uuid)),
            false => {
                let subject = Subject::new(uuid, &listed.vbios, &machine.driver);
                selftest::load_or_prove(state_dir, subject, || {
                    let mut command = command("self-test");
                    command.arg("--state-directory").arg(state_dir);
                    command
                })
            }
        };
        gpus.push(Gpu::new(listed.clone(), board, verdict)?);
    }
    Ok((gpus, unfit))
}

fn mps_status(config: &Config, machine: &Machine) -> anyhow::Result<MpsStatus> {
    let mps = &config.mps;
    let unsuitable = (mps.enable == MpsEnable::Off)
        .then(|| "mps.enable is off".to_owned())
        .or_else(|| machine.simulated.then(|| "the GPU is simulated".to_owned()));
    if unsuitable.is_none() {
        make_directory(&mps.pipe_directory)?;
        make_directory(&mps.log_directory)?;
    }
    Ok(MpsStatus {
        enable: mps.enable,
        unsuitable,
        pipe_directory: mps.pipe_directory.display().to_string(),
        log_directory: mps.log_directory.display().to_string(),
    })
}

fn admission_status(admission: &Admission) -> Option<AdmissionStatus> {
    let status = admission.status();
    status
        .inspect_err(|error| tracing::error!("cannot see who has GPU channels: {error}"))
        .ok()
}

fn group(name: &str) -> Group {
    let gid = match nix::unistd::Group::from_name(name) {
        Ok(group) => group.map(|group| group.gid.as_raw()),
        Err(error) => {
            tracing::warn!("cannot look up the group {name}: {error}");
            None
        }
    };
    if gid.is_none() {
        tracing::info!("there is no group {name}: only root may change partitions");
    }
    Group {
        name: name.into(),
        gid,
    }
}
