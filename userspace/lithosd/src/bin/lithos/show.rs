// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Texts for people. Machines have `--json`.

use std::fmt::Write;

use lithos_device::kernel::DEFAULT_DEVICE;
use lithos_policy::Hand;
use lithosd::broker::BrokerKind;
use lithosd::config::AdmissionMode;
use lithosd::ledger::{Awaited, OPERATORS_MAX, Unknowable};
use lithosd::partition::GpuRef;
use lithosd::selftest::Verdict;
use lithosd::status::{
    AdmissionStatus, ChannelStatus, GpuStatus, MpsStatus, OriginStatus, PartitionStatus, Seen,
    Status, TransitStatus,
};
use nix::unistd::{Uid, User};

use crate::doctor::{Line, State};
use crate::mps;

/// Rows of words, in columns.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    fn row<const N: usize>(&mut self, row: [String; N]) {
        self.0.push(row.to_vec());
    }

    /// Writes the rows below each other, columns two spaces apart.
    fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let words = self.0.iter().filter_map(|row| row.get(column));
            words.map(|word| word.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(word, width)| format!("{word:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Everything.
pub(crate) fn status(status: &Status) -> String {
    let daemon = &status.daemon;
    let mut text = format!(
        "lithosd {}, process {}, {} broker at {}, up {}, {} requests refused\n",
        daemon.version,
        daemon.pid,
        daemon.broker,
        match daemon.broker {
            BrokerKind::Embedded => &daemon.broker_socket,
            BrokerKind::Kernel => DEFAULT_DEVICE,
        },
        span(daemon.uptime_ms),
        daemon.refused
    );
    text.push_str(&mps_line(&daemon.mps));
    text.push_str(&admission_line(daemon.admission.as_ref()));
    for gpu in &status.gpus {
        text.push_str(&gpu_lines(gpu));
    }
    for unfit in &status.unfit {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "GPU {}: {}, {}\n  not managed: {}",
            unfit.index, unfit.name, unfit.uuid, unfit.why
        );
    }
    text.push('\n');
    text.push_str(&partitions(&status.partitions));
    if !status.tenants.is_empty() {
        text.push('\n');
        text.push_str(&tenants(status));
    }
    if !status.channels.is_empty() {
        text.push('\n');
        text.push_str(&channels(&status.channels));
    }
    section(&mut text, "In transit", status.transit.iter().map(transit));
    let notes = status.channels.iter().flat_map(channel_notes);
    section(&mut text, "Noticed", notes);
    section(&mut text, "Problems", status.problems.iter().cloned());
    section(
        &mut text,
        "What this broker cannot promise",
        status.cannot_promise.iter().cloned(),
    );
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{title}:");
    }
    for line in lines {
        let _ = writeln!(text, "  - {line}");
    }
}

fn mps_line(mps: &MpsStatus) -> String {
    match &mps.unsuitable {
        Some(why) => format!("MPS is not used: {why}\n"),
        None => format!(
            "MPS is found at {}; see lithos mps status\n",
            mps.pipe_directory
        ),
    }
}

fn gpu_lines(gpu: &GpuStatus) -> String {
    let self_test = match &gpu.self_test {
        Verdict::Passed(proof) => {
            format!("self-test passed on driver {}", proof.subject.driver)
        }
        Verdict::Failed { why } => {
            format!("self-test failed, programs run unmanaged here: {why}")
        }
    };
    format!(
        "GPU {}: {}, {}\n  {} TPCs of {} SMs (bits {}); no guarantee reserves {}; nobody has {}\n  {self_test}\n",
        gpu.index,
        gpu.name,
        gpu.uuid,
        gpu.tpcs.len(),
        gpu.tpc_sms,
        gpu.tpcs,
        gpu.pool,
        gpu.free.len()
    )
}

