// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What it costs to find out whether a launch may be split, to plan it and to write its chain, in
//! memory that is in the cache: nanoseconds of a launch and of each atom, medians of many rounds.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use lithos_descriptor::TpcMask;
use lithos_descriptor::hopper::{
    Chain, Descriptor, Gate, GateState, Link, Place, Stamp, WORDS, Words,
};

/// 64-bit words from one place to the next.
const STEP: usize = 64;
const LAUNCHES: u32 = 2000;
const ROUNDS: usize = 21;

fn main() {
    let words: Vec<AtomicU64> = (0..4 * 64 * STEP).map(|_| AtomicU64::new(0)).collect();
    let place = |index: usize| {
        let words = &words[index * STEP..][..WORDS / 2];
        let address = 0x4_0000_0000 + (index * STEP * 8) as u64;
        Place::new(words.try_into().expect("its words"), address).expect("an address")
    };
    let stamp = |index: usize| Stamp::new(0x5_0000_0000 + index as u64 * 16, 7).expect("aligned");
    let links: Vec<Link<'_>> = (1..64)
        .map(|atom| Link {
            gate: Gate {
                descriptor: place(3 * atom - 2),
                bounce: place(3 * atom - 1),
                waiting: stamp(atom),
            },
            atom: place(3 * atom),
            stamp: Some(stamp(64 + atom)),
            allowed: None,
        })
        .collect();
    let chain = Chain {
        tail: place(0),
        done: stamp(0),
        stamp: None,
        allowed: None,
        gates: GateState::Open,
        present: TpcMask::ALL,
    };
    let mut launch = Descriptor::blank();
    launch.set_grid([20000, 1, 1]).expect("it fits");
    let launch: Words = *launch.words();

    let time = |atoms: u16| {
        let round = |_| {
            let mut spent = 0;
            for _ in 0..LAUNCHES {
                let mut words = black_box(launch);
                let begin = Instant::now();
                let split = Descriptor::new(&mut words)
                    .expect("its version")
                    .splittable();
                let split = split.expect("a plain launch");
                let plan = split.plan(black_box(atoms), 1056).expect("a plan");
                let links = links[..usize::from(atoms) - 1].iter().copied();
                split.split(&plan, &chain, links).expect("it fits");
                spent += begin.elapsed().as_nanos();
                black_box(&words);
            }
            spent / u128::from(LAUNCHES)
        };
        let mut rounds: Vec<u128> = (0..ROUNDS).map(round).collect();
        rounds.sort_unstable();
        rounds[ROUNDS / 2]
    };
    let times: Vec<(u16, u128)> = [2, 4, 16, 64].map(|atoms| (atoms, time(atoms))).to_vec();
    for &(atoms, ns) in &times {
        println!("{atoms:>3} atoms: {ns} ns");
    }
    let ((few, little), (many, much)) = (times[1], times[3]);
    let atom = much.saturating_sub(little) / u128::from(many - few);
    println!(
        "an atom: {atom} ns; a launch besides: {} ns",
        little - (u128::from(few) * atom).min(little)
    );
}
