// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A launch whose blocks stay until each of them is told to go, and note when and where they were: what
//! shows in which order the atoms of a chain run.

use std::thread;

use lithos_tests::cuda::{Buffer, HostWords, Shape, Stream};

use crate::subject::{Subject, buffer, read};
use crate::subscriber::Editable;

/// The blocks of one launch. It is made before anything is held: making it waits for the GPU.
pub(crate) struct Stay {
    blocks: usize,
    counts: Buffer,
    /// For each block two words of its begin, two of its end, one of its SM, and the one that lets it go;
    /// each of the four together.
    words: HostWords,
}

impl Stay {
    /// For so many blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            blocks,
            counts: buffer(blocks),
            words: HostWords::zeroed(6 * blocks).expect("host memory"),
        }
    }

    /// Launches it as a row of blocks, and does not wait.
    pub(crate) fn launch(
        &self,
        subject: &Subject,
        stream: &Stream,
        edit: impl FnMut(&mut Editable) + Send + 'static,
    ) {
        let blocks = u32::try_from(self.blocks).expect("a row of blocks");
        let at = |words: usize| self.words.address() + 4 * (words * self.blocks) as u64;
        let words = [self.counts.address(), at(0), at(2), at(4), at(5)];
        let shape = Shape::row(blocks, 32);
        subject.launch(&subject.stay, &shape, stream, &words, edit);
    }

    /// Lets blocks go, now or when they come.
    pub(crate) fn let_go(&self, blocks: impl IntoIterator<Item = usize>) {
        for block in blocks {
            assert!(block < self.blocks);
            self.words.store(5 * self.blocks + block, 1);
        }
    }

    /// Lets all blocks go.
    pub(crate) fn let_all_go(&self) {
        self.let_go(0..self.blocks);
    }

    fn time_ns(&self, index: usize) -> u64 {
        let [low, high] = [0, 1].map(|half| u64::from(self.words.load(2 * index + half)));
        low | high << 32
    }

    /// When a block began; 0 if it has not.
    pub(crate) fn begin_ns(&self, block: usize) -> u64 {
        self.time_ns(block)
    }

    /// When a block ended; 0 if it has not.
    pub(crate) fn end_ns(&self, block: usize) -> u64 {
        self.time_ns(self.blocks + block)
    }

    /// Whether a block is there, or was.
    pub(crate) fn has_begun(&self, block: usize) -> bool {
        self.begin_ns(block) != 0
    }

    /// Waits until a block is there.
    pub(crate) fn wait_for(&self, block: usize) {
        until(|| self.has_begun(block));
    }

    /// The SM that a block was on.
    pub(crate) fn smid(&self, block: usize) -> u32 {
        self.words.load(4 * self.blocks + block)
    }

    /// How often each block ran; the launch has ended.
    pub(crate) fn counts(&self) -> Vec<u32> {
        read(&self.counts)
    }
}

/// Waits. Who waits in vain is ended from outside.
pub(crate) fn until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}