/// Partitions, a line for each of their GPUs.
pub(crate) fn partitions(list: &[PartitionStatus]) -> String {
    let mut table = Table::new([
        "PARTITION",
        "CLASS",
        "GUARANTEE",
        "CEILING",
        "PRIORITY",
        "ATOM",
        "ORDER",
        "OVERSIZE",
        "ENFORCE",
        "FROM",
        "GPU",
        "TENANTS",
        "HAS",
        "SMS",
        "TPCS",
        "LENT",
        "BORROWED",
        "TRANSIT",
    ]);
    for PartitionStatus {
        spec,
        origin,
        hand,
        tenants,
        shares,
    } in list
    {
        let ceiling = match (spec.ceiling, spec.guarantee) {
            (Some(ceiling), _) => ceiling.to_string(),
            (None, 0) => "none".into(),
            (None, guarantee) => guarantee.to_string(),
        };
        let from = match origin {
            OriginStatus::Configuration => "configuration".into(),
            OriginStatus::Command => "command".into(),
            OriginStatus::Run { pid } => format!("run by {pid}"),
            OriginStatus::Left => "the daemon before".into(),
        };
        let oversize = match spec.oversize {
            lithos_policy::Oversize::Widen => "widen",
            lithos_policy::Oversize::Refuse => "refuse",
        };
        let atom = match spec.atom_us() {
            0 => "-".into(),
            us => format!("{us} us"),
        };
        let order = match hand {
            Hand::Released => "-",
            Hand::Held => "held",
            Hand::Squeezed => "squeezed",
        };
        let gpus = spec.gpus.iter().flatten().map(GpuRef::to_string);
        let named = gpus.collect::<Vec<_>>().join(",");
        let mut row = |gpu: String, has: String, sms: String, sets: [String; 4]| {
            let [tpcs, lent, borrowed, transit] = sets;
            table.row([
                spec.name.clone(),
                spec.class.to_string(),
                spec.guarantee.to_string(),
                ceiling.clone(),
                spec.priority.to_string(),
                atom.clone(),
                order.into(),
                oversize.into(),
                if spec.enforce { "yes" } else { "no" }.into(),
                from.clone(),
                gpu,
                tenants.len().to_string(),
                has,
                sms,
                tpcs,
                lent,
                borrowed,
                transit,
            ]);
        };
        for share in shares {
            let has = format!("{} of {}", share.owned.len(), share.size);
            row(
                share.gpu.to_string(),
                has,
                share.sms.to_string(),
                [share.owned, share.lent, share.borrowed, share.transit].map(|set| set.to_string()),
            );
        }
        if shares.is_empty() {
            row(named, "-".into(), "-".into(), ["-"; 4].map(Into::into));
        }
    }
    table.text()
}

fn tenants(status: &Status) -> String {
    let mut table = Table::new([
        "TENANT",
        "PROCESS",
        "USER",
        "COMMAND",
        "PARTITION",
        "CHANNELS",
    ]);
    for tenant in &status.tenants {
        let user = User::from_uid(Uid::from_raw(tenant.uid)).ok().flatten();
        let channels: Vec<String> = tenant.channels.iter().map(u64::to_string).collect();
        table.row([
            tenant.tenant.to_string(),
            tenant.pid.to_string(),
            user.map_or_else(|| tenant.uid.to_string(), |user| user.name),
            tenant.command.clone(),
            tenant.partition.clone(),
            channels.join(","),
        ]);
    }
    table.text()
}

fn channels(list: &[ChannelStatus]) -> String {
    let mut table = Table::new([
        "CHANNEL",
        "TENANT",
        "GPU",
        "GRANT",
        "TPCS",
        "SMS",
        "LENT",
        "LAUNCHES",
        "COMPLETED",
        "OPEN",
        "OPERATORS",
        "SPLIT",
        "ATOMS",
        "HELD",
        "VIOLATIONS",
    ]);
    for channel in list {
        let operators = match usize::try_from(channel.operators) {
            Ok(OPERATORS_MAX) => format!("{OPERATORS_MAX}+"),
            _ => channel.operators.to_string(),
        };
        let counted = |name: &str| channel.counters.get(name).unwrap_or(&0).to_string();
        let Seen {
            held,
            holds,
            rations,
            borrowed,
            ..
        } = channel.chains;
        let lent = match (channel.lent.len(), (channel.lent & borrowed).len()) {
            (0, _) => "-".into(),
            (all, now) => format!("{now} of {all}"),
        };
        let mut times = format!("{holds} times");
        if rations > 0 {
            times += &format!(", let go {rations}");
        }
        let held = match held {
            true => format!("now ({times})"),
            false => times,
        };
        table.row([
            channel.channel.to_string(),
            channel.tenant.to_string(),
            channel.gpu.to_string(),
            if channel.grant == 0 {
                "awaited".into()
            } else {
                channel.grant.to_string()
            },
            channel.tpcs.to_string(),
            channel.sms.to_string(),
            lent,
            channel.totals.launches.to_string(),
            channel.totals.completed.to_string(),
            channel.outstanding.to_string(),
            operators,
            counted("split"),
            counted("atoms"),
            held,
            channel.totals.violations.to_string(),
        ]);
    }
    table.text()
}

