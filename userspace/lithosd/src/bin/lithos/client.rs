// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A connection to the daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use lithosd::control::{Reply, Request};

/// How long the daemon may take to answer. It answers at once unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the daemon.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| {
            format!(
                "lithosd does not answer at {}; start it, or name its socket with --socket",
                socket.display()
            )
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks something. What the daemon refuses is an error.
    pub(crate) fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .context("lithosd has gone")?;
        let mut reply = String::new();
        let size = self
            .stream
            .read_line(&mut reply)
            .context("lithosd has not answered")?;
        if size == 0 {
            return Err(anyhow!("lithosd has closed the connection"));
        }
        let reply = serde_json::from_str(&reply)
            .context("lithosd speaks another language; use command and daemon of one release")?;
        match reply {
            Reply::Error(failure) => Err(failure.into()),
            reply => Ok(reply),
        }
    }
}

/// The error of a reply to something else.
pub(crate) fn unexpected(reply: &Reply) -> anyhow::Error {
    anyhow!("lithosd answered something else: {reply:?}")
}
