// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a process holds, by the kernel's count.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

/// What a daemon holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Descriptors that it has open.
    pub descriptors: usize,
    /// Those of them that are sockets.
    pub sockets: usize,
    /// Those of them that are channels' pages.
    pub page_files: usize,
    /// Maps of channels' pages.
    pub pages: usize,
    /// Memory of its own (RssAnon).
    pub memory_kb: u64,
}

/// What the kernel shows a channel's pages as begins so.
const PAGE: &str = "/memfd:lithos-";

impl Footprint {
    /// Looks at a process.
    pub fn read(pid: u32) -> anyhow::Result<Self> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let mut links = Vec::new();
        for entry in fs::read_dir(proc.join("fd"))? {
            // It may be closed by now.
            links.extend(fs::read_link(entry?.path()));
        }
        let is_socket = |link: &&PathBuf| link.to_string_lossy().starts_with("socket:");
        let is_page = |link: &&PathBuf| link.to_string_lossy().starts_with(PAGE);
        let maps = fs::read_to_string(proc.join("maps"))?;
        let status = fs::read_to_string(proc.join("status"))?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = memory.context("the kernel does not count anonymous memory")?;
        Ok(Self {
            descriptors: links.len(),
            sockets: links.iter().filter(is_socket).count(),
            page_files: links.iter().filter(is_page).count(),
            pages: maps.matches(PAGE).count(),
            memory_kb: memory.trim().trim_end_matches(" kB").parse()?,
        })
    }

    /// Whether this is no more than that, but for what an allocator keeps for later.
    pub fn is_within(&self, other: &Self, slack_kb: u64) -> bool {
        self.descriptors <= other.descriptors
            && self.sockets <= other.sockets
            && self.page_files <= other.page_files
            && self.pages <= other.pages
            && self.memory_kb <= other.memory_kb + slack_kb
    }
}

/// How long a process has run on any CPU.
pub fn read_cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let on_cpu_ns = text
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        total += Duration::from_nanos(on_cpu_ns.parse()?);
    }
    Ok(total)
}
