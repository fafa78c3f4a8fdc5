// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Instructions in which the lanes of a member mask act together: votes, shuffles, reductions.
//!
//! A lane may go on only with all members of its mask that have not exited; `ready_lanes` says
//! which can. The others wait at the instruction until their partners have come.

use super::access::lanes;
use super::code::{Collective, LANES, Row, RowIndex, Shuffle, Vote};
use super::types::Lane;
use super::warp::Warp;

/// The active lanes all of whose partners are active too.
pub(super) fn ready_lanes(warp: &Warp, members: RowIndex, active: u32) -> u32 {
    let members = warp.row(members);
    let complete = |lane: usize| u32::from_lane(members[lane]) & warp.alive & !active == 0;
    lanes(active)
        .filter(|lane| complete(*lane))
        .fold(0, |ready, lane| ready | 1 << lane)
}

/// Calls `each` with each set of lanes that named the same members.
fn groups(members: &Row, active: u32, mut each: impl FnMut(u32)) {
    let mut rest = active;
    while rest != 0 {
        let members_of = |lane: usize| u32::from_lane(members[lane]);
        let wanted = lanes(rest).next().map(members_of);
        let group = lanes(rest)
            .filter(|lane| Some(members_of(*lane)) == wanted)
            .fold(0, |group, lane| group | 1 << lane);
        each(group);
        rest &= !group;
    }
}

/// Does the operation for the lanes in `active`.
pub(super) fn execute(warp: &mut Warp, collective: Collective, members: RowIndex, active: u32) {
    let members = *warp.row(members);
    let mut out = [0; LANES];
    match collective {
        Collective::Sync => {}
        Collective::Vote { vote, d, source } => {
            let holds = warp.condition(source);
            let mut result = 0;
            groups(&members, active, |group| {
                let yes = holds & group;
                let verdict = match vote {
                    Vote::All => yes == group,
                    Vote::Any => yes != 0,
                    Vote::Uniform => yes == group || yes == 0,
                    Vote::Ballot => false,
                };
                if verdict {
                    result |= group;
                }
                for lane in lanes(group) {
                    out[lane] = u64::from(yes);
                }
            });
            if vote == Vote::Ballot {
                warp.write(d, active, &out);
            } else {
                warp.write_predicate(d, active, result);
            }
        }
        Collective::Shuffle {
            shuffle,
            d,
            in_range,
            a,
            b,
            c,
        } => {
            let (a, b, c) = (warp.row(a), warp.row(b), warp.row(c));
            let mut inside = 0;
            for lane in lanes(active) {
                let (source, valid) = shuffle_source(
                    shuffle,
                    lane,
                    u32::from_lane(b[lane]),
                    u32::from_lane(c[lane]),
                );
                // Reading a lane that does not take part is undefined; its register is read.
                out[lane] = a[source];
                inside |= u32::from(valid) << lane;
            }
            warp.write(d, active, &out);
            warp.write_predicate(in_range, active, inside);
        }
        Collective::MatchAny { d, a } => {
            let a = warp.row(a);
            groups(&members, active, |group| {
                for lane in lanes(group) {
                    let same = lanes(group).filter(|other| a[*other] == a[lane]);
                    out[lane] = same.fold(0, |mask, other| mask | 1 << other);
                }
            });
            warp.write(d, active, &out);
        }
        Collective::MatchAll { d, same, a } => {
            let a = warp.row(a);
            let mut agreed = 0;
            groups(&members, active, |group| {
                let first = lanes(group).next().map(|lane| a[lane]);
                if lanes(group).all(|lane| Some(a[lane]) == first) {
                    agreed |= group;
                    for lane in lanes(group) {
                        out[lane] = u64::from(group);
                    }
                }
            });
            warp.write(d, active, &out);
            warp.write_predicate(same, active, agreed);
        }
        Collective::Reduce { atomic, d, a } => {
            let a = warp.row(a);
            groups(&members, active, |group| {
                let total = lanes(group)
                    .map(|lane| a[lane])
                    .reduce(|total, word| atomic.apply(total, word, 0));
                for lane in lanes(group) {
                    out[lane] = total.unwrap_or(0);
                }
            });
            warp.write(d, active, &out);
        }
        Collective::Elect { d, leader } => {
            let mut leaders = 0;
            groups(&members, active, |group| {
                let first = group.trailing_zeros();
                leaders |= 1 << first;
                for lane in lanes(group) {
                    out[lane] = u64::from(first);
                }
            });
            warp.write(d, active, &out);
            warp.write_predicate(leader, active, leaders);
        }
    }
}

/// The lane that a shuffle reads, and whether that is the one asked for. `c` holds the clamp in its
/// low five bits and the mask of the segment eight bits higher.
fn shuffle_source(shuffle: Shuffle, lane: usize, b: u32, c: u32) -> (usize, bool) {
    let lane = i64::try_from(lane).unwrap_or(0);
    let (b, clamp, segment) = (i64::from(b & 31), i64::from(c & 31), i64::from(c >> 8 & 31));
    let last = (lane & segment) | (clamp & !segment);
    let first = lane & segment;
    let (wanted, valid) = match shuffle {
        Shuffle::Up => (lane - b, lane - b >= last),
        Shuffle::Down => (lane + b, lane + b <= last),
        Shuffle::Butterfly => (lane ^ b, (lane ^ b) <= last),
        Shuffle::Index => {
            let wanted = first | (b & !segment);
            (wanted, wanted <= last)
        }
    };
    let source = if valid { wanted } else { lane };
    (usize::try_from(source & 31).unwrap_or(0), valid)
}
