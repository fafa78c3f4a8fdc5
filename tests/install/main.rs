// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `scripts/install` and `scripts/uninstall`, run against `/` where `/etc`, `/usr/local`, `/var/lib` and
//! `/run` are a mount namespace's own, and against a folder. What systemd and udev say to what is installed,
//! `scripts/verify` looks at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("tests lie in the repository").into()
}

/// Where cargo puts programs and libraries.
fn programs() -> PathBuf {
    let this = std::env::current_exe().expect("this program");
    let folder = this.parent().and_then(Path::parent);
    folder.expect("tests lie in deps").into()
}

/// Runs a command that is expected to work, and returns what it said.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{error}");
    said
}

/// The files below a folder, by their paths from there.
fn files(folder: &Path) -> BTreeSet<String> {
    let found = run(Command::new("find")
        .arg(folder)
        .args(["-type", "f", "-printf", "%P\n"]));
    found.lines().map(str::to_owned).collect()
}

const INSTALLED: [&str; 6] = [
    "opt/bin/lithos",
    "opt/bin/lithosd",
    "opt/lib/lithos/liblithos_shim.so",
    "opt/lib/systemd/system/lithos-mps.service",
    "opt/lib/systemd/system/lithosd.service",
    "opt/lib/udev/rules.d/60-lithos.rules",
];
const CONFIGURATION: &str = "etc/lithos/lithosd.toml";

#[test]
fn a_folder_gets_what_belongs_to_a_package_and_uninstall_leaves_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = |name: &str, argument: Option<&Path>| {
        let mut command = Command::new(root().join("scripts").join(name));
        command
            .env("DESTDIR", folder.path())
            .env("PREFIX", "/opt")
            .args(argument);
        run(&mut command);
    };
    script("install", Some(&programs()));
    let all: BTreeSet<String> = INSTALLED
        .iter()
        .chain([&CONFIGURATION])
        .map(|f| (*f).to_owned())
        .collect();
    assert_eq!(files(folder.path()), all);
    let unit = folder.path().join("opt/lib/systemd/system/lithosd.service");
    let unit = std::fs::read_to_string(unit).expect("a unit");
    assert!(
        unit.contains("ExecStart=/opt/bin/lithosd --take-over"),
        "{unit}"
    );
    script("uninstall", None);
    assert_eq!(files(folder.path()), [CONFIGURATION.to_owned()].into());
    script("uninstall", Some(Path::new("--purge")));
    assert_eq!(files(folder.path()), BTreeSet::new());
}

/// What is done where the folders are this test's own. `$1` is the repository, `$2` the programs.
const ON_A_MACHINE: &str = r#"
set -euo pipefail
fail() { echo "$*" >&2; exit 1; }
# Its own folders, with the users and groups of the machine.
own=$(mktemp -d)
mount -t tmpfs own "$own"
cp -r /etc "$own/etc" 2>/dev/null || true
mkdir "$own/local" "$own/lib" "$own/run"
mount --bind "$own/etc" /etc
mount --bind "$own/local" /usr/local
mount --bind "$own/lib" /var/lib
mount --bind "$own/run" /run
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

"$1/scripts/install" "$2"
getent group lithos >/dev/null || fail "there is no group lithos"
lithosd --check-config | grep -q "0 partitions" || fail "the installed configuration is not right"
lithos --version >/dev/null
[ -r /usr/local/lib/lithos/liblithos_shim.so ] || fail "the shim is not there"
echo 'group = "changed"' >/etc/lithos/lithosd.toml
mkdir -p /var/lib/lithos && touch /var/lib/lithos/partitions.toml
"$1/scripts/install" "$2"
grep -q changed /etc/lithos/lithosd.toml || fail "the configuration was overwritten"
"$1/scripts/uninstall"
[ -z "$(find /usr/local -type f)" ] || fail "left: $(find /usr/local -type f)"
[ -e /etc/lithos/lithosd.toml ] && [ -e /var/lib/lithos/partitions.toml ] || fail "the state is gone"
"$1/scripts/uninstall" --purge
[ ! -e /etc/lithos ] && [ ! -e /var/lib/lithos ] || fail "something stays"
! getent group lithos >/dev/null || fail "the group stays"
"#;

#[test]
fn a_machine_gets_daemon_command_shim_units_and_group_and_loses_all_but_its_state_again() {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["bash", "-c", ON_A_MACHINE, "bash"])
        .arg(root())
        .arg(programs())
        .env_remove("DESTDIR")
        .env_remove("PREFIX");
    run(&mut command);
}
