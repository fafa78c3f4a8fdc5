// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! TPC discovery: what a GPU's TPC masks mean, found out once per board.
//!
//! Neither the driver nor NVML tells which bits of a TPC mask stand for TPCs and which TPCs share a
//! GPC, so it is measured, by [`run`], in a process of its own: discovery subscribes to the driver's
//! launch callbacks, which one process can do once, and a process that hangs can be killed. `map.rs`
//! has the method and why it cannot hang; should it do so all the same, a launch is given up after 10 s
//! and the process is killed after [`DEADLINE`].
//!
//! [`load_or_discover`] is the other side: it takes the board from the state directory, or starts that
//! process and keeps what it prints.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::board::{BOARD_VERSION, Board};

pub(crate) mod driver;
pub(crate) mod hook;
mod map;

/// How long discovery of one board may take: it is some hundred launches of a millisecond or two, and
/// the time to make a context.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// How often a map that makes no sense is tried again: something else may have been running.
const TRIES: u32 = 3;
/// Between two looks at whether the process has ended.
const POLL: Duration = Duration::from_millis(10);
/// Variables that would have the process share the GPU with MPS clients, be loaded with our own shim,
/// or not see the GPU at all.
const UNWANTED_VARIABLES: [&str; 6] = [
    "CUDA_INJECTION64_PATH",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_VISIBLE_DEVICES",
];

/// Discovers the GPU with this UUID (`GPU-...`), in this process, which should do nothing else.
pub fn run(uuid: &str) -> anyhow::Result<Board> {
    let mut gpu = driver::Gpu::open(uuid)?;
    let mut tries = 1;
    let tpcs = loop {
        match map::map(&mut gpu) {
            Ok(tpcs) => break tpcs,
            Err(error) if error.is::<map::MapError>() && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    };
    Ok(Board {
        version: BOARD_VERSION,
        uuid: uuid.to_owned(),
        sms: map::TPC_SMS * tpcs.total(),
        tpc_sms: map::TPC_SMS,
        tpcs,
    })
}

/// Returns the board of a GPU as it is kept in the state directory. If it is not, it is discovered by
/// the process that `command` starts, which prints what [`run`] returns as JSON, and is kept.
pub fn load_or_discover(
    state_dir: &Path,
    uuid: &str,
    command: impl FnOnce() -> Command,
) -> anyhow::Result<Board> {
    match Board::load(state_dir, uuid) {
        Ok(Some(board)) => return Ok(board),
        Ok(None) => {}
        Err(error) => tracing::warn!("{:#}; discovering again", anyhow::Error::from(error)),
    }
    let board = discover(&mut command(), state_dir, uuid)
        .with_context(|| format!("cannot discover the TPCs of {uuid}"))?;
    board
        .save(state_dir)
        .with_context(|| format!("cannot keep {}", Board::path(state_dir, uuid).display()))?;
    Ok(board)
}

/// Runs a process that uses the GPU apart from everything else, and returns what it printed.
pub(crate) fn run_process(
    command: &mut Command,
    state_dir: &Path,
    deadline: Duration,
) -> anyhow::Result<String> {
    for variable in UNWANTED_VARIABLES {
        command.env_remove(variable);
    }
    // Without this the driver looks for an MPS daemon in the default place: a launch that hung there
    // would take all its clients along.
    command.env("CUDA_MPS_PIPE_DIRECTORY", state_dir.join("no-mps"));
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let (status, stdout, stderr) = finish(child, deadline)?;
    if !status.success() {
        let why = stderr.trim().trim_start_matches("lithosd: ");
        bail!("it ended with {status}: {why}");
    }
    Ok(stdout)
}

fn discover(command: &mut Command, state_dir: &Path, uuid: &str) -> anyhow::Result<Board> {
    let stdout = run_process(command, state_dir, DEADLINE)?;
    let board: Board = serde_json::from_str(&stdout)
        .with_context(|| format!("discovery printed no board: {stdout:?}"))?;
    if board.uuid != uuid || board.version != BOARD_VERSION {
        bail!(
            "discovery printed version {} of {}",
            board.version,
            board.uuid
        );
    }
    Ok(board)
}

/// Waits for a process, not for ever, and returns what it printed.
fn finish(mut child: Child, deadline: Duration) -> anyhow::Result<(ExitStatus, String, String)> {
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("it had not ended after {} s", deadline.as_secs());
        }
        thread::sleep(POLL);
    };
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok((status, text(stdout), text(stderr)))
}

/// Reads to the end on a thread of its own, so that the writer never waits for a reader.
fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use lithos_policy::{Topology, Tpc};

    use super::*;

    fn board() -> Board {
        let tpcs = [(0, Some(0)), (1, Some(0)), (75, None)];
        Board {
            version: BOARD_VERSION,
            uuid: "GPU-1".into(),
            sms: 6,
            tpc_sms: 2,
            tpcs: Topology::new(tpcs.map(|(bit, gpc)| Tpc { bit, gpc })).unwrap(),
        }
    }

    /// A process that does what a shell script says.
    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    fn print(board: &Board) -> Command {
        let mut command = script("printf %s \"$BOARD\"");
        command.env("BOARD", serde_json::to_string(board).unwrap());
        command
    }

    #[test]
    fn a_board_is_discovered_once_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let found = load_or_discover(dir.path(), "GPU-1", || print(&board())).unwrap();
        assert_eq!(found, board());
        let never = || panic!("the board is kept");
        assert_eq!(
            load_or_discover(dir.path(), "GPU-1", never).unwrap(),
            board()
        );
    }

    #[test]
    fn what_a_failed_discovery_said_is_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let failing = || script("echo 'lithosd: the driver has no GPU GPU-1' >&2; exit 1");
        let error = load_or_discover(dir.path(), "GPU-1", failing).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot discover the TPCs of GPU-1: it ended with exit status: 1: the driver has no GPU \
             GPU-1"
        );
    }

    #[test]
    fn the_board_of_another_gpu_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_or_discover(dir.path(), "GPU-2", || print(&board())).unwrap_err();
        assert!(format!("{error:#}").contains("of GPU-1"), "{error:#}");
        assert_eq!(Board::load(dir.path(), "GPU-2").unwrap(), None);
    }

    #[test]
    fn a_discovery_that_hangs_is_killed() {
        let error = run_process(
            &mut script("exec sleep 600"),
            Path::new("/nonexistent"),
            Duration::from_millis(50),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("had not ended"), "{error}");
    }

    #[test]
    fn discovery_is_kept_away_from_mps_and_from_the_shim() {
        let dir = tempfile::tempdir().unwrap();
        let strict = || {
            let mut command = script(
                "test -z \"$CUDA_INJECTION64_PATH\" && test ! -e \"$CUDA_MPS_PIPE_DIRECTORY\" && \
                 test -n \"$CUDA_MPS_PIPE_DIRECTORY\" && printf %s \"$BOARD\"",
            );
            command.env("BOARD", serde_json::to_string(&board()).unwrap());
            command.env("CUDA_INJECTION64_PATH", "/liblithos_shim.so");
            command
        };
        load_or_discover(dir.path(), "GPU-1", strict).unwrap();
    }
}
