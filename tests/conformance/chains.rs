// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Chains: launches that have been cut into atoms.

use lithos_descriptor::hopper::{Action, Dependent, GateState, Kind, fields};
use lithos_tests::cuda::{Shape, Stream};

use crate::arena::{ATOMS, Arena, CHAINS};
use crate::statement::statements;
use crate::stay::{Stay, until};
use crate::subject::{Subject, TPC_SMS, buffer, nothing, only, read};
use crate::subscriber::Editable;

statements! {
    Ends:
        a_chain_runs_every_block_of_a_row_once
        a_chain_runs_every_block_of_a_plane_once
        a_chain_runs_every_block_of_a_box_once
        a_chain_runs_every_block_of_a_grid_of_clusters_once
        blocks_of_a_chain_see_the_whole_grid
        a_scheduled_descriptor_begins_at_its_resume_even_in_the_middle_of_a_row
        the_drivers_own_launch_begins_at_block_0_whatever_its_resume_says
        an_atom_starts_when_all_blocks_of_the_one_before_it_have_started
        without_pre_exit_an_atom_starts_when_the_one_before_it_has_completed
        the_next_launch_of_the_stream_starts_when_all_atoms_have_completed
        every_atom_is_stamped_when_it_completes_and_the_chain_after_all_of_them
        a_mask_that_is_edited_in_flight_is_the_one_that_its_atom_starts_with
        the_places_of_a_chain_can_be_used_again_once_its_tail_has_stamped
        chains_of_several_streams_run_beside_each_other;
}

/// Cuts launches of `trace` into several numbers of atoms, and looks at how often each block ran.
fn runs_once(shapes: &[Shape]) {
    let subject = Subject::new();
    let pieces = Arena::new().pieces(0);
    for (number, shape) in shapes.iter().enumerate() {
        for atoms in [2, 3, 7, ATOMS] {
            let trace = subject.trace(shape, pieces.cut(atoms));
            assert!(
                trace.counts.iter().all(|&count| count == 1),
                "shape {number} in {atoms}: {:?}",
                trace.counts
            );
        }
    }
}

fn a_chain_runs_every_block_of_a_row_once() {
    let [few, many] = [16, 301].map(|blocks| Shape::row(blocks, 32));
    runs_once(&[few, many, few.with_shared(1000)]);
}

fn a_chain_runs_every_block_of_a_plane_once() {
    let grids = [[1, 16, 1], [5, 17, 1], [33, 9, 1]];
    runs_once(&grids.map(|grid| Shape::grid(grid, 64)));
}

fn a_chain_runs_every_block_of_a_box_once() {
    let grids = [[1, 1, 16], [3, 5, 7], [9, 4, 16]];
    runs_once(&grids.map(|grid| Shape::grid(grid, 32)));
}

fn a_chain_runs_every_block_of_a_grid_of_clusters_once() {
    let row = Shape::row(64, 32);
    let cubes = Shape::grid([8, 4, 6], 32);
    runs_once(&[
        row.in_clusters([2, 1, 1]),
        row.in_clusters([4, 1, 1]),
        cubes.in_clusters([2, 2, 1]),
        cubes.in_clusters([1, 2, 2]),
    ]);
}

fn blocks_of_a_chain_see_the_whole_grid() {
    let subject = Subject::new();
    let pieces = Arena::new().pieces(0);
    for grid in [[40, 1, 1], [6, 20, 1], [4, 6, 10]] {
        for cluster in [[1; 3], [2, 1, 1]] {
            let shape = Shape::grid(grid, 32).in_clusters(cluster);
            assert_eq!(
                subject.trace(&shape, pieces.cut(5)).grid,
                grid,
                "{cluster:?}"
            );
        }
    }
}

fn a_scheduled_descriptor_begins_at_its_resume_even_in_the_middle_of_a_row() {
    let subject = Subject::new();
    let arena = Arena::new();
    let address = arena.place(0).address();
    let edit = move |descriptor: &mut Editable| {
        let mut atom = descriptor.copied();
        atom.set_resume([2, 1, 0]).expect("inside the grid");
        // What the driver's own launch does on completion happens once: here.
        fields::DEPENDENCE_COUNTER.set(atom.words_mut(), 0);
        fields::HW_ONLY_DEPENDENCE_COUNTER.set(atom.words_mut(), 0);
        arena.put(0, atom.words());
        schedule_only(descriptor, address);
    };
    let trace = subject.trace(&Shape::grid([5, 4, 1], 32), edit);
    let expected: Vec<u32> = (0..20).map(|block| u32::from(block >= 7)).collect();
    assert_eq!(trace.counts, expected);
}

