// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A plan: where a grid is cut into atoms.
//!
//! A launch that is split runs as a chain of *atoms*, each a part of its grid with a start and an
//! end of its own. The hardware runs units in rising order, `x` fastest and `z` slowest, from the
//! start of an atom to its end, and an end was only seen to work on whole rows of a grid that has
//! rows, and on whole slices of one that has slices. So a grid is cut along its outermost axis
//! that has more than one unit, and one atom ends where the next begins:
//!
//! ```text
//!   grid [6, 5, 1], 3 atoms         start        end
//!     0 | o o o o o o |  atom 0    [0, 0, 0]   [6, 1, 1]
//!     1 | o o o o o o |  atom 1    [0, 1, 0]   [6, 3, 1]
//!     2 | o o o o o o |
//!     3 | o o o o o o |  atom 2    [0, 3, 0]   [6, 5, 1]
//!     4 | o o o o o o |
//! ```
//!
//! Units are blocks, or clusters where the grid counts clusters. A *wave* is as many of them as
//! can be resident at once: an atom of whole waves leaves no part of the machine idle when the
//! gate behind it is shut. Cuts are put between waves if no atom takes more waves for it than the
//! longest would take anyway; then it costs nothing.
//!
//! The first atom has no gate before it: a launch that comes to its turn just when gates are shut runs
//! so far. A plan of many atoms can have a *short* one there, a quarter of the others.

/// Where an atom begins and ends: what it needs of a descriptor's RESUME and of its GRID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first unit.
    pub start: [u32; 3],
    /// The end in each direction, as a grid of this size would have it.
    pub end: [u32; 3],
}

/// A grid cut into two or more atoms, none of which is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    grid: [u32; 3],
    /// The axis that is cut.
    axis: Axis,
    /// Cuts are at multiples of so many rows (or units, or slices).
    step: u32,
    /// How many steps the axis has; the last may be shorter.
    steps: u32,
    atoms: u16,
    /// The first atom is a quarter of the others.
    is_first_short: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    X,
    Y,
    Z,
}

impl Plan {
    /// Cuts a grid into `atoms` atoms, or into fewer if it has not so many rows or slices to cut
    /// between. `None` if fewer than two would come of it. A `wave` of 0 units is one that is not
    /// known.
    #[inline]
    pub fn new(grid: [u32; 3], atoms: u16, wave: u32) -> Option<Self> {
        let [x, y, z] = grid;
        if x == 0 || y == 0 || z == 0 {
            return None;
        }
        let (axis, extent, slice) = match grid {
            [_, 1, 1] => (Axis::X, x, 1),
            [_, _, 1] => (Axis::Y, y, u64::from(x)),
            _ => (Axis::Z, z, u64::from(x) * u64::from(y)),
        };
        let atoms = u16::try_from(extent).unwrap_or(u16::MAX).min(atoms);
        if atoms < 2 {
            return None;
        }
        let step = whole_waves(extent, slice, atoms, wave).unwrap_or(1);
        Some(Plan {
            grid,
            axis,
            step,
            steps: extent.div_ceil(step),
            atoms,
            is_first_short: false,
        })
    }

    /// The same number of atoms, of which the first is a quarter of the others; as it is, if that is too
    /// little to cut.
    #[inline]
    #[must_use]
    pub fn with_short_first(self) -> Self {
        Plan {
            is_first_short: u64::from(self.steps) >= quarters(self.atoms),
            ..self
        }
    }

    /// The number of atoms.
    #[inline]
    pub const fn atoms(&self) -> u16 {
        self.atoms
    }

    /// The grid that is cut.
    #[inline]
    pub const fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Where atom `atom` begins and ends; nothing, at the end of the grid, if there is no such
    /// atom.
    #[inline]
    pub fn span(&self, atom: u16) -> Span {
        let [x, y, _] = self.grid;
        let (from, to) = (self.cut(atom), self.cut(atom.saturating_add(1)));
        let (start, end) = match self.axis {
            Axis::X => ([from, 0, 0], [to, 1, 1]),
            Axis::Y => ([0, from, 0], [x, to, 1]),
            Axis::Z => ([0, 0, from], [x, y, to]),
        };
        Span { start, end }
    }

    /// The atoms' spans in order.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let plan = *self;
        (0..plan.atoms).map(move |atom| plan.span(atom))
    }

    /// Where atom `atom` begins along the axis.
    #[inline]
    fn cut(&self, atom: u16) -> u32 {
        let [x, y, z] = self.grid;
        let extent = match self.axis {
            Axis::X => x,
            Axis::Y => y,
            Axis::Z => z,
        };
        let atom = atom.min(self.atoms);
        let (parts, all) = match self.is_first_short {
            true => (u64::from(atom) * 4, quarters(self.atoms)),
            false => (u64::from(atom), self.atoms.into()),
        };
        // Three of its four quarters the first one does not have.
        let parts = parts.saturating_sub(if self.is_first_short { 3 } else { 0 });
        let steps = u64::from(self.steps) * parts / all;
        // No more than the steps that there are, so it is the extent that is too small, if any.
        let at = steps * u64::from(self.step);
        u32::try_from(at).unwrap_or(extent).min(extent)
    }
}

/// So many atoms in quarters of one, of which the first has a single one.
#[inline]
fn quarters(atoms: u16) -> u64 {
    u64::from(atoms) * 4 - 3
}

/// The number of slices after which whole waves end, if atoms that are made of such steps are no
/// longer, in waves, than atoms of nearly equal size. Each slice has `slice` units.
#[inline]
fn whole_waves(extent: u32, slice: u64, atoms: u16, wave: u32) -> Option<u32> {
    if wave < 2 {
        return None;
    }
    let (wave, atoms) = (u64::from(wave), u32::from(atoms));
    let step = u32::try_from(wave / gcd(wave, slice)).ok()?;
    let steps = extent.div_ceil(step);
    if steps < atoms {
        return None;
    }
    let waves = |slices: u64| slices.saturating_mul(slice).div_ceil(wave);
    let most = (u64::from(steps.div_ceil(atoms)) * u64::from(step)).min(extent.into());
    let otherwise = extent.div_ceil(atoms).into();
    (waves(most) <= waves(otherwise)).then_some(step)
}

/// The greatest common divisor (Euclid) of two numbers that are not 0.
#[inline]
fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