/// What is out of the ordinary about a channel.
fn channel_notes(channel: &ChannelStatus) -> Vec<String> {
    let totals = &channel.totals;
    let mut notes = Vec::new();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            notes.push(format!("channel {}: {count} {what}", channel.channel));
        }
    };
    note(totals.violations, "launches with a mask beyond their grant");
    note(
        totals.stale,
        "launches that followed an older grant than they should have",
    );
    note(
        totals.widened,
        "launches that ran wider than their grant because they did not fit",
    );
    note(
        totals.unmanaged,
        "launches that were left as the driver made them",
    );
    note(totals.lost, "launches that left no record");
    note(
        channel.chains.stuck,
        "launches that could not go on while their gates were shut, and were let pass",
    );
    note(
        channel.chains.stalled,
        "launches that did not move although their gates were open",
    );
    note(
        totals.graph_nodes,
        "nodes of graphs, which keep the TPCs that they were made with",
    );
    for (name, &count) in &channel.counters {
        if !matches!(
            name.as_str(),
            "masked" | "stamped" | "null" | "void" | "graph_nodes" | "split" | "atoms"
        ) {
            note(count, &format!("launches counted by the shim as {name}"));
        }
    }
    if let Some(why) = channel.unknowable {
        let tpcs = channel.unknowable_tpcs;
        notes.push(format!(
            "channel {}: whether TPCs {tpcs} are free of it cannot be known before it ends: {}",
            channel.channel,
            unknowable(why)
        ));
    }
    notes
}

fn transit(transit: &TransitStatus) -> String {
    let to = transit.to.as_deref().unwrap_or("the pool");
    let mut text = format!(
        "GPU {}: TPCs {} from {} to {to} for {}",
        transit.gpu,
        transit.tpcs,
        transit.from,
        span(transit.since_ms)
    );
    for awaiting in &transit.awaiting {
        let drains = awaiting
            .drains
            .iter()
            .map(drain)
            .collect::<Vec<_>>()
            .join("; ");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            ", until channel {} (process {}) has completed {drains}",
            awaiting.channel, awaiting.pid
        );
    }
    if let Some(linger) = transit.linger_ms {
        let _ = write!(
            text,
            ", for {} more because a tenant ended at work",
            span(linger)
        );
    }
    text
}

fn drain(awaited: &Awaited) -> String {
    match (awaited.unknowable, awaited.oldest) {
        (Some(why), _) => format!("what cannot be known ({})", unknowable(why)),
        (None, Some(oldest)) => format!(
            "{} launches up to {}, the first of them {oldest}",
            awaited.launches, awaited.up_to
        ),
        (None, None) => format!("launches up to {}", awaited.up_to),
    }
}

fn unknowable(why: Unknowable) -> String {
    match why {
        Unknowable::GraphNode(launch) => {
            format!("launch {launch} made a node of a graph, which may run again at any time")
        }
        Unknowable::Unstamped(launch) => {
            format!("launch {launch} has no stamp, and no later stamp tells of it")
        }
        Unknowable::Lost(launch) => format!("launch {launch} left no record"),
    }
}

/// What the doctor says, a line for each thing and one below it for what to do.
pub(crate) fn diagnosis(lines: &[Line]) -> String {
    let topic_width = lines.iter().map(|line| line.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        let state = match line.state {
            State::Fine => "fine",
            State::Note => "note",
            State::Todo => "TO DO",
            State::Unseen => "unseen",
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{state:6}  {:topic_width$}  {}",
            line.topic, line.found
        );
        if let Some(todo) = &line.todo {
            let _ = writeln!(text, "{:6}  {:topic_width$}  -> {todo}", "", "");
        }
    }
    text
}

