// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the tests share: a flat global memory, and a launch that runs every block of a grid.

mod arithmetic;
mod execution;
mod kernels;
mod refusal;
mod warps;

use std::cell::RefCell;
use std::sync::Arc;

use super::{
    Access, Atomic, Block, BlockEnvironment, Fault, Image, Kernel, Memory, Module, Outcome,
};

/// Where the test memory begins.
pub(super) const BASE: u64 = 0x7_0000_0000;

/// The modelled clock of the tests: one cycle is one nanosecond.
pub(super) const CLOCK_KHZ: u64 = 1_000_000;

/// Global memory of one region.
pub(super) struct Flat {
    bytes: RefCell<Vec<u8>>,
}

impl Flat {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; bytes]),
        }
    }

    fn at(&self, address: u64, bytes: usize, access: Access) -> Result<usize, Fault> {
        let fault = Fault::IllegalAddress {
            address,
            bytes: bytes as u64,
            access,
        };
        let start = address
            .checked_sub(BASE)
            .and_then(|start| usize::try_from(start).ok())
            .ok_or(fault)?;
        let end = start.checked_add(bytes).ok_or(fault)?;
        if end > self.bytes.borrow().len() {
            return Err(fault);
        }
        Ok(start)
    }

    pub(super) fn u32(&self, index: usize) -> u32 {
        let bytes = self.bytes.borrow();
        u32::from_le_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
    }

    pub(super) fn u64(&self, index: usize) -> u64 {
        let bytes = self.bytes.borrow();
        u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap())
    }

    pub(super) fn f32(&self, index: usize) -> f32 {
        f32::from_bits(self.u32(index))
    }

    pub(super) fn put_u32(&self, index: usize, value: u32) {
        self.store(BASE + 4 * index as u64, &value.to_le_bytes())
            .unwrap();
    }

    pub(super) fn put_u64(&self, index: usize, value: u64) {
        self.store(BASE + 8 * index as u64, &value.to_le_bytes())
            .unwrap();
    }
}

impl Memory for Flat {
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let start = self.at(address, bytes.len(), Access::Load)?;
        bytes.copy_from_slice(&self.bytes.borrow()[start..start + bytes.len()]);
        Ok(())
    }

    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let start = self.at(address, bytes.len(), Access::Store)?;
        self.bytes.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn atomic(
        &self,
        address: u64,
        atomic: Atomic,
        operand: u64,
        compare: u64,
    ) -> Result<u64, Fault> {
        let width = atomic.bytes();
        let start = self.at(address, width, Access::Atomic)?;
        let mut word = [0; 8];
        word[..width].copy_from_slice(&self.bytes.borrow()[start..start + width]);
        let old = u64::from_le_bytes(word);
        let new = atomic.apply(old, operand, compare).to_le_bytes();
        self.bytes.borrow_mut()[start..start + width].copy_from_slice(&new[..width]);
        Ok(old)
    }
}

/// Wraps a body into a module with one kernel `k` of the given parameters.
pub(super) fn module(parameters: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\n\
         .visible .entry k({parameters})\n{{\n{body}\n}}\n"
    )
}

/// Parses and links a module whose variables, if any, begin at `BASE`.
pub(super) fn load(text: &str) -> (Module, Image) {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let image = module.link(|_| Some(BASE)).unwrap();
    (module, image)
}

/// A launch of a kernel.
pub(super) struct Launch {
    pub(super) kernel: Arc<Kernel>,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) cluster: [u32; 3],
    pub(super) dynamic_shared_bytes: u32,
    pub(super) budget_cycles: u64,
    parameters: Vec<u8>,
}

