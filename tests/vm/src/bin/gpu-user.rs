// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A program that wants a GPU channel of the stand-in for NVIDIA's driver: it asks for one per line on its
//! standard input, itself (`self`) or in a child of its own (`child`), and answers each with a line of
//! JSON: whether it has got it, and what it is.

use std::io::{BufRead, Write};
use std::process::Command;

use lithos_vm::nvidia::Client;

fn main() {
    // They end with this process.
    let mut clients = Vec::new();
    if std::env::args().nth(1).as_deref() == Some("once") {
        println!("{}", matches!(Client::new().channel(), Ok(Ok(_))));
        return;
    }
    for line in std::io::stdin().lock().lines() {
        let channel = match line.expect("a line").as_str() {
            "child" => child(),
            _ => {
                let client = Client::new();
                let outcome = client.channel().expect("a call");
                clients.push(client);
                outcome.is_ok()
            }
        };
        let pid = std::process::id();
        println!("{{\"pid\": {pid}, \"channel\": {channel}}}");
        std::io::stdout().flush().expect("a reader");
    }
}

/// Whether a child of this process gets a channel.
fn child() -> bool {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).arg("once").output().expect("a child");
    output.stdout == b"true\n"
}