fn admission_line(status: Option<&AdmissionStatus>) -> String {
    let Some(status) = status else {
        return String::new();
    };
    let users = status.users.iter();
    let having = users.clone().filter(|user| user.channels > 0).count();
    let refused = users.filter(|user| user.refused > 0).count();
    match (status.mode, status.sees_driver) {
        (AdmissionMode::Off, _) => String::new(),
        (mode, false) => format!("Admission: {mode}; the NVIDIA driver is not seen\n"),
        (mode, true) => format!(
            "Admission: {mode}; {having} processes have GPU channels, {refused} were refused some; see \
             lithos admission status\n"
        ),
    }
}

/// Who may have GPU channels, and who has some.
pub(crate) fn admission(status: Option<&AdmissionStatus>) -> String {
    let Some(status) = status else {
        return "There is no lithos.ko to see to who has GPU channels\n".into();
    };
    let mut text = match status.mode {
        AdmissionMode::Off => {
            "off: anybody may have GPU channels, and nobody is counted".to_owned()
        }
        AdmissionMode::Audit => "audit: anybody may have GPU channels".to_owned(),
        AdmissionMode::Enforce => {
            "enforce: only tenants and who was admitted may have GPU channels".to_owned()
        }
    };
    if status.mode == AdmissionMode::Enforce && status.gpu_channels_per_tenant > 0 {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            ", a tenant {} at most",
            status.gpu_channels_per_tenant
        );
    }
    text.push('\n');
    if status.mode != AdmissionMode::Off && !status.sees_driver {
        text.push_str(
            "the NVIDIA driver is not loaded, or cannot be looked at: nobody is counted\n",
        );
    }
    if status.users.is_empty() {
        return text;
    }
    let mut table = Table::new([
        "PID",
        "COMMAND",
        "TENANT",
        "CHANNELS",
        "GROUPS",
        "DOORBELLS",
        "REFUSED",
    ]);
    for user in &status.users {
        let more = if user.inexact { "+" } else { "" };
        table.row([
            user.pid.to_string(),
            user.command.clone(),
            user.tenant.map_or("-".into(), |tenant| tenant.to_string()),
            format!("{}{more}", user.channels),
            format!("{}{more}", user.groups),
            format!("{}{more}", user.doorbells),
            user.refused.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.text());
    text
}

/// Whether MPS runs.
pub(crate) fn mps(state: &mps::State) -> String {
    let directories = format!(
        "pipes in {}, logs in {}",
        state.pipe_directory.display(),
        state.log_directory.display()
    );
    match (state.pid, &state.unsuitable) {
        (Some(pid), _) => format!("MPS runs: process {pid}, {directories}\n"),
        (None, Some(why)) => format!("MPS does not run and is not for this machine: {why}\n"),
        (None, None) => format!("MPS does not run; {directories}\n"),
    }
}

fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_word() {
        let mut table = Table::new(["A", "B"]);
        table.row(["long".into(), "x".into()]);
        assert_eq!(table.text(), "A     B\nlong  x\n");
    }

    #[test]
    fn spans_are_said_in_a_unit_that_suits_them() {
        let spans = [0, 9_999, 10_000, 600_000, 36_000_000].map(span);
        assert_eq!(spans, ["0 ms", "9999 ms", "10 s", "10 min", "10 h"]);
    }

    #[test]
    fn a_tpc_in_transit_is_told_with_what_is_awaited() {
        let status: TransitStatus = serde_json::from_value(serde_json::json!({
            "gpu": 0, "tpcs": [1, 2, 3], "from": "a", "to": null, "since_ms": 120,
            "awaiting": [{"channel": 7, "pid": 99, "drains": [{
                "revision": 2, "up_to": 17, "launches": 2, "oldest": 16, "unknowable": null
            }]}],
            "linger_ms": null
        }))
        .unwrap();
        assert_eq!(
            transit(&status),
            "GPU 0: TPCs 1-3 from a to the pool for 120 ms, until channel 7 (process 99) has \
             completed 2 launches up to 17, the first of them 16"
        );
    }
}
