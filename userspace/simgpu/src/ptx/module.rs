// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A module: kernels and variables, first as parsed, then with every variable at its address.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::code::Code;
use super::error::{LinkError, ParseError};

/// A parsed module whose variables have no addresses yet.
#[derive(Clone, Debug)]
pub struct Module {
    pub(super) kernels: Vec<Kernel>,
    pub(super) variables: Vec<Variable>,
}

/// A linked module, ready to be run.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernels by name.
    pub kernels: BTreeMap<String, Arc<Kernel>>,
    /// What to write to device memory before any kernel runs: address and bytes. Each variable must
    /// have been zeroed over its whole size first.
    pub contents: Vec<(u64, Vec<u8>)>,
}

/// Where a module's variable lives as PTX names it; both are device memory to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableSpace {
    /// `.global`.
    Global,
    /// `.const`.
    Constant,
}

/// A variable at module scope, for which the engine finds device memory.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its state space.
    pub space: VariableSpace,
    /// Its size.
    pub bytes: u64,
    /// Its alignment, a power of two.
    pub align: u64,
    /// Its first bytes; the others are zero.
    pub initial: Vec<u8>,
    /// Words of `initial` to which an address is added when the module is linked.
    pub(super) addresses: Vec<AddressWord>,
}

/// A word of an initialiser that names another variable.
#[derive(Clone, Debug)]
pub(super) struct AddressWord {
    pub(super) offset: usize,
    pub(super) name: String,
}

/// One parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Where it begins in the parameter area.
    pub offset: u32,
    /// Its size in bytes.
    pub bytes: u32,
    /// Its alignment in bytes.
    pub align: u32,
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its parameters in order.
    pub parameters: Vec<Parameter>,
    /// The size of the parameter area.
    pub parameter_bytes: u32,
    /// Shared memory that every block has without asking for it.
    pub static_shared_bytes: u32,
    /// Local memory of one thread.
    pub local_bytes: u32,
    /// Registers that a thread would take on hardware; modelled from live ranges.
    pub registers: u32,
    /// The most threads that a block may have (`.maxntid`, `.reqntid`, else 1024).
    pub max_threads: u32,
    /// The block's shape if the kernel insists on one (`.reqntid`).
    pub required_block: Option<[u32; 3]>,
    /// The cluster's shape if the kernel insists on one (`.reqnctapercluster`).
    pub required_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: the kernel may only be launched with a cluster shape.
    pub explicit_cluster: bool,
    pub(super) code: Code,
}

impl Module {
    /// Reads a module's text. Everything that cannot be run is refused here, not later.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        super::parser::parse(text)
    }

    /// The kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The variables that need device memory before `link`.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Puts every variable at the address that `address_of` gives it.
    pub fn link(&self, address_of: impl Fn(&str) -> Option<u64>) -> Result<Image, LinkError> {
        let find = |name: &str| {
            address_of(name).ok_or_else(|| LinkError {
                name: name.to_owned(),
            })
        };
        let mut kernels = BTreeMap::new();
        for kernel in &self.kernels {
            let mut kernel = kernel.clone();
            kernel.code.link(find)?;
            kernels.insert(kernel.name.clone(), Arc::new(kernel));
        }
        let mut contents = Vec::new();
        for variable in &self.variables {
            let address = find(&variable.name)?;
            let mut bytes = variable.initial.clone();
            for word in &variable.addresses {
                // PANIC: the parser makes an address word only of eight bytes that it just pushed.
                let place = &mut bytes[word.offset..word.offset + 8];
                let addend = u64::from_le_bytes(place.try_into().expect("eight bytes"));
                let value = find(&word.name)?.wrapping_add(addend);
                place.copy_from_slice(&value.to_le_bytes());
            }
            if !bytes.is_empty() {
                contents.push((address, bytes));
            }
        }
        Ok(Image { kernels, contents })
    }
}