impl Launch {
    pub(super) fn new(kernel: &Arc<Kernel>, grid: [u32; 3], block: [u32; 3]) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            grid,
            block,
            cluster: [1, 1, 1],
            dynamic_shared_bytes: 0,
            budget_cycles: 500,
            parameters: Vec::new(),
        }
    }

    /// Parses a module with one kernel `k` and prepares its launch.
    pub(super) fn text(text: &str, grid: u32, block: u32) -> Self {
        let (_, image) = load(text);
        Self::new(&image.kernels["k"], [grid, 1, 1], [block, 1, 1])
    }

    /// Appends a parameter where the layout puts it.
    pub(super) fn parameter(mut self, bytes: &[u8]) -> Self {
        let at = self.parameters.len().next_multiple_of(bytes.len());
        self.parameters.resize(at, 0);
        self.parameters.extend_from_slice(bytes);
        self
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.parameter(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.parameter(&value.to_le_bytes())
    }

    pub(super) fn block_at(&self, index: [u32; 3]) -> Block {
        let mut bank = vec![0xee; 0x210];
        bank.extend_from_slice(&self.parameters);
        let environment = BlockEnvironment {
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            explicit_cluster: self.cluster != [1, 1, 1],
            block_index: index,
            sm: 5,
            sm_count: 132,
            grid_id: 7,
            dynamic_shared_bytes: self.dynamic_shared_bytes,
            constant_bank: bank.into(),
            parameter_offset: 0x210,
        };
        Block::new(Arc::clone(&self.kernel), environment).unwrap()
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let [x, y, z] = self.grid;
        let mut blocks = Vec::new();
        for k in 0..z {
            for j in 0..y {
                for i in 0..x {
                    blocks.push(self.block_at([i, j, k]));
                }
            }
        }
        blocks
    }

    /// Runs all blocks at once in the order of their modelled time, as one cluster if they are one, and
    /// returns each block's end in nanoseconds.
    pub(super) fn run(&self, memory: &Flat) -> Result<Vec<u64>, Outcome> {
        let mut blocks = self.blocks();
        let mut ends = vec![0; blocks.len()];
        let mut running: Vec<usize> = (0..blocks.len()).collect();
        let mut waiting = Vec::new();
        let mut released = 0;
        loop {
            if running.is_empty() {
                if waiting.is_empty() {
                    return Ok(ends);
                }
                let arrived = blocks.iter().map(Block::cluster_arrivals).min().unwrap();
                assert!(arrived > released, "the cluster barrier cannot complete");
                released = arrived;
                let latest = *ends.iter().max().unwrap();
                for block in &mut blocks {
                    block.release_cluster(released, latest);
                }
                running.append(&mut waiting);
                continue;
            }
            let next = *running.iter().min_by_key(|index| ends[**index]).unwrap();
            let turn = blocks[next].run(memory, ends[next], CLOCK_KHZ, self.budget_cycles);
            assert!(turn.end_ns >= ends[next], "time went backwards");
            ends[next] = turn.end_ns;
            match turn.outcome {
                Outcome::Yielded => assert!(turn.cycles >= self.budget_cycles),
                Outcome::Finished => running.retain(|index| *index != next),
                Outcome::WaitingAtClusterBarrier => {
                    running.retain(|index| *index != next);
                    waiting.push(next);
                }
                outcome => return Err(outcome),
            }
        }
    }
}

/// Runs a body over lanes: each of `words` is what lane `i` of one warp finds in `%rd1` to `%rd3`, and
/// what it leaves in `%rd0` is returned.
pub(super) fn over_lanes(declarations: &str, body: &str, words: &[[u64; 3]]) -> Vec<u64> {
    let text = module(
        ".param .u64 base",
        &format!(
            ".reg .b64 %rd<10>; .reg .b32 %lane; {declarations}
             ld.param.u64 %rd9, [base];
             mov.u32 %lane, %tid.x;
             mad.wide.u32 %rd9, %lane, 32, %rd9;
             ld.global.u64 %rd1, [%rd9+8];
             ld.global.u64 %rd2, [%rd9+16];
             ld.global.u64 %rd3, [%rd9+24];
             {body}
             st.global.u64 [%rd9], %rd0;"
        ),
    );
    let memory = Flat::new(words.len() * 32);
    for (lane, [a, b, c]) in words.iter().enumerate() {
        memory.put_u64(lane * 4 + 1, *a);
        memory.put_u64(lane * 4 + 2, *b);
        memory.put_u64(lane * 4 + 3, *c);
    }
    let threads = u32::try_from(words.len()).unwrap();
    Launch::text(&text, 1, threads)
        .u64(BASE)
        .run(&memory)
        .unwrap();
    (0..words.len()).map(|lane| memory.u64(lane * 4)).collect()
}
