// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Where a grid starts and ends: RESUME and the grid's size in the descriptor, in blocks or clusters.
//!
//! The driver's own launch starts at the first block. So the end is what can be shown without chains,
//! which can start a descriptor at its RESUME.

use lithos_tests::cuda::Shape;

use crate::statement::statements;
use crate::subject::Subject;
use crate::subscriber::Editable;

statements! {
    Ends:
        the_drivers_launch_of_a_row_starts_at_block_0_whatever_resume_says
        the_drivers_launch_in_two_dimensions_starts_at_block_0_whatever_resume_says
        the_drivers_launch_in_three_dimensions_starts_at_block_0_whatever_resume_says
        the_drivers_launch_of_clusters_starts_at_block_0_whatever_resume_says
        an_end_moved_in_leaves_the_first_blocks_of_a_row
        an_end_moved_in_leaves_the_first_rows_of_two_dimensions
        an_end_moved_in_leaves_the_first_slices_of_three_dimensions
        an_end_moved_in_leaves_the_first_clusters
        an_end_moved_in_along_every_axis_leaves_a_box
        an_end_moved_in_along_every_axis_leaves_a_box_of_clusters
        blocks_see_the_full_grid_when_the_end_is_moved_in;
}

const ROW: [u32; 3] = [24, 1, 1];
const PLANE: [u32; 3] = [6, 4, 1];
const SPACE: [u32; 3] = [4, 6, 2];

/// The units in which the grid is counted: its blocks, or its clusters.
fn units(shape: &Shape) -> [u32; 3] {
    [0, 1, 2].map(|axis| shape.grid[axis] / shape.cluster[axis])
}

/// Makes a launch start at its last unit, if RESUME counted, and looks whether every block runs.
fn starts_at_0(subject: &Subject, shape: Shape) {
    let resume = units(&shape).map(|units| units - 1);
    assert_ne!(resume, [0; 3]);
    let trace = subject.trace(&shape, move |descriptor: &mut Editable| {
        descriptor.set_resume(resume).expect("a start fits");
    });
    assert_eq!(trace.counts, vec![1; trace.counts.len()]);
}

/// Moves the end of a launch in and looks whether the blocks before it run, and no others.
fn ends_at(subject: &Subject, shape: Shape, end: [u32; 3]) {
    let trace = subject.trace(&shape, move |descriptor: &mut Editable| {
        descriptor.set_grid(end).expect("an end fits");
    });
    let inside = [0, 1, 2].map(|axis| end[axis] * shape.cluster[axis]);
    let [width, height, depth] = shape.grid;
    let mut expected = Vec::new();
    for z in 0..depth {
        for y in 0..height {
            for x in 0..width {
                let runs = x < inside[0] && y < inside[1] && z < inside[2];
                expected.push(u32::from(runs));
            }
        }
    }
    assert_eq!(trace.counts, expected, "{shape:?} to {end:?}");
}

fn the_drivers_launch_of_a_row_starts_at_block_0_whatever_resume_says() {
    starts_at_0(&Subject::new(), Shape::grid(ROW, 32));
}

fn the_drivers_launch_in_two_dimensions_starts_at_block_0_whatever_resume_says() {
    starts_at_0(&Subject::new(), Shape::grid(PLANE, 32));
}

fn the_drivers_launch_in_three_dimensions_starts_at_block_0_whatever_resume_says() {
    starts_at_0(&Subject::new(), Shape::grid(SPACE, 32));
}

fn the_drivers_launch_of_clusters_starts_at_block_0_whatever_resume_says() {
    let subject = Subject::new();
    starts_at_0(&subject, Shape::grid(ROW, 32).in_clusters([2, 1, 1]));
    starts_at_0(&subject, Shape::grid(SPACE, 32).in_clusters([2, 2, 1]));
}

fn an_end_moved_in_leaves_the_first_blocks_of_a_row() {
    let subject = Subject::new();
    for end in [1, 7, 23] {
        ends_at(&subject, Shape::grid(ROW, 32), [end, 1, 1]);
    }
}

fn an_end_moved_in_leaves_the_first_rows_of_two_dimensions() {
    let subject = Subject::new();
    for end in 1..PLANE[1] {
        ends_at(&subject, Shape::grid(PLANE, 32), [PLANE[0], end, 1]);
    }
}

fn an_end_moved_in_leaves_the_first_slices_of_three_dimensions() {
    let subject = Subject::new();
    ends_at(&subject, Shape::grid(SPACE, 32), [SPACE[0], SPACE[1], 1]);
}

fn an_end_moved_in_leaves_the_first_clusters() {
    let subject = Subject::new();
    for end in [1, 5, 11] {
        let shape = Shape::grid(ROW, 32).in_clusters([2, 1, 1]);
        ends_at(&subject, shape, [end, 1, 1]);
    }
    let shape = Shape::grid(SPACE, 32).in_clusters([2, 2, 1]);
    ends_at(&subject, shape, [2, 2, 2]);
    ends_at(&subject, shape, [2, 3, 1]);
}

fn an_end_moved_in_along_every_axis_leaves_a_box() {
    let subject = Subject::new();
    ends_at(&subject, Shape::grid(PLANE, 32), [4, 3, 1]);
    ends_at(&subject, Shape::grid(SPACE, 32), [3, 4, 1]);
}

fn an_end_moved_in_along_every_axis_leaves_a_box_of_clusters() {
    let subject = Subject::new();
    let shape = Shape::grid(SPACE, 32).in_clusters([2, 2, 1]);
    ends_at(&subject, shape, [1, 2, 1]);
}

fn blocks_see_the_full_grid_when_the_end_is_moved_in() {
    let subject = Subject::new();
    for shape in [
        Shape::grid(SPACE, 32),
        Shape::grid(SPACE, 32).in_clusters([2, 2, 1]),
    ] {
        let end = units(&shape).map(|units| units.div_ceil(2));
        let trace = subject.trace(&shape, move |descriptor: &mut Editable| {
            descriptor.set_grid(end).expect("an end fits");
        });
        assert_eq!(trace.grid, SPACE, "{shape:?}");
    }
}