/// Makes a descriptor one that runs nothing and schedules another.
fn schedule_only(descriptor: &mut Editable, address: u64) {
    let next = Dependent {
        address,
        action: Action::Schedule,
        prefetch: false,
    };
    descriptor.set_kind(Kind::Null).expect("a kind fits");
    descriptor.set_release(0, None).expect("no release");
    fields::ARRIVE_AT_LATCH_VALID.set(descriptor.words_mut(), 0);
    descriptor.set_dependent(0, Some(next)).expect("a place");
}

fn the_drivers_own_launch_begins_at_block_0_whatever_its_resume_says() {
    let subject = Subject::new();
    let edit = |descriptor: &mut Editable| {
        descriptor.set_resume([5, 0, 0]).expect("inside the grid");
    };
    let trace = subject.trace(&Shape::row(12, 32), edit);
    assert_eq!(trace.counts, [1; 12]);
}

/// A subject on which nothing has to be loaded any more: what a held stream would keep waiting.
fn warm_subject() -> Subject {
    let subject = Subject::new();
    let stay = Stay::new(1);
    stay.let_all_go();
    stay.launch(&subject, &subject.stream, nothing);
    subject.control();
    subject
}

/// Launches of other streams come and go.
fn others_go_on(subject: &Subject, stream: &Stream) {
    for _ in 0..20 {
        subject.launch_trace(&Shape::row(4, 32), stream, nothing);
        stream.synchronize().expect("the end of the launch");
    }
}

fn an_atom_starts_when_all_blocks_of_the_one_before_it_have_started() {
    let subject = warm_subject();
    let pieces = Arena::new().pieces(0);
    let stay = Stay::new(6);
    stay.launch(&subject, &subject.stream, pieces.cut(3));
    // All are there although none has been told to go.
    for block in 0..6 {
        stay.wait_for(block);
    }
    let begins: Vec<u64> = (0..6).map(|block| stay.begin_ns(block)).collect();
    assert!(
        begins[0..2].iter().max() <= begins[2..4].iter().min(),
        "{begins:?}"
    );
    assert!(
        begins[2..4].iter().max() <= begins[4..6].iter().min(),
        "{begins:?}"
    );
    stay.let_all_go();
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 6]);
}

fn without_pre_exit_an_atom_starts_when_the_one_before_it_has_completed() {
    let subject = warm_subject();
    let other = Stream::new().expect("a stream");
    let pieces = Arena::new().pieces(0);
    let stay = Stay::new(6);
    stay.launch(&subject, &subject.stream, pieces.cut_without_pre_exit(3));
    for atom in 0..3 {
        let blocks = [2 * atom, 2 * atom + 1];
        blocks.iter().for_each(|&block| stay.wait_for(block));
        others_go_on(&subject, &other);
        assert!((blocks[1] + 1..6).all(|block| !stay.has_begun(block)));
        stay.let_go(blocks);
    }
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 6]);
    for block in 2..6 {
        let before = pieces.completed_ns(u16::try_from(block / 2 - 1).expect("an atom"));
        assert!(stay.begin_ns(block) >= before, "block {block}");
    }
}

/// The GPU's time at the beginning of a launch behind everything in the subject's stream.
fn launch_clock(subject: &Subject) -> impl Fn() -> u64 {
    let time = buffer(2);
    move || {
        subject.launch_clock(time.address(), nothing);
        subject.stream.synchronize().expect("the end of the launch");
        let words = read(&time);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }
}

fn the_next_launch_of_the_stream_starts_when_all_atoms_have_completed() {
    let subject = warm_subject();
    let clock = launch_clock(&subject);
    clock();
    let arena = Arena::new();
    // With the block of the first atom the last to end, that of one in the middle, or that of the last.
    for last in 0..3 {
        let pieces = arena.pieces(last);
        let (stay, next) = (Stay::new(3), Stay::new(1));
        stay.launch(&subject, &subject.stream, pieces.cut(3));
        (0..3).for_each(|block| stay.wait_for(block));
        let others = [0, 1, 2].into_iter().filter(|&block| block != last);
        stay.let_go(others.clone());
        for block in others {
            until(|| pieces.has_completed(u16::try_from(block).expect("an atom")));
        }
        assert!(!pieces.is_done());
        next.let_all_go();
        next.launch(&subject, &subject.stream, nothing);
        assert!(!next.has_begun(0));
        stay.let_all_go();
        assert!(clock() >= pieces.done_ns());
        assert_eq!(stay.counts(), [1; 3]);
        assert!(next.begin_ns(0) >= stay.end_ns(last), "{last}");
    }
}

