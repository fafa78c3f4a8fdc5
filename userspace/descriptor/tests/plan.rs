// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Plans of random grids.

use lithos_descriptor::{Plan, Span};
use proptest::prelude::*;

/// A grid of few units, in one, two or three directions.
fn small_grid() -> impl Strategy<Value = [u32; 3]> {
    prop_oneof![
        (1_u32..600).prop_map(|x| [x, 1, 1]),
        (1_u32..25, 1_u32..25).prop_map(|(x, y)| [x, y, 1]),
        [1_u32..9, 1_u32..9, 1_u32..9],
    ]
}

/// Any grid that a descriptor can hold.
fn any_grid() -> impl Strategy<Value = [u32; 3]> {
    prop_oneof![
        (1..=u32::MAX).prop_map(|x| [x, 1, 1]),
        (1..=u32::MAX, 1_u32..=0xffff).prop_map(|(x, y)| [x, y, 1]),
        [1..=u32::MAX, 1_u32..=0xffff, 1_u32..=0xffff],
        [1_u32..4, 1_u32..4, 1_u32..4],
    ]
}

/// The units that the hardware runs, in its order, for a start and an end.
fn units(span: Span) -> impl Iterator<Item = [u32; 3]> {
    let ([x, y, z], [width, height, depth]) = (span.start, span.end);
    let all = (0..depth)
        .flat_map(move |z| (0..height).flat_map(move |y| (0..width).map(move |x| [z, y, x])));
    all.skip_while(move |&at| at < [z, y, x])
        .map(|[z, y, x]| [x, y, z])
}

/// The position of a unit in the grid's order.
fn position([x, y, z]: [u32; 3], [width, height, _]: [u32; 3]) -> u128 {
    let [x, y, z, width, height] = [x, y, z, width, height].map(u128::from);
    (z * height + y) * width + x
}