fn every_atom_is_stamped_when_it_completes_and_the_chain_after_all_of_them() {
    let subject = warm_subject();
    let pieces = Arena::new().pieces(0);
    let stay = Stay::new(4);
    stay.launch(&subject, &subject.stream, pieces.cut(4));
    let completed = || (0..4).map(|atom| pieces.has_completed(atom)).collect();
    let mut expected = vec![false; 4];
    for atom in [2, 0, 3, 1] {
        stay.wait_for(atom);
        let found: Vec<bool> = completed();
        assert_eq!((found, pieces.is_done()), (expected.clone(), false));
        stay.let_go([atom]);
        until(|| pieces.has_completed(u16::try_from(atom).expect("an atom")));
        expected[atom] = true;
    }
    subject.stream.synchronize().expect("the end of the chain");
    assert!(pieces.is_done());
    for atom in 0..4 {
        assert!(pieces.done_ns() >= pieces.completed_ns(atom), "atom {atom}");
    }
}

fn a_mask_that_is_edited_in_flight_is_the_one_that_its_atom_starts_with() {
    let subject = warm_subject();
    let arena = Arena::new();
    let tpcs = subject.lowest_tpcs(3);
    let [before, after] = [tpcs.lowest(1), tpcs - tpcs.lowest(2)];
    let seen = subject.smids(only(after));
    assert_eq!(seen.len(), TPC_SMS as usize);
    let pieces = arena.pieces(0).shut().on(before);
    let stay = Stay::new(24);
    stay.let_all_go();
    stay.launch(&subject, &subject.stream, pieces.cut(2));
    pieces.wait_until_held(1);
    // The gate is shut, so that four stores are as good as one.
    for (slot, word) in (0..).zip(after.disable_words()) {
        arena.set(pieces.atom(1), fields::TPC_DISABLE_MASK.at(slot), word);
    }
    pieces.set_gates(2, GateState::Open);
    subject.stream.synchronize().expect("the end of the chain");
    assert_eq!(stay.counts(), [1; 24]);
    for block in 12..24 {
        assert!(seen.contains(&stay.smid(block)), "block {block}: {seen:?}");
    }
}

fn the_places_of_a_chain_can_be_used_again_once_its_tail_has_stamped() {
    const LAUNCHES: u32 = 200;
    const SLOTS: u32 = 4;
    let subject = warm_subject();
    let arena = Arena::new();
    let (counts, grid) = (buffer(40), buffer(3));
    let words = [counts.address(), grid.address()];
    for launch in 0..LAUNCHES {
        let slot = (launch % SLOTS) as usize;
        let pieces = |round| arena.pieces(slot).stamping(1 + round);
        let round = launch / SLOTS;
        // Of the other slots, launches may be waiting for their turn.
        if let Some(last) = round.checked_sub(1) {
            until(|| pieces(last).is_done());
        }
        let shape = Shape::row(40, 32);
        subject.launch(
            &subject.trace,
            &shape,
            &subject.stream,
            &words,
            pieces(round).cut(5),
        );
    }
    subject.stream.synchronize().expect("their end");
    assert_eq!(read(&counts), [LAUNCHES; 40]);
}

fn chains_of_several_streams_run_beside_each_other() {
    let subject = warm_subject();
    let arena = Arena::new();
    let streams: Vec<Stream> = (0..4).map(|_| Stream::new().expect("a stream")).collect();
    let stays: Vec<Stay> = streams.iter().map(|_| Stay::new(4)).collect();
    assert!(streams.len() <= CHAINS);
    for (index, (stream, stay)) in streams.iter().zip(&stays).enumerate() {
        stay.launch(&subject, stream, arena.pieces(index).cut(2));
    }
    for block in 0..4 {
        stays.iter().for_each(|stay| stay.wait_for(block));
    }
    for (stream, stay) in streams.iter().zip(&stays).rev() {
        stay.let_all_go();
        stream.synchronize().expect("the end of the chain");
        assert_eq!(stay.counts(), [1; 4]);
    }
}