/// The number of units of each atom.
fn sizes(plan: &Plan) -> Vec<u128> {
    let begin = |span: Span| position(span.start, plan.grid());
    let total = plan.grid().into_iter().map(u128::from).product();
    let mut cuts: Vec<u128> = plan.spans().map(begin).collect();
    cuts.push(total);
    cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

proptest! {
    #[test]
    fn every_unit_runs_once_and_in_order(
        grid in small_grid(),
        atoms in 0_u16..40,
        wave in 0_u32..200,
        is_first_short in any::<bool>(),
    ) {
        let whole = Span { start: [0; 3], end: grid };
        let Some(plan) = Plan::new(grid, atoms, wave) else {
            // One atom would not be a chain.
            let rows = grid.into_iter().rev().find(|&extent| extent > 1).unwrap_or(1);
            prop_assert!(rows < 2 || atoms < 2);
            return Ok(());
        };
        let plan = if is_first_short { plan.with_short_first() } else { plan };
        let ran: Vec<_> = plan.spans().flat_map(units).collect();
        prop_assert_eq!(ran, units(whole).collect::<Vec<_>>());
    }

    #[test]
    fn atoms_of_the_largest_grids_meet_and_none_is_empty(
        grid in any_grid(),
        atoms in 2_u16..=u16::MAX,
        wave in any::<u32>(),
        is_first_short in any::<bool>(),
    ) {
        let rows = grid.into_iter().rev().find(|&extent| extent > 1).unwrap_or(1);
        let Some(plan) = Plan::new(grid, atoms, wave) else {
            prop_assert!(rows < 2);
            return Ok(());
        };
        let plan = if is_first_short { plan.with_short_first() } else { plan };
        prop_assert_eq!(u32::from(plan.atoms()), rows.min(atoms.into()));
        prop_assert_eq!(plan.span(0).start, [0; 3]);
        for atom in 0..plan.atoms() {
            let span = plan.span(atom);
            // Whole rows or slices: an end is the grid's but on the axis that is cut.
            let outer = (0..3).rev().find(|&axis| grid[axis] > 1).unwrap();
            let next = plan.span(atom + 1).start;
            for (axis, &extent) in grid.iter().enumerate() {
                let (start, end) = (span.start[axis], span.end[axis]);
                if axis == outer {
                    prop_assert!(start < end);
                    prop_assert_eq!(end, next[axis]);
                } else {
                    prop_assert_eq!((start, end), (0, extent));
                }
            }
        }
        prop_assert_eq!(plan.span(plan.atoms() - 1).end, grid);
    }

    #[test]
    fn without_a_wave_atoms_differ_by_one_row_at_most(grid in small_grid(), atoms in 2_u16..40) {
        let Some(plan) = Plan::new(grid, atoms, 0) else {
            return Ok(());
        };
        let sizes = sizes(&plan);
        let outer = (0..3).rev().find(|&axis| grid[axis] > 1).unwrap();
        let row: u128 = grid[..outer].iter().copied().map(u128::from).product();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= row, "{:?}", sizes);
    }

    #[test]
    fn a_short_first_atom_is_a_quarter_of_the_others(grid in any_grid(), atoms in 2_u16..300) {
        let Some(even) = Plan::new(grid, atoms, 0) else {
            return Ok(());
        };
        let plan = even.with_short_first();
        let outer = (0..3).rev().find(|&axis| grid[axis] > 1).unwrap();
        if u64::from(grid[outer]) < 4 * u64::from(plan.atoms()) - 3 {
            prop_assert_eq!(plan, even, "too little to cut");
            return Ok(());
        }
        prop_assert_eq!(plan.atoms(), even.atoms());
        let row: u128 = grid[..outer].iter().copied().map(u128::from).product();
        let rows: Vec<u128> = sizes(&plan).iter().map(|size| size / row).collect();
        let (first, others) = rows.split_first().unwrap();
        let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
        prop_assert!(*first >= 1 && most - least <= 1, "{:?}", rows);
        prop_assert!(4 * first <= most + 4 && *least <= 4 * (first + 1), "{:?}", rows);
    }

    #[test]
    fn whole_waves_make_no_atom_longer_than_it_would_be_anyway(
        grid in small_grid(),
        atoms in 2_u16..40,
        wave in 1_u32..300,
    ) {
        let (Some(plan), Some(even)) = (Plan::new(grid, atoms, wave), Plan::new(grid, atoms, 0))
        else {
            return Ok(());
        };
        let longest = |plan: &Plan| {
            let waves = |size: &u128| size.div_ceil(wave.into());
            sizes(plan).iter().map(waves).max().unwrap()
        };
        prop_assert_eq!(plan.atoms(), even.atoms());
        prop_assert!(longest(&plan) <= longest(&even));
    }

    #[test]
    fn a_line_of_enough_waves_is_cut_between_them(
        waves in 2_u32..500,
        rest in 0_u32..300,
        wave in 1_u32..300,
        atoms in 2_u16..64,
    ) {
        let units = waves * wave - rest % wave;
        prop_assume!(u32::from(atoms) <= waves);
        let plan = Plan::new([units, 1, 1], atoms, wave).unwrap();
        for span in plan.spans() {
            prop_assert_eq!(span.start[0] % wave, 0);
        }
    }

    #[test]
    fn rows_are_cut_where_waves_end_if_they_do(
        rows in 2_u32..200,
        width in 1_u32..8,
        parts in 1_u32..8,
        atoms in 2_u16..32,
    ) {
        // `parts` rows are a wave.
        prop_assume!(u32::from(atoms) <= rows.div_ceil(parts));
        let plan = Plan::new([width, rows, 1], atoms, width * parts).unwrap();
        for span in plan.spans() {
            prop_assert_eq!(span.start[1] % parts, 0);
        }
    }
}

#[test]
fn what_cannot_be_cut_has_no_plan() {
    for grid in [[1, 1, 1], [0, 1, 1], [5, 0, 1], [5, 5, 0]] {
        assert_eq!(Plan::new(grid, 8, 0), None, "{grid:?}");
    }
    for atoms in [0, 1] {
        assert_eq!(Plan::new([100, 1, 1], atoms, 0), None);
    }
}

#[test]
fn the_grid_of_the_drawing_is_cut_as_drawn() {
    let plan = Plan::new([6, 5, 1], 3, 0).unwrap();
    let spans: Vec<_> = plan.spans().map(|span| (span.start, span.end)).collect();
    assert_eq!(
        spans,
        [
            ([0, 0, 0], [6, 1, 1]),
            ([0, 1, 0], [6, 3, 1]),
            ([0, 3, 0], [6, 5, 1]),
        ]
    );
}

#[test]
fn atoms_of_an_h100_are_whole_waves() {
    // 132 SMs with 8 blocks each; 20000 blocks are 19 waves, the last not full.
    let plan = Plan::new([20000, 1, 1], 4, 1056).unwrap();
    let cuts: Vec<_> = plan.spans().map(|span| span.start[0]).collect();
    assert_eq!(cuts, [0, 4 * 1056, 9 * 1056, 14 * 1056]);
}
